"""The operators of Table I: their formulas, their curves, and checks of their values and derivatives."""

import numpy as np
import pandas
import sympy
import torch
from matplotlib.figure import Figure

import evomal_core as ec
from evomal_core.losses.export import EPS
from evomal_core.losses.primitives import EPSILON, PRIMITIVES, TABLE_I, TERMINALS

from .plots import PALETTE, grid, style

SYMBOLS = sympy.symbols("x1 x2", real=True)
MODERATE = np.array([0, 1e-30, -1e-30, 1e-7, -1e-7, 1, -1, 1e9, -1e9, 1e18, -1e18], np.float32)
LARGEST = np.array([0, 1, -1, 3.4e38, -3.4e38], np.float32)
BOUNDS = {"SymPy": 1e-12, "differences": 1e-6, "autograd": 1e-12, "second": 1e-6}


def formula(operator) -> str:
    """The operator's formula for a table of Markdown, in which a bar would end the column."""
    arguments = SYMBOLS if operator.arity == 2 else (sympy.Symbol("x", real=True),)
    return "$" + ec.latex(operator.sympy(EPS, *arguments)).replace("|", r"\vert ") + "$"


def listing() -> str:
    """Operators and terminals as a table of Markdown, each operator with both protections."""
    lines = ["| operator | arity | protection `abs` | protection `clamp` |", "|---|---|---|---|"]
    for name in TABLE_I:
        operator = PRIMITIVES["abs"][name]
        clamped = formula(PRIMITIVES["clamp"][name])
        same = "the same" if clamped == formula(operator) else clamped
        lines.append(f"| {name} | {operator.arity} | {formula(operator)} | {same} |")
    return "\n".join([*lines, "", f"Terminals, equally likely: `{'`, `'.join(TERMINALS)}`."])


def slopes(operator, *arguments) -> tuple[np.ndarray, np.ndarray]:
    """(value, derivative in the last argument)."""
    value, derivatives = operator.value(np, *arguments), operator.derivatives(np, *arguments)
    return value, derivatives[operator.arity - 1] + 0 * value


@style()
def curves() -> Figure:
    """Value and derivative of each operator, with 1 as the first of two arguments, and both protections close to 0."""
    figure, axes = grid(14, 7, (1.5, 1.6))
    wide, close = np.linspace(-3, 3, 601), np.linspace(-5, 5, 601) * EPSILON
    for axis, name in zip(axes, TABLE_I, strict=False):
        operator = PRIMITIVES["abs"][name]
        arguments = (np.ones_like(wide), wide) if operator.arity == 2 else (wide,)
        both = zip(slopes(operator, *arguments), ("value", "derivative"), ("-", "--"), PALETTE, strict=False)
        for values, label, line, colour in both:
            axis.plot(wide, np.where(abs(values) < 9, values, np.nan), line, color=colour, label=label)
        axis.set(title=f"{name}(1, x)" if operator.arity == 2 else f"{name}(x)", ylim=(-4, 4), yticks=(-3, 0, 3))
    for axis, name in zip(axes[12:], ("log", "sqrt"), strict=True):
        for protection, line, colour in zip(PRIMITIVES, ("-", "--"), PALETTE[2:], strict=False):
            values = slopes(PRIMITIVES[protection][name], close)[0]
            axis.plot(close / EPSILON, values, line, color=colour, label=protection)
        axis.set(title=f"{name}(x), close to 0", xlabel="x / ε")
    shown = [pair for axis in (axes[0], axes[12]) for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*shown, strict=True), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _products(values: np.ndarray, arity: int) -> list[np.ndarray]:
    return [grid.ravel() for grid in np.meshgrid(*[values] * arity)]


def _jet(operator, arguments, count: int | None = None) -> list[np.ndarray]:
    """The first `count` of value, first and second derivatives."""
    with np.errstate(all="ignore"):
        parts = [operator.value(np, *arguments), *operator.derivatives(np, *arguments)][:count]
    return [part + np.zeros_like(parts[0]) for part in parts]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative where values exceed 1."""
    return np.max(abs(a - b) / np.maximum(1, abs(b)))


def properties(operator, seed: int) -> dict:
    """Whether an operator is finite and never NaN, and how far its value and derivatives are from what they should be.

    Args:
        operator: of `primitives.PRIMITIVES`, or anything with arity, value, derivatives and sympy.
        seed: of the 200 random arguments.
    """
    n, h, generator = operator.arity, 1e-5, np.random.default_rng(seed)
    arguments = list(generator.uniform(0.05, 2, (n, 200)) * generator.choice([-1, 1], (n, 200)))
    value, *parts = _jet(operator, arguments)
    moved = [[[a + s * h * (k == i) for k, a in enumerate(arguments)] for s in (1, -1)] for i in range(n)]
    differences = [(_jet(operator, up)[0] - _jet(operator, down)[0]) / (2 * h) for up, down in moved]
    bends = [
        (_jet(operator, moved[i][0])[1 + k] - _jet(operator, moved[i][1])[1 + k]) / (2 * h)
        for i, k in ([(0, 0)] if n == 1 else [(0, 0), (0, 1), (1, 1)])
    ]
    tensors = [torch.tensor(a, requires_grad=True) for a in arguments]
    total = (operator.value(torch, *tensors) + 0 * sum(tensors)).sum()
    autograd = [g.numpy() for g in torch.autograd.grad(total, tensors)]
    form = sympy.lambdify(SYMBOLS[:n], operator.sympy(EPSILON, *SYMBOLS[:n]), "numpy")(*arguments)
    return {
        "finite": all(np.isfinite(part).all() for part in _jet(operator, _products(MODERATE, n), 1 + n)),
        "never NaN": not np.isnan(_jet(operator, _products(LARGEST, n), 1)[0]).any(),
        "SymPy": distance(value, form),
        "differences": max(map(distance, parts[:n], differences)),
        "autograd": max(map(distance, parts[:n], autograd)),
        "second": max(map(distance, parts[n:], bends)),
    }


def checks(seed: int) -> pandas.DataFrame:
    """`properties` of each operator under each protection."""
    table = {
        (name, protection): properties(operators[name], seed)
        for name in TABLE_I
        for protection, operators in PRIMITIVES.items()
    }
    return pandas.DataFrame(table).T


def display_checks(table: pandas.DataFrame) -> pandas.DataFrame:
    """`checks` for reading: a number within its bound is shown as the bound."""
    shown = table[["finite", "never NaN"]].replace({True: "yes", False: "NO"})
    for column, bound in BOUNDS.items():
        shown[column] = [f"< {bound:g}" if value < bound else f"{value:.1e}" for value in table[column]]
    return shown
