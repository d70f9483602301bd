"""Table I (section III-B1): the twelve operators of the search space, each once.

Printing, parsing, evaluation, derivatives and export all read `PRIMITIVES`. An operator's `jet(xp, *x)` gives its value, its
first and its second partial derivatives, one after another and no sooner than asked; `xp` is `numpy` or `torch`, whose
functions have the same names (`torch` for the value alone: its derivatives are autograd's). Plain 0, 1 and -1 stand for
derivatives that are the same everywhere.

Gradients where there is none: sign, abs, log and sqrt have 0 at 0; ties of min and max split evenly, as in torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sympy

EPSILON = 1e-7  # [R]


@dataclass(frozen=True)
class Primitive:
    """One operator: its name in printed trees, arity, formula as displayed, `jet`, and its SymPy form `(eps, *x)`."""

    name: str
    arity: int
    formula: str
    jet: Callable[..., Iterable]
    sympy: Callable

    def value(self, xp, *x):
        """The operator's value; with `xp=torch` it is differentiable by autograd."""
        return next(iter(self.jet(xp, *x)))


# Binary: value, d/da, d/db, d2/da2, d2/dadb, d2/db2


def _add(xp, a, b):
    return a + b, 1, 1, 0, 0, 0


def _sub(xp, a, b):
    return a - b, 1, -1, 0, 0, 0


def _mul(xp, a, b):
    return a * b, b, a, 0, 1, 0


def _aq(xp, a, b):
    h = xp.hypot(xp.ones_like(b), b)  # sqrt(1 + b^2) that does not overflow inside
    value = a / h
    yield value
    r = 1 / h
    s = b * r  # d h / d b, within [-1, 1]
    yield r
    yield -value * s * r
    yield 0
    yield -s * r * r
    yield value * r * r * (3 * s * s - 1)


def _extremum(choose: str):
    def jet(xp, a, b):
        yield getattr(xp, choose)(a, b)
        first, second = (a, b) if choose == "maximum" else (b, a)
        share = 0.5 * (first > second) + 0.5 * (first >= second)  # a tie is split, of infinities too
        yield share
        yield 1 - share
        yield from (0, 0, 0)

    return jet


# Unary: value, d, d2


def _sign(xp, x):
    return xp.sign(x), 0, 0


def _square(xp, x):
    return x * x, 2 * x, 2


def _abs(xp, x):
    yield xp.abs(x)
    yield xp.sign(x)
    yield 0


def _tanh(xp, x):
    t = xp.tanh(x)
    yield t
    d = 1 - t * t
    yield d
    yield -2 * t * d


def _protected(outer: str, clamp: bool):
    """log or sqrt of |x| + eps ("abs", the closed reading of Table I) or of max(|x|, eps) ("clamp", released code)."""

    def jet(xp, x):
        size = xp.abs(x)
        inner = xp.clip(size, EPSILON, None) if clamp else size + EPSILON
        value = getattr(xp, outer)(inner)
        yield value
        slope = xp.sign(x)
        if clamp:
            slope = slope * (size >= EPSILON)
        d = slope / inner if outer == "log" else slope / (2 * value)
        yield d
        yield -d * d if outer == "log" else -d * d / value

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


def softplus(xp, x):
    """The optional non-negative output, log(1 + exp(x)) (section III-B3), as a jet like the unary operators."""
    yield xp.logaddexp(x, xp.zeros_like(x))
    s = 0.5 * (1 + xp.tanh(0.5 * x))  # the logistic function, without overflow
    yield s
    yield s * (1 - s)
