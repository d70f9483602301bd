"""Error against base learning rate (Fig. 8): the grid's cells, its table, its figure, and the words for both."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from evomal_core.config import Config
from evomal_core.experiments.cell import Cell
from evomal_core.experiments.facts import STATUSES
from evomal_core.experiments.store import Run

from . import report
from .plots import colour, grid, style
from .searches import SAID

REFERENCE = report.REFERENCE / "rates"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BOTH, ALONE = "search and test", "test alone"
FIELDS = {BOTH: "base_learning_rate", ALONE: "test_learning_rate"}  # of `Config`
COLUMNS = ["source", "panel", "method", "rate", "seed", "status", "error", "validation"]


def cells(rows: Iterable[Cell], rates: Iterable[float] = RATES) -> list[Cell]:
    """The grid of both panels for some rows: each at its usual rate, and at every other rate in both ways.

    The control `tuned` chooses its rate itself, so it has the usual cell alone.
    """
    found = []
    for row in rows:
        found.append(row)
        if row.method != "tuned":
            usual = Config.for_cell(row).base_learning_rate
            found += [row.with_overrides({name: r}) for name in FIELDS.values() for r in rates if r != usual]
    return list(dict.fromkeys(found))


def tidy(records: report.Records, row: Cell) -> pandas.DataFrame:
    """The runs of a grid: source, panel, method, rate, seed, status, test and validation error (NaN if the run failed).

    Args:
        row: of the data set, model, budget and protocol that are wanted; its method and seed do not count.

    A run at the usual rate belongs to both panels. `tuned` has the panel "tuned", and the rate that it chose. A search at the
    usual rate that found no loss has no test, so it stands as failed at every rate of its source's panel "test alone". Runs
    that could not be made ("unavailable", "failed") say nothing of a rate, and are left out.
    """
    lines = []
    for source in report.SOURCES:
        placed = [(r, place) for r in getattr(records, source) if r.status in STATUSES for place in _places(r, row)]
        tested = sorted({rate for _, (panel, rate) in placed if panel == ALONE})
        for run, (panel, place) in placed:
            without = panel == ALONE and run.status == "no_loss"
            for rate in tested if without else [place]:
                measured = (run.test_metric, run.data.get("validation_metric")) if run.status == "complete" else ()
                errors = dict(zip(("error", "validation"), (*measured, math.nan, math.nan), strict=False))
                names = {"source": source, "panel": panel, "method": run.cell.method, "rate": rate}
                lines.append(names | {"seed": run.cell.seed, "status": run.status} | errors)
    found = pandas.DataFrame(lines, columns=COLUMNS)
    return found.drop_duplicates(["source", "panel", "method", "rate", "seed"], ignore_index=True)


def _places(run: Run, row: Cell) -> list[tuple[str, float]]:
    """The panels in which a run stands, each with its rate; none for a run of something else."""
    cell, usual = run.cell, Config.for_cell(row).base_learning_rate
    if cell.source or (cell.dataset, cell.model, cell.protocol) != (row.dataset, row.model, row.protocol):
        return []
    if cell.budget == row.budget:
        return (
            [("tuned", run.data.get("learning_rate") or math.nan)]
            if cell.method == "tuned"
            else [
                (BOTH, usual),
                (ALONE, usual),
            ]
        )
    if cell.method == "tuned":
        return []
    for panel, field in FIELDS.items():
        changed = replace(cell, budget=row.budget).with_overrides({field: getattr(Config.for_cell(cell), field)})
        if changed == cell:
            return [(panel, getattr(Config.for_cell(cell), field))]
    return []


def summary(table: pandas.DataFrame) -> pandas.DataFrame:
    """Mean, standard deviation (n − 1), n and failed runs of each source, panel, method and rate of `tidy`."""
    groups = table.groupby(["source", "panel", "method", "rate"])
    result = groups["error"].agg(mean="mean", std="std", n="count")
    result["failed"] = groups.size() - result["n"]
    return result


def display(table: pandas.DataFrame) -> pandas.DataFrame:
    """`summary` for reading: a row for each panel and rate, a column for each method."""
    found = summary(table[table["panel"] != "tuned"])
    texts = [
        f"{report.number(row.mean)}{'' if pandas.isna(row.std) else f' ± {report.number(row.std)}'} (n = {row.n}"
        f"{f', {row.failed} failed' if row.failed else ''})"
        for row in found.itertuples()
    ]
    return pandas.Series(texts, found.index).unstack("method").fillna("–")


def at_each_rate(table: pandas.DataFrame, method: str = "evomal", other: str = "baseline") -> pandas.DataFrame:
    """One method against another at each rate of each panel, paired over seeds: what `report.paired` says, and failures.

    A seed with which either run failed has no pair, and is counted in `failed`.
    """
    rows = []
    for (source, panel, rate), group in table.groupby(["source", "panel", "rate"]):
        by_seed = group.pivot(index="seed", columns="method", values="error")
        if {method, other} <= set(by_seed):
            both = group[group["method"].isin([method, other])]
            pairs = (by_seed[method] - by_seed[other]).dropna()
            if len(pairs):
                failed = int(both["error"].isna().sum())
                rows.append({"source": source, "panel": panel, "rate": rate, "failed": failed} | report.paired(pairs))
    return pandas.DataFrame(rows, columns=["source", "panel", "rate", "failed", *report.paired([0.0])])


def best_rate(table: pandas.DataFrame, panel: str, method: str) -> float:
    """The rate with the lowest mean validation error over the seeds that have a run at every rate of the panel.

    A rate at which one of these runs failed is not taken. NaN if there is none. The test error has no say.
    """
    part = table[(table["panel"] == panel) & (table["method"] == method)]
    part = part[part.groupby("seed")["rate"].transform("nunique") == part["rate"].nunique()]
    means = part.groupby("rate")["validation"].agg(lambda values: values.mean(skipna=False)).dropna()
    return float(means.idxmin()) if len(means) else math.nan


def at_best(table: pandas.DataFrame, panel: str, method: str = "evomal", usual: float | None = None) -> dict:
    """A method against the baseline at the baseline's best rate (section V-E's second claim), paired over seeds.

    Args:
        table: of one source.
        usual: the method's rate; None for the method's own best (`best_rate`).

    Returns:
        rate (of the method), base (of the baseline), and what `report.paired` says of the differences.
    """
    rates = {"baseline": best_rate(table, panel, "baseline"), method: usual or best_rate(table, panel, method)}
    errors = [
        table[(table["panel"] == panel) & (table["method"] == m) & (table["rate"] == r)].set_index("seed")["error"]
        for m, r in ((method, rates[method]), ("baseline", rates["baseline"]))
    ]
    differences = (errors[0] - errors[1]).dropna()
    return {"rate": rates[method], "base": rates["baseline"]} | report.paired(differences)


def words(table: pandas.DataFrame, usual: float, methods: Iterable[str] = ("evomal", "gp-lfl")) -> list[str]:
    """Sentences on the second claim of section V-E, from a table of `tidy`."""
    lines = []
    for source, part in table.groupby("source"):
        for panel in (BOTH, ALONE):
            for method in methods:
                if not {method, "baseline"} <= set(part[part["panel"] == panel]["method"]):
                    continue
                for rate, how in ((usual, "the usual rate"), (None, "its own best rate")):
                    row = at_best(part, panel, method, rate)
                    if not row["n"]:
                        continue
                    text = f"{source}, rate varied in {panel}: the error of {method} at {how} ({row['rate']:g}) "
                    base = f"the baseline's at its best rate ({row['base']:g})"
                    difference = f"{row['difference']:+.4f}"
                    if row["n"] < 3:
                        text += f"differs from {base} by {difference}; n = {row['n']} is too few for a verdict."
                    else:
                        limits = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
                        text += f"is {SAID[row['finding']]} {base}: {difference} {limits}, n = {row['n']}."
                    lines.append(text)
    return lines or ["There is no grid yet."]


@style()
def draw(table: pandas.DataFrame, published: str = "") -> Figure:
    """Error against rate: a dot a run, a line through the means, a band from the lowest run to the highest.

    Runs that failed are crosses in rows at the top, a row a method, with their number beside each. The n of the legend counts
    the other runs.

    Args:
        table: of `tidy`, of one source.
        published: text below the title.
    """
    figure, axes = grid(2, 2, (4.6, 3.6), sharey=True)
    low, high = (table["error"].min(), table["error"].max()) if table["error"].notna().any() else (0.1, 1.0)
    methods = sorted(set(table["method"]) - {"tuned"})
    gone = set(table[table["error"].isna()]["method"])
    marked = {method: place for place, method in enumerate(method for method in methods if method in gone)}
    step = (high / low) ** 0.08 * 1.05  # between rows of crosses, on the logarithmic axis
    top = high * step ** (len(marked) + 0.5)
    for axis, panel in zip(axes, (BOTH, ALONE), strict=False):
        part = table[table["panel"] == panel]
        for method, runs in part.groupby("method"):
            means = runs.groupby("rate")["error"].mean()
            errors = runs.groupby("rate")["error"]
            counts = sorted({*errors.count()})
            n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
            axis.fill_between(means.index, errors.min(), errors.max(), color=colour(method), alpha=0.15, lw=0)
            axis.plot(means.index, means, color=colour(method), lw=2, label=f"{method}, {n}")
            axis.plot(runs["rate"], runs["error"], "o", color=colour(method), ms=4, alpha=0.55, mec="none")
            for rate, failed in runs[runs["error"].isna()].groupby("rate").size().items():
                height = high * step ** (marked[method] + 1)
                axis.plot(rate, height, "x", color=colour(method), ms=6, mew=2)
                side = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": "small"}
                axis.annotate(f"{failed}", (rate, height), color=colour(method), **side)
        tuned = table[table["panel"] == "tuned"]["error"]
        if tuned.notna().any():
            axis.axhline(tuned.mean(), color=colour("tuned"), ls="--", lw=1.5, label=f"tuned rate, n = {tuned.count()}")
        axis.set(
            xscale="log",
            yscale="log",
            title=f"rate varied in {panel}",
            xlabel="base learning rate" + (" (×: failed runs)" if marked else ""),
        )
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        ticks = [t for t in (0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1, 2, 5) if low * 0.9 <= t <= top]
        axis.set_yticks(ticks or [low])
        axis.set_ylim(low / step**0.5, top)
        axis.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    axes[0].set_ylabel("test error")
    if published:
        figure.suptitle(published)
    return figure
