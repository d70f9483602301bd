"""Losses that nobody here has searched for: the task losses L_T, saved, loaded and printed like the learned ones, and the ten
that the paper prints in Table VI."""

from typing import NamedTuple

import sympy
import torch
from torch import nn

from ..config import check_choice
from .elementwise import ElementwiseLoss
from .export import Displayed, F, Y
from .meta_network import MetaLoss


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


def task_loss(classification: bool) -> nn.Module:
    """L_T of a kind of task (squared error or cross-entropy)."""
    return CrossEntropy() if classification else SquaredError()


class Printed(NamedTuple):
    """A row of Table VI: LaTeX as printed (with the bars that the text has lost), as a tree of Table I, and what to know."""

    classification: bool
    printed: str
    expression: str
    remark: str = ""
    weights: tuple[float, ...] | None = None  # None: all 1, as the paper omits the learned ones


_W = 1e4  # aq(W a, W b) = a / sqrt(1/W² + b²) is a / |b| to 1e-4 for |b| > 0.01
_GUESS = "the place of the bars is a guess"
TABLE_VI = {
    "a": Printed(True, r"|\log(\sqrt{y f} + \varepsilon)|", "abs(log(sqrt(mul(y, f))))"),
    "b": Printed(True, r"\log(y f) + \sqrt{\log(y f)}^2", "add(log(mul(y, f)), square(sqrt(log(mul(y, f)))))"),
    "c": Printed(
        True,
        r"((y - f) / f)^4",
        "square(square(aq(sub(y, f), f)))",
        "division and the fourth power are not in Table I: aq with large weights, and a square squared",
        (1, 1, _W, 1, 1, _W),
    ),
    "d": Printed(
        True,
        r"y^3 + f^3 + f y^2 + f^2 y",
        "add(add(mul(y, square(y)), mul(f, square(f))), add(mul(f, square(y)), mul(square(f), y)))",
        "the cube is not in Table I: a product with the square",
    ),
    "e": Printed(True, r"|\log((y f)^2 + \varepsilon)|", "abs(log(square(mul(y, f))))"),
    "f": Printed(False, r"(f - \min(\max(y, -1), 1))^2", "square(sub(f, min(max(y, -1), 1)))"),
    "g": Printed(False, r"|y \sqrt{|y / \sqrt{1 + f^2}|}|", "abs(mul(y, sqrt(aq(y, f))))", _GUESS),
    "h": Printed(
        False,
        r"|y / (1 + \log(|y - 1|)^2) - f|",
        "abs(sub(aq(aq(y, log(sub(y, 1))), log(sub(y, 1))), f))",
        f"{_GUESS}; y / (1 + x²) is aq(aq(y, x), x)",
    ),
    "i": Printed(False, r"\sqrt{|y (y - f)|}", "sqrt(mul(y, sub(y, f)))"),
    "j": Printed(False, r"\sqrt{|y - f|}", "sqrt(sub(y, f))"),
}


def paper_loss(letter: str) -> MetaLoss:
    """A loss of Table VI, "a" to "e" for classification and "f" to "j" for regression. Raises ValueError for another."""
    row = TABLE_VI[check_choice("loss of Table VI", letter, TABLE_VI)]
    return MetaLoss(row.expression, row.weights, row.classification)
