"""How a loss meets a batch: the calling convention of every learned loss.

Classification applies M to softmax outputs and one-hot labels, sums over the classes and averages over the batch;
regression averages M over all elements (METHOD: section III-A; the reductions are the released code's [R]).
"""

import inspect
import math

import torch
from torch import nn

from ..checks import check, check_choice
from . import conventions
from .base import SCHEMA, Loss, check_numbers, in_file, numbers  # noqa: F401


def check_target(prediction: torch.Tensor, target: torch.Tensor) -> None:
    """Raise ValueError for a target that would broadcast.

    Args:
        prediction: raw outputs (B, C), or (K, B, C) for K losses.
        target: class indices (B,), or values (B, C).
    """
    want = prediction.shape[-2:] if target.is_floating_point() else prediction.shape[-2:-1]
    if target.shape != want:
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"outputs and target must be (B, C) and (B,) of classes or (B, C) of values, got {shapes}")


class ElementwiseLoss(Loss, nn.Module):
    """Base of the losses that act element by element on label and prediction.

    Call it like PyTorch's losses. Half precision is computed in float32, and so is the result; the gradient has the
    prediction's type.

    Classification: logits (B, C), (B, C, d1, ...) or (C,), and class indices without the dimension of the classes, or
    probabilities of the logits' shape (soft labels, mixup). Where only this fits, logits (B, d1, ..., C) have the classes
    in the last dimension. The loss of probabilities is the mean, under them, of the losses of the classes. Options, as in
    `nn.CrossEntropyLoss`: `with_options`. Regression: prediction and target of one shape.

    Args:
        weights: numbers; of NumPy, PyTorch or Python. They require gradients; see `trainable` of losses that were found.
        classification: softmax, one-hot, sum over the classes, mean over the batch; else mean over all elements.
        non_negative: softplus on each element's output (section III-B3).
        reduction: "mean", "sum" or "none", as in PyTorch's losses; "none" gives the target's shape without the classes.

    Raises:
        ValueError: shapes or types that do not fit, which PyTorch would broadcast or misread.
    """

    FIELDS = ("weights", "dtype", "classification", "non_negative", "reduction")
    OPTIONS = {"class_weight": None, "ignore_index": None, "label_smoothing": 0.0}  # noqa: RUF012
    weights: nn.Parameter  # phi, (n,)

    def __init__(
        self, weights, n: int, classification: bool = False, non_negative: bool = False, reduction: str = "mean"
    ):
        super().__init__()
        for name, flag in (("classification", classification), ("non_negative", non_negative)):
            check(type(flag) is bool, name, "True or False", repr(flag))
        self.classification, self.non_negative = classification, non_negative
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))
        self.ignore_index, self.label_smoothing = None, 0.0
        self.register_buffer("class_weight", None)
        weights = numbers("weights", weights)
        shape = tuple(weights.shape)
        check(shape == (n,), f"weights of this {self.kind} loss", f"of shape ({n},), {n} weights", f"shape {shape}")
        self.weights = nn.Parameter(weights)

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """M(y, f) for tensors of one shape; differentiable in `f` and in the loss's weights."""
        raise NotImplementedError

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if not self.classification:
            return conventions.of_values(self.elementwise, prediction, target, self.reduction)
        options = self.class_weight, self.ignore_index, self.label_smoothing
        return conventions.of_classes(self.elementwise, prediction, target, self.reduction, *options)

    @property
    def plain(self) -> bool:
        """Is the loss the mean over its instances and nothing else, as the closed forms of derivatives have it?"""
        even = self.class_weight is None and self.ignore_index is None and not self.label_smoothing
        return even and self.reduction == "mean"

    def check_kind(self, target: torch.Tensor) -> None:
        """Raise ValueError if the loss is of regression and the labels are classes, or the other way round."""
        if self.classification == target.is_floating_point():
            kind = "values" if target.is_floating_point() else "class indices"
            raise ValueError(f"a loss with classification={self.classification} was given {kind} as target")

    def finite_weights(self) -> list[float]:
        """The weights, for a file or a source. Raises ValueError if one is not finite."""
        weights = self.weights.tolist()
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"the loss {self} has non-finite weights and cannot be saved")
        return weights

    def sources(self, name: str) -> list[str]:
        used, arguments = [conventions.refuse, conventions.widened, conventions.of_values], [repr(self.reduction)]
        if self.classification:
            used = [conventions.classes_last, conventions.one_hot, conventions.of_each_class, conventions.of_classes]
            used = [conventions.refuse, conventions.widened, *used]
            weight = self.options().get("class_weight")
            arguments += [
                f"torch.tensor({weight}, dtype=torch.float64)" if weight else "None",
                self.ignore_index,
                self.label_smoothing,
            ]
        call = f"{used[-1].__name__}(element, prediction, target, {', '.join(map(str, arguments))})"
        own = f"def {name}(prediction, target):\n    return {call}\n"
        return [*self.element_source(), *map(inspect.getsource, used), own]

    def element_source(self) -> list[str]:
        """Source of the definitions that `element(y, f)`, the last of them, needs."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        options = {"classification": self.classification, **self.options()}
        return ", ".join([str(self), *(f"{name}={value}" for name, value in options.items())])

    def to_json(self) -> dict:
        """What `load_loss` rebuilds the loss from; strict JSON. Raises ValueError for weights that are not finite."""
        weights, dtype = self.finite_weights(), str(self.weights.dtype).removeprefix("torch.")
        check_choice("dtype of a loss that is saved", dtype, ("float32", "float64"))
        required = {name: getattr(self, name) for name in self.FIELDS[2:]}
        return {"kind": self.kind, "weights": weights, "dtype": dtype, **required, **self.options()}

    @classmethod
    def from_json(cls, data: dict) -> "ElementwiseLoss":
        """The loss of a dict with these FIELDS. Raises ValueError or TypeError for one that `to_json` does not write."""
        dtype, weights = check_choice("dtype", data["dtype"], ("float32", "float64")), data["weights"]
        check_numbers("weights", weights)
        weights = torch.tensor(weights, dtype=getattr(torch, dtype))
        check(weights.isfinite().all(), "weights", f"finite in {dtype}", "one that is not")
        return cls.with_read_options(cls(weights=weights, **{name: data[name] for name in cls.FIELDS[2:]}), data)
