"""The task losses L_T, saved, loaded and printed like the learned ones."""

import sympy
import torch
from torch import nn

from .elementwise import ElementwiseLoss
from .export import Displayed, F, Y


class _Handcrafted(Displayed):
    """What `MetaLoss` offers beside being called."""

    kind: str
    formula: sympy.Expr
    FIELDS = ()
    save = ElementwiseLoss.save

    def to_json(self) -> dict:
        return {"kind": self.kind}

    @classmethod
    def from_json(cls, data: dict):
        return cls()

    def to_sympy(self, weights: bool = True, digits: int | None = None) -> sympy.Expr:
        return self.formula

    def __str__(self) -> str:
        return self.kind


class SquaredError(_Handcrafted, nn.MSELoss):
    """Mean squared error, the task loss of regression."""

    kind, formula, classification = "squared_error", (F - Y) ** 2, False

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return (f - y) ** 2


class CrossEntropy(_Handcrafted, nn.CrossEntropyLoss):
    """Cross-entropy, the task loss of classification."""

    kind, formula, classification = "cross_entropy", -Y * sympy.log(F), True

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
