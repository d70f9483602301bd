"""Figures in one style: colour-blind palette, one colour a method, PDF and PNG.

Figures do not go through pyplot: nothing is shown that was not asked for, and none has to be closed. In a notebook
`show(figure)` displays one; anywhere else it does nothing.
"""

import io
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pandas
import PIL.Image
import seaborn
import sympy
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..losses import expression
from ..losses.export import F, Y
from ..search.evaluate import OUTCOMES
from .report import METHOD_ORDER, Records

PALETTE = seaborn.color_palette("colorblind")
COLOURS = {m: PALETTE[i] for m, i in zip(METHOD_ORDER, (7, 5, 6, 4, 1, 0, 2), strict=True)}
DPI = 110  # on the screen
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "-1": "−1"}
OUTCOME_NAMES = {"symbolic": "symbolic hit", "equivalent": "gradient hit", "non_finite": "not finite"}


def _styled(draw):
    """Every figure of this module is drawn in this style; the reader's own settings stay as they are."""
    return seaborn.axes_style("whitegrid")(seaborn.plotting_context("notebook", font_scale=0.8)(draw))


def save(figure: Figure, path) -> list[Path]:
    """Write `path`.pdf and `path`.png, making the folder; returns both."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("pdf", "png")]
    figure.savefig(files[0], metadata={"CreationDate": None})
    figure.savefig(files[1], dpi=200)
    return files


def show(figure: Figure) -> None:
    """Display a figure in a notebook; elsewhere do nothing."""
    if display := _display():
        display.display(_image(figure))


def _display():
    """`IPython.display` if there is a notebook or an IPython shell to display in, else None."""
    ipython = sys.modules.get("IPython")
    return ipython.display if ipython is not None and ipython.get_ipython() is not None else None


def _image(figure: Figure):
    """A PNG of few colours, a third of the usual size: notebooks are committed with their figures."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=DPI)
    PIL.Image.open(full).convert("RGB").quantize(48).save(small, format="png", optimize=True)
    return _display().Image(small.getvalue(), format="png")


@_styled
def fitness_curve(runs: Records | Iterable) -> Figure:
    """Best fitness so far against the generation: the mean over seeds, and thin each seed.

    One panel a data set and model, one colour a method; of `Records` the reference is drawn solid, own runs dashed; a plain
    list is drawn solid. A run without any finite fitness is left out, and a curve begins where all of its runs have one;
    the legend gives their number n. The axis ends at three times the largest last value.

    Raises:
        ValueError: runs of several budgets or protocols, which are not to be pooled.
    """
    records = runs if isinstance(runs, Records) else Records(list(runs), [], [])
    if len({(run.cell.budget, run.cell.protocol) for run in records.reference + records.own}) > 1:
        raise ValueError("fitness_curve: the runs must be of one budget and protocol; select them first")
    rows = []
    for number, run in enumerate(records.reference + records.own):
        history = run.history.reindex(columns=["generation", "best_so_far"]).astype(float).dropna()
        if len(history):
            curve = run.cell.method + (" (own)" if number >= len(records.reference) else "")
            history["generation"] += 1  # people count from 1
            panel = f"{run.cell.dataset}, {run.cell.model}"
            rows.append(history.assign(panel=panel, curve=curve, run=number, first=history["generation"].min()))
    table = pandas.concat(rows) if rows else pandas.DataFrame(columns=["panel"])
    panels = table.groupby("panel", sort=False)
    figure = Figure(figsize=(max(4.8, 3.7 * len(panels)), 3.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    if not len(panels):
        axes[0].set(xticks=[], yticks=[])
        axes[0].text(0.5, 0.5, "no record", ha="center", va="center")
    for axis, (title, panel) in zip(axes, panels, strict=False):
        curves = panel.groupby("curve")
        table = panel[panel["generation"] >= curves["first"].transform("max")]
        names = sorted(set(table["curve"]), key=lambda name: (METHOD_ORDER.index(name.split()[0]), name))
        colours = {name: COLOURS[name.split()[0]] for name in names}
        dashes = {name: (4, 2) if "own" in name else "" for name in names}
        how = {"hue": "curve", "style": "curve", "hue_order": names, "palette": colours, "dashes": dashes, "ax": axis}
        seaborn.lineplot(table, x="generation", y="best_so_far", errorbar=None, lw=2, **how)
        each = {"units": "run", "estimator": None, "lw": 0.8, "alpha": 0.4, "legend": False}
        seaborn.lineplot(panel, x="generation", y="best_so_far", **how, **each)
        labels = [f"{name}, n = {curves['run'].nunique()[name]}" for name in names]
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2, "frameon": False}
        axis.legend(axis.get_legend_handles_labels()[0], labels, fontsize="small", **below)
        axis.set(title=title, ylabel="")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _cut(axis, panel.groupby("run")["best_so_far"].min().max())
    axes[0].set_ylabel("best fitness so far (validation)")
    return figure


@_styled
def filter_counts(runs) -> Figure:
    """How the candidates of each generation came by their fitness (Fig. 5): stacked counts, the mean over several runs.

    `runs`: one or several of what has a `history`, a `Run` or a `SearchState`."""
    runs = [runs] if hasattr(runs, "history") else list(runs)
    history = (
        pandas.concat([pandas.DataFrame(run.history) for run in runs]).groupby("generation")[list(OUTCOMES)].mean()
    )
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axis = figure.subplots()
    bottom = 0.0
    for outcome, colour in zip(OUTCOMES, PALETTE, strict=False):
        if history[outcome].any():
            label = OUTCOME_NAMES.get(outcome, outcome)
            axis.bar(history.index + 1, history[outcome], 0.85, bottom, color=colour, lw=0, label=label)
            bottom = bottom + history[outcome]
    axis.set(xlabel="generation", ylabel="candidates" + (f", mean of {len(runs)} runs" if len(runs) > 1 else ""))
    axis.grid(False, axis="x")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(reverse=True, loc="outside right upper", fontsize="small")
    return figure


@_styled
def loss_shape(loss, ys: Iterable[float] = (-1.0, 0.0, 1.0), reach: float = 3.0, points: int = 301) -> Figure:
    """A loss, element by element. Regression: against f − y within ±`reach`, a curve for each of `ys`; classification:
    against the probability p of a class, for y = 1 and y = 0."""
    classification = getattr(loss, "classification", str(loss) == "cross_entropy")
    ends, ys = ((0.001, 0.999), (1.0, 0.0)) if classification else ((-reach, reach), ys)
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="0.6", lw=0.8)
    for y, colour, style in zip(ys, PALETTE, itertools.cycle(("-", "--", "-.", ":")), strict=False):
        x = torch.linspace(*ends, points)
        f = x if classification else x + y
        axis.plot(x, _elementwise(loss, torch.full_like(f, y), f), style, color=colour, label=_minus(f"y = {y:g}"))
    axis.set(xlabel="p" if classification else "f − y", ylabel="loss of one element")
    axis.legend(fontsize="small")
    return figure


@torch.no_grad()
def _elementwise(loss, y: torch.Tensor, f: torch.Tensor):
    """M(y, f) as an array."""
    if not hasattr(loss, "elementwise"):
        return sympy.lambdify((Y, F), loss.to_sympy(), "numpy")(y.numpy(), f.numpy()) + 0 * f.numpy()
    like = next(loss.parameters(), f)
    return (loss.elementwise(y.to(like), f.to(like)) + torch.zeros_like(f).to(like)).cpu().numpy()


@_styled
def draw_network(loss, digits: int = 4) -> Figure:
    """A symbolic loss as the network it was compiled to (Fig. 2): edges run from the terminals to the output, each with its
    weight. A parent's first argument is drawn above its second."""
    names, children = [expression.node_name(node) for node in loss.tree], expression.children(loss.tree)
    edges = [(child, parent) for parent, arguments in enumerate(children) for child in arguments]
    layer = [0] * len(names)  # to the left of the root
    for child, parent in edges:  # parents come first
        layer[child] = layer[parent] - 1
    leaves = [node for node in range(len(names)) if not children[node]]
    row = {leaf: -float(i) for i, leaf in enumerate(leaves)}
    for node in reversed(range(len(names))):
        row.setdefault(node, sum(row.get(c, 0) for c in children[node]) / max(1, len(children[node])))
    places = [(layer[node], row[node]) for node in range(len(names))]
    width, height = 1.15 * (2 - min(layer)), 0.5 * len(leaves)  # inches
    scale = min(1.0, 14 / width, 12 / height)  # a large tree is drawn smaller
    font = 10 * max(scale, 0.45)
    figure = Figure(figsize=(width * scale, max(1.0, height + 0.3) * scale), layout="constrained")
    axis = figure.subplots()
    colours = {"y": (*PALETTE[1], 0.45), "f": (*PALETTE[0], 0.45), "1": "0.85", "-1": "0.85"}
    shapes = []
    for node, name in enumerate(names):
        style = "round,pad=0.35" if children[node] else "circle,pad=0.3"
        box = {"boxstyle": style, "fc": colours.get(name, "white"), "ec": "0.3", "lw": 0.8 * scale}
        size = font * (0.8 if name == "-1" else 1)
        text = axis.text(*places[node], SYMBOLS.get(name, name), ha="center", va="center", fontsize=size, bbox=box)
        shapes.append(text.get_bbox_patch())
    arrow = {"arrowstyle": "-|>", "color": "0.45", "lw": max(scale, 0.4), "shrinkA": 1, "shrinkB": 1}
    box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
    for child, parent in edges:
        between = arrow | {"patchA": shapes[child], "patchB": shapes[parent]}
        axis.annotate("", places[parent], places[child], arrowprops=between)
        middle = [0.52 * a + 0.48 * b for a, b in zip(places[child], places[parent], strict=True)]
        weight = _minus(f"{loss.weights[child - 1].item():#.{digits}g}")
        axis.text(*middle, weight, ha="center", va="center", fontsize=0.75 * font, color="0.25", bbox=box)
    output = (0.9, row[0])
    axis.annotate("", output, places[0], arrowprops=arrow | {"patchA": shapes[0]})
    axis.text(*output, " softplus" if loss.non_negative else r" $\mathcal{M}$", va="center", fontsize=font)
    axis.set(xlim=(min(layer) - 0.35, 1.4), ylim=(-len(leaves) + 0.45, 0.55))
    axis.axis("off")
    return figure


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _cut(axis, last: float) -> None:
    """End the axis at three times the last value: early candidates can be worse by orders of magnitude."""
    if axis.get_ylim()[1] > 3 * last > 0:
        axis.set_ylim(min(0, axis.dataLim.y0), 3 * last)


class LiveCurve:
    """A search's progress in a notebook, redrawn in place: `ec.search(…, on_generation=LiveCurve(config.generations))`.

    Args:
        generations: of the whole search; the last one is always drawn.
        interval: seconds between two drawings, at least. Without a notebook nothing is drawn.
    """

    def __init__(self, generations: int, interval: float = 0.5):
        self.generations, self.interval = generations, interval
        self.drawn, self.handle = 0.0, None

    def __call__(self, state) -> None:
        """Take a `SearchState` after a generation."""
        due = time.monotonic() - self.drawn >= self.interval or len(state.history) >= self.generations
        if _display() is None or not due:
            return
        self.drawn = time.monotonic()
        image = _image(self.draw(state.history))
        if self.handle is None:
            self.handle = _display().display(image, display_id=True)
        else:
            self.handle.update(image)

    @_styled
    def draw(self, history: list[dict]) -> Figure:
        """Best so far and the median of each generation, up to three times the last best."""
        table = pandas.DataFrame(history).astype(float)
        figure = Figure(figsize=(4.8, 2.9), layout="constrained")
        axis = figure.subplots()
        for name, label, style in (("best_so_far", "best so far", "o-"), ("median", "median", "o--")):
            axis.plot(table["generation"] + 1, table[name], style, ms=4, label=label)
        axis.set(xlabel="generation", ylabel="fitness (validation)", xlim=(0.5, self.generations + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize="small")
        _cut(axis, table["best_so_far"].iloc[-1])
        return figure
