"""`Task`: a data set split in three, with the loss and the metric that go with it."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import check

Part = tuple[Tensor, Tensor]  # (x, y)
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned, and how it is judged (section III-A). All tensors lie on one device, all x have one dtype.

    Args:
        name: of the data set.
        train, validation, test: (x, y). x is (N, features) or (N, channels, height, width), floating point, at whatever
            scale the model should see; y is (N, 1) of the dtype of x for regression, (N,) int64 for classification.
        classification: else regression.
        outputs: C, the number of classes; 1 for regression.
        task_loss: L_T; left out, `nn.CrossEntropyLoss()` or `nn.MSELoss()`.

    Raises:
        ValueError: a part does not have these shapes, types or values.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classification: bool
    outputs: int = 1
    task_loss: nn.Module | None = None

    def __post_init__(self):
        if self.classification:
            check(self.outputs >= 2, "Task.outputs of classification", "at least 2 (classes)", self.outputs)
        else:
            check(self.outputs == 1, "Task.outputs of regression", 1, self.outputs)
        if self.task_loss is None:
            object.__setattr__(self, "task_loss", nn.CrossEntropyLoss() if self.classification else nn.MSELoss())
        for part in PARTS:
            self._check(part)

    def _check(self, part: str) -> None:
        inputs, targets = f"Task.{part} x", f"Task.{part} y"
        pair = getattr(self, part)
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)
        got = pair if isinstance(pair, str) else type(pair).__name__
        check(is_pair, f"Task.{part} part", "a tuple (x, y) of tensors", got)
        x, y = pair
        object.__setattr__(self, part, (x, y))
        check(x.ndim >= 2 and len(x) > 0, inputs, "(N, …) with N > 0", tuple(x.shape))
        check(x.is_floating_point(), inputs, "floating point", x.dtype)
        instance = self.input_shape
        check(x.shape[1:] == instance, inputs, f"(N, {', '.join(map(str, instance))})", tuple(x.shape))
        check(x.dtype == self.dtype, inputs, f"{self.dtype} like Task.train", x.dtype)
        got = f"x on {x.device}, y on {y.device}"
        check(x.device == y.device == self.device, f"Task.{part} tensors", f"on {self.device}", got)
        shape, dtype = ((len(x),), torch.int64) if self.classification else ((len(x), 1), self.dtype)
        check(y.shape == shape, targets, shape, tuple(y.shape))
        check(y.dtype == dtype, targets, dtype, y.dtype)
        for tensor, name in ((x, inputs), (y, targets)):
            check(tensor.isfinite().all(), name, "finite", "a NaN or an infinity")
        if self.classification:
            low, high = y.min().item(), y.max().item()
            check(
                0 <= low and high < self.outputs, targets, f"a class from 0 to {self.outputs - 1}", f"{low} to {high}"
            )

    @property
    def metric_name(self) -> str:
        """What `metric` gives."""
        return "error rate" if self.classification else "mean squared error"

    @property
    def device(self) -> torch.device:
        return self.train[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.train[0].dtype

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one instance: (features,) or (channels, height, width)."""
        return tuple(self.train[0].shape[1:])

    def metric(self, prediction: Tensor, target: Tensor) -> Tensor:
        """L_P: mean squared error, or error rate = 1 − accuracy. The lower, the better.

        A class cannot be read off a NaN, so predictions that hold one have the error rate NaN, not a fair-looking one.

        Args:
            prediction: (B, C) raw outputs.
            target: (B, 1) values for regression, (B,) class indices for classification.

        Returns:
            0-d tensor on the prediction's device; the host does not wait for it.
        """
        fits = target.shape == (prediction.shape[:1] if self.classification else prediction.shape)
        shapes = "(B, C) and (B,)" if self.classification else "(B, 1) and (B, 1)"
        got = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        check(prediction.ndim == 2 and fits, f"{self.metric_name}: prediction and target", shapes, got)
        if not self.classification:
            return (prediction - target).square().mean()
        wrong = (prediction.argmax(1) != target).to(prediction.dtype)  # (B,)
        return wrong.masked_fill(prediction.isnan().any(1), float("nan")).mean()

    def to(self, device=None, dtype: torch.dtype | None = None) -> "Task":
        """This task with its tensors on another device, or of another floating-point type; class indices stay int64."""

        def move(t: Tensor) -> Tensor:
            return t.to(device=device or t.device, dtype=(dtype or t.dtype) if t.is_floating_point() else t.dtype)

        return dataclasses.replace(self, **{part: tuple(map(move, getattr(self, part))) for part in PARTS})
