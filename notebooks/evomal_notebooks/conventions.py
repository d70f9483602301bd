"""Where a test begins, and by what its loss was chosen: the same searches under each convention, side by side.

A search is tested from the initial weights and batches that its losses were selected on, as the released code does, or from
fresh ones: those of its own seed and, for more starts, those of other seeds (a cell with the `source` "diabetes/mlp/3" tests
the loss of the search of seed 3). The other conventions are tests from fresh weights, too.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy
import pandas
from matplotlib.figure import Figure

from evomal_core.config import Config, Protocol
from evomal_core.experiments import store
from evomal_core.experiments.cell import Cell

from . import plots, report
from .comparisons import interval, paired, place

# (test_start, selection, test_stop) -> name of the convention
CONVENTIONS = {
    ("search", "fitness", "end"): "the search's weights",
    ("fresh", "fitness", "end"): "fresh weights",
    ("fresh", "fitness", "validation"): "fresh, step by validation",
    ("fresh", "halving", "end"): "fresh, robust",
    ("fresh", "resplit", "end"): "fresh, robust, parts redrawn",
    ("fresh", "halving", "validation"): "fresh, robust, step by validation",
}
SEARCHS, FRESH, STOPPED, ROBUST, REDRAWN, BOTH = CONVENTIONS.values()
BY_CONTEST = (ROBUST, REDRAWN, BOTH)
LABELS = {  # below the columns of a figure
    SEARCHS: "search's\nweights",
    FRESH: "fresh\nweights",
    STOPPED: "best\nstep",
    ROBUST: "fresh,\nrobust",
    REDRAWN: "parts\nredrawn",
    BOTH: "robust,\nbest step",
}
PUBLISHED = -1.2  # where the published mean stands, left of the columns
# Convention -> that of the other method beside it, where this is not fresh weights: equals are compared
BESIDE = {SEARCHS: SEARCHS, STOPPED: STOPPED, BOTH: STOPPED}
ROW = ["source", "dataset", "model", "protocol", "budget", "method"]


def cells(searches: Iterable[Cell], starts: int) -> list[Cell]:
    """The cells that test each search under every convention of the table.

    Args:
        searches: cells of their own search.
        starts: fresh starts with the loss of best fitness, and with the one that wins its contest: those of the search's own
            seed and of the lowest other ones.
    """
    found = []
    for cell in searches:
        names = [f"{cell.protocol}+test_start=search", f"{cell.protocol}+test_stop=validation"]
        found += [replace(cell, protocol=name) for name in names]
        others = [seed for seed in range(starts) if seed != cell.seed][: starts - 1]
        for protocol in (cell.protocol, f"{cell.protocol}+selection=halving"):
            found.append(replace(cell, protocol=protocol))
            source = f"{cell.dataset}/{cell.model}/{cell.seed}"
            found += [replace(cell, protocol=protocol, seed=seed, source=source) for seed in others]
    return found


def convention(cell: Cell) -> str | None:
    """The convention of a cell's test; None for one that is not named here."""
    config = Config.for_cell(cell)
    return CONVENTIONS.get((config.test_start, config.selection, config.test_stop))


def of_search(protocol: str) -> str:
    """A protocol without what concerns tests alone."""
    return str(Protocol.parse(protocol).of_search)


def of_convention(records: report.Records, name: str) -> report.Records:
    """The runs whose test has this convention, under the protocol of their search.

    A search that found no loss is one of every convention, unless its records say what another loss did there.
    """

    def chosen(runs: Iterable[store.Run]) -> list[store.Run]:
        tested = [run for run in runs if run.status != "no_loss" and convention(run.cell) == name]
        there = {run.cell.search for run in tested}
        without = [run for run in runs if run.status == "no_loss" and run.cell.search not in there]
        return [replace(r, cell=replace(r.cell, protocol=of_search(r.cell.protocol))) for r in tested + without]

    return report.Records(chosen(records.reference), chosen(records.own), records.damaged)


def searches(records: report.Records) -> report.Records:
    """One run for each search, however often its loss was tested: that from fresh weights where there is one."""

    def once(runs: Iterable[store.Run]) -> list[store.Run]:
        kept: dict[Cell, store.Run] = {}
        for run in runs:
            if run.cell.search not in kept or convention(run.cell) == FRESH:
                kept[run.cell.search] = run
        return [replace(r, cell=replace(r.cell, protocol=of_search(r.cell.protocol))) for r in kept.values()]

    return report.Records(once(records.reference), once(records.own), records.damaged)


def both(records: report.Records, paper: pandas.DataFrame, rows: Iterable, bold: str = "{}") -> pandas.DataFrame:
    """A summary for reading with the two columns of each source: from the search's weights, and from fresh ones."""
    parts = {}
    for name in (SEARCHS, FRESH):
        table = report.summary(of_convention(records, name), paper, rows)
        parts[name] = report.display_summary(table, bold)
    shown = pandas.DataFrame({"published": pandas.concat([part["published"] for part in parts.values()])})
    shown = shown[~shown.index.duplicated()].reindex(parts[FRESH].index.union(parts[SEARCHS].index, sort=False))
    for source in report.SOURCES:
        for name, part in parts.items():
            if (column := f"{source} runs") in part:
                shown[f"{source}, from {name}"] = part[column]
    return shown.fillna("no record")


def across(records: report.Records, paper: pandas.DataFrame, rows: Iterable, bold: str = "{}") -> pandas.DataFrame:
    """What `both` has with a row for each data set and method, and a column for each budget, protocol and start.

    Columns and rows without any record are left out.
    """
    shown = both(records, paper, rows, bold)
    where = [name for name in shown.index.names if name not in ("protocol", "budget")]
    columns = {"published": shown["published"].groupby(where, sort=False).first()}
    for (budget, protocol), part in shown.groupby(["budget", "protocol"], sort=False):
        for column in part.columns.drop("published"):
            source, _, start = column.partition(", ")
            if (part[column] != "no record").any():
                name = f"{'your own, ' if source == 'own' else ''}{budget} budget, {protocol}, {start}"
                columns[name] = part[column].droplevel(["protocol", "budget"])
    order = sorted(columns, key=lambda name: (name != "published", "full" not in name))
    table = pandas.DataFrame(columns)[order].fillna("–").replace("no record", "–")
    return table[(table != "–").any(axis=1)].reindex(shown.groupby(where, sort=False).size().index).dropna()


def tests(results_dir, reference_dir) -> Iterator[tuple[str, store.Run]]:
    """(source of records, run) of all tests; a search in `reference_dir`/robust stands for the same in `reference_dir`."""
    reference = Path(reference_dir or report.REFERENCE)
    known: set[Cell] = set()
    for source, folder in (
        ("reference", reference / "robust"),
        ("reference", reference),
        ("own", store.results_dir(results_dir)),
    ):
        runs = [run for run in store.read_runs(folder)[0] if source == "own" or run.cell.search not in known]
        known |= {run.cell.search for run in runs if source == "reference"}
        yield from ((source, run) for run in runs)


def trainings(results_dir=None, reference_dir=None) -> pandas.DataFrame:
    """A row for each test of a loss on its own task: the row of a table, loss_seed, start_seed, convention, error.

    The error is on the test part; inf where the training diverged, and where the search found no loss. Tests with other
    settings than the budget's, such as another number of steps, have a budget of their own.
    """
    rows = []
    for source, run in tests(results_dir, reference_dir):
        cell, name = run.cell, convention(run.cell)
        if cell.transferred or name is None:
            continue
        key = (source, cell.dataset, cell.model, of_search(cell.protocol), cell.budget, cell.method)
        error = math.inf if run.test_metric is None else run.test_metric
        for each in CONVENTIONS.values() if run.status == "no_loss" else [name]:
            rows.append((*key, cell.search.seed, cell.seed, each, error, run.status == "no_loss"))
    table = pandas.DataFrame(rows, columns=[*ROW, "loss_seed", "start_seed", "convention", "error", "no_loss"])
    # A contest of a search without a loss ends with the task loss: its tests count, not that there was none.
    key = [*ROW, "loss_seed", "convention"]
    tested = table[~table["no_loss"]].set_index(key).index
    superseded = table["no_loss"] & pandas.Series(table.set_index(key).index.isin(tested), table.index)
    return table[~superseded].drop(columns="no_loss").reset_index(drop=True)


def table(found: pandas.DataFrame) -> pandas.DataFrame:
    """Mean and spread for each row and convention.

    Args:
        found: as `trainings` makes it.

    Returns:
        One row for each source, data set, model, protocol, budget, method and convention: mean and std over losses (n − 1)
        of a loss's mean over its starts; losses, how many; trainings, how many in all; failed, how many of these diverged
        or had no loss to train under, which are in neither mean.
    """
    rows = []
    for key, part in found.groupby([*ROW, "convention"], sort=False):
        finite = part[numpy.isfinite(part["error"])]
        means = finite.groupby("loss_seed")["error"].mean()
        numbers = {"mean": means.mean(), "std": means.std(), "losses": part["loss_seed"].nunique()}
        numbers |= {"trainings": len(part), "failed": len(part) - len(finite), "worst": finite["error"].max()}
        rows.append(dict(zip([*ROW, "convention"], key, strict=True)) | numbers)
    columns = [*ROW, "convention", "mean", "std", "losses", "trainings", "failed", "worst"]
    result = pandas.DataFrame(rows, columns=columns)
    place = {name: i for i, name in enumerate(CONVENTIONS.values())}
    keys = [
        (row.source, report.order(tuple(getattr(row, name) for name in report.KEYS)), place[row.convention])
        for row in result.itertuples()
    ]
    return result.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def display(found: pandas.DataFrame) -> pandas.DataFrame:
    """`table` for reading: a row for each method, a column for each convention."""
    shown = table(found)
    shown["text"] = [_text(row) for row in shown.itertuples()]
    wide = shown.set_index([*ROW, "convention"])["text"].unstack("convention", sort=False)
    return wide.reindex(columns=[c for c in CONVENTIONS.values() if c in wide]).fillna("–")


def _text(row) -> str:
    many = f"{row.losses} losses, {row.trainings} trainings" if row.trainings > row.losses else f"n = {row.losses}"
    failed = f"; {row.failed} failed" if row.failed else ""
    if row.failed == row.trainings:
        return f"all {row.failed} failed"
    spread = "" if math.isnan(row.std) else f" ± {report.number(row.std)}"
    return f"{report.number(row.mean)}{spread} ({many}{failed})"


def against(found: pandas.DataFrame, name: str, other: str = "baseline", method: str = "evomal") -> pandas.DataFrame:
    """A method's losses under a convention against another method's, start by start.

    The starts of a pair are equal: the search's of one seed, or fresh ones of one seed; where the step is chosen by
    validation, it is for both. A loss's differences are averaged
    over its starts before the interval is taken over losses, because starts of one loss are no independent searches. A
    training that failed is worse than any other.

    Returns:
        One row for each source, data set, model, protocol and budget: what `paired` says over losses, and how many pairs.
    """
    rows, key = [], ROW[:-1]
    mine = found.query("method == @method and convention == @name")
    theirs = found[(found["method"] == other) & (found["convention"] == BESIDE.get(name, FRESH))]
    theirs = theirs[theirs["loss_seed"] == theirs["start_seed"]]
    theirs = theirs.set_index([*key, "start_seed"])["error"]
    joined = mine.join(theirs.rename("other"), on=[*key, "start_seed"]).dropna(subset="other")
    joined = joined.assign(difference=(joined["error"] - joined["other"]).fillna(0.0))
    for names, part in joined.groupby(key, sort=False):
        of_loss = part.groupby("loss_seed")["difference"].mean()
        rows.append(dict(zip(key, names, strict=True)) | paired(of_loss) | {"pairs": len(part)})
    return pandas.DataFrame(rows, columns=[*key, *paired([0.0]), "pairs"])


def with_contest(found: pandas.DataFrame) -> pandas.DataFrame:
    """The trainings at the full budget, and those of a smaller one where a contest was held.

    There a method that holds contests is shown by the searches that have one, so that its columns are of equal losses.
    """
    where, each = ["dataset", "model", "budget"], ["method", "loss_seed"]
    held = found[found["convention"].isin(BY_CONTEST) & numpy.isfinite(found["error"])]

    def among(columns: list[str]) -> pandas.Series:
        chosen = pandas.MultiIndex.from_frame(found[columns]).isin(pandas.MultiIndex.from_frame(held[columns]))
        return pandas.Series(chosen, found.index)

    small = among(where) & (~among([*where, "method"]) | among([*where, *each]))
    return found[small | (found["budget"] == "paper")]


def panels(found: pandas.DataFrame, method: str = "evomal") -> list[tuple[str, str, str]]:
    """(dataset, model, budget) of the rows whose losses were tested from the search's weights, the full budget first."""
    found = with_contest(found)
    mine = found[(found["method"] == method) & (found["protocol"] == "paper") & (found["convention"] == SEARCHS)]
    rows = mine[["dataset", "model", "budget"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(rows, key=lambda row: (row[2] != "paper", row[2], report.order((*row[:2], method, "paper", row[2]))))


@plots.style()
def figure(found: pandas.DataFrame, tasks: Iterable[tuple[str, str, str]], method: str = "evomal") -> Figure:
    """A panel for each data set, model and budget: a dot for each training under a method's losses, a column a convention.

    The line is the mean of the baseline from fresh weights, the band its range. A training that failed, or ended above the
    axis, is a triangle at the upper edge, with the number of them. A hollow diamond is the published mean, where budget and
    split are the same.
    """
    tasks = list(tasks)
    drawn, axes = plots.grid(len(tasks), 3, (3.4, 3.2))
    some = found[found["protocol"] == "paper"]
    for axis, (dataset, model, budget) in zip(axes, tasks, strict=False):
        here = some[(some["dataset"] == dataset) & (some["model"] == model) & (some["budget"] == budget)]
        base = here[(here["method"] == "baseline") & (here["convention"] == FRESH)]
        every = base[base["loss_seed"] == base["start_seed"]]["error"]
        base = every[numpy.isfinite(every)]
        parts = dict(list(here[here["method"] == method].groupby("convention")["error"]))
        parts = {name: parts[name] for name in CONVENTIONS.values() if name in parts}
        top = _top(parts, base)
        if len(base):
            axis.axhspan(base.min(), base.max(), color="0.88", lw=0)
            axis.axhline(base.mean(), color="0.35", lw=1.2)
        for x, errors in enumerate(parts.values()):
            inside = errors[errors <= top]
            offsets = numpy.random.default_rng(0).uniform(-0.17, 0.17, len(inside))
            axis.plot(x + offsets, inside, "o", ms=4.5, mew=0, alpha=0.75, color=plots.colour(method))
            if outside := len(errors) - len(inside):
                axis.plot([x], [top], "^", ms=8, color=plots.PALETTE[3], clip_on=False)
                axis.text(x + 0.14, top, f"{outside}", va="center", color=plots.PALETTE[3], fontsize="small")
        comparable = report.alike(dataset, "paper", budget)
        if comparable and (mean := _published(dataset, model, method)) is not None:
            axis.plot([PUBLISHED], [mean], "D", ms=7, mfc="white", mec="0.15", mew=1.6)
        axis.set_title(f"{dataset}, {model}, {report.BUDGET.get(budget, budget)} budget", pad=14)
        if lost := len(every) - len(base):
            said = f"task loss: {lost} of {len(every)} failed"
            axis.text(0.98, 0.98, said, transform=axis.transAxes, ha="right", va="top", fontsize="small", color="0.35")
        axis.set(xlim=(PUBLISHED - 0.6 if comparable else -0.5, max(len(parts), 1) - 0.5), ylim=(None, top))
        names = {PUBLISHED: "published"} if comparable else {}
        names |= {x: LABELS[name] for x, name in enumerate(parts)}
        axis.set_xticks(list(names), list(names.values()), fontsize="small")
        axis.grid(False, axis="x")
        axis.set_ylabel("test error")
    return drawn


def _published(dataset: str, model: str, method: str) -> float | None:
    """The published mean error of a method in Tables II and III."""
    tables = pandas.concat([report.paper_table(name) for name in ("table2", "table3")])
    found = tables[(tables["dataset"] == dataset) & (tables["model"] == model) & (tables["method"] == method)]["mean"]
    return float(found.iloc[0]) if len(found) else None


def _top(parts: dict[str, pandas.Series], base: pandas.Series) -> float:
    """Upper end of an axis: what holds the baseline and all that is below twice its level."""
    errors = pandas.concat([base, *parts.values()])
    finite = errors[numpy.isfinite(errors)]
    level = base.max() if len(base) else finite.median()
    return 1.05 * max([level, *finite[finite <= 2 * level]]) if len(finite) else 1.0


def verdicts(
    found: pandas.DataFrame, method: str = "evomal", others: Iterable[str] = ("baseline", "tuned", "early")
) -> list[str]:
    """A line for each row, convention and other method: the mean difference of the errors, its interval, and the finding."""
    lines = []
    for name in CONVENTIONS.values():
        for other in others:
            for row in against(found, name, other, method).itertuples():
                where = f"{row.source}, {row.dataset}/{row.model} ({place(row)})"
                size = f"{report.number(row.difference, '+', 'a training failed')} {interval(row)}"
                lines.append(
                    f"{where}, from {name}: {method} − {other} {size}, {row.n} losses, {row.pairs} pairs: {row.finding}"
                )
    return lines or ["No loss was tested beside another method from an equal start yet."]
