"""A model and data of one's own as training sees them: a `Task` whose x are row numbers, and a base model of those.

Training knows outputs (B, C) with class indices (B,), or (B, 1) with values (B, 1). Here every element of other shapes is
an instance: (N, C, H, W) with (N, H, W) has N H W of them, fewer where the target is `ignore_index`. One logit is two
classes, (0, z), whose softmax is the sigmoid. The user's metric and task loss see the user's own shapes again.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..tasks.metrics import error_rate, mean_squared_error
from ..tasks.task import Task
from . import weights
from .data import Data, Inputs, leaves, mapped

TASKS = ("binary", "multiclass", "regression")
MOST_ELEMENTS = 2_000_000  # outputs that an evaluation holds at a time


@dataclass(frozen=True, eq=False)
class Shapes:
    """How the user's outputs and targets become those of training, and back.

    Args:
        task: "binary", "multiclass" or "regression".
        classes: C of "multiclass"; 2 of "binary", 1 of "regression".
        target: the shape of one instance's target.
        last: are the classes the outputs' last dimension, not the one behind the batch?
        ignore_index: target that does not count; None for none.
    """

    task: str
    classes: int
    target: tuple[int, ...]
    last: bool = False
    ignore_index: int | None = None

    @property
    def positions(self) -> int:
        """How many elements one instance has."""
        return math.prod(self.target)

    def targets(self, y: Tensor) -> Tensor:
        """(B', ) class indices or (B', 1) values of a batch of targets (B, …)."""
        flat = y.reshape(-1) if self.task != "regression" else y.reshape(-1, 1)
        return flat if self.ignore_index is None else flat[flat != self.ignore_index]

    def outputs(self, z: Tensor, y: Tensor) -> Tensor:
        """(B', C) of the model's outputs; `y` are the targets that say what is ignored."""
        if self.task == "binary":
            z = z.reshape(-1, 1)
            z = torch.cat([torch.zeros_like(z), z], 1)
        elif self.task == "regression":
            return z.reshape(-1, 1)
        elif not self.last and z.ndim > 2:
            z = z.movedim(1, -1)
        z = z.reshape(-1, self.classes)
        return z if self.ignore_index is None else z[y.reshape(-1) != self.ignore_index]

    def restored(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the user's shapes; with `ignore_index` those that count, (M, C) and (M,)."""
        if self.task == "binary":
            z = z[..., 1:] - z[..., :1]
            return (z.reshape(-1, *self.target), y.reshape(-1, *self.target).to(z.dtype))
        if self.ignore_index is not None:
            return z, y
        y = y.reshape(-1, *self.target)
        if self.task == "regression":
            return z.reshape(y.shape), y
        z = z.reshape(*y.shape, self.classes)
        return (z if self.last or z.ndim == 2 else z.movedim(-1, 1)), y


class Store:
    """The inputs and targets of all parts, on one device, by row number. Copies of models share it."""

    def __init__(self, parts: dict[str, Data], device: torch.device):
        data, self.rows, start = list(parts.values()), {}, 0
        for name, part in parts.items():
            self.rows[name] = torch.arange(start, start + len(part), device=device)
            start += len(part)
        first = data[0].x
        if isinstance(first, Tensor):
            self.x = torch.cat([d.x for d in data]).to(device)
        elif isinstance(first, dict):
            self.x = {k: torch.cat([d.x[k] for d in data]).to(device) for k in first}
        else:
            self.x = tuple(torch.cat(of).to(device) for of in zip(*(d.x for d in data), strict=True))
        self.y = torch.cat([d.y for d in data]).to(device)

    def inputs(self, rows: Tensor):
        """Inputs of some rows, of the form that the user gave."""
        return mapped(lambda t: t.index_select(0, rows), self.x)

    def __deepcopy__(self, memo) -> "Store":
        return self


class Adapted(nn.Module):
    """The user's model as a function of row numbers (B,), with outputs (B', C).

    Its weights are drawn anew, or, with `kept`, are those that the user's model came with.
    """

    def __init__(self, model: nn.Module, store: Store, shapes: Shapes, forward: Callable | None, kept: bool):
        super().__init__()
        self.inner, self.store, self.shapes, self.call = model, store, shapes, forward
        self.initialisation = weights.kept(model) if kept else weights.drawn(model)
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())

    def forward(self, rows: Tensor) -> Tensor:
        with plain_recurrent() if self.recurrent else contextlib.nullcontext():
            z = run(self.inner, self.store.inputs(rows), self.call)
        z = z.to(self.dtype)  # of a model with autocast or a cast inside
        return self.shapes.outputs(z, self.store.y.index_select(0, rows))


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Within this block attention has no fused kernel, which would know no forward mode."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextlib.contextmanager
def plain_recurrent() -> Iterator[None]:
    """Within this block recurrent layers are PyTorch's own, not oneDNN's or cuDNN's, which know no forward mode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def run(model: nn.Module, x: Inputs, forward: Callable | None) -> Tensor:
    """The outputs of the user's model for inputs of the user's form."""
    if forward:
        return forward(model, x)
    return model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)


@dataclass(frozen=True, eq=False)
class OwnTask(Task):
    """A task whose x are row numbers (N,) of a `Store`, and whose y are targets in the user's shape (N, …)."""

    store: Store | None = None
    shapes: Shapes | None = None

    def __post_init__(self):
        """All was checked by `setup`."""

    def targets(self, y: Tensor) -> Tensor:
        return self.shapes.targets(y)

    def content(self, part: str) -> tuple[Tensor, ...]:
        rows, y = getattr(self, part)
        return (*leaves(self.store.inputs(rows)), y)

    @property
    def filter_metric(self) -> Callable[[Tensor, Tensor], Tensor]:
        return error_rate if self.classification else mean_squared_error

    @property
    def evaluation_batch(self) -> int:
        elements = self.shapes.positions * self.shapes.classes
        return max(8, min(super().evaluation_batch, MOST_ELEMENTS // elements))


class Judge:
    """The user's metric, of outputs and targets in the user's shapes; a 0-d tensor."""

    def __init__(self, metric: Callable, shapes: Shapes):
        self.metric, self.shapes = metric, shapes
        self.__name__ = getattr(metric, "__name__", type(metric).__name__)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.as_tensor(float(self.metric(*self.shapes.restored(prediction, target))))


class Restored(nn.Module):
    """The user's task loss, of outputs and targets in the user's shapes."""

    def __init__(self, loss: Callable, shapes: Shapes):
        super().__init__()
        self.loss, self.shapes = loss, shapes  # registered as a module if it is one

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.loss(*self.shapes.restored(prediction, target))

    def __str__(self) -> str:
        return getattr(self.loss, "__name__", type(self.loss).__name__)
