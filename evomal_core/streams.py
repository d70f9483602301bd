"""Every random draw of the package comes from a named stream (design: one seed, many independent streams).

A stream is `(seed, purpose, *index)`; its generator is derived with `numpy.random.SeedSequence`, on the CPU, so a draw
depends on nothing but its name: not on the device, the number of workers, the other candidates, or a resumed run.
"""

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

# The number of a purpose is part of every result: append, never reorder.
PURPOSES = (
    "meta-init",  # (task, step): initial base weights of one meta step
    "meta-train",  # (task, step, inner step): training batch of one inner step
    "meta-validation",  # (task, step): validation batch of one meta step
    "meta-layers",  # (task, step, inner step): Dropout draws; inner step -1 is the validation batch
    "fitness-init",  # (task,): initial base weights of a partial training session
    "fitness-batch",  # (task, step)
    "fitness-layers",  # (task, step): Dropout draws
    "filter",  # (): the untrained network of the rejection protocol
    "test-init",  # (): initial base weights of meta-testing
    "test-batch",  # (step,)
    "test-layers",  # (step,): Dropout draws
    "genetic",  # (generation,): variation and selection
    "phi",  # (generation, position): initial loss weights
    "split",  # (): a validation split; drawn with a seed of its own, the same for all runs
    "cma-es",  # (generation,)
    "evaluation",  # (first instance,): crops of a test or validation part that is augmented; seed 0, the same for all
    "landscape",  # (direction,): a random direction in the weight space of a trained model (Fig. 7)
    "selection-init",  # (task, start[, round]): initial base weights of a training that chooses among losses, or steps
    "selection-batch",  # (task, start[, round], step)
    "selection-layers",  # (task, start[, round], step): Dropout draws
    "selection-split",  # (start, round): training and validation part of a contest's trainings
)


def _sequence(seed: int, purpose: str, index: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([int(seed), PURPOSES.index(purpose), *(int(i) + 1 for i in index)])


def integer(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer that seeds someone else's generator."""
    return int(_sequence(seed, purpose, index).generate_state(1, np.uint64)[0] >> 1)


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """The stream as a NumPy generator (cheap: used once a step for batches)."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, index)))


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """The stream as a CPU torch generator."""
    return torch.Generator().manual_seed(integer(seed, purpose, *index))


_LOCK = threading.RLock()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """One computation at a time: threads of a process take turns, so that each gets what it would get alone.

    Global generators and PyTorch's forward mode belong to the process, not to a thread.
    """
    with _LOCK:
        yield


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed `random` and `numpy.random` for DEAP, which draws from both, and put their states back afterwards."""
    with _LOCK:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
