"""The figure of the README: three findings at the full budget, each a panel, read from the committed records.

`findings` measures, `titles` puts into words what was measured, and `figure` draws. To make the file again:
`./run python -m evomal_notebooks.landing`.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy
import pandas
import PIL.Image
import PIL.PngImagePlugin
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from . import conventions, plots, report
from .comparisons import interval, paired

PATH = report.REFERENCE / "figures" / "landing.png"
NAMES = {
    "evomal": "EvoMAL",
    "baseline": "cross-entropy",
    "tuned": "cross-entropy,\nrate tuned",
    "random": "random\nsearch",
}
MNIST = ("mnist", "logistic")
DIABETES = ("diabetes", "mlp")
TITLE, SMALL = 9.5, 8.2  # points


@dataclass(frozen=True)
class Findings:
    """What the three panels show.

    Attributes:
        trainings: of `conventions.trainings`, at the full budget under the protocol `paper`, of the two tasks.
        mnist: EvoMAL against cross-entropy from fresh weights on MNIST, a row of `conventions.against`.
        searchs, fresh: EvoMAL against squared error on Diabetes, from the search's weights and from fresh ones.
        pairs: a row a seed of MNIST: fitness and test error from fresh weights, of EvoMAL and of random search.
        fitness, error: what the differences EvoMAL − random search in `pairs` say, of `comparisons.paired`.
    """

    trainings: pandas.DataFrame
    mnist: pandas.Series
    searchs: pandas.Series
    fresh: pandas.Series
    pairs: pandas.DataFrame
    fitness: pandas.Series
    error: pandas.Series


def findings(reference_dir=None) -> Findings:
    """Measure all three on the committed records alone.

    Raises:
        IndexError: a comparison that has no records.
    """
    reference = Path(reference_dir or report.REFERENCE)
    nowhere = reference / "figures"  # own results are left out
    found = conventions.trainings(nowhere, reference).query("budget == 'paper' and protocol == 'paper'")
    found = pandas.concat([_of(found, MNIST), _of(found, DIABETES)])
    fresh = conventions.against(found, conventions.FRESH)
    pairs = _pairs(report.collect(nowhere, reference_dir=reference).reference)
    differences = {name: pairs[name, "evomal"] - pairs[name, "random"] for name in ("fitness", "error")}
    return Findings(
        found,
        _of(fresh, MNIST).iloc[0],
        _of(conventions.against(found, conventions.SEARCHS), DIABETES).iloc[0],
        _of(fresh, DIABETES).iloc[0],
        pairs,
        *(pandas.Series(paired(values)) for values in differences.values()),
    )


def _of(table: pandas.DataFrame, task: tuple[str, str]) -> pandas.DataFrame:
    return table[(table["dataset"] == task[0]) & (table["model"] == task[1])]


def _pairs(runs) -> pandas.DataFrame:
    rows = [
        (run.cell.method, run.cell.seed, run.history["best_so_far"].iloc[-1], run.test_metric)
        for run in runs
        if (run.cell.dataset, run.cell.model) == MNIST
        and (run.cell.budget, str(run.cell.protocol)) == ("paper", "paper")
        and run.cell.method in ("evomal", "random")
    ]
    table = pandas.DataFrame(rows, columns=["method", "seed", "fitness", "error"])
    return table.pivot(index="seed", columns="method").astype(float).dropna()


def _size(row) -> str:
    return f"{report.number(row.difference, '+')} {interval(row)}".replace("-", "−")


def titles(found: Findings) -> list[str]:
    """The title of each panel: a sentence that is true of the records, whatever they say."""
    verb = {"smaller": "have less error than", "larger": "have more error than", "open": "are not shown to differ from"}
    first = f"MNIST, fresh weights: EvoMAL's losses\n{verb[found.mnist.finding]} cross-entropy"
    near, far = (f"{row.lower} of {row.n}" for row in (found.searchs, found.fresh))
    second = f"Diabetes: {near} losses beat squared error\nfrom the search's weights, {far} from fresh ones"
    n, fitter, better = len(found.pairs), found.fitness.lower, found.error.lower
    third = f"MNIST, against random search: fitness is\nlower on {fitter} of {n} seeds, test error on {better} of {n}"
    return [first, second, third]


def description(found: Findings) -> str:
    """The figure in words: each title with the differences and their 95 % intervals. It stands in the file, too."""
    first, second, third = (title.replace("\n", " ") for title in titles(found))
    sizes = [_size(row) for row in (found.mnist, found.searchs, found.fresh, found.fitness, found.error)]
    return (
        f"{first} ({sizes[0]}). {second} ({sizes[1]} and {sizes[2]}). "
        f"{third} ({sizes[3]} and {sizes[4]}). Mean paired differences with 95 % intervals; EvoMAL minus the other."
    )


@plots.style()
def figure(found: Findings) -> Figure:
    """Draw the three panels of `findings`."""
    drawn = Figure(figsize=(11.6, 3.9), layout="constrained")
    axes = drawn.subplots(1, 3, width_ratios=(1.05, 1, 1.15))
    _strip(axes[0], found)
    _starts(axes[1], found)
    _searches(axes[2], found)
    for axis, letter, title in zip(axes, "abc", titles(found), strict=True):
        axis.set_title(f"({letter}) {title}", loc="left", fontsize=TITLE)
        axis.grid(False, axis="x")
        axis.yaxis.label.set_size(TITLE)
        axis.tick_params(axis="y", labelsize=SMALL)
    drawn.get_layout_engine().set(w_pad=0.1, h_pad=0.05)
    return drawn


def _dots(axis, place: float, values, method: str, spread: float = 0.17) -> None:
    offsets = numpy.random.default_rng(0).uniform(-spread, spread, len(values))
    axis.plot(place + offsets, values, "o", ms=5, mew=0, alpha=0.7, color=plots.colour(method))


def _strip(axis, found: Findings) -> None:
    """A dot a training from fresh weights, the mean over losses, and the published mean and deviation."""
    methods = ("evomal", "baseline", "tuned")
    here = _of(found.trainings, MNIST).query("convention == @conventions.FRESH")
    paper = report.paper_table("table2").query("dataset == @MNIST[0] and model == @MNIST[1]").set_index("method")
    published = {"fmt": "D", "mfc": "none", "ms": 6, "color": "0.25", "capsize": 3, "lw": 1.1}
    for place, method in enumerate(methods):
        mine = here[here["method"] == method]
        _dots(axis, place, mine["error"], method)
        axis.hlines(mine.groupby("loss_seed")["error"].mean().mean(), place - 0.24, place + 0.24, "0.15", lw=1.6)
        if method in paper.index:
            row = paper.loc[method]
            drawn = axis.errorbar(place + 0.36, row["mean"], row["std"], **published)
            drawn.set_label("published" if place == 0 else None)
    losses = here[here["method"] == "evomal"]["loss_seed"].nunique()
    counts = [len(here[here["method"] == method]) for method in methods]
    words = [f"{NAMES[m]}\n{n} trainings" for m, n in zip(methods, counts, strict=True)]
    words[0] += f",\n{losses} losses"
    axis.set_xticks(range(len(methods)), words, fontsize=SMALL)
    axis.set(xlim=(-0.45, len(methods) - 0.5), ylabel="test error rate")
    axis.text(0.98, 0.98, f"EvoMAL − cross-entropy\n{_size(found.mnist)}", **_corner(axis, "right"))
    axis.legend(loc="lower right", fontsize=SMALL, frameon=True)


def _starts(axis, found: Findings) -> None:
    """Test errors from both kinds of weights, on a logarithmic axis; what diverged stands at the upper edge."""
    places = (conventions.SEARCHS, conventions.FRESH)
    here = _of(found.trainings, DIABETES).query("convention in @places")
    finite = here["error"][numpy.isfinite(here["error"])]
    axis.set(yscale="log", ylim=(finite.min() / 1.35, top := finite.max() * 10), ylabel="test mean squared error (log)")
    for place, name in enumerate(places):
        for side, method in ((-0.16, "evomal"), (0.16, "baseline")):
            errors = here[(here["method"] == method) & (here["convention"] == name)]["error"]
            inside = errors[numpy.isfinite(errors)]
            _dots(axis, place + side, inside, method, 0.0 if method == "evomal" else 0.07)
            if failed := len(errors) - len(inside):
                axis.plot([place + side], [top], "^", ms=8, color=plots.PALETTE[3], clip_on=False)
                axis.text(place + side + 0.06, top, f" {failed} diverged", va="center", fontsize=SMALL)
    lines = here[here["method"] == "evomal"].pivot_table(index="loss_seed", columns="convention", values="error")
    for _, row in lines.reindex(columns=places).dropna().iterrows():
        axis.plot([-0.16, 0.84], row, lw=0.9, alpha=0.5, color=plots.colour("evomal"))
    for method, words in (("evomal", "EvoMAL, a line a loss"), ("baseline", "squared error")):
        axis.plot([], [], "o", ms=5, color=plots.colour(method), label=words)
    axis.set_xticks(range(2), [f"from\n{name}" for name in places], fontsize=SMALL)
    axis.set_xlim(-0.5, 1.5)
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    said = [
        f"{word} {_size(row)}" for word, row in (("search's weights:", found.searchs), ("fresh weights:", found.fresh))
    ]
    axis.text(0.02, 0.98, "EvoMAL − squared error\n" + "\n".join(said), **_corner(axis, "left"))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2, "columnspacing": 1.2}
    axis.legend(**below, fontsize=SMALL, frameon=False)


def _searches(axis, found: Findings) -> None:
    """A line a seed from random search to EvoMAL: fitness at the left, test error from fresh weights at the right."""
    words = []
    for k, (name, row) in enumerate((("fitness", found.fitness), ("error", found.error))):
        for _, pair in found.pairs[name].iterrows():
            axis.plot([2.4 * k, 2.4 * k + 1], pair[["random", "evomal"]], color="0.6", lw=1)
        for x, method in ((2.4 * k, "random"), (2.4 * k + 1, "evomal")):
            axis.plot([x] * len(found.pairs), found.pairs[name, method], "o", ms=5, mew=0, color=plots.colour(method))
        words.append(_size(row).replace(" [", "\n["))
    axis.set_xticks([0, 1, 2.4, 3.4], [NAMES["random"], NAMES["evomal"]] * 2, fontsize=SMALL)
    low, high = axis.get_ylim()
    axis.set(xlim=(-0.5, 3.9), ylim=(low, high + 0.3 * (high - low)), ylabel="error rate")
    heads = ("fitness\n(validation part)", "test part,\nfresh weights")
    for x, head, size in zip((0.25, 0.77), heads, words, strict=True):
        axis.text(x, 0.98, f"{head}\n{size}", **_corner(axis, "center"))


def _corner(axis, side: str) -> dict:
    return {"transform": axis.transAxes, "va": "top", "ha": side, "fontsize": SMALL, "color": "0.2"}


def save(path=PATH, reference_dir=None) -> Path:
    """Write the figure as PNG at 150 dots an inch; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found, drawn = findings(reference_dir), io.BytesIO()
    figure(found).savefig(drawn, format="png", dpi=150)
    few = PIL.Image.open(drawn).convert("RGB").quantize(96, dither=PIL.Image.Dither.NONE)
    about = PIL.PngImagePlugin.PngInfo()
    about.add_itxt("Description", description(found))
    few.save(path, format="png", optimize=True, dpi=(150, 150), pnginfo=about)
    return path


if __name__ == "__main__":
    print(save())
