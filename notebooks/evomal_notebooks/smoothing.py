"""Why |log((y f)² + eps)| smooths labels (Appendix A): its optimum and gradients by SymPy, beside those of known losses.

With class probabilities p_k = softmax(z)_k, p = p_y of the true class y, and C classes. A loss of p alone has the gradient
dL/dp p (1 - p) in the true class's logit z_y and -dL/dp p p_k in any other z_k.
"""

import numpy as np
import pandas
import scipy.optimize
import sympy
import torch
from matplotlib.figure import Figure
from torch import nn

import evomal_core as ec
from evomal_core.losses.export import EPS, F, Y
from evomal_core.losses.primitives import EPSILON

from . import report
from .plots import LINES, PALETTE, grid, style
from .shapes import math

TREE = "abs(log(square(mul(y, f))))"  # Table VI, e
# What has the same kind of optimum: (name, tree, protection)
FAMILY = (
    ("e of Table VI", TREE, "abs"),
    ("e, protected as in the released code", TREE, "clamp"),
    ("a of Table VI", "abs(log(sqrt(mul(y, f))))", "abs"),
    ("without a power", "abs(log(mul(y, f)))", "abs"),
)
P, W, GAMMA = sympy.symbols("p w gamma", positive=True)
ALPHA = sympy.Symbol("alpha", positive=True)
C = sympy.Symbol("C", integer=True, positive=True)
DEFAULTS = {ALPHA: 0.1, GAMMA: 2, EPS: EPSILON, C: 10}


class FocalLoss(nn.Module):
    """The focal loss -(1 - p)^gamma log p of the true class (Lin et al. 2017), averaged over the batch.

    It is called with logits (B, C) and class indices (B,).
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        log_p = torch.log_softmax(prediction, -1).gather(-1, target[:, None])  # (B, 1)
        return -((-torch.expm1(log_p)) ** self.gamma * log_p).mean()


def absolute(w: float = 1.0, dtype: torch.dtype = torch.float32) -> ec.MetaLoss:
    """The absolute cross-entropy |log((w y f)² + eps)|: Table VI's e with the weight w on the edge of f, and 1 elsewhere."""
    return ec.MetaLoss.from_expression(TREE, torch.tensor([1, 1, 1, 1, w], dtype=dtype), classification=True)


def effective_weight(loss: ec.MetaLoss) -> float:
    """The w with which (w y f)² is what the logarithm of a loss of this tree reads, for any weights of its five edges.

    Raises:
        ValueError: a loss of another tree.
    """
    if loss.expression != TREE:
        raise ValueError(f"expected a loss of the tree {TREE}, got {loss.expression}")
    _, outer, product, label, prediction = loss.weights.detach().double().abs().tolist()
    return outer**0.5 * product * label * prediction


def element(y: int) -> sympy.Expr:
    """The absolute loss of one output, from the package's own operators: p is the output, w its weight, y is 0 or 1."""
    return absolute().to_sympy(epsilon=EPS).subs({Y: y, F: W * P})


def forms() -> dict[str, sympy.Expr]:
    """The losses of an instance as functions of p, summed over the C outputs.

    In label smoothing, which is PyTorch's, the other classes share 1 - p equally; its gradient in z_y does not need that.
    """
    spread = ALPHA / C
    return {
        "cross-entropy": -sympy.log(P),
        "label smoothing": -(1 - ALPHA + spread) * sympy.log(P) - spread * (C - 1) * sympy.log((1 - P) / (C - 1)),
        "focal": -((1 - P) ** GAMMA) * sympy.log(P),
        "absolute": element(1) + (C - 1) * element(0),
    }


def softmax_slope() -> sympy.Expr:
    """dp/dz_y as a function of p, from p = exp(z) / (exp(z) + r), where r is the sum over the other classes."""
    z, r = sympy.symbols("z r", positive=True)
    p = sympy.exp(z) / (sympy.exp(z) + r)
    (other,) = sympy.solve(sympy.Eq(p, P), r)
    return sympy.factor(sympy.diff(p, z).subs(r, other))


def logit_gradient(form: sympy.Expr) -> sympy.Expr:
    """dL/dz_y of a loss that is a function of p."""
    return sympy.diff(form, P) * softmax_slope()


def numeric(form: sympy.Expr, **values: float):
    """A function of an array p, in float64; symbols without a value have that of DEFAULTS, and w is 1."""
    given = {W: 1.0, **DEFAULTS} | {
        symbol: values[symbol.name] for symbol in form.free_symbols if symbol.name in values
    }
    return sympy.lambdify(P, form.subs(given), "numpy")


def branch(form: sympy.Expr, side: int) -> sympy.Expr:
    """A form without its bars around what depends on p: `side` is -1 where that is negative (p below its zero), 1 above."""
    return form.replace(lambda e: isinstance(e, sympy.Abs) and e.has(P), lambda e: side * e.args[0])


def limits() -> pandas.DataFrame:
    """Loss and dL/dz_y at the ends of p, by SymPy; the absolute loss with w > 1, so that its zero lies before p = 1."""
    rows = {}
    for name, form in forms().items():
        row = {}
        for end, side, word in ((0, -1, "p → 0"), (1, 1, "p → 1")):
            part = branch(form, side).subs({GAMMA: 2})
            for quantity, value in (("loss", part), ("gradient", logit_gradient(part))):
                row[f"{quantity}, {word}"] = _limit(sympy.simplify(value), end)
        rows[name] = row
    return pandas.DataFrame(rows).T


def _limit(form: sympy.Expr, end: int) -> sympy.Expr:
    """The limit at an end, where log(p) and log(1 - p) are the only things that can grow; 0 < alpha < 1 < C."""
    share, more = sympy.symbols("s m", positive=True)
    form = sympy.expand_log(form.subs({ALPHA: share / (1 + share), C: 1 + more}), force=True)
    value = sympy.limit(form, P, end, "+" if end == 0 else "-")
    return sympy.simplify(value.subs({share: ALPHA / (1 - ALPHA), more: C - 1}))


def optimum(expression: str = TREE, protection: str = "abs") -> sympy.Expr:
    """The p at which a loss |log(…)| of the true class is zero, as a function of w and eps; it is below 1 for w ≥ 1."""
    loss = ec.MetaLoss(expression, None, True, protection=protection)
    form = loss.to_sympy(epsilon=EPS).subs({Y: 1, F: W * P})
    inner = form.args[0].args[0]  # of Abs(log(inner))
    inner = inner.replace(sympy.Max, lambda *a: next(x for x in a if x != EPS))  # where it is 1, it is not eps
    (root,) = [r for r in sympy.solve(sympy.Eq(inner, 1), P, check=False) if r.subs({W: 1, EPS: EPSILON}) > 0]
    return sympy.simplify(root)


def smoothing_of(p=P) -> sympy.Expr:
    """The strength alpha of PyTorch's label smoothing that has its optimum at p, a number or an expression, for C classes."""
    (alpha,) = sympy.solve(logit_gradient(forms()["label smoothing"]), ALPHA)
    return sympy.simplify(alpha.subs(P, p))


def flooding_gap() -> sympy.Expr:
    """The true class's loss for eps → 0, which is |log((w p)²)|, minus 2 |cross-entropy - log w|; 0 if they are equal."""
    difference = sympy.expand_log(element(1).subs(EPS, 0), force=True) - 2 * sympy.Abs(-sympy.log(P) - sympy.log(W))
    return sympy.simplify(difference)


def half_strength() -> sympy.Expr:
    """The p below the optimum at which the absolute loss's gradient has fallen to half of twice cross-entropy's."""
    ratio = sympy.diff(branch(element(1), -1), P) / sympy.diff(forms()["cross-entropy"], P)
    (p,) = sympy.solve(sympy.Eq(ratio, 1), P)
    return p


def display_forms() -> str:
    """The losses and their gradients as a table of Markdown."""
    lines = ["| | loss of an instance | gradient in the true class's logit |", "|---|---|---|"]
    for name, form in forms().items():
        slope = logit_gradient(form)
        slope = sympy.factor(slope) if slope.has(sympy.sign) else sympy.simplify(slope)
        lines.append(f"| {name} | {math(form)} | {math(slope)} |")
    return "\n".join(lines)


def display_limits() -> str:
    """`limits` as a table of Markdown."""
    table = limits()
    lines = ["| | " + " | ".join(table) + " |", "|---" * (1 + table.shape[1]) + "|"]
    for name, row in table.iterrows():
        lines.append(" | ".join([f"| {name}", *("0" if x == 0 else math(x) for x in row)]) + " |")
    return "\n".join(lines)


def display_family() -> str:
    """The optima of the absolute loss and its kind as a table of Markdown, with their distance from 1 at w = 1."""
    lines = ["| | tree | protection | optimum | 1 − p at w = 1 |", "|---|---|---|---|---|"]
    for name, expression, protection in FAMILY:
        p = optimum(expression, protection)
        gap = (1 - p).subs({W: 1}).subs(EPS, sympy.Rational(1, 10**7)).evalf(20)
        lines.append(f"| {name} | `{expression}` | `{protection}` | {math(p)} | {float(gap):.1e} |")
    return "\n".join(lines)


def rivals(w: float = 1.1) -> dict[str, nn.Module]:
    """The modules of `forms`, in float64, by the same names."""
    smooth = nn.CrossEntropyLoss(label_smoothing=DEFAULTS[ALPHA])
    rest = {"focal": FocalLoss(DEFAULTS[GAMMA]), "absolute": absolute(w, torch.float64)}
    return {"cross-entropy": nn.CrossEntropyLoss(), "label smoothing": smooth} | rest


def autograd_gaps(w: float, seed: int = 0, n: int = 400) -> dict[str, float]:
    """The largest difference of dL/dz_y between SymPy's formula and autograd through each module of `rivals`, in float64.

    The logits (n, 10) are random, with that of the true class from -20 to 20, so that p comes close to 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 10, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (n,), generator=generator)
    z[torch.arange(n), y] = torch.linspace(-20, 20, n, dtype=torch.float64)
    z.requires_grad_()
    p = z.detach().softmax(-1)[torch.arange(n), y].numpy()
    gaps = {}
    for name, loss in rivals(w).items():
        (gradient,) = torch.autograd.grad(n * loss(z, y), z)
        formula = numeric(logit_gradient(forms()[name]), w=w)(p)
        gaps[name] = float(np.max(abs(gradient[torch.arange(n), y].numpy() - formula)))
    return gaps


def slope_gap(w: float, n: int = 400) -> float:
    """The largest difference of dL/dp between SymPy's formula and autograd through the package's absolute loss, in float64,
    relative where it exceeds 1, for p from 1e-9 to 1."""
    p = torch.logspace(-9, 0, n, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(absolute(w, torch.float64).elementwise(torch.ones_like(p), p).sum(), p)
    p, slope = p.detach().numpy(), slope.numpy()
    return float(np.max(abs(slope - numeric(sympy.diff(element(1), P), w=w)(p)) / np.maximum(1, abs(slope))))


@torch.no_grad()
def least(loss: nn.Module, classes: int = 10) -> float:
    """The p of the true class at which a loss is least, found by evaluating it in float64; the others share 1 - p equally.

    The ends of the search are 1e-6 and 1 - 1e-12. The best of 1,000 points is refined by a bounded search (scipy).
    """

    def at(p: float) -> float:
        z = torch.full((1, classes), (1 - p) / (classes - 1), dtype=torch.float64)
        z[0, 0] = p
        return float(loss(z.log(), torch.zeros(1, dtype=torch.long)))

    points = np.append(np.linspace(1e-6, 0.999999, 1000), 1 - 1e-12)
    best = int(np.argmin([at(p) for p in points]))
    around = points[max(0, best - 1)], points[min(len(points) - 1, best + 1)]
    return float(scipy.optimize.minimize_scalar(at, bounds=around, method="bounded", options={"xatol": 1e-13}).x)


def found_optima(records: report.Records) -> pandas.DataFrame:
    """Where the symbolic losses of classification runs are least: p, the alpha with the same optimum, the record's error."""
    rows = []
    for run in records.reference + records.own:
        if isinstance(loss := run.loss, ec.MetaLoss) and loss.classification:
            options = (True, loss.non_negative, loss.protection)
            p = least(ec.MetaLoss(loss.tree, loss.weights.detach().double(), *options))
            alpha = float(smoothing_of(sympy.Float(p)).subs(C, 10))
            row = {"budget": run.cell.budget, "seed": run.cell.seed, "p": p, "alpha": alpha}
            rows.append(row | {"test error": run.test_metric, "tree": str(loss)})
    return pandas.DataFrame(rows, columns=["budget", "seed", "p", "alpha", "test error", "tree"])


def _curves() -> dict[str, tuple]:
    """Name -> (form of p, w, factor) of what is drawn; the absolute losses are halved, to lie beside cross-entropy."""
    known = {"cross-entropy": "cross-entropy", "label smoothing, α = 0.1": "label smoothing", "focal, γ = 2": "focal"}
    curves = {shown: (forms()[name], 1.0, 1.0) for shown, name in known.items()}
    return curves | {f"½ absolute, w = {w:g}": (element(1), w, 0.5) for w in (1, 1.1, 1.25)}


@style()
def loss_and_gradient() -> Figure:
    """Loss above its minimum and gradient in z_y against p, for ten classes, and the gradient close to p = 1 and to 0."""
    figure, axes = grid(4, 2, (3.2, 2.0))
    wide, close, small = np.linspace(0.002, 0.9995, 800), np.linspace(0.75, 0.9999, 800), np.logspace(-8, -0.01, 600)
    widths = (3, 1.6, 1.6, 2.2, 1.8, 1.2)  # a curve that hides another is the thinner one
    for (name, (form, w, factor)), colour, line, width in zip(
        _curves().items(), PALETTE, [*LINES, "-"], widths, strict=False
    ):
        value, slope = numeric(form, w=w), numeric(logit_gradient(form), w=w)
        how = {"color": colour, "ls": line, "lw": width}
        losses = factor * value(wide)
        axes[0].plot(wide, losses - losses.min(), label=name, **how)
        for axis, p in zip(axes[1:], (wide, close, small), strict=True):
            axis.plot(p, factor * slope(p), **how)
    axes[0].set(ylim=(0, 4), xlabel="p", ylabel="loss above its minimum")
    axes[1].set(xlabel="p", ylabel="gradient in the logit")
    axes[2].set(xlabel="p, close to 1", ylabel="gradient in the logit", ylim=(-0.26, 0.26))
    axes[3].set(xlabel="p, close to 0", ylabel="gradient in the logit", xscale="log")
    for axis in axes[1:]:
        axis.axhline(0, color="0.3", lw=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


@style()
def shifted_optimum() -> Figure:
    """The optimum against the weight w, by SymPy (line) and by evaluating the module (dots), and the equivalent alpha."""
    figure, axes = grid(2, 2, (3.9, 2.6))
    w = np.linspace(1, 2, 201)
    p = sympy.lambdify(W, optimum().subs(EPS, EPSILON))(w)
    axes[0].plot(w, p, color=PALETTE[0], label="SymPy: √(1 − ε) / w")
    some = np.array([1, 1.05, 1.1, 1.25, 1.5, 1.75, 2])
    axes[0].plot(
        some, [least(absolute(x, torch.float64)) for x in some], "o", color=PALETTE[1], label="found numerically"
    )
    axes[0].set(xlabel="weight w", ylabel="p with the least loss")
    axes[0].legend(loc="upper right", bbox_to_anchor=(1.02, 1.25), ncols=2, frameon=False, fontsize="small")
    for classes, colour, line in zip((2, 10, 100), PALETTE[2:], LINES, strict=False):
        alpha = sympy.lambdify(P, smoothing_of().subs(C, classes))(p)
        axes[1].plot(w, alpha, color=colour, ls=line, label=f"C = {classes}")
    axes[1].set(xlabel="weight w", ylabel="label smoothing α\nwith the same optimum")
    axes[1].legend(loc="upper right", bbox_to_anchor=(1.02, 1.25), ncols=3, frameon=False, fontsize="small")
    return figure
