"""Figures in one style: a palette for colour-blind readers, one colour for each method, files as PDF and PNG.

Figures do not go through pyplot, so that nothing is shown unasked and no figure has to be closed. In a notebook
`show(figure, alt)` displays a figure; anywhere else it does nothing. A figure of a notebook's own is drawn within `style()`.
"""

import base64
import io
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas
import PIL.Image
import seaborn
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from evomal_core.losses import expression
from evomal_core.registry import METHODS
from evomal_core.search.state import OUTCOMES, PHASES

from .report import Records

PALETTE = seaborn.color_palette("colorblind")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # beside the colour, for prints without it
ABREAST = 3  # panels of a fitness curve side by side
SHADES = seaborn.color_palette("viridis_r", 6)  # of a magnitude
# The outcomes of a candidate, as they are stacked: dark and light take turns, so that neighbours differ in print, too
SHARES = [(0.11,) * 3, (0.98, 0.73, 0.30), (0.45, 0.10, 0.33), (0.55, 0.80, 0.93), (0.07, 0.29, 0.53), (0.62,) * 3]
DPI, WIDEST = 150, 1560  # of a displayed figure, which is shown at half of its pixels
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "-1": "−1"}


def colour(method: str):
    """The colour of a method, the same in every figure."""
    return PALETTE[METHODS[method].colour % len(PALETTE)]


@contextmanager
def style():
    """Use `with style():` or `@style()` for the style of every figure; the reader's own settings stay as they are."""
    with seaborn.axes_style("whitegrid"), seaborn.plotting_context("notebook", font_scale=0.9):
        yield


def grid(panels: int, columns: int, size: tuple[float, float], **shared):
    """(figure, its `panels` axes in reading order), each of `size` inches; `shared` as for matplotlib's `subplots`."""
    columns = max(1, min(columns, panels))
    rows = max(1, math.ceil(panels / columns))
    figure = Figure(figsize=(max(4.8, size[0] * columns), size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared).flat
    for axis in axes[max(1, panels) :]:
        axis.remove()
    return figure, axes[: max(1, panels)]


def save(figure: Figure, path) -> list[Path]:
    """Write `path`.pdf and `path`.png, making the folder; returns both."""
    pdf, png = Path(f"{path}.pdf"), Path(f"{path}.png")
    pdf.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png, dpi=200)
    return [pdf, png]


def show(figure: Figure, alt: str, **how) -> None:
    """Display a figure in a notebook; elsewhere do nothing.

    The picture has twice the pixels of its place, for sharp text on every screen, and few colours, because notebooks are
    committed with their figures.

    Args:
        alt: what the figure shows, in words, for whoever does not see it.
        how: as for IPython's `display`: `display_id="curve", update=True` replaces the figure that has this id.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        return
    data, width, height = png(figure)
    bundle = {"image/png": data, "text/plain": alt}
    size = {"width": width, "height": height, "alt": alt}
    ipython.display.display(bundle, raw=True, metadata={"image/png": size}, **how)


def png(figure: Figure) -> tuple[str, int, int]:
    """(the picture in base 64, width and height at which it is shown): half of its pixels, in few colours."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=min(DPI, WIDEST / figure.get_size_inches()[0]))
    few = PIL.Image.open(full).convert("RGB").quantize(palette=_few_colours(), dither=PIL.Image.Dither.NONE)
    few.save(small, format="png", optimize=True)
    return base64.b64encode(small.getvalue()).decode(), few.width // 2, few.height // 2


def _few_colours() -> PIL.Image.Image:
    """The colours of a displayed figure: greys, the palette at full strength and mixed with white, and the shades."""
    colours = [(grey,) * 3 for grey in (0, 0.15, 0.3, 0.55, 0.8, 0.9, 1)] + list(SHADES) + SHARES
    colours += [tuple(1 - strength * (1 - part) for part in c) for c in PALETTE for strength in (1, 0.45, 0.15)]
    image = PIL.Image.new("P", (1, 1))
    image.putpalette([round(255 * part) for colour in colours for part in colour])
    return image


@style()
def fitness_curve(runs: Records | Iterable, against: Iterable[str] = ("generation",)) -> Figure:
    """Draw the best fitness so far: a thick line for the mean over seeds, a thin one for each seed.

    Each data set and model has a column, with three columns abreast, and each method has a colour. The reference runs of
    `Records` are drawn solid, own runs dashed; the runs of a plain list are drawn solid. A run without any finite fitness
    is left out, and a mean begins where all of its runs have one; the legend gives their number n. The axis ends at twice
    the largest last value, and is logarithmic where last values differ more than fivefold.

    Args:
        against: "generation" and "seconds" (of search) give a row of panels each. A run that has ended keeps its last value.

    Raises:
        ValueError: runs of several budgets or protocols, which are not to be pooled.
    """
    records = runs if isinstance(runs, Records) else Records(list(runs), [], [])
    if len({(run.cell.budget, run.cell.protocol) for run in records.reference + records.own}) > 1:
        raise ValueError("fitness_curve: the runs must be of one budget and protocol; select them first")
    panels: dict[str, dict] = {}  # title -> method -> histories
    for run, suffix in [(run, "") for run in records.reference] + [(run, " (own)") for run in records.own]:
        columns = ["generation", "best_so_far", *(f"seconds_{phase}" for phase in PHASES)]
        history = run.history.reindex(columns=columns).astype(float)
        history["generation"] += 1  # people count from 1
        history["seconds"] = history.filter(like="seconds_").sum(axis=1).cumsum()
        if len(history := history.dropna(subset="best_so_far")):
            curves = panels.setdefault(f"{run.cell.dataset}, {run.cell.model}", {})
            curves.setdefault(run.cell.method + suffix, []).append(history)
    against, columns, titles = list(against), min(ABREAST, len(panels)), list(panels)
    places: list[tuple[str, str] | None] = []
    for i in range(0, len(titles), ABREAST):  # a block of rows for each few titles
        block = titles[i : i + ABREAST]
        for x in against:
            places += [(x, title) for title in block] + [None] * (columns - len(block))
    figure, axes = grid(len(places), columns, (3.4, 2.8))
    for axis, place in zip(axes, places, strict=False):
        if place is None:
            axis.remove()
            continue
        x, title = place
        for name in sorted(panels[title], key=lambda name: (list(METHODS).index(name.split()[0]), name)):
            how = {"color": colour(name.split()[0]), "ls": "--" if "own" in name else "-"}
            how |= {"drawstyle": "steps-post"} if x == "seconds" else {}
            each = [history.groupby(x)["best_so_far"].last() for history in panels[title][name]]
            table = pandas.concat(each, axis=1).sort_index().ffill()
            mean = table.dropna().mean(axis=1)
            axis.plot(mean.index, mean, lw=2, label=f"{name}, n = {len(each)}", **how)
            axis.plot(table.index, table, lw=0.8, alpha=0.4, **how)
        axis.set(title=title, xlabel="seconds of search" if x == "seconds" else x)
        if x == "seconds":
            _log_seconds(axis)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_xlim(left=0.5)  # there is no generation 0
        if x == against[-1]:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2, frameon=False, fontsize="small")
        last = [run["best_so_far"].iloc[-1] for runs in panels[title].values() for run in runs]
        if max(last) > 5 * min(last) > 0:
            axis.set_yscale("log", subs=[])
            axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        cut(axis, max(last))
    for first in axes[:: columns or 1]:
        first.set_ylabel("best fitness so far" if places else "no record")
    return figure


def _log_seconds(axis) -> None:
    """A logarithmic axis of seconds, with labels that do not overlap."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    if high < 100 * low:  # it holds one or two powers of ten, or none
        axis.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


@style()
def filter_shares(groups: Mapping[str, Iterable], columns: int = 3) -> Figure:
    """Draw how the candidates of each generation came by their fitness (Fig. 5), as stacked shares of the population.

    Args:
        groups: title -> runs. Each title has a panel, which shows the mean over its runs, or is empty if there are none.
    """
    figure, axes = grid(len(groups), columns, (3.2, 2.5), sharey=True)
    drawn: dict = {}
    for axis, (title, runs) in zip(axes, groups.items(), strict=False):
        if not (runs := list(runs)):
            axis.set(title=title, xticks=[])
            axis.text(0.5, 0.5, "no record", ha="center", va="center", transform=axis.transAxes)
            continue
        shares = outcome_shares(runs)
        bottoms, width = shares.cumsum(axis=1) - shares, 0.9 if len(shares) < 20 else 1
        for outcome, shade in zip(shares, SHARES, strict=True):
            drawn[outcome] = axis.bar(shares.index, shares[outcome], width, bottoms[outcome], color=shade, lw=0)
        axis.set(title=title, xlabel="generation", ylim=(0, 1), xlim=(0.5, len(shares) + 0.5))
        axis.grid(False, axis="x")
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("share of the population" if groups else "no record")
    figure.legend(list(drawn.values()), list(drawn), reverse=True, loc="outside right upper", fontsize="small")
    return figure


def outcome_shares(runs: Iterable) -> pandas.DataFrame:
    """A table of generations (from 1) by outcomes: shares of the population, the mean over runs.

    A run is anything with a `history`, such as a `Run` or a `SearchState`.
    """
    counts = pandas.concat([pandas.DataFrame(run.history) for run in runs]).groupby("generation")[list(OUTCOMES)].mean()
    counts.index = counts.index.astype(int) + 1
    names = {"symbolic": "symbolic hit", "equivalent": "gradient hit", "non_finite": "not finite"}
    return counts.div(counts.sum(axis=1), axis=0).rename(columns=names)


@torch.no_grad()
def elementwise(loss, y: float, f: torch.Tensor):
    """M(y, f) of any loss of this package at one label, as an array like `f`, (n,), for a plot."""
    f = f.to(next(loss.parameters(), f))
    return (loss.elementwise(torch.full_like(f, y), f) + 0 * f).cpu().numpy()


@style()
def draw_network(loss, digits: int = 4) -> Figure:
    """Draw a symbolic loss as the network that it was compiled to (Fig. 2).

    Edges run from the terminals to the output, each with its weight. A parent's first argument is drawn above its second.
    """
    names, children = [expression.node_name(node) for node in loss.tree], expression.children(loss.tree)
    edges = [(child, parent) for parent, arguments in enumerate(children) for child in arguments]
    leaves = [node for node in range(len(names)) if not children[node]]
    x, y = [0] * len(names), [0.0] * len(names)  # the root stands to the right
    for child, parent in edges:  # parents come first
        x[child] = x[parent] - 1
    for node in reversed(range(len(names))):
        y[node] = sum(y[c] for c in children[node]) / len(children[node]) if children[node] else -leaves.index(node)
    width, height = 1.15 * (2 - min(x)), max(1.0, 0.5 * len(leaves) + 0.3)  # inches
    scale = min(1.0, 14 / width, 12 / height)  # a large tree is drawn smaller
    font = 10 * max(scale, 0.45)
    axis = (figure := Figure(figsize=(width * scale, height * scale), layout="constrained")).subplots()
    colours = {"y": (*PALETTE[1], 0.45), "f": (*PALETTE[0], 0.45), "1": "0.85", "-1": "0.85"}
    label = {"ha": "center", "va": "center"}
    shapes = []
    for node, name in enumerate(names):
        shape = "round,pad=0.35" if children[node] else "circle,pad=0.3"
        box = {"boxstyle": shape, "fc": colours.get(name, "white"), "ec": "0.3", "lw": 0.8 * scale}
        text = axis.text(x[node], y[node], SYMBOLS.get(name, name), fontsize=font, bbox=box, **label)
        shapes.append(text.get_bbox_patch())
    arrow = {"arrowstyle": "-|>", "color": "0.45", "lw": max(scale, 0.4), "shrinkA": 1, "shrinkB": 1}
    blank = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
    for c, p in edges:
        ends = arrow | {"patchA": shapes[c], "patchB": shapes[p]}
        axis.annotate("", (x[p], y[p]), (x[c], y[c]), arrowprops=ends)
        middle = 0.52 * x[c] + 0.48 * x[p], 0.52 * y[c] + 0.48 * y[p]
        weight = f"{loss.weights[c - 1].item():#.{digits}g}".replace("-", "−")
        axis.text(*middle, weight, fontsize=0.75 * font, color="0.25", bbox=blank, **label)
    axis.annotate("", (0.9, y[0]), (0, y[0]), arrowprops=arrow | {"patchA": shapes[0]})
    axis.text(0.9, y[0], " softplus" if loss.non_negative else r" $\mathcal{M}$", va="center", fontsize=font)
    axis.set(xlim=(min(x) - 0.35, 1.4), ylim=(-len(leaves) + 0.45, 0.55))
    axis.axis("off")
    return figure


def cut(axis, last: float) -> None:
    """End the axis at twice the last value, because early candidates can be worse by orders of magnitude."""
    low, high = axis.dataLim.y0, 2 * last
    if axis.get_ylim()[1] > high > 0:
        axis.set_ylim(None if axis.get_yscale() == "log" else low - 0.05 * (high - low), high)
