"""The task losses L_T as losses like the learned ones: saved, loaded and printed in the same way."""

import sympy
from torch import nn

from .. import files
from .elementwise import SCHEMA
from .export import F, Y


class _Handcrafted:
    """What `MetaLoss` offers beside being called."""

    kind: str
    formula: sympy.Expr

    def to_json(self) -> dict:
        return {"kind": self.kind}

    @classmethod
    def from_json(cls, data: dict):
        if data:
            raise ValueError(f"a {cls.kind} has no settings, got {sorted(data)}")
        return cls()

    def save(self, path) -> None:
        files.write_json(path, {"schema": SCHEMA, **self.to_json()})

    def to_sympy(self, weights: bool = True) -> sympy.Expr:
        return self.formula

    def to_latex(self, weights: bool = True, digits: int = 3) -> str:
        return sympy.latex(self.formula, symbol_names={F: r"f_\theta(x)"})

    def _repr_latex_(self) -> str:
        return f"${self.to_latex()}$"

    def __str__(self) -> str:
        return self.kind


class SquaredError(_Handcrafted, nn.MSELoss):
    """Mean squared error, the task loss of regression."""

    kind, formula = "squared_error", (F - Y) ** 2


class CrossEntropy(_Handcrafted, nn.CrossEntropyLoss):
    """Cross-entropy, the task loss of classification."""

    kind, formula = "cross_entropy", -Y * sympy.log(F)


def task_loss(classification: bool) -> nn.Module:
    """L_T of a kind of task (METHOD: squared error or cross-entropy)."""
    return CrossEntropy() if classification else SquaredError()
