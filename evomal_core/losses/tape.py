"""A loss's derivatives without autograd's overhead: dual numbers forwards, one hand-written sweep back.

Training needs of a loss only m = dM/df, element by element, and loss optimisation d<m, u>/dphi for a given u (eq. 9 with
the base model taken out; training/unroll.py). Both come of one walk over the tree:

    forwards   each node carries (value, tangent along f): m is the root's tangent;
    backwards  the sweep of <m, u> through that same dual evaluation. For a unary g with o = g(x), o' = g'(x) x':
               x_bar += o_bar g'(x) + o'_bar g''(x) x',   x'_bar += o'_bar g'(x);
               an edge x = w a, x' = w a' adds <x_bar, a> + <x'_bar, a'> to the gradient of w.

The plain reference is `MetaLoss.elementwise` under autograd; tests hold this file to it. `xp` is `numpy` (for CPU tensors,
through views that share memory: an operation costs a tenth of torch's overhead) or `torch`. Constant subtrees stay scalars.
"""

import numpy as np
import torch

from .primitives import softplus


def namespace(tensor: torch.Tensor):
    """(xp, to array): NumPy views for a CPU tensor, torch itself elsewhere."""
    if tensor.device.type == "cpu":
        return np, lambda t: t.detach().numpy()
    return torch, lambda t: t.detach()


def _times(a, c):
    """a * c, where None is 0 and 1, -1 are common."""
    if a is None or c is None:
        return None
    if isinstance(c, int) and c in (1, -1):
        return a if c == 1 else -a
    return a * c


def _plus(a, b):
    return b if a is None else a if b is None else a + b


class Tape:
    """One dual evaluation of a tree on `(B, C)` arrays `y` and `f`.

    Attributes:
        value: M(y, f), (B, C).
        derivative: dM/df, (B, C).
    """

    def __init__(self, program, weights, y, f, xp, non_negative: bool = False, order: int = 2):
        """`program`: list of (jet or terminal name, children) in prefix order; `weights`: n - 1 scalars, one an edge."""
        self.program, self.weights, self.xp = program, weights, xp
        one = xp.ones((), dtype=f.dtype) if xp is np else torch.ones((), dtype=f.dtype, device=f.device)
        self.zero = 0 * one
        terminals = {"y": (y, None), "f": (f, one), "1": (one, None), "-1": (-one, None)}
        n = len(program)
        self.nodes = [None] * n  # (value, tangent)
        self.edges = [None] * n  # partial derivatives, tangents of the weighted arguments
        with np.errstate(all="ignore"):
            for i in range(n - 1, -1, -1):
                operator, arguments = program[i]
                if not arguments:
                    self.nodes[i] = terminals[operator]
                    continue
                x = [self.nodes[c][0] * weights[c - 1] for c in arguments]
                t = [_times(self.nodes[c][1], weights[c - 1]) for c in arguments]
                self.nodes[i] = self._apply(i, operator, x, t, order)
            value, tangent = self.nodes[0]
            self.output = None
            if non_negative:
                self.output = (*softplus(xp, value, order)[1:], tangent)
                value, tangent = softplus(xp, value, 0)[0], _times(tangent, self.output[0])
        tangent = self.zero if tangent is None else tangent
        self.value = value if value.shape == f.shape else xp.broadcast_to(value, f.shape)
        self.derivative = tangent if tangent.shape == f.shape else xp.broadcast_to(tangent, f.shape)

    def _apply(self, i, operator, x, t, order):
        moving = any(tangent is not None for tangent in t)
        value, *partials = operator(self.xp, *x, order=order if moving else order - 1)
        self.edges[i] = partials, t
        tangent = None
        for k, x_tangent in enumerate(t):
            tangent = _plus(tangent, _times(x_tangent, partials[k]) if x_tangent is not None else None)
        return value, tangent

    def gradient(self, u) -> list:
        """d<derivative, u>/dw for every edge, scalars in prefix order of the child nodes; `u` is (B, C)."""
        gradient = [self.zero] * (len(self.program) - 1)
        adjoints: list = [(None, None)] * len(self.program)
        adjoints[0] = (None, u)
        with np.errstate(all="ignore"):
            if self.output is not None:
                d, d2, tangent = self.output
                adjoints[0] = (_times(_times(u, d2), tangent), u * d)
            for i, (_, arguments) in enumerate(self.program):
                if arguments and any(bar is not None for bar in adjoints[i]):
                    for c, x_bar, t_bar in self._pull(i, arguments, *adjoints[i]):
                        adjoints[c] = self._edge(c, x_bar, t_bar, gradient)
        return gradient

    def _pull(self, i, arguments, o_bar, ot_bar):
        """Adjoints of node i's weighted arguments, (child, x_bar, x'_bar) each."""
        partials, t = self.edges[i]
        if len(arguments) == 1:
            d = partials[0]
            bend = _times(_times(ot_bar, partials[1]), t[0]) if t[0] is not None and ot_bar is not None else None
            yield arguments[0], _plus(_times(o_bar, d), bend), _times(ot_bar, d)
            return
        da, db = partials[:2]
        a_bar, b_bar = _times(o_bar, da), _times(o_bar, db)
        if ot_bar is not None and len(partials) > 2:
            daa, dab, dbb = partials[2:]
            a_bar = _plus(a_bar, _times(ot_bar, _plus(_times(t[0], daa), _times(t[1], dab))))
            b_bar = _plus(b_bar, _times(ot_bar, _plus(_times(t[0], dab), _times(t[1], dbb))))
        yield arguments[0], a_bar, _times(ot_bar, da)
        yield arguments[1], b_bar, _times(ot_bar, db)

    def _edge(self, c, x_bar, t_bar, gradient):
        value, tangent = self.nodes[c]
        weight, total = self.weights[c - 1], None
        if tangent is None:
            t_bar = None  # the subtree does not hold f: its tangent is no variable
        if x_bar is not None and value.ndim == 0:
            x_bar = x_bar.sum()
        if x_bar is not None:
            total = (x_bar * value).sum()
        if t_bar is not None:
            total = _plus(total, (t_bar * tangent).sum())
        if total is not None:
            gradient[c - 1] = total
        return _times(x_bar, weight), _times(t_bar, weight)
