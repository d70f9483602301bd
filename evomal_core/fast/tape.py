"""A loss's derivatives without autograd's overhead: dual numbers forwards, one hand-written sweep back, written down once.

Training needs of a loss only m = dM/df, element by element, and loss optimisation d<m, u>/dphi for a given u (eq. 9 with
the base model taken out; training/unroll.py). One walk over the tree gives both:

    forwards   each node carries (value, tangent along f): m is the root's tangent;
    backwards  the sweep of <m, u> through that same dual evaluation. For a unary g with o = g(x), o' = g'(x) x':
               x_bar += o_bar g'(x) + o'_bar g''(x) x',   x'_bar += o'_bar g'(x);
               an edge x = w a, x' = w a' adds <x_bar, a> + <x'_bar, a'> to the gradient of w.

The walk is done once a tree, on symbols: `Recorder` stands in for the array library and lists the operations, each distinct
one once. `Program` keeps those that the results need, and `Tape` runs the list on a batch, with no tree in sight: at 1,280
elements an operation costs its call. Arrays are NumPy's for CPU tensors (views that share memory, a tenth of torch's
overhead) or torch's, all elements in one dimension. Subtrees without y and f are scalars of the arrays' type. The plain
reference is `MetaLoss.elementwise` under autograd; tests hold this file to it.
"""

import operator
from functools import lru_cache

import numpy as np
import torch

from ..checks import check
from ..losses import expression as trees
from ..losses.primitives import PRIMITIVES, SOFTPLUS, Operator, sign

# What the operations' names stand for, where it is neither in `operator` nor in the library as it is. A comparison gives
# numbers 0 and 1 of its arguments' type.
COMPARISONS = [operator.gt, operator.ge, operator.lt, operator.le]
OWN = {np: {"dot": np.ndarray.dot, "ones_like": lambda a: 1}, torch: {"sign": lambda a: sign(torch, a)}}
OWN[torch] |= {c.__name__: lambda a, b, compare=c: compare(a, b).to(a.dtype) for c in COMPARISONS}
LOWER_CLIP = {np: np.maximum, torch: torch.clip}  # clip with a lower end alone, where NumPy's own takes twice as long
# What needs no operation: most derivatives are 0 or 1
RULES = {"mul": {0: lambda x: 0, 1: lambda x: x, -1: operator.neg}, "add": {0: lambda x: x}}


class Symbol:
    """A number or an array in a recording. What is done to it is written down."""

    def __init__(self, recorder: "Recorder", index: int, scalar: bool):
        self.recorder, self.index, self.scalar = recorder, index, scalar

    def __bool__(self):
        raise ValueError("an operator must not branch on its arguments: use functions such as where, minimum or sign")


for _name in ("add", "sub", "mul", "truediv", "pow", "gt", "ge", "lt", "le"):
    setattr(Symbol, f"__{_name}__", lambda a, b, name=_name: a.recorder.record(name, a, b))
    setattr(Symbol, f"__r{_name}__", lambda a, b, name=_name: a.recorder.record(name, b, a))
for _name in ("neg", "abs"):
    setattr(Symbol, f"__{_name}__", lambda a, name=_name: a.recorder.record(name, a))


class Recorder:
    """Plays the array library: its functions give symbols, and equal operations the same symbol."""

    def __init__(self):
        self.entries: list[tuple] = []  # (name, positions of what it is applied to), (kind of an input, which one)
        self._seen: dict[tuple, Symbol] = {}

    def symbol(self, *entry, scalar: bool = True) -> Symbol:
        """The symbol of an input or a constant, or of an operation on positions."""
        if entry not in self._seen:
            self._seen[entry] = Symbol(self, len(self.entries), scalar)
            self.entries.append(entry)
        return self._seen[entry]

    def record(self, name: str, *arguments):
        """The symbol of an operation, or the plain number that its result is."""
        while arguments[-1] is None:
            arguments = arguments[:-1]
        if len(arguments) == 2 and name in RULES:
            for a, rest in zip(arguments, arguments[::-1], strict=True):
                if isinstance(a, int) and a in RULES[name]:
                    return RULES[name][a](rest)
        of_scalars = all(a.scalar for a in arguments if isinstance(a, Symbol))
        # Beside an array a plain number takes longer.
        kind = "constant" if of_scalars or len(arguments) > 2 else "array"
        indices = [a.index if isinstance(a, Symbol) else self.symbol(kind, a).index for a in arguments]
        return self.symbol(name, *indices, scalar=of_scalars or name == "dot")

    def __getattr__(self, name: str):
        if not all(name in OWN[xp] or hasattr(xp, name) for xp in OWN):
            raise ValueError(f"NumPy and torch do not both have a function {name!r}")

        def function(*arguments, **named):
            good = not named and any(isinstance(a, Symbol) for a in arguments)
            check(good, f"what {name} takes", "the operator's arguments and numbers by position", (arguments, named))
            return self.record(name, *arguments)

        return function


def _function(name: str, count: int, xp):
    """The function of that name with so many arguments."""
    if name == "clip" and count == 2:
        return LOWER_CLIP[xp]
    return OWN[xp].get(name) or getattr(operator, name, None) or getattr(xp, name)


class Program:
    """The operations of one tree's dual evaluation (`forward`) and of the sweep back (`backward`), in the library `xp`.

    They run on a copy of the list `values`, which begins with y, f, ones, the weights and u and holds the constants, in
    NumPy of type `dtype`; each puts its result in. `value`, `derivative` and `gradient` are positions in it.
    """

    def __init__(self, expression: str, protection: str, non_negative: bool, order: int, xp, dtype):
        tree, recorder = trees.parse(expression), Recorder()
        y, f, self.ones = (recorder.symbol("given", name, scalar=False) for name in ("y", "f", "ones"))
        weights = [recorder.symbol("given", k) for k in range(len(tree) - 1)]
        u = recorder.symbol("given", "u", scalar=False)
        terminals = {"y": (y, 0), "f": (f, 1), "1": (1, 0), "-1": (-1, 0)}
        names, children = [trees.node_name(node) for node in tree], trees.children(tree)
        nodes = [terminals.get(name) for name in names]  # (value, tangent)
        edges: list = [None] * len(tree)  # partial derivatives, tangents of the weighted arguments
        for i in range(len(tree) - 1, -1, -1):  # children stand behind their parent
            if nodes[i] is None:
                x, t = ([nodes[c][part] * weights[c - 1] for c in children[i]] for part in (0, 1))
                nodes[i], edges[i] = self._apply(PRIMITIVES[protection][names[i]], recorder, x, t)
        root = self._apply(SOFTPLUS, recorder, *([part] for part in nodes[0])) if non_negative else (nodes[0], None)
        (value, tangent), output = root
        begin = len(recorder.entries)  # of the sweep back
        gradient: list = [0] * len(weights)
        if order > 1:
            bars = (self._pull(0, u, *output) if output else [(0, u)]) * len(tree)  # the root's comes first
            for i, arguments in enumerate(children):
                for c, (x_bar, t_bar) in zip(arguments, arguments and self._pull(*bars[i], *edges[i]), strict=True):
                    a, a_tangent = nodes[c]
                    if isinstance(a, int) or a.scalar:
                        x_bar = self._inner(x_bar, 1)  # what every element adds to a scalar
                    gradient[c - 1] = self._inner(x_bar, a) + self._inner(t_bar, a_tangent)
                    t_bar = 0 if isinstance(a_tangent, int) and not a_tangent else t_bar
                    bars[c] = x_bar * weights[c - 1], t_bar * weights[c - 1]
        results = [r if isinstance(r, Symbol) else recorder.symbol("constant", r) for r in (value, tangent, *gradient)]
        self.value, self.derivative, *self.gradient = [r.index for r in results]
        self._list(recorder.entries, begin, {r.index for r in results}, xp, dtype)

    @staticmethod
    def _apply(row: Operator, recorder: Recorder, x: list, t: list) -> tuple:
        """((value, tangent), (partial derivatives, t)) of an operator on arguments x with tangents t."""
        value, partials = row.value(recorder, *x), list(row.derivatives(recorder, *x))
        return (value, sum(a * b for a, b in zip(t, partials, strict=False))), (partials, t)

    @staticmethod
    def _pull(o_bar, ot_bar, partials: list, t: list) -> list[tuple]:
        """Adjoints (x_bar, x'_bar) of an operator's weighted arguments."""
        n = len(t)
        second = [sum(ot_bar * partials[n + j + k] * t[k] for k in range(n)) for j in range(n)]  # as aa, ab, bb
        return [(o_bar * p + s, ot_bar * p) for p, s in zip(partials, second, strict=False)]

    def _inner(self, bar, a):
        """<bar, a> over the elements of the array `bar`, or the sum that it is already."""
        if isinstance(bar, int) or bar.scalar:
            return bar * a
        summand, factor = (self.ones, a) if isinstance(a, int) or a.scalar else (a, 1)
        return bar.recorder.record("dot", bar, summand) * factor

    def _list(self, entries: list[tuple], begin: int, needed: set[int], xp, dtype) -> None:
        """Keep the operations that the positions `needed` depend on."""
        self.values: list = [None] * len(entries)
        self.forward, self.backward = [], []
        for i in range(len(entries) - 1, -1, -1):
            name, a, *rest = entries[i]
            if name == "array" and xp is np:
                self.values[i] = np.array(a, dtype)
            elif name in ("constant", "array"):
                # A plain float beside a comparison's result would make a float64.
                self.values[i] = dtype.type(a) if xp is np and isinstance(a, float) else a
            elif i in needed and name != "given":
                needed.update(entries[i][1:])
                code = self.forward if i < begin else self.backward
                b, *more = (*rest, None)
                code.insert(0, (_function(name, 1 + len(rest), xp), i, a, b, more[:-1]))
        used = {i for _, _, a, b, more in self.backward for i in (a, b, *more)} | {self.value, self.derivative}
        self.spent = [step[1] for step in self.forward if step[1] not in used]  # behind the forward pass


program = lru_cache(maxsize=1024)(Program)


class Tape:
    """One dual evaluation of a tree on arrays `y`, `f` and `ones` (n,); NumPy's warnings are the caller's to silence.

    Attributes:
        value, derivative: M(y, f) and dM/df, (n,), or () where they are the same everywhere.
    """

    def __init__(self, listed: Program, weights, y, f, ones):
        """`weights`: scalars, one an edge."""
        self.program, self.values = listed, listed.values.copy()
        self.values[: len(weights) + 3] = y, f, ones, *weights
        _run(listed.forward, self.values)
        for i in listed.spent:
            self.values[i] = None  # its memory, still in the cache, is the next tape's
        self.value, self.derivative = self.values[listed.value], self.values[listed.derivative]

    def gradient(self, u) -> list:
        """d<derivative, u>/dw for every edge, scalars in prefix order of the child nodes; `u` is (n,). Needs order 2."""
        values = self.values.copy()
        values[len(self.program.gradient) + 3] = u
        _run(self.program.backward, values)
        return [values[i] for i in self.program.gradient]


def _run(code: list[tuple], values: list) -> None:
    for function, place, a, b, more in code:
        if more:
            values[place] = function(values[a], values[b], *(values[c] for c in more))
        else:
            values[place] = function(values[a]) if b is None else function(values[a], values[b])
