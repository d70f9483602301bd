"""Random trees on extreme numbers and exact ties: the tape's value, derivative and mixed derivative against the plain form.

    python -m benchmarks.extremes [--trees 100000] [--seed 0]

Each tree has a height of 2 to 10 and weights around 1, and is evaluated at points with |y|, |f| of 0, 1 and 1e-30 to 1e30, a
third of them ties, in float32 or float64, by NumPy's or torch's tape, and by autograd through the module. Where the plain
form is finite the tape should be finite and equal to rounding, and where it is not, the tape should not be finite either.
Beyond 1e4 the two can overflow at different places, because they multiply in another order; how often is counted.
"""

import argparse
import collections
import time

import numpy as np
import torch

import evomal_core as ec
from evomal_core.fast import tape
from evomal_core.losses import expression

SIZES = (0.0, 1.0, 1e-30, 1e-8, 1e-3, 0.5, 3.0, 30.0, 1e4, 1e10, 1e30)
POINTS = 6
OUTCOMES = ("equal", "both not finite", "tape alone not finite", "plain alone not finite", "differ")


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


def taped(loss, y: np.ndarray, f: np.ndarray, xp) -> list[np.ndarray]:
    """The same from the tape in the library `xp`."""
    to, dtype = (np.asarray, y.dtype) if xp is np else (torch.from_numpy, loss.weights.dtype)
    listed = tape.program(str(loss.tree), loss.protection, False, 2, xp, dtype)
    weights = list(to(loss.weights.detach().numpy()))
    made = tape.Tape(listed, weights, to(y), to(f), xp.ones_like(to(y)))
    parts = [made.value, made.derivative, made.gradient(xp.ones_like(to(y)))]
    shapes = [y.shape, y.shape, loss.weights.shape]
    parts[2] = np.array([float(part) for part in parts[2]])
    return [np.broadcast_to(np.asarray(part, np.float64), shape) for part, shape in zip(parts, shapes, strict=True)]


def compare(mine: np.ndarray, theirs: np.ndarray, dtype) -> collections.Counter:
    """How often numbers are equal to rounding, not finite in both, in one, or different."""
    here, there = np.isfinite(mine), np.isfinite(theirs)
    both = here & there
    a, b = np.where(both, mine, 0).astype(np.float64), np.where(both, theirs, 0).astype(np.float64)
    scale = np.abs(np.concatenate([a, b])).max(initial=0.0)  # sums of these lose digits to cancellation
    tolerance = 1e-3 if dtype == np.float32 else 1e-8
    equal = both & (np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b)) + 1e-4 * tolerance * scale + 1e-30)
    classes = (equal, ~here & ~there, ~here & there, here & ~there, both & ~equal)
    return collections.Counter({name: int(part.sum()) for name, part in zip(OUTCOMES, classes, strict=True)})


def run(trees: int, seed: int = 0, say=lambda line: None) -> dict[str, collections.Counter]:
    """part -> outcomes, over so many trees; "trees" counts those in which everything agrees."""
    found, begin = {name: collections.Counter() for name in ("value", "derivative", "mixed", "trees")}, time.monotonic()
    draw = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        for k in range(trees):
            dtype, xp = draw.choice([np.float32, np.float64]), np if draw.random() < 0.7 else torch
            (tree,) = expression.grow(int(draw.integers(2**40)), (2, int(draw.integers(2, 11))), 1)
            weights = torch.from_numpy(draw.normal(1, 0.05, len(tree) - 1).astype(dtype))
            loss = ec.MetaLoss(tree, weights, protection=str(draw.choice(["abs", "clamp"])))
            y, f = points(draw, dtype)
            agree = True
            for part, mine, theirs in zip(found, taped(loss, y, f, xp), plain(loss, y, f), strict=False):
                outcomes = compare(mine, theirs, dtype)
                found[part] += outcomes
                agree = agree and not sum(outcomes[name] for name in OUTCOMES[2:])
            found["trees"]["agree" if agree else "do not"] += 1
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
