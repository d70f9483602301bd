"""Figures in one style: colour-blind palette, one colour a method, PDF and PNG.

Figures do not go through pyplot: nothing is shown that was not asked for, and none has to be closed. In a notebook
`show(figure)` displays one; anywhere else it does nothing.
"""

import functools
import io
import itertools
import time
from collections.abc import Iterable
from pathlib import Path

import IPython.display
import pandas
import seaborn
import sympy
import torch
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..losses import expression
from ..losses.export import F, Y
from ..search.evaluate import OUTCOMES
from .report import METHOD_ORDER, SOURCES, Records

PALETTE = seaborn.color_palette("colorblind")
COLOURS = {m: PALETTE[i] for m, i in zip(METHOD_ORDER, (7, 5, 6, 4, 1, 0, 2), strict=True)}
DPI = 110
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "-1": "−1"}
OUTCOME_NAMES = {"symbolic": "symbolic hit", "equivalent": "gradient hit", "non_finite": "not finite"}


def _styled(draw):
    """Every figure of this module is drawn in this style; the reader's own settings stay as they are."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        with seaborn.axes_style("whitegrid"), seaborn.plotting_context("notebook", font_scale=0.8):
            return draw(*args, **kwargs)

    return styled


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
    if get_ipython() is not None:
        IPython.display.display(_image(figure))


def _image(figure: Figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return IPython.display.Image(buffer.getvalue(), format="png")


@_styled
def fitness_curve(runs: Records | Iterable) -> Figure:
    """Best fitness so far against the generation: mean over seeds, with the band from the smallest to the largest.

    One panel a data set and model, one colour a method; of `Records` the reference is drawn solid, own runs dashed. A run
    without any finite fitness is left out, and a curve begins where all of its runs have one; the legend gives their number.

    Raises:
        ValueError: runs of several budgets or protocols, which are not to be pooled.
    """
    sourced = (
        [(s, run) for s in SOURCES for run in getattr(runs, s)]
        if isinstance(runs, Records)
        else [("own", run) for run in runs]
    )
    if len({(run.cell.budget, run.cell.protocol) for _, run in sourced}) > 1:
        raise ValueError("fitness_curve: the runs must be of one budget and protocol; select them first")
    curves: dict = {}
    for source, run in sourced:
        if "best_so_far" in run.history and run.history["best_so_far"].notna().any():
            panel = curves.setdefault((run.cell.dataset, run.cell.model), {})
            rows = panel.setdefault((METHOD_ORDER.index(run.cell.method), SOURCES.index(source)), {})
            rows[len(rows)] = run.history.set_index("generation")["best_so_far"].astype(float)
    figure = Figure(figsize=(max(4.8, 3.7 * len(curves)), 3.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    if not curves:
        axes[0].set(xticks=[], yticks=[])
        axes[0].text(0.5, 0.5, "no record", ha="center", va="center")
    for axis, ((dataset, model), panel) in zip(axes, curves.items(), strict=False):
        for (method, source), rows in sorted(panel.items()):
            table = pandas.DataFrame(rows).dropna()  # (generations, seeds)
            name = METHOD_ORDER[method]
            dashed = isinstance(runs, Records) and SOURCES[source] == "own"
            label = f"{name}, n = {len(rows)}" + (" (own)" if dashed else "")
            x, color = table.index + 1, COLOURS[name]
            axis.plot(x, table.mean(axis=1), "--" if dashed else "-", color=color, label=label)
            axis.fill_between(x, table.min(axis=1), table.max(axis=1), color=color, alpha=0.13, lw=0)
        axis.set_title(f"{dataset}, {model}")
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
        axis.set_xlabel("generation")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("best fitness so far (validation)")
    return figure


@_styled
def filter_counts(runs) -> Figure:
    """How the candidates of each generation came by their fitness (Fig. 5): stacked counts, the mean over several runs."""
    runs = [runs] if hasattr(runs, "history") else list(runs)
    history = (
        pandas.concat([pandas.DataFrame(run.history) for run in runs]).groupby("generation")[list(OUTCOMES)].mean()
    )
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axis = figure.subplots()
    bottom = 0 * history["elite"]
    for outcome, colour in zip(OUTCOMES, PALETTE, strict=False):
        if history[outcome].any():
            label = OUTCOME_NAMES.get(outcome, outcome)
            axis.bar(history.index + 1, history[outcome], 0.85, bottom, color=colour, lw=0, label=label)
            bottom = bottom + history[outcome]
    axis.set(xlabel="generation", ylabel="candidates" + (f", mean of {len(runs)} runs" if len(runs) > 1 else ""))
    axis.grid(False, axis="x")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize="small")
    return figure


@_styled
def loss_shape(loss, ys: Iterable[float] = (-1.0, 0.0, 1.0), reach: float = 3.0, points: int = 301) -> Figure:
    """A loss, element by element. Regression: against f − y within ±`reach`, a curve for each of `ys`; classification:
    against the probability p of a class, for y = 1 and y = 0."""
    classification = getattr(loss, "classification", False) or "cross_entropy" in str(loss)
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="0.6", lw=0.8)
    ys = (1.0, 0.0) if classification else ys
    for y, colour, style in zip(ys, PALETTE, itertools.cycle(("-", "--", "-.", ":")), strict=False):
        x = torch.linspace(0.001, 0.999, points) if classification else torch.linspace(-reach, reach, points)
        f = x if classification else x + y
        axis.plot(x, _elementwise(loss, torch.full_like(f, y), f), style, color=colour, label=_minus(f"y = {y:g}"))
    name = "p" if classification else "f − y"
    axis.set(xlabel=name, ylabel="loss of one element")
    axis.legend(fontsize="small")
    return figure


def _elementwise(loss, y: torch.Tensor, f: torch.Tensor):
    if hasattr(loss, "elementwise"):
        with torch.no_grad():
            return (loss.elementwise(y, f.to(y)) + torch.zeros_like(f)).numpy()
    values = sympy.lambdify((Y, F), loss.to_sympy(), "numpy")
    return values(y.numpy(), f.numpy()) + 0 * f.numpy()


def _minus(text: str) -> str:
    return text.replace("-", "−")


@_styled
def draw_network(loss, digits: int = 4) -> Figure:
    """A symbolic loss as the network it was compiled to (Fig. 2): edges run from the terminals to the output, each with its
    weight. A parent's first argument is drawn above its second."""
    tree, children = loss.tree, expression.children(loss.tree)
    places: dict[int, tuple[float, float]] = {}  # node -> (layer, row); leaves take a row each
    edges = [(child, parent) for parent, arguments in enumerate(children) for child in arguments]
    leaves = 0

    def place(node: int, depth: int) -> float:
        nonlocal leaves
        if children[node]:
            rows = [place(child, depth + 1) for child in children[node]]
            row = (rows[0] + rows[-1]) / 2
        else:
            row, leaves = float(leaves), leaves + 1
        places[node] = (-depth, -row)
        return row

    place(0, 0)
    height = max(-layer for layer, _ in places.values())
    scale = min(1.0, 14 / (1.15 * (height + 2)), 12 / (0.5 * leaves))  # a large tree is drawn smaller
    size = (1.15 * (height + 2) * scale, max(1.0, 0.5 * leaves + 0.3) * scale)
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    font = 10 * max(scale, 0.45)
    colours = {"y": (*PALETTE[1], 0.45), "f": (*PALETTE[0], 0.45), "1": "0.85", "-1": "0.85"}
    shapes = {}
    for node, place_ in places.items():
        name = expression.node_name(tree[node])
        style = "round,pad=0.35" if children[node] else "circle,pad=0.3"
        box = {"boxstyle": style, "fc": colours.get(name, "white"), "ec": "0.3", "lw": 0.8 * scale}
        size = font * (0.8 if name == "-1" else 1)
        text = axis.text(*place_, SYMBOLS.get(name, name), ha="center", va="center", fontsize=size, bbox=box)
        shapes[node] = text.get_bbox_patch()
    arrow = {"arrowstyle": "-|>", "color": "0.45", "lw": max(scale, 0.4), "shrinkA": 1, "shrinkB": 1}
    for child, parent in edges:
        between = arrow | {"patchA": shapes[child], "patchB": shapes[parent]}
        axis.annotate("", places[parent], places[child], arrowprops=between)
        middle = [0.52 * a + 0.48 * b for a, b in zip(places[child], places[parent], strict=True)]
        weight = _minus(f"{loss.weights[child - 1].item():#.{digits}g}")
        box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
        axis.text(*middle, weight, ha="center", va="center", fontsize=0.75 * font, color="0.25", bbox=box)
    output = (0.9, places[0][1])
    axis.annotate("", output, places[0], arrowprops=arrow | {"patchA": shapes[0]})
    axis.text(*output, " softplus" if loss.non_negative else r" $\mathcal{M}$", ha="left", va="center", fontsize=font)
    axis.set(xlim=(-height - 0.35, 1.4), ylim=(-leaves + 0.45, 0.55))
    axis.axis("off")
    return figure


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
        now = time.monotonic()
        last = len(state.history) >= self.generations
        if get_ipython() is None or (now - self.drawn < self.interval and not last):
            return
        self.drawn = now
        image = _image(self.draw(state.history))
        if self.handle is None:
            self.handle = IPython.display.display(image, display_id=True)
        else:
            self.handle.update(image)

    @_styled
    def draw(self, history: list[dict]) -> Figure:
        """Best so far and the median of each generation."""
        table = pandas.DataFrame(history)
        figure = Figure(figsize=(4.8, 2.9), layout="constrained")
        axis = figure.subplots()
        for name, label, style in (("best_so_far", "best so far", "o-"), ("median", "median", "o--")):
            axis.plot(table["generation"] + 1, table[name].astype(float), style, ms=4, label=label)
        axis.set(xlabel="generation", ylabel="fitness (validation)", xlim=(0.5, self.generations + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize="small")
        return figure
