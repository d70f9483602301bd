"""Table I (section III-B1): the twelve operators of the search space, each once.

Printing, parsing, evaluation, derivatives and export all read `PRIMITIVES`. An operator's `jet(xp, *x, order)` returns its
value and, as far as `order` asks, its first and second partial derivatives; `xp` is `numpy` or `torch`, whose functions
have the same names. `None` stands for a derivative that is zero everywhere, `1` and `-1` for constant ones.

Gradients where there is none: sign, abs, log and sqrt have 0 at 0; ties of min and max split evenly, as in torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import sympy

EPSILON = 1e-7  # [R]


@dataclass(frozen=True)
class Primitive:
    """One operator: its name in printed trees, arity, formula as displayed, `jet`, and its SymPy form `(eps, *x)`."""

    name: str
    arity: int
    formula: str
    jet: Callable
    sympy: Callable

    def value(self, xp, *x):
        """The operator's value; with `xp=torch` it is differentiable by autograd."""
        return self.jet(xp, *x, order=0)[0]


# Binary: (value, d/da, d/db, d2/da2, d2/dadb, d2/db2)


def _add(xp, a, b, order):
    return a + b, 1, 1, None, None, None


def _sub(xp, a, b, order):
    return a - b, 1, -1, None, None, None


def _mul(xp, a, b, order):
    return a * b, b, a, None, 1, None


def _aq(xp, a, b, order):
    h = xp.hypot(xp.ones_like(b), b)  # sqrt(1 + b^2) that does not overflow inside
    if order == 0:
        return (a / h,)
    r = 1 / h
    s = b * r  # d h / d b, within [-1, 1]
    value = a * r
    if order == 1:
        return value, r, -value * s * r
    dab = -s * r * r
    return value, r, -value * s * r, None, dab, value * r * r * (3 * s * s - 1)


def _extremum(choose: str):
    def jet(xp, a, b, order):
        value = getattr(xp, choose)(a, b)
        if order == 0:
            return (value,)
        first, second = (a, b) if choose == "maximum" else (b, a)
        share = 0.5 * (_like(xp, first > second, value) + _like(xp, first >= second, value))  # a tie is split
        return value, share, 1 - share, None, None, None

    return jet


def _like(xp, x, reference):
    """`x` in the type of `reference` (comparison and `where` make float64 or the default type of plain numbers)."""
    return x.to(reference.dtype) if hasattr(x, "to") else x.astype(reference.dtype)


# Unary: (value, d, d2)


def _sign(xp, x, order):
    return xp.sign(x), None, None


def _square(xp, x, order):
    return (x * x,) if order == 0 else (x * x, 2 * x, 2)


def _abs(xp, x, order):
    return (xp.abs(x),) if order == 0 else (xp.abs(x), xp.sign(x), None)


def _tanh(xp, x, order):
    t = xp.tanh(x)
    if order == 0:
        return (t,)
    d = 1 - t * t
    return t, d, -2 * t * d


def _protected(outer: str, clamp: bool):
    """log or sqrt of |x| + eps ("abs", the closed reading of Table I) or of max(|x|, eps) ("clamp", released code)."""

    def jet(xp, x, order):
        size = xp.abs(x)
        inner = xp.clip(size, EPSILON, None) if clamp else size + EPSILON
        value = getattr(xp, outer)(inner)
        if order == 0:
            return (value,)
        slope = xp.sign(x)
        if clamp:
            slope = slope * _like(xp, size >= EPSILON, value)
        if outer == "log":
            d = slope / inner
            return value, d, -d * d
        d = slope / (2 * value)
        return value, d, -d * d / value

    return jet


def _protected_sympy(outer: Callable, clamp: bool):
    return lambda eps, x: outer(sympy.Max(sympy.Abs(x), eps) if clamp else sympy.Abs(x) + eps)


def _table(protection: str) -> dict[str, Primitive]:
    clamp = protection == "clamp"
    inside = "max(|x|, ε)" if clamp else "|x| + ε"
    rows = (
        Primitive("add", 2, "x1 + x2", _add, lambda e, a, b: a + b),
        Primitive("sub", 2, "x1 - x2", _sub, lambda e, a, b: a - b),
        Primitive("mul", 2, "x1 * x2", _mul, lambda e, a, b: a * b),
        Primitive("aq", 2, "x1 / sqrt(1 + x2^2)", _aq, lambda e, a, b: a / sympy.sqrt(1 + b**2)),
        Primitive("min", 2, "min(x1, x2)", _extremum("minimum"), lambda e, a, b: sympy.Min(a, b)),
        Primitive("max", 2, "max(x1, x2)", _extremum("maximum"), lambda e, a, b: sympy.Max(a, b)),
        Primitive("sign", 1, "sign(x)", _sign, lambda e, x: sympy.sign(x)),
        Primitive("square", 1, "x^2", _square, lambda e, x: x**2),
        Primitive("abs", 1, "|x|", _abs, lambda e, x: sympy.Abs(x)),
        Primitive("log", 1, f"log({inside})", _protected("log", clamp), _protected_sympy(sympy.log, clamp)),
        Primitive("sqrt", 1, f"sqrt({inside})", _protected("sqrt", clamp), _protected_sympy(sympy.sqrt, clamp)),
        Primitive("tanh", 1, "tanh(x)", _tanh, lambda e, x: sympy.tanh(x)),
    )
    return {row.name: row for row in rows}


# protection -> name -> operator
PRIMITIVES: dict[str, dict[str, Primitive]] = {p: _table(p) for p in ("abs", "clamp")}
ARITY = {name: p.arity for name, p in PRIMITIVES["abs"].items()}
TERMINALS = ("y", "f", "1", "-1")  # label, prediction, constants; equally likely


def softplus(xp, x, order):
    """The optional non-negative output, log(1 + exp(x)) (section III-B3), as a jet like the unary operators."""
    value = xp.logaddexp(x, xp.zeros_like(x))
    if order == 0:
        return (value,)
    s = 0.5 * (1 + xp.tanh(0.5 * x))  # the logistic function, without overflow
    return value, s, s * (1 - s)
