"""ML3 (Bechtle et al. 2021, as in section IV-A): Algorithm 1 alone, on a network of fixed form."""

import math
import time

from .. import streams
from ..losses.neural import NeuralLoss
from ..training import unroll
from .state import Leader, Point, Result, SearchState, tell


def search(problems, config, seed, state: SearchState, on_generation) -> Result:
    """The network after `config.meta_steps` meta steps; no loss if its weights did not stay finite."""
    task, start = problems[0].task, time.perf_counter()
    loss = NeuralLoss.fresh(streams.torch_generator(seed, "phi"), classification=task.classification)
    loss = loss.to(device=task.device, dtype=task.dtype)
    (finite,) = unroll.optimise_losses([loss], problems, config, seed)
    failed = [] if finite else [Point((), math.inf, "non_finite")]  # a network that is finite has no fitness
    tell(state, failed, [p.outcome for p in failed], {"optimise": time.perf_counter() - start}, config)
    return Result(loss if finite else None, None, (Leader(loss, None),) if finite else (), state)
