"""The task losses L_T, saved, loaded and printed like the learned ones."""

import sympy
import torch
from torch import nn

from .base import Loss
from .export import Displayed, F, Y


class _Handcrafted(Displayed, Loss):
    """What `MetaLoss` offers beside being called, which is PyTorch's: shapes, types and options are those of its class."""

    formula: sympy.Expr
    CLASS_WEIGHT = "weight"

    def to_json(self) -> dict:
        return {"kind": self.kind, **self.options()}

    @classmethod
    def from_json(cls, data: dict):
        return cls.with_read_options(cls(), data)

    def sources(self, name: str) -> list[str]:
        options = {"reduction": "mean"} | self.options()
        weight = options.pop("class_weight", None)
        given = [f"weight=torch.tensor({weight}, dtype=torch.float64).to(prediction)"] if weight else []
        given = ", ".join([*given, *(f"{option}={value!r}" for option, value in options.items())])
        call = f"torch.nn.functional.{self.function}(prediction, target, {given})"
        return [f"def {name}(prediction, target):\n    return {call}\n"]

    def to_sympy(self, weights: bool = True, digits: int | None = None) -> sympy.Expr:
        return self.formula

    def __str__(self) -> str:
        return self.kind


class SquaredError(_Handcrafted, nn.MSELoss):
    """Mean squared error, the task loss of regression."""

    kind, formula, classification, function = "squared_error", (F - Y) ** 2, False, "mse_loss"
    OPTIONS = {"reduction": "mean"}  # noqa: RUF012

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return (f - y) ** 2


class CrossEntropy(_Handcrafted, nn.CrossEntropyLoss):
    """Cross-entropy, the task loss of classification. PyTorch 2.15's export to ONNX leaves its label smoothing out."""

    kind, formula, classification, function = "cross_entropy", -Y * sympy.log(F), True, "cross_entropy"
    OPTIONS = {"reduction": "mean", "class_weight": None, "ignore_index": -100, "label_smoothing": 0.0}  # noqa: RUF012

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return -y * torch.log(f)


def task_loss(task) -> nn.Module:
    """L_T of a task: this package's module where it is plain squared error or cross-entropy, else the task's own."""
    own, plain = task.task_loss, CrossEntropy() if task.classification else SquaredError()
    usual = nn.CrossEntropyLoss if task.classification else nn.MSELoss
    if getattr(type(own), "forward", None) is not usual.forward or own.reduction != "mean":
        return own
    unweighted = not task.classification or (own.weight is None and own.ignore_index < 0 and not own.label_smoothing)
    return plain if unweighted else own
