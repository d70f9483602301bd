"""Random trees on extreme numbers and exact ties: the tape's value, derivative and mixed derivative against the plain form.

    python -m benchmarks.extremes [--trees 100000] [--seed 0]

Each tree has a height of 2 to 10 and weights around 1, and is evaluated at points with |y|, |f| of 0, 1 and 1e-30 to 1e30, a
third of them ties, in float32 or float64, by NumPy's or torch's tape, and by autograd through the module (the plain form). A
tree whose value, derivative or mixed derivative is not finite is a candidate that a search counts as non-finite. Every number
of the other trees must be

    equal      to the plain form: to 1e-3 in float32 and 1e-8 in float64, relative, or
    rounding   no farther from the plain form in float64 than rounding explains: sixteen times the largest change in eight
               runs of the tape in long double whose every operation is off by one unit of rounding in the type under test
               (Monte Carlo arithmetic). Where the plain form over- or underflows even in float64, the tape in long double
               takes its place.

Plain forms of two types differ by as much where terms cancel or underflow. Any other number is counted as `differ`.
"""

import argparse
import collections
import copy
import operator
import time

import numpy as np
import torch

import evomal_core as ec
from evomal_core.fast import tape
from evomal_core.losses import expression

SIZES = (0.0, 1.0, 1e-30, 1e-8, 1e-3, 0.5, 3.0, 30.0, 1e4, 1e10, 1e30)
POINTS = 6
ROUNDED_RUNS, MARGIN = 8, 16.0
EXACT = {np.abs, np.sign, np.minimum, np.maximum, np.clip, np.ones_like, np.zeros_like, operator.neg, operator.abs}
EXACT |= set(tape.COMPARISONS)  # operations without rounding


def points(draw: np.random.Generator, dtype) -> tuple[np.ndarray, np.ndarray]:
    """(y, f), each (POINTS,); in the last third f = y."""
    y, f = (draw.choice(SIZES, POINTS) * draw.choice((-1.0, 1.0), POINTS) for _ in range(2))
    f[-POINTS // 3 :] = y[-POINTS // 3 :]
    return y.astype(dtype), f.astype(dtype)


def plain(loss, y: np.ndarray, f: np.ndarray) -> list[np.ndarray]:
    """[value, derivative, mixed derivatives] by autograd through the module, of the sum of all points with u = 1."""
    z = torch.from_numpy(f.copy()).requires_grad_()
    value = loss.elementwise(torch.from_numpy(y), z) + 0 * z
    (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (mixed,) = torch.autograd.grad(slope.sum() + 0 * loss.weights.sum(), loss.weights)
    return [value.detach().numpy(), slope.detach().numpy(), mixed.numpy()]


def taped(loss, y: np.ndarray, f: np.ndarray, xp, dtype, around=None) -> list[np.ndarray]:
    """The same from the tape in the library `xp`; `around` stands around every function of an operation."""
    listed = copy.copy(tape.program(str(loss.tree), loss.protection, False, 2, xp, dtype))
    if around:
        listed.forward, listed.backward = (
            [(around(function), *rest) for function, *rest in code] for code in (listed.forward, listed.backward)
        )
    y, f, *weights = (xp.asarray(a, dtype=dtype) for a in (y, f, *loss.weights.detach().numpy()))
    made = tape.Tape(listed, weights, y, f, xp.ones_like(y))
    parts = [made.value, made.derivative, np.array([np.asarray(part) for part in made.gradient(xp.ones_like(y))])]
    shapes = [y.shape, y.shape, loss.weights.shape]
    return [np.broadcast_to(np.asarray(part), shape) for part, shape in zip(parts, shapes, strict=True)]


def off_by_rounding(draw: np.random.Generator, dtype):
    """A function -> the function whose result is one unit of rounding of `dtype` up or down, and so are its parts."""
    limits = np.finfo(dtype)

    def around(function):
        def off(*arguments):
            result = np.asarray(function(*arguments), np.longdouble)
            if function in EXACT:
                return result
            side = 2.0 * draw.integers(0, 2, result.shape) - 1
            return np.where(result == 0, result, result * (1 + side * limits.eps) + side * limits.smallest_subnormal)

        return off

    return around


def compare(mine: list[np.ndarray], loss, y: np.ndarray, f: np.ndarray, draw: np.random.Generator) -> list[tuple]:
    """Of every part of a finite tree, how many numbers are equal to the plain form, equal up to rounding, and different."""
    dtype, tolerance = y.dtype, 1e-3 if y.dtype == np.float32 else 1e-8
    equal = [
        np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b))
        for a, b in zip(mine, plain(loss, y, f), strict=True)
    ]
    explained = [np.zeros_like(part) for part in equal]
    if not all(part.all() for part in equal):
        long = np.dtype(np.longdouble)
        exact = taped(loss, y, f, np, long)
        loss = ec.MetaLoss(loss.tree, loss.weights.detach().double(), protection=loss.protection)
        reference = plain(loss, y.astype(np.float64), f.astype(np.float64))
        off = [taped(loss, y, f, np, long, off_by_rounding(draw, dtype)) for _ in range(ROUNDED_RUNS)]
        for k, (a, b, c) in enumerate(zip(mine, exact, reference, strict=True)):
            spread = np.max([np.abs(run[k] - b) for run in off], axis=0)
            lost = ~np.isfinite(c) | ((c == 0) & (np.abs(b) < 1e-100))
            distance = np.abs(a - np.where(lost, b, c))
            explained[k] = distance <= MARGIN * (spread + np.finfo(dtype).smallest_subnormal)
    return [(e.sum(), (~e & r).sum(), (~e & ~r).sum()) for e, r in zip(equal, explained, strict=True)]


def run(trees: int, seed: int = 0, say=lambda line: None) -> dict[str, collections.Counter]:
    """part -> outcomes of its numbers, over so many trees; "trees" counts finite ones, others, and those that differ."""
    found, begin = {name: collections.Counter() for name in ("value", "derivative", "mixed", "trees")}, time.monotonic()
    draw = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        for k in range(trees):
            dtype, xp = draw.choice([np.float32, np.float64]), np if draw.random() < 0.7 else torch
            (tree,) = expression.grow(int(draw.integers(2**40)), (2, int(draw.integers(2, 11))), 1)
            weights = torch.from_numpy(draw.normal(1, 0.05, len(tree) - 1).astype(dtype))
            loss = ec.MetaLoss(tree, weights, protection=str(draw.choice(["abs", "clamp"])))
            y, f = points(draw, dtype)
            mine = taped(loss, y, f, xp, np.dtype(dtype) if xp is np else weights.dtype)
            outcome = "not finite"
            if all(np.isfinite(part).all() for part in mine):
                outcome = "finite"
                for part, counts in zip(found, compare(mine, loss, y, f, draw), strict=False):
                    found[part].update(dict(zip(("equal", "rounding", "differ"), map(int, counts), strict=True)))
                    if counts[-1]:
                        outcome = "differ"
            found["trees"][outcome] += 1
            if outcome == "differ":
                say(f"tree {k} differs: {dtype.__name__}, {xp.__name__}, {loss.protection}: {tree} at {y}, {f}")
            if k % 1000 == 999:
                say(f"{k + 1} trees, {time.monotonic() - begin:.0f} s: {found}")
    return found


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(run(given.trees, given.seed, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
