"""Operators of one's own: `register_operator` checks a new row of Table I as a whole before anything can use it."""

import ast
import inspect
from collections.abc import Callable

import numpy as np
import torch

from .checks import check
from .fast import tape
from .losses.meta_network import MetaLoss
from .losses.primitives import EPSILON, PRIMITIVES, TERMINALS, Operator

EXTREMES = (0.0, 1.0, -1.0, 1e-30, -1e-30, 1e30, -1e30, 30.0, -30.0)
MODERATE = 30.0  # magnitude up to which a value must be finite; beyond it may overflow
POINTS = 200


def register_operator(
    name: str, arity: int, value: Callable, derivatives: Callable, sympy: Callable, source: str, formula: str = ""
) -> Operator:
    """Add an operator. A search uses it if `Config.operators` names it; losses with it are read, printed and exported.

    The operator exists in this process: a script registers it before it runs cells in others, at the module's top level.

    Args:
        name: in printed trees; a Python identifier that is not taken.
        arity: 1 or 2.
        value: (xp, *x) -> array of the shape of x, with functions of `xp`, `numpy` or `torch`, called by position.
        derivatives: (xp, *x) -> first partial derivatives, then second ones (of a binary operator in the order aa, ab, bb).
            Plain 0, 1 and -1 may stand for what is the same everywhere.
        sympy: (epsilon, *x) -> SymPy expression.
        source: PyTorch expression with a placeholder {} for each argument.
        formula: as displayed.

    Raises:
        ValueError: names the rule that the operator breaks, what was expected and what came. Nothing was added then.
            The rules: name, arity and source are as above; value and derivatives are never NaN on finite arguments, and
            finite where these are at most 30 in magnitude; NumPy and torch give the same value; derivatives agree with
            central differences wherever these are settled; the tape agrees with autograd through the module; the SymPy
            form has the same value. A mistake that shows at few of 200 random points may pass.
    """
    what = f"operator {name!r}"
    check(isinstance(name, str) and name.isidentifier(), "the operator's name", "a Python identifier", repr(name))
    check(name not in PRIMITIVES["abs"] and name not in TERMINALS, what, "a name that is not taken", name)
    check(type(arity) is int and arity in (1, 2), f"{what}: arity", "1 or 2", repr(arity))
    for part, function in (("value", value), ("derivatives", derivatives), ("sympy", sympy)):
        check(callable(function), f"{what}: {part}", "a function", type(function).__name__)
        try:
            inspect.signature(function).bind(None, *range(arity))
        except TypeError as error:
            raise ValueError(f"{what}: {part} must take {1 + arity} arguments by position: {error}") from None
    row = Operator(
        name, arity, formula or f"{name}({', '.join('x1 x2'.split()[:arity])})", value, derivatives, sympy, source
    )
    _check_source(what, row)
    tape.program.cache_clear()  # it knows trees by their text
    for table in PRIMITIVES.values():
        table[name] = row
    try:
        with np.errstate(all="ignore"):
            for rule in (_check_values, _check_derivatives, _check_tape, _check_sympy):
                try:
                    rule(what, row)
                except ValueError as error:
                    raise error if str(error).startswith(what) else ValueError(f"{what}: {error}") from None
                except Exception as error:
                    raise ValueError(f"{what}: {rule.__name__[7:]} must be computable, got {error!r}") from error
    except ValueError:
        for table in PRIMITIVES.values():
            del table[name]
        raise
    return row


def _arguments(arity: int, points=None) -> list[np.ndarray]:
    """All combinations of extreme numbers, or random points, as arguments (n,), float64."""
    if points is None:
        return [a.ravel() for a in np.meshgrid(*[np.array(EXTREMES)] * arity)]
    return list(np.random.default_rng(points).normal(0, 2, (arity, POINTS)))


def _all(row: Operator, xp, x: list) -> list:
    """[value, *derivatives], each of the shape of x."""
    return [xp.zeros_like(x[0]) + part for part in (row.value(xp, *x), *row.derivatives(xp, *x))]


def _check_source(what: str, row: Operator) -> None:
    names = ("first", "second")[: row.arity]
    try:
        tree = ast.parse(row.source.format(*(f"({n})" for n in names)), mode="eval")
    except (SyntaxError, IndexError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what}: source must be an expression with {row.arity} placeholder(s) {{}}: {error}"
        ) from None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    check(
        set(names) <= used, f"{what}: source", f"an expression with {row.arity} placeholder(s) {{}}", repr(row.source)
    )


def _check_values(what: str, row: Operator) -> None:
    for dtype in (np.float32, np.float64):
        for x in (_arguments(row.arity), _arguments(row.arity, 0)):
            x = [a.astype(dtype) for a in x]
            parts = _all(row, np, x)
            count = row.arity + row.arity * (row.arity + 1) // 2
            check(len(parts) == 1 + count, f"{what}: derivatives", f"{count} results", len(parts) - 1)
            moderate = np.all([np.abs(a) <= MODERATE for a in x], 0)
            for k, part in enumerate(parts):
                label = f"{what}: {'value' if k == 0 else f'derivative {k}'} on finite arguments"
                check(
                    part.shape == x[0].shape and np.isrealobj(part), label, f"real, of shape {x[0].shape}", part.shape
                )
                wrong = np.isnan(part) | (moderate & ~np.isfinite(part))
                at = [tuple(float(a[i]) for a in x) for i in np.flatnonzero(wrong)[:1]]
                check(not at, label, "no NaN, and finite up to 30 in magnitude", f"{part[wrong][:1]} at {at}")
            twin = row.value(torch, *(torch.from_numpy(a) for a in x)).numpy()
            same = np.isclose(twin, row.value(np, *x), rtol=1e-4 if dtype == np.float32 else 1e-9, equal_nan=True)
            check(same.all(), f"{what}: value of torch", "that of NumPy", f"{twin[~same][:1]}")


def _check_derivatives(what: str, row: Operator) -> None:
    x = _arguments(row.arity, 1)
    pairs = [(0, i, 1 + i) for i in range(row.arity)]  # (of which part, along which argument, where it stands)
    pairs += [(1, 0, 2)] if row.arity == 1 else [(1, 0, 3), (1, 1, 4), (2, 1, 5)]
    for part, along, place in pairs:

        def quotient(h: float, part=part, along=along) -> np.ndarray:
            moved = [[a + s * h if i == along else a for i, a in enumerate(x)] for s in (1, -1)]
            up, down = (_all(row, np, m)[part] for m in moved)
            return (up - down) / (2 * h)

        near, got = quotient(1e-5), _all(row, np, x)[place]
        settled = np.isclose(near, quotient(2e-5), rtol=1e-4, atol=1e-5)  # not so at a kink or a jump
        label = f"{what}: derivative {place}"
        check(
            settled.mean() > 0.8, label, "of a function that is smooth at most points", f"{settled.mean():.0%} of them"
        )
        wrong = settled & ~np.isclose(got, near, rtol=1e-3, atol=1e-4)
        at = [(tuple(float(a[i]) for a in x), float(near[i]), float(got[i])) for i in np.flatnonzero(wrong)[:1]]
        check(not at, label, "the central difference", at and f"{at[0][2]:.6g} instead of {at[0][1]:.6g} at {at[0][0]}")


def _check_tape(what: str, row: Operator) -> None:
    given = "(sub(y, f))" if row.arity == 1 else "(y, mul(f, f))"
    y, f, u = np.random.default_rng(2).normal(0, 1, (3, 40))
    for protection in PRIMITIVES:
        loss = MetaLoss(f"mul(f, {row.name}{given})", protection=protection).double()
        with torch.no_grad():
            loss.weights.add_(torch.linspace(-0.3, 0.4, len(loss.weights)))
        z = torch.from_numpy(f).requires_grad_()
        value = loss.elementwise(torch.from_numpy(y), z)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        (mixed,) = torch.autograd.grad((slope * torch.from_numpy(u)).sum(), loss.weights, materialize_grads=True)
        for xp, to in ((np, np.asarray), (torch, torch.from_numpy)):
            kind = np.dtype("float64") if xp is np else torch.float64
            listed = tape.program(str(loss.tree), protection, False, 2, xp, kind)
            got = tape.Tape(listed, list(to(loss.weights.detach().numpy())), to(y), to(f), xp.ones_like(to(y)))
            found = {"value": got.value, "derivative": got.derivative, "mixed derivative": got.gradient(to(u))}
            expected = {"value": value, "derivative": slope, "mixed derivative": mixed}
            for part, result in found.items():
                result, want = np.array([float(r) for r in result]), expected[part].detach().numpy()
                same = np.allclose(result, want, rtol=1e-7, atol=1e-9)
                check(same, f"{what}: {part} of the tape ({xp.__name__})", f"that of autograd, {want[:3]}", result[:3])


def _check_sympy(what: str, row: Operator) -> None:
    import sympy

    x = [a[:10] for a in _arguments(row.arity, 3)]
    for point, want in zip(zip(*x, strict=True), row.value(np, *x), strict=True):
        got = complex(row.sympy(sympy.Float(EPSILON), *map(sympy.Float, point)))
        same = abs(got - want) <= 1e-6 * max(1, abs(want))
        check(same, f"{what}: SymPy form at {tuple(map(float, point))}", float(want), got)
