"""A problem: a task and a base model for it, as training sees them.

This is the home of what training needs to know of a model and does not learn from its type: whether it draws random
numbers, how its memory lies, how many copies fit, and its outputs as a function of its weights.
"""

import copy
import hashlib

import torch
from torch import nn

from .. import streams
from ..checks import check
from ..config import Config
from ..models import initialise
from ..models.forward import PROBED, activation_bytes, random_layers, rearranged
from ..models.mixed_precision import MixedPrecision
from ..tasks import Task
from . import batches
from .acceleration import accelerated


class Problem:
    """A task and a base model. The caller's model is copied: training draws its weights afresh in the copy.

    Args:
        config: its `autocast` and `channels_last` say how the model is run; left out, both are off.
        optimiser: the base optimiser; None for that of the configuration (`sgd`). It has two methods: `session(weights,
            config)` gives what steps weights, as `sgd.Sgd` does, and `rule(config, add)` one step as a function of the
            weights with its adjoint, as `sgd.Unrolled` is.

    Attributes:
        task: the data, the task loss, the metric.
        model: the working copy. All its weights lie densely in memory, in the row-major order of their shapes.
        draws: does the model draw random numbers in training mode? Found out by running it.
        layout: memory format in which convolutions are trained.
    """

    def __init__(self, task: Task, model: nn.Module, config: Config | None = None, optimiser=None):
        config = config or Config()
        self.optimiser = optimiser
        self.task = task
        self.model = rearranged(copy.deepcopy(model))
        if config.autocast:
            self.model = MixedPrecision(self.model)
        self.frozen = [(p, p.detach().clone()) for p in self.model.parameters() if not p.requires_grad]
        if faster := accelerated("layers"):
            self.model = faster(self.model)
        self.draws = random_layers(self.model.train(), self.probe())
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format

    @classmethod
    def of(cls, pair, config: Config | None = None) -> "Problem":
        """A problem of a pair (task, model), or the problem that it is already."""
        return pair if isinstance(pair, Problem) else cls(*pair, config)

    def __iter__(self):
        return iter((self.task, self.model))

    def probe(self) -> torch.Tensor:
        """The inputs of the first training instances, on which the model is run to learn about it."""
        return self.task.inputs(self.task.train[0][:PROBED])

    def initialise(self, seed: int, purpose: str, *index: int) -> None:
        """Draw the working copy's weights from the named stream; frozen ones keep the caller's values."""
        initialise(self.model, streams.torch_generator(seed, purpose, *index))
        with torch.no_grad():
            for p, value in self.frozen:
                p.copy_(value)

    def digest(self, *parts: str, also=()) -> str:
        """What names the data of some parts, the base model's shape and its frozen weights, and further tensors."""
        result = hashlib.blake2b(digest_size=16)
        shapes = [(name, tuple(p.shape), p.requires_grad) for name, p in self.model.named_parameters()]
        result.update(repr(shapes).encode())
        data = [tensor for part in parts for tensor in self.task.content(part)]
        for tensor in (*data, *(value for _, value in self.frozen), *also):
            result.update(memoryview(tensor.detach().cpu().contiguous().numpy()).cast("B"))
        return result.hexdigest()

    def batch(self, part: str, size: int, seed: int, purpose: str, *index: int):
        """A uniform batch (x, y) of a part of the task, from the named stream; a smaller part is the batch."""
        return batches.draw(self.task, part, size, seed, purpose, *index)

    def layer_seed(self, seed: int, purpose: str, *index: int) -> int | None:
        """The seed of what the model's layers draw in one step; None where they draw nothing."""
        return streams.integer(seed, purpose, *index) if self.draws else None

    def as_laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """The inputs in the memory format in which the model is trained."""
        return x.contiguous(memory_format=self.layout) if x.ndim == 4 else x

    def bytes_of_a_copy(self, batch_size: int) -> int:
        """Memory that training one more copy of the model takes on a batch.

        It holds weights, gradients, momenta and buffers, and what the backward pass keeps of the activations, which is
        counted on a few instances and grows with the batch.
        """
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        buffers = sum(b.numel() * b.element_size() for b in self.model.buffers())
        return 3 * weights + buffers + batch_size * activation_bytes(self.model, self.probe())


def problems_of(problems, config: Config) -> list[Problem]:
    """The problems of a search, each checked: a pair (Task, model) whose model takes the task's inputs and gives (B, C).

    Raises:
        ValueError: names what was expected and what came, before anything is computed.
    """
    check(hasattr(problems, "__iter__"), "problems", "a list of pairs [(Task, model), ...]", type(problems).__name__)
    problems = [problems] if isinstance(problems, Problem) else list(problems)
    kinds = [tuple(type(part).__name__ for part in p) if isinstance(p, (tuple, list)) else type(p) for p in problems]
    good = [p for p in problems if isinstance(p, Problem) or _is_pair(p)]
    check(good and len(good) == len(problems), "problems", "a list of pairs [(Task, model), ...]", kinds)
    check(len({task.classification for task, _ in good}) == 1, "problems", "all classification or none", "both")
    for problem in good:
        if not isinstance(problem, Problem):
            check_model(*problem)
    return [Problem.of(problem, config) for problem in good]


def _is_pair(p) -> bool:
    pair = isinstance(p, (tuple, list)) and len(p) == 2
    return pair and isinstance(p[0], Task) and isinstance(p[1], nn.Module)


def check_model(task: Task, model: nn.Module) -> None:
    """Raise ValueError unless the model has weights to train, takes the task's inputs and gives outputs (B, C)."""
    trained = any(p.requires_grad for p in model.parameters())
    check(trained, f"{task.name}: the model", "one with parameters to train", "none that requires a gradient")
    x = task.inputs(task.train[0][:PROBED])
    try:
        with torch.no_grad():
            got = tuple(copy.deepcopy(model).eval()(x).shape)
    except Exception as error:
        text = f"{task.name}: the model cannot be run on x {tuple(x.shape)} {x.dtype}: {error}"
        raise ValueError(text) from error
    want = (len(task.targets(task.train[1][:PROBED])), task.outputs)
    check(got == want, f"{task.name}: the model's output", f"(B, {task.outputs})", f"{got} for B = {len(x)}")
