"""`Task`: a data set split in three, with the loss and the metric that go with it."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import check
from . import augment
from .metrics import error_rate, mean_squared_error

Part = tuple[Tensor, Tensor]  # (x, y)
PARTS = ("train", "validation", "test")
EVALUATION_BATCH = 2_000  # instances; a tenth of it for images that are stored as bytes, whose models are larger


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned, and how it is judged (section III-A). All tensors lie on one device, all x have one dtype.

    Images may be stored as bytes, which take a quarter of the memory; `inputs` turns a batch into what the model sees.

    Args:
        name: the data set's name.
        train, validation, test: (x, y). x is (N, features) or (N, channels, height, width), floating point, at whatever
            scale the model should see; or (N, channels, height, width) uint8 with `moments`. y is (N, 1) of the dtype
            that the model sees for regression, (N,) int64 for classification.
        classification: else regression.
        outputs: C, the number of classes; 1 for regression.
        task_loss: L_T; left out, `nn.CrossEntropyLoss()` or `nn.MSELoss()`. `to` moves a copy of it with the data.
        metric: L_P, a function of (prediction, target) that gives a number, the lower the better; left out, `error_rate`
            or `mean_squared_error`. It gets raw outputs (B, C) and class indices (B,), or outputs and values (B, 1).
        moments: mean and std of x / 255, a number a channel each, for uint8 x; None for floating-point x. Kept as two
            (channels,) float64 tensors on the device of x.
        augmented: parts whose images are cropped and flipped at random (`augment.crop_and_flip`), such as ("train",).
        padding: pixels that the random crop adds on each side; their value is that of a stored 0.
        dtype: that the model sees, for uint8 x; left out, float32. For floating-point x it is always that of x.

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
    metric: Callable[[Tensor, Tensor], Tensor] | None = None
    moments: tuple[Tensor | Sequence[float], Tensor | Sequence[float]] | None = None
    augmented: tuple[str, ...] = ()
    padding: int = augment.PADDING
    dtype: torch.dtype | None = None

    def __post_init__(self):
        if self.classification:
            check(self.outputs >= 2, "Task.outputs of classification", "at least 2 (classes)", self.outputs)
        else:
            check(self.outputs == 1, "Task.outputs of regression", 1, self.outputs)
        if self.task_loss is None:
            object.__setattr__(self, "task_loss", nn.CrossEntropyLoss() if self.classification else nn.MSELoss())
        if self.metric is None:
            object.__setattr__(self, "metric", error_rate if self.classification else mean_squared_error)
        check(callable(self.metric), "Task.metric", "a function of (prediction, target)", repr(self.metric))
        for part in PARTS:
            self._check_pair(part)
        self._check_images()
        for part in PARTS:
            self._check(part)

    def _check_pair(self, part: str) -> None:
        pair = getattr(self, part)
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)
        got = pair if isinstance(pair, str) else type(pair).__name__
        check(is_pair, f"Task.{part} part", "a tuple (x, y) of tensors", got)
        object.__setattr__(self, part, tuple(pair))

    def _check_images(self) -> None:
        """Check what belongs to images, and settle `dtype` and `moments`."""
        x = self.train[0]
        stored = x.dtype == torch.uint8
        got = f"{x.dtype}; images may be torch.uint8"
        check(stored or x.is_floating_point(), "Task.train x", "floating point", got)
        dtype = (self.dtype or torch.float32) if stored else x.dtype
        is_floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        check(is_floating, "Task.dtype", "a floating-point torch.dtype", repr(dtype))
        object.__setattr__(self, "dtype", dtype)
        known = isinstance(self.augmented, tuple) and set(self.augmented) <= set(PARTS)
        check(known, "Task.augmented", f"a tuple of some of {', '.join(PARTS)}", repr(self.augmented))
        if stored or self.augmented:
            why = "augmentation" if self.augmented else "uint8"
            check(x.ndim == 4, f"Task.train x with {why}", "(N, channels, height, width)", tuple(x.shape))
        whole = type(self.padding) is int and self.padding >= 0
        check(whole, "Task.padding", "a whole number of pixels, at least 0", repr(self.padding))
        if not stored:
            check(self.moments is None, f"Task.moments of {x.dtype} x", None, repr(self.moments))
            return
        expected = f"(mean, std) with {x.shape[1]} finite numbers each, std positive"
        try:
            mean, std = (torch.as_tensor(m, dtype=torch.float64, device=x.device) for m in self.moments)
            fits = mean.shape == std.shape == x.shape[1:2] and torch.cat([mean, std]).isfinite().all() and std.min() > 0
        except (TypeError, ValueError):
            fits = False
        check(fits, "Task.moments of torch.uint8 x", expected, repr(self.moments))
        object.__setattr__(self, "moments", (mean, std))

    def _check(self, part: str) -> None:
        inputs, targets = f"Task.{part} x", f"Task.{part} y"
        x, y = getattr(self, part)
        check(x.ndim >= 2 and len(x) > 0, inputs, "(N, …) with N > 0", tuple(x.shape))
        instance = self.input_shape
        check(x.shape[1:] == instance, inputs, f"(N, {', '.join(map(str, instance))})", tuple(x.shape))
        stored = self.train[0].dtype
        check(x.dtype == stored, inputs, f"{stored} like Task.train", x.dtype)
        got = f"x on {x.device}, y on {y.device}"
        check(x.device == y.device == self.device, f"Task.{part} tensors", f"on {self.device}", got)
        shape, dtype = ((len(x),), torch.int64) if self.classification else ((len(x), 1), self.dtype)
        check(y.shape == shape, targets, shape, tuple(y.shape))
        check(y.dtype == dtype, targets, dtype, y.dtype)
        for tensor, name in ((x, inputs), (y, targets)):
            finite = not tensor.is_floating_point() or tensor.isfinite().all()
            check(finite, name, "finite", "a NaN or an infinity")
        if self.classification:
            low, high, most = y.min().item(), y.max().item(), self.outputs - 1
            check(0 <= low and high <= most, targets, f"a class from 0 to {most}", f"{low} to {high}")

    @property
    def metric_name(self) -> str:
        """What `metric` gives: "error rate", "mean squared error", or the name of a function of one's own."""
        return getattr(self.metric, "__name__", type(self.metric).__name__).replace("_", " ")

    @property
    def device(self) -> torch.device:
        return self.train[0].device

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one instance: (features,) or (channels, height, width)."""
        return tuple(self.train[0].shape[1:])

    def inputs(self, x: Tensor) -> Tensor:
        """What the model sees of a batch of stored x: floating-point x as it is, uint8 x normalised, in `dtype`."""
        return augment.normalise(x, *self.moments, self.dtype) if x.dtype == torch.uint8 else x

    def targets(self, y: Tensor) -> Tensor:
        """The targets of a batch of stored y, as losses and metric take them: y as it is."""
        return y

    def content(self, part: str) -> tuple[Tensor, ...]:
        """The tensors of a part, which say what data these are."""
        return getattr(self, part)

    @property
    def filter_metric(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The metric of the rejection protocol, which sees a hundred instances or so."""
        return self.metric

    @property
    def evaluation_batch(self) -> int:
        """How many instances a trained model is run on at a time."""
        return EVALUATION_BATCH // 10 if self.moments else EVALUATION_BATCH

    def to(self, device=None, dtype: torch.dtype | None = None) -> "Task":
        """This task on another device, or with another floating-point type; class indices stay int64, bytes uint8."""

        def move(t: Tensor) -> Tensor:
            return t.to(device=device or t.device, dtype=(dtype or t.dtype) if t.is_floating_point() else t.dtype)

        parts = {part: tuple(map(move, getattr(self, part))) for part in PARTS}
        task_loss = copy.deepcopy(self.task_loss).to(device=device, dtype=dtype)
        return dataclasses.replace(self, **parts, task_loss=task_loss, dtype=dtype or self.dtype)
