"""A loss's derivatives without autograd's overhead: dual numbers forwards, one hand-written sweep back, written down once.

Training needs of a loss only m = dM/df, element by element, and loss optimisation d<m, u>/dphi for a given u (eq. 9 with
the base model taken out; training/unroll.py). Both come of one walk over the tree:

    forwards   each node carries (value, tangent along f): m is the root's tangent;
    backwards  the sweep of <m, u> through that same dual evaluation. For a unary g with o = g(x), o' = g'(x) x':
               x_bar += o_bar g'(x) + o'_bar g''(x) x',   x'_bar += o'_bar g'(x);
               an edge x = w a, x' = w a' adds <x_bar, a> + <x'_bar, a'> to the gradient of w.

The walk is done once a tree, on symbols: `Recorder` stands in for the array library and lists the operations, each distinct
one once. `Program` keeps those that the results need, and `Tape` runs the list on a batch, with no tree in sight: at
(10, 128) an operation costs its call. Arrays are NumPy's for CPU tensors (views that share memory, a tenth of torch's
overhead) or torch's. Subtrees without y and f are scalars of the arrays' type. The plain reference is
`MetaLoss.elementwise` under autograd; tests hold this file to it.
"""

import operator
from functools import lru_cache

import numpy as np
import torch

from . import expression as trees
from .primitives import PRIMITIVES, softplus


def namespace(tensor: torch.Tensor):
    """(xp, to array): NumPy views for a CPU tensor, torch itself elsewhere."""
    if tensor.device.type == "cpu":
        return np, lambda t: t.detach().numpy()
    return torch, lambda t: t.detach()


_LARGE = 1e9  # beyond, sqrt(1 + b^2) is |b|, in float64, too


def _hypot(one, b):
    """sqrt(1 + b^2) that does not overflow inside, in half the time of np.hypot."""
    if not b.ndim:
        return np.hypot(one, b)
    size = np.abs(b)
    h = np.minimum(size, _LARGE)
    np.multiply(h, h, out=h)
    np.add(h, one, out=h)
    return np.maximum(size, np.sqrt(h, out=h), out=h)


# What the operations' names stand for, where it is neither in `operator` nor in the library as it is
OWN = {
    np: {
        "dot": np.vdot,
        "total": lambda a: np.add.reduce(a, axis=None),
        "like": lambda a, reference: a.astype(reference.dtype),
        "clip": np.maximum,
        "ones_like": lambda a: 1,
        "hypot": _hypot,
    },
    torch: {"dot": lambda a, b: (a * b).sum(), "total": torch.sum, "like": lambda a, reference: a.to(reference.dtype)},
}


class Symbol:
    """A number or array in a recording. What is done to it is written down."""

    def __init__(self, recorder: "Recorder", index: int, scalar: bool):
        self.recorder, self.index, self.scalar = recorder, index, scalar

    @property
    def dtype(self) -> "Symbol":
        return self  # the type of whatever will stand here

    def astype(self, reference: "Symbol") -> "Symbol":
        return self.recorder.record("like", self, reference)


for _name in ("add", "sub", "mul", "truediv", "gt", "ge", "neg"):
    setattr(Symbol, f"__{_name}__", lambda a, *b, name=_name: a.recorder.record(name, a, *b))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(Symbol, f"__r{_name}__", lambda a, b, name=_name: a.recorder.record(name, b, a))


class Recorder:
    """Plays the array library: its functions give symbols, and equal operations the same symbol."""

    def __init__(self):
        self.entries: list[tuple] = []  # (name, positions of what it is applied to), ("given", which), ("constant", c)
        self._seen: dict[tuple, Symbol] = {}

    def symbol(self, *entry, scalar: bool = True) -> Symbol:
        """The symbol of an input or a constant, or of an operation on positions."""
        if entry not in self._seen:
            self._seen[entry] = Symbol(self, len(self.entries), scalar)
            self.entries.append(entry)
        return self._seen[entry]

    def record(self, name: str, *arguments) -> Symbol:
        symbols = [a if isinstance(a, Symbol) else self.symbol("constant", a) for a in arguments if a is not None]
        scalar = name in ("dot", "total") or all(s.scalar for s in symbols)
        return self.symbol(name, *(s.index for s in symbols), scalar=scalar)

    def __getattr__(self, name: str):
        return lambda *arguments: self.record(name, *arguments)


def _times(a, c):
    """a * c, where None is 0 and 1, -1 are common."""
    if a is None or c is None:
        return None
    for x, factor in ((a, c), (c, a)):
        if isinstance(factor, int) and factor in (1, -1):
            return x if factor == 1 else -x
    return a * c


def _plus(a, b):
    return b if a is None else a if b is None else a + b


def _inner(bar, a):
    """<bar, a> over the elements of the array `bar`, or the sum that it is already; None is 0."""
    if bar is None or a is None or bar.scalar:
        return _times(bar, a)
    if isinstance(a, int) or a.scalar:
        return _times(bar.recorder.record("total", bar), a)
    return bar.recorder.record("dot", bar, a)


class Program:
    """The operations of one tree's dual evaluation (`forward`) and of the sweep back (`backward`), in the library `xp`.

    They run on a copy of the list `values`, which begins with y, f, the weights and u and holds the constants; each puts
    its result in. `value`, `derivative` and `gradient` are positions in it.
    """

    def __init__(self, expression: str, protection: str, non_negative: bool, order: int, xp):
        tree, recorder = trees.parse(expression), Recorder()
        y, f = recorder.symbol("given", "y", scalar=False), recorder.symbol("given", "f", scalar=False)
        weights = [recorder.symbol("given", k) for k in range(len(tree) - 1)]
        u = recorder.symbol("given", "u", scalar=False)
        terminals = {"y": (y, None), "f": (f, 1), "1": (1, None), "-1": (-1, None)}
        nodes: list = [None] * len(tree)  # (value, tangent)
        edges: list = [None] * len(tree)  # partial derivatives, tangents of the weighted arguments
        children = trees.children(tree)
        for i in range(len(tree) - 1, -1, -1):  # children stand behind their parent
            name = trees.node_name(tree[i])
            if name in terminals:
                nodes[i] = terminals[name]
                continue
            x = [_times(nodes[c][0], weights[c - 1]) for c in children[i]]
            t = [_times(nodes[c][1], weights[c - 1]) for c in children[i]]
            nodes[i], edges[i] = self._apply(recorder, PRIMITIVES[protection][name].jet, x, t, order)
        (value, tangent), output = nodes[0], None
        if non_negative:
            (value, tangent), output = self._apply(recorder, softplus, [value], [tangent], order)
        begin = len(recorder.entries)  # of the sweep back
        gradient: list = [None] * len(weights)
        if order > 1:
            bars = [(None, u)] * len(tree)
            if output:
                bars[0] = self._pull(None, u, *output)[0]
            for i, arguments in enumerate(children):
                for c, (x_bar, t_bar) in zip(arguments, arguments and self._pull(*bars[i], *edges[i]), strict=True):
                    a, a_tangent = nodes[c]
                    if x_bar is not None and (isinstance(a, int) or a.scalar):
                        x_bar = _inner(x_bar, 1)  # what every element adds to a scalar
                    t_bar = None if a_tangent is None else t_bar  # without f its tangent is no variable
                    gradient[c - 1] = _plus(_inner(x_bar, a), _inner(t_bar, a_tangent))
                    bars[c] = _times(x_bar, weights[c - 1]), _times(t_bar, weights[c - 1])
        results = [recorder.symbol("constant", 0) if r is None else r for r in (value, tangent, *gradient)]
        self.value, self.derivative, *self.gradient = [r.index for r in results]
        self._list(recorder.entries, begin, {r.index for r in results}, xp)

    @staticmethod
    def _apply(recorder, jet, x, t, order):
        """((value, tangent), (partial derivatives, t)) of an operator on arguments x with tangents t."""
        value, *partials = jet(recorder, *x, order=order)
        tangent = None
        for x_tangent, partial in zip(t, partials, strict=False):
            tangent = _plus(tangent, _times(x_tangent, partial))
        return (value, tangent), (partials, t)

    @staticmethod
    def _pull(o_bar, ot_bar, partials, t) -> list[tuple]:
        """Adjoints (x_bar, x'_bar) of an operator's weighted arguments."""
        n, result = len(t), []
        for j in range(n):
            x_bar = _times(o_bar, partials[j])
            for k in range(n):  # second derivatives stand as aa, ab, bb
                x_bar = _plus(x_bar, _times(_times(ot_bar, partials[n + j + k]), t[k]))
            result.append((x_bar, _times(ot_bar, partials[j])))
        return result

    def _list(self, entries: list[tuple], begin: int, needed: set[int], xp) -> None:
        """Keep the operations that the positions `needed` depend on."""
        self.values = [e[1] if e[0] == "constant" else None for e in entries]
        self.forward, self.backward = [], []
        for i in range(len(entries) - 1, -1, -1):
            name, a, *b = entries[i]
            if i in needed and name not in ("given", "constant"):
                needed.update(entries[i][1:])
                function = OWN[xp].get(name) or getattr(operator, name, None) or getattr(xp, name)
                code = self.forward if i < begin else self.backward
                code.insert(0, (function, i, a, b[0] if b else None))


program = lru_cache(maxsize=1024)(Program)


class Tape:
    """One dual evaluation of a tree on `(C, B)` arrays `y` and `f`; NumPy's warnings are the caller's to silence.

    Attributes:
        value, derivative: M(y, f) and dM/df, (C, B), or () where they are the same everywhere.
    """

    def __init__(self, listed: Program, weights, y, f):
        """`weights`: n - 1 scalars, one an edge."""
        self.program, self.values = listed, listed.values.copy()
        self.values[: len(weights) + 2] = y, f, *weights
        self._run(listed.forward)
        self.value, self.derivative = self.values[listed.value], self.values[listed.derivative]

    def gradient(self, u) -> list:
        """d<derivative, u>/dw for every edge, scalars in prefix order of the child nodes; `u` is (C, B). Needs order 2."""
        self.values[len(self.program.gradient) + 2] = u
        self._run(self.program.backward)
        return [self.values[i] for i in self.program.gradient]

    def _run(self, code) -> None:
        values = self.values
        for function, place, a, b in code:
            values[place] = function(values[a]) if b is None else function(values[a], values[b])
