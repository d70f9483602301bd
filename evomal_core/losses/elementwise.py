"""How a loss meets a batch: the calling convention of every learned loss.

Classification applies M to softmax outputs and one-hot labels, sums over the classes and averages over the batch;
regression averages M over all elements (METHOD: section III-A; the reductions are the released code's [R]).
"""

import math

import torch
from torch import nn
from torch.nn import functional

from .. import files
from ..checks import check, check_choice
from ..machine import version

SCHEMA, MAX_FILE_BYTES = 2, 4_000_000  # of loss files; schema 1 has no version


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


class ElementwiseLoss(nn.Module):
    """Base of the losses that act element by element on label and prediction.

    Call it like PyTorch's losses. Classification: logits (B, C) or (C,) and class indices (B,) or (); regression:
    prediction and target of one shape, usually (B, 1). Half precision is computed in float32.

    Args:
        classification: softmax, one-hot, sum over the classes, mean over the batch; else mean over all elements.
        non_negative: softplus on each element's output (section III-B3).
        reduction: "mean", "sum" or "none", as in PyTorch's losses; "none" gives (B,) or the prediction's shape.
    """

    kind: str  # in a loss file
    FIELDS: tuple[str, ...] = ("weights", "dtype", "classification", "non_negative", "reduction")  # of a loss file
    weights: nn.Parameter  # phi, (n,)

    def __init__(
        self, weights, n: int, classification: bool = False, non_negative: bool = False, reduction: str = "mean"
    ):
        super().__init__()
        for name, flag in (("classification", classification), ("non_negative", non_negative)):
            check(type(flag) is bool, name, "True or False", repr(flag))
        self.classification, self.non_negative = classification, non_negative
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))
        weights = torch.as_tensor(weights).detach().clone()
        weights = weights if weights.is_floating_point() else weights.float()
        shape = tuple(weights.shape)
        check(shape == (n,), f"weights of this {self.kind} loss", f"of shape ({n},), {n} weights", f"shape {shape}")
        self.weights = nn.Parameter(weights)

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """M(y, f) for tensors of one shape; differentiable in `f` and in the loss's weights."""
        raise NotImplementedError

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.check(prediction, target)
        if prediction.dtype in (torch.float16, torch.bfloat16):
            prediction = prediction.float()
        if self.classification:
            y = functional.one_hot(target.long(), prediction.shape[-1]).to(prediction.dtype)  # (B, C)
            value = self.elementwise(y, torch.softmax(prediction, -1)).sum(-1)  # (B,)
        else:
            value = self.elementwise(target.to(prediction.dtype), prediction)  # (B, 1)
        return value if self.reduction == "none" else getattr(value, self.reduction)()

    def check_kind(self, target: torch.Tensor) -> None:
        """Raise ValueError if the loss is of regression and the labels are classes, or the other way round."""
        if self.classification == target.is_floating_point():
            kind = "values" if target.is_floating_point() else "class indices"
            raise ValueError(f"a loss with classification={self.classification} was given {kind} as target")

    def check(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Raise ValueError where PyTorch would broadcast or misread."""
        check(prediction.is_floating_point(), "the prediction", "of a floating type", prediction.dtype)
        want, needs = tuple(prediction.shape), "a target"
        integers = not target.is_floating_point() and target.dtype != torch.bool
        if self.classification:
            want, needs = want[:-1], "integer class indices"
        if target.shape != want or (self.classification and not (integers and prediction.ndim)):
            what, got = f"a prediction of shape {tuple(prediction.shape)}", f"{target.dtype} {tuple(target.shape)}"
            raise ValueError(f"{what} needs {needs} of shape {want}, got {got}")

    def to_json(self) -> dict:
        """What `load_loss` rebuilds the loss from; strict JSON. Raises ValueError for weights that are not finite."""
        weights = self.weights.tolist()
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"the loss {self} has non-finite weights and cannot be saved")
        dtype = str(self.weights.dtype).removeprefix("torch.")
        check_choice("dtype of a loss that is saved", dtype, ("float32", "float64"))
        options = {name: getattr(self, name) for name in self.FIELDS[2:]}
        return {"kind": self.kind, "weights": weights, "dtype": dtype, **options}

    @classmethod
    def from_json(cls, data: dict) -> "ElementwiseLoss":
        """The loss of a dict with these FIELDS. Raises ValueError or TypeError for one that `to_json` does not write."""
        dtype, weights = check_choice("dtype", data["dtype"], ("float32", "float64")), data["weights"]
        numbers = isinstance(weights, list) and all(type(w) in (int, float) for w in weights)
        check(numbers, "weights", "a list of numbers", f"{str(weights)[:80]}")
        weights = torch.tensor(weights, dtype=getattr(torch, dtype))
        check(weights.isfinite().all(), "weights", f"finite in {dtype}", "one that is not")
        return cls(weights=weights, **{name: data[name] for name in cls.FIELDS[2:]})

    def save(self, path) -> None:
        """Write the loss as JSON (no pickle); `load_loss` reads it."""
        files.write_json(path, in_file(self))


def in_file(loss) -> dict:
    """What a loss file holds: the version of the package that wrote it, and the loss."""
    return {"schema": SCHEMA, "version": version(), **loss.to_json()}
