"""TaylorGLO's loss (Gonzalez & Miikkulainen 2021): a third-order Taylor polynomial around a learned point, 8 parameters."""

import numpy as np
import sympy
import torch
from torch import nn

from ..checks import check_choice
from .elementwise import ElementwiseLoss
from .export import Displayed, F, Y

PARAMETERS = 8


class TaylorLoss(Displayed, ElementwiseLoss):
    """M = t2 a + t3 a²/2 + t4 a³/6 + t5 b a + t6 b a²/2 + t7 b² a/2 with a = f - t1, b = y - t0; squared error is t3 = 2,
    t5 = -2. Terms without the prediction, whose gradient is zero, are left out.

    Args:
        weights: 8 numbers t0 … t7.
        roles: "prediction", or "exchanged" as in the released code: a = y - t1 with the label, b = f - t0, so that no term
            is quadratic in the prediction alone.
        last_term: "t1", or "t0" as in the released code: the last factor of t7's term is taken around t0.
        classification, non_negative, reduction: as in `ElementwiseLoss`.
    """

    kind = "taylor"
    FIELDS = (*ElementwiseLoss.FIELDS, "roles", "last_term")

    def __init__(self, weights, *, roles: str = "prediction", last_term: str = "t1", **options):
        super().__init__(weights, PARAMETERS, **options)
        self.roles = check_choice("roles", roles, ("prediction", "exchanged"))
        self.last_term = check_choice("last_term", last_term, ("t1", "t0"))

    def _polynomial(self, t, y, f):
        a, b, moved = (f - t[1], y - t[0], f) if self.roles == "prediction" else (y - t[1], f - t[0], y)
        last = a if self.last_term == "t1" else moved - t[0]
        alone = t[2] * a + t[3] / 2 * a**2 + t[4] / 6 * a**3
        return alone + t[5] * b * a + t[6] / 2 * b * a**2 + t[7] / 2 * b**2 * last

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        value = self._polynomial(self.weights, y, f)
        return nn.functional.softplus(value) if self.non_negative else value

    def element_source(self) -> list[str]:
        a, b, moved = ("f", "y", "f") if self.roles == "prediction" else ("y", "f", "y")
        last = "a" if self.last_term == "t1" else f"({moved} - t[0])"
        terms = "t[2] * a + t[3] / 2 * a**2 + t[4] / 6 * a**3 + t[5] * b * a + t[6] / 2 * b * a**2 + t[7] / 2 * b**2"
        value = f"{terms} * {last}"
        value = f"torch.nn.functional.softplus({value})" if self.non_negative else value
        lines = [f"t = {self.finite_weights()}", f"a, b = {a} - t[1], {b} - t[0]", f"return {value}"]
        return ["def element(y, f):\n" + "".join(f"    {line}\n" for line in lines)]

    def closed_form(self, e) -> torch.Tensor:
        """dL/dz (B, C) without autograd, for the mean without softplus; `e` is `fast.derivatives.LossInputs`."""
        self.check_kind(e.target)
        t = list(e.array(self.weights.to(e.prediction.dtype)))
        y, f = e.y, e.f
        with np.errstate(all="ignore"):
            if self.roles == "prediction":
                a, b = f - t[1], y - t[0]
                return e.softmax_vjp(t[2] + t[3] * a + t[4] / 2 * a * a + t[5] * b + t[6] * b * a + t[7] / 2 * b * b).mT
            a, b = y - t[1], f - t[0]
            return e.softmax_vjp(
                t[5] * a + t[6] / 2 * a * a + t[7] * b * (a if self.last_term == "t1" else y - t[0])
            ).mT

    def to_sympy(self, weights: bool = True, digits: int | None = None) -> sympy.Expr:
        """The polynomial in `y`, `f`; with `weights=False` its parameters stay symbols."""
        t = [sympy.Float(t, digits) for t in self.weights.tolist()] if weights else sympy.symbols("theta0:8")
        return self._polynomial(t, Y, F)

    def __str__(self) -> str:
        return "taylor(" + ", ".join(f"{t:.4g}" for t in self.weights.tolist()) + ")"
