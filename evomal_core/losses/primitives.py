"""Table I (section III-B1): the twelve operators of the search space, each one row; `evomal_core.operators` adds a user's.

Printing, parsing, evaluation, derivatives and export all read `PRIMITIVES`. `value(xp, *x)` and `derivatives(xp, *x)` take
arrays of the namespace `xp`, `numpy` or `torch`, whose functions have the same names. The derivatives are the first partial
derivatives and then the second ones, in the order aa, ab, bb; plain 0, 1 and -1 stand for what is the same everywhere.

Gradients where there is none: sign, abs, log and sqrt have 0 at 0; ties of min and max split evenly, as in torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import sympy
import torch
from torch.nn import functional

from .. import portable

EPSILON = 1e-7  # [R]


@dataclass(frozen=True)
class Operator:
    """One operator.

    Args:
        name: in printed trees.
        arity: 1 or 2.
        formula: as displayed.
        value: (xp, *x) -> array; with `xp=torch` it is differentiable by autograd.
        derivatives: (xp, *x) -> 2 arrays or numbers of a unary operator, 5 of a binary one.
        sympy: (epsilon, *x) -> SymPy expression.
        source: PyTorch expression with a placeholder {} for each argument.
    """

    name: str
    arity: int
    formula: str
    value: Callable
    derivatives: Callable
    sympy: Callable
    source: str


def sign(xp, x):
    """sign(x), which of NaN is NaN: torch's own is 0 there, and hides on one device what NumPy's shows on another."""
    return torch.where(x.isnan(), x, torch.sign(x)) if xp is torch else xp.sign(x)


def _aq(xp, a, b):
    if xp is torch and torch.compiler.is_exporting():  # to ONNX, for example, which has no hypot
        m = torch.clamp(torch.abs(b), min=1.0)
        return a / (m * torch.sqrt(torch.square(1 / m) + torch.square(b / m)))
    return a / xp.hypot(xp.ones_like(b), b)  # sqrt(1 + b^2) that does not overflow inside


def _aq_derivatives(xp, a, b):
    h = xp.hypot(xp.ones_like(b), b)
    value = a / h
    r = 1 / h
    s = b * r  # d h / d b, within [-1, 1]
    return r, -value * s * r, 0, -s * r * r, value * r * r * (3 * s * s - 1)


def _share(first, second):
    """1 where the first is the larger, half at a tie, of infinities too."""
    share = 0.5 * (first > second) + 0.5 * (first >= second)
    return share, 1 - share, 0, 0, 0


def _tanh_derivatives(xp, x):
    t = xp.tanh(x)
    d = 1 - t * t
    return d, -2 * t * d


def _inside(xp, x, clamp: bool):
    size = xp.abs(x)
    return size, xp.clip(size, EPSILON, None) if clamp else size + EPSILON


def _root(xp, x):
    """sqrt(x) of x > 0. Portably not torch's, which is MKL's, whose last digit is that of the CPU's approximate 1/sqrt."""
    return 1 / torch.rsqrt(x) if xp is torch and portable.enabled() else xp.sqrt(x)


def _protected(outer: str, clamp: bool) -> dict[str, Callable]:
    """log or sqrt of |x| + eps ("abs", the closed reading of Table I) or of max(|x|, eps) ("clamp", released code)."""

    def function(xp, x):
        return _root(xp, x) if outer == "sqrt" else xp.log(x)

    def value(xp, x):
        return function(xp, _inside(xp, x, clamp)[1])

    def derivatives(xp, x):
        size, inner = _inside(xp, x, clamp)
        root = function(xp, inner)
        slope = sign(xp, x)
        if clamp:
            slope = slope * (size >= EPSILON)
        d = slope / inner if outer == "log" else slope / (2 * root)
        return d, -d * d if outer == "log" else -d * d / root

    def form(e, x):
        inner = sympy.Max(sympy.Abs(x), e) if clamp else sympy.Abs(x) + e
        return getattr(sympy, outer)(inner)

    formula = f"{outer}({'max(|x|, ε)' if clamp else '|x| + ε'})"
    row = {"name": outer, "arity": 1, "formula": formula, "value": value, "derivatives": derivatives}
    return row | {"sympy": form, "source": f"torch.{outer}(protect({{}}))"}


def _table(protection: str) -> dict[str, Operator]:
    clamp = protection == "clamp"
    rows = (
        Operator("add", 2, "x1 + x2", lambda xp, a, b: a + b, lambda xp, a, b: (1, 1, 0, 0, 0),
                 lambda e, a, b: a + b, "{} + {}"),
        Operator("sub", 2, "x1 - x2", lambda xp, a, b: a - b, lambda xp, a, b: (1, -1, 0, 0, 0),
                 lambda e, a, b: a - b, "{} - {}"),
        Operator("mul", 2, "x1 * x2", lambda xp, a, b: a * b, lambda xp, a, b: (b, a, 0, 1, 0),
                 lambda e, a, b: a * b, "{} * ({})"),
        Operator("aq", 2, "x1 / sqrt(1 + x2^2)", _aq, _aq_derivatives,
                 lambda e, a, b: a / sympy.sqrt(1 + b**2), "aq({}, {})"),
        Operator("min", 2, "min(x1, x2)", lambda xp, a, b: xp.minimum(a, b), lambda xp, a, b: _share(b, a),
                 lambda e, a, b: sympy.Min(a, b), "torch.minimum({}, {})"),
        Operator("max", 2, "max(x1, x2)", lambda xp, a, b: xp.maximum(a, b), lambda xp, a, b: _share(a, b),
                 lambda e, a, b: sympy.Max(a, b), "torch.maximum({}, {})"),
        Operator("sign", 1, "sign(x)", sign, lambda xp, x: (0, 0),
                 lambda e, x: sympy.sign(x), "sign({})"),
        Operator("square", 1, "x^2", lambda xp, x: x * x, lambda xp, x: (2 * x, 2),
                 lambda e, x: x**2, "torch.square({})"),
        Operator("abs", 1, "|x|", lambda xp, x: xp.abs(x), lambda xp, x: (sign(xp, x), 0),
                 lambda e, x: sympy.Abs(x), "torch.abs({})"),
        Operator(**_protected("log", clamp)),
        Operator(**_protected("sqrt", clamp)),
        Operator("tanh", 1, "tanh(x)", lambda xp, x: xp.tanh(x), _tanh_derivatives,
                 lambda e, x: sympy.tanh(x), "torch.tanh({})"),
    )  # fmt: skip
    return {row.name: row for row in rows}


# protection -> name -> operator; a registered operator stands behind those of Table I
PRIMITIVES: dict[str, dict[str, Operator]] = {p: _table(p) for p in ("abs", "clamp")}
TABLE_I = tuple(PRIMITIVES["abs"])
TERMINALS = ("y", "f", "1", "-1")  # label, prediction, constants; equally likely


def _softplus_derivatives(xp, x):
    s = 0.5 * (1 + xp.tanh(0.5 * x))  # the logistic function, without overflow
    return s, s * (1 - s)


def _softplus(xp, x):
    """log(1 + exp(x)). Torch's `logaddexp` has no finite second derivative below -88 in float32; its `softplus`, which is
    linear from a threshold on, has one, and beyond 50 the two are equal in float64."""
    return functional.softplus(x, 1, 50) if xp is torch else xp.logaddexp(x, xp.zeros_like(x))


# The optional non-negative output (section III-B3); no operator of the search space
SOFTPLUS = Operator(
    "softplus", 1, "log(1 + exp(x))", _softplus, _softplus_derivatives,
    lambda e, x: sympy.log(1 + sympy.exp(x)), "torch.nn.functional.softplus({}, 1, 50)",
)  # fmt: skip
