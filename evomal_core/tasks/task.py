"""`Task`: a data set split in three, with the loss and the metric that go with it."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evomal_core.config import check_choice

Part = tuple[Tensor, Tensor]  # (x, y)
PARTS = ("train", "validation", "test")


class DataUnavailable(RuntimeError):
    """A data set is neither on disk nor to be had from where it is published."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned, and how it is judged (section III-A). All tensors lie on one device, all x have one dtype.

    Args:
        name: of the data set.
        train, validation, test: (x, y). x is (N, features) or (N, channels, height, width), floating point, at whatever
            scale the model should see; y is (N, 1) of the dtype of x for regression, (N,) int64 for classification.
        classification: else regression.
        outputs: C, the number of classes; 1 for regression.
        metric_name: "error rate" for classification, "mean squared error" for regression; may be left out.
        task_loss: L_T; left out, `nn.CrossEntropyLoss()` or `nn.MSELoss()`.
        augmentation: of the training images: None or "crop-flip".

    Raises:
        ValueError: a part does not have these shapes, types or values.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classification: bool
    outputs: int = 1
    metric_name: str | None = None
    task_loss: nn.Module | None = None
    augmentation: str | None = None

    def __post_init__(self):
        metric_name = "error rate" if self.classification else "mean squared error"
        if self.metric_name not in (None, metric_name):
            kind = "classification" if self.classification else "regression"
            raise ValueError(f"Task.metric_name of {kind} must be {metric_name!r}, got {self.metric_name!r}")
        object.__setattr__(self, "metric_name", metric_name)
        if self.task_loss is None:
            object.__setattr__(self, "task_loss", nn.CrossEntropyLoss() if self.classification else nn.MSELoss())
        check_choice("Task.augmentation", self.augmentation, (None, "crop-flip"))
        if self.classification and self.outputs < 2:
            raise ValueError(f"Task.outputs of classification must be at least 2 (classes), got {self.outputs}")
        if not self.classification and self.outputs != 1:
            raise ValueError(f"Task.outputs of regression must be 1, got {self.outputs}")
        for part in PARTS:
            self._check(part)

    def _check(self, part: str) -> None:
        def need(true: bool, thing: str, expected, got) -> None:
            if not true:
                raise ValueError(f"Task.{part} {thing} must be {expected}, got {got}")

        pair = getattr(self, part)
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)
        need(is_pair, "part", "a tuple (x, y) of tensors", pair if isinstance(pair, str) else type(pair).__name__)
        x, y = pair
        object.__setattr__(self, part, (x, y))
        need(x.ndim >= 2 and len(x) > 0, "x", "(N, …) with N > 0", tuple(x.shape))
        need(x.is_floating_point(), "x", "floating point", x.dtype)
        need(x.shape[1:] == self.input_shape, "x", f"(N, {', '.join(map(str, self.input_shape))})", tuple(x.shape))
        need(x.dtype == self.dtype, "x", f"{self.dtype} like Task.train", x.dtype)
        need(x.device == y.device == self.device, "tensors", f"on {self.device}", f"x on {x.device}, y on {y.device}")
        shape, dtype = ((len(x),), torch.int64) if self.classification else ((len(x), 1), self.dtype)
        need(y.shape == shape, "y", shape, tuple(y.shape))
        need(y.dtype == dtype, "y", dtype, y.dtype)
        need(bool(torch.isfinite(x).all()), "x", "finite", "a NaN or an infinity")
        if self.classification:
            low, high = y.min().item(), y.max().item()
            need(0 <= low and high < self.outputs, "y", f"a class from 0 to {self.outputs - 1}", f"{low} to {high}")
        else:
            need(bool(torch.isfinite(y).all()), "y", "finite", "a NaN or an infinity")

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
        if prediction.ndim != 2 or target.shape != (prediction.shape[:1] if self.classification else prediction.shape):
            shapes = "(B, C) and (B,)" if self.classification else "(B, 1) and (B, 1)"
            got = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            raise ValueError(f"{self.metric_name}: prediction and target must be {shapes}, got {got}")
        if not self.classification:
            return (prediction - target).square().mean()
        wrong = (prediction.argmax(1) != target).to(prediction.dtype)  # (B,)
        return wrong.masked_fill(prediction.isnan().any(1), float("nan")).mean()

    def to(self, device=None, dtype: torch.dtype | None = None) -> "Task":
        """This task with its tensors on another device, or of another floating-point type; class indices stay int64."""

        def move(t: Tensor) -> Tensor:
            return t.to(device=device or t.device, dtype=(dtype or t.dtype) if t.is_floating_point() else t.dtype)

        return dataclasses.replace(self, **{part: tuple(map(move, getattr(self, part))) for part in PARTS})
