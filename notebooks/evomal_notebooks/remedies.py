"""Remedies for losses that fail from fresh weights, alone and together, with about the same seconds of search for each.

A remedy is a switch that neither the text nor the released code has. The search of the text spends the seconds on more
generations instead, so a remedy is worth its cost where its losses have less error than those of this longer search.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import evomal_core as ec
from evomal_core.config import Config
from evomal_core.experiments import store

from . import plots, report
from .answers import _and
from .comparisons import interval, paired
from .layout import Answer

METHOD = "evomal"
COMMITTED = (  # rows of the committed searches
    ec.Cell("mnist", "logistic", METHOD, 0, "paper"),
    ec.Cell("diabetes", "mlp", METHOD, 0, "quick+test_steps=1000"),
)
STARTS = 5  # fresh starts that each loss is tested from
TEXT, LONGER, CONTEST, TOGETHER = "as in the text", "as in the text, longer", "contest", "starts, known losses, contest"
TASK_LOSSES = {"task loss": "baseline", "task loss, tuned rate": "tuned"}


@dataclass(frozen=True)
class Remedy:
    """A remedy: its switches of a protocol and its settings of a budget, as they stand in a cell, and what it does."""

    protocol: str = "paper"
    settings: str = ""
    said: str = ""


REMEDIES = {
    TEXT: Remedy(said="fitness from one start, the same for all candidates; fewer seconds than all others"),
    LONGER: Remedy(said="the same with more generations: what the seconds of a remedy give otherwise"),
    "mean of 3 starts": Remedy(
        settings="+fitness_starts=3+racing=True",
        said="fitness is the mean over three starts; a candidate behind all leaders after the first gets no second",
    ),
    "worst of 3 starts": Remedy(
        "paper+fitness_over=worst", "+fitness_starts=3+racing=True", "fitness is the worst of three starts"
    ),
    "a start each generation": Remedy(
        "paper+fitness_start=generation",
        said="each generation has a start of its own, from which elites are measured again",
    ),
    "known losses": Remedy(
        "paper+initial_losses=known", said="generation 0 holds squared error, Huber's, focal loss, …"
    ),
    "2 inner steps": Remedy(
        settings="+inner_steps=2", said="weights are learned through two steps of the base model instead of one"
    ),
    CONTEST: Remedy("robust", said="the leaders and the task loss meet over fresh starts, judged by validation"),
    "contest, parts redrawn": Remedy(
        "paper+selection=resplit", said="the same, with training and validation part redrawn from both for each start"
    ),
    TOGETHER: Remedy(
        "robust+fitness_start=generation+initial_losses=known",
        "+fitness_starts=3+racing=True",
        "three starts, new ones each generation, known losses, and the contest",
    ),
}
# Generations as multiples of those of the text, with which remedies take about the seconds of search and contest together.
# They follow from the seconds of one search each: of every remedy at the full budget on MNIST with a logistic regression, and
# of text and contest alone at the quick one on Diabetes. Seconds differ between seeds by more, and stand in the table.
FACTORS = {
    "paper": dict(zip(REMEDIES, (1, 1.24, 1.12, 1, 1.24, 1.24, 0.08, 1, 1, 0.9), strict=True)),
    "quick": dict(zip(REMEDIES, (1, 2.25, 2, 2, 2.25, 2.25, 0.5, 1, 1, 0.9), strict=True)),
}


def of_remedy(row: ec.Cell, name: str) -> ec.Cell:
    """The cell of a row's search under a remedy, with the generations that its seconds allow."""
    remedy, budget = REMEDIES[name], row.budget.split("+")[0]
    factors = FACTORS.get(budget, FACTORS["quick"])
    generations = max(1, round(Config.for_cell(row).generations * factors[name]))
    changes = f"+generations={generations}" if factors[name] != 1 else ""
    return replace(row, protocol=remedy.protocol, budget=row.budget + changes + remedy.settings)


def cells(rows: Iterable[ec.Cell], starts: int = STARTS) -> list[ec.Cell]:
    """The cells of all remedies, each loss from so many fresh starts, and of the task loss beside them from the same starts.

    Args:
        rows: cells of EvoMAL as in the text; each seed of a row is a search.
    """
    found = []
    for row in rows:
        seeds = [row.seed, *[seed for seed in range(starts) if seed != row.seed][: starts - 1]]
        found += [replace(row, method=method, seed=seed) for method in TASK_LOSSES.values() for seed in seeds]
        for name in REMEDIES:
            cell = of_remedy(row, name)
            source = f"{cell.dataset}/{cell.model}/{cell.seed}"
            found += [cell if seed == row.seed else replace(cell, seed=seed, source=source) for seed in seeds]
    return list(dict.fromkeys(found))


def trainings(rows: Iterable[ec.Cell], results_dir=None, reference_dir=None, own: bool = True) -> pandas.DataFrame:
    """A row for each test of a remedy's losses that has a record, and of the task loss beside them.

    Args:
        rows: cells of EvoMAL as in the text, one for each data set, model and budget; their seeds do not count.
        own: read the reader's records, too, and not the committed ones alone.

    Returns:
        dataset, model, budget (of the row), remedy, loss_seed, start_seed, error on the test part (inf where the training
        diverged or the search found no loss), seconds of search and contest. A reader's own record takes the place of a
        committed one.
    """
    reference = report.REFERENCE if reference_dir is None else reference_dir
    folders = [reference / name for name in ("remedies", "robust", "")]
    folders = [store.results_dir(results_dir), *folders] if own else folders
    runs: dict[ec.Cell, store.Run] = {}
    for folder in folders:
        for run in store.read_runs(folder)[0]:
            runs.setdefault(run.cell, run)
    names = {}
    for row in rows:
        about = {"dataset": row.dataset, "model": row.model, "budget": row.budget}
        names |= {_key(of_remedy(row, name)): about | {"remedy": name} for name in REMEDIES}
        names |= {_key(replace(row, method=m)): about | {"remedy": name} for name, m in TASK_LOSSES.items()}
    found = []
    for cell, run in runs.items():
        if not cell.transferred and (about := names.get(_key(cell))):
            seconds = run.seconds.get("search", math.nan) + run.seconds.get("selection", 0.0)
            error = math.inf if run.test_metric is None else run.test_metric
            where = {"loss_seed": cell.search.seed, "start_seed": cell.seed}
            found.append(about | where | {"error": error, "seconds": seconds})
    columns = ["dataset", "model", "budget", "remedy", "loss_seed", "start_seed", "error", "seconds"]
    return pandas.DataFrame(found, columns=columns)


def _key(cell: ec.Cell) -> tuple:
    return cell.dataset, cell.model, cell.method, cell.budget, cell.protocol


def table(found: pandas.DataFrame, other: str = LONGER) -> pandas.DataFrame:
    """What each remedy gives: a row for each data set, model, budget and remedy, in the order of `REMEDIES`.

    Args:
        found: as `trainings` makes it. Trainings from starts that the losses of `other` were not tested from do not count.
        other: what the remedies are held against.

    Returns:
        losses, trainings, failed (diverged, or without a loss; in no mean), mean and std over losses (n − 1) of a loss's mean
        over its starts, worst training, seconds of a search with its contest (mean), and what `comparisons.paired` says of
        the differences to the losses of `other`: of each seed, the mean over equal starts.
    """
    rows = []
    for task, part in _beside(found, other).groupby(["dataset", "model", "budget"], sort=False):
        for name in [n for n in (*REMEDIES, *TASK_LOSSES) if n in set(part["remedy"])]:
            mine = part[part["remedy"] == name]
            finite = mine[numpy.isfinite(mine["error"])]
            means = finite.groupby("loss_seed")["error"].mean()  # the task loss has one start a seed
            numbers = {"losses": mine["loss_seed"].nunique() if name in REMEDIES else 0, "trainings": len(mine)}
            numbers |= {"failed": int(numpy.isinf(mine["error"]).sum()), "mean": means.mean(), "std": means.std()}
            numbers |= {"worst": mine["error"].max(), "seconds": mine.groupby("loss_seed")["seconds"].first().mean()}
            if name in REMEDIES:
                difference = (mine["error"] - mine["other"]).fillna(0.0)  # two that failed are equal
                numbers |= paired(difference.groupby(mine["loss_seed"]).mean())
            rows.append(dict(zip(["dataset", "model", "budget"], task, strict=True)) | {"remedy": name} | numbers)
    measured = ["losses", "trainings", "failed", "mean", "std", "worst", "seconds", *paired([0.0])]
    return pandas.DataFrame(rows, columns=["dataset", "model", "budget", "remedy", *measured])


def _beside(found: pandas.DataFrame, other: str) -> pandas.DataFrame:
    """The trainings from starts that the losses of `other` of the same search seed were tested from, with its error there.

    The task loss has those starts of all seeds.
    """
    where = ["dataset", "model", "budget"]
    theirs = found[found["remedy"] == other].rename(columns={"error": "other"})
    mine = found.merge(
        theirs[[*where, "loss_seed", "start_seed", "other"]], "left", [*where, "loss_seed", "start_seed"]
    )
    starts = pandas.MultiIndex.from_frame(theirs[[*where, "start_seed"]])
    beside = pandas.MultiIndex.from_frame(mine[[*where, "start_seed"]]).isin(starts)
    return mine[mine["other"].notna() | (mine["remedy"].isin(TASK_LOSSES) & beside)]


def display(measured: pandas.DataFrame) -> pandas.DataFrame:
    """`table` for reading."""
    shown = measured.assign(
        error=[_error(row) for row in measured.itertuples()],
        difference=[_difference(row) for row in measured.itertuples()],
    )
    shown = shown.rename(columns={"error": "test error", "difference": "minus the longer search's"})
    shown["worst training"] = ["failed" if math.isinf(v) else report.number(v) for v in measured["worst"]]
    shown["seconds of search"] = measured["seconds"].round()
    columns = ["test error", "worst training", "failed", "minus the longer search's", "seconds of search"]
    return report.read_aloud(shown.set_index(["dataset", "model", "budget", "remedy"])[columns])


def _error(row) -> str:
    if math.isnan(row.mean):
        return f"all {row.failed} failed"
    losses = f"{row.losses} loss{'' if row.losses == 1 else 'es'}, " if row.losses else ""
    many = f"{losses}{row.trainings} training{'' if row.trainings == 1 else 's'}"
    return f"{report.number(row.mean)}{'' if math.isnan(row.std) else f' ± {report.number(row.std)}'} ({many})"


def _difference(row) -> str:
    if row.remedy == LONGER or not row.losses:
        return "–"
    ends = interval(row)
    return (
        f"{report.number(row.difference, '+', 'a training failed')}{'' if ends == '–' else f' {ends}'}: {row.finding}"
    )


@plots.style()
def figure(found: pandas.DataFrame) -> Figure:
    """A panel for each task: a dot for each training under a remedy's losses, a dash for the mean of each loss.

    The line is the mean of the task loss, the band its range. A training that failed, or ended above the axis, is counted at
    the right end.
    """
    tasks = list(_beside(found, LONGER).groupby(["dataset", "model", "budget"], sort=False))
    drawn, axes = plots.grid(len(tasks), 2, (6.6 if len(tasks) == 1 else 5.2, 0.36 * len(REMEDIES) + 1.0), sharey=True)
    for axis, ((dataset, model, budget), part) in zip(axes, tasks, strict=False):
        base = part[(part["remedy"] == "task loss") & numpy.isfinite(part["error"])]["error"]
        mine = part[part["remedy"].isin(REMEDIES)]
        finite = mine[numpy.isfinite(mine["error"])]["error"]
        level = max(base.max() if len(base) else 0.0, finite.median() if len(finite) else 0.0)
        top = 1.05 * max([level, *finite[finite <= 1.6 * level]], default=1.0)
        if len(base):
            axis.axvspan(base.min(), base.max(), color="0.88", lw=0)
            axis.axvline(base.mean(), color="0.35", lw=1.2)
        for y, name in enumerate(REMEDIES):
            errors = mine[mine["remedy"] == name]
            inside = errors[errors["error"] <= top]
            offsets = numpy.random.default_rng(0).uniform(-0.22, 0.22, len(inside))
            axis.plot(inside["error"], y + offsets, "o", ms=4, mew=0, alpha=0.6, color=plots.colour(METHOD))
            means = inside.groupby("loss_seed")["error"].mean()
            axis.plot(means, [y] * len(means), "|", ms=15, mew=1.8, color="0.1")
            if outside := len(errors) - len(inside):
                axis.text(0.995, y, f"{outside} ▸", transform=axis.get_yaxis_transform(), ha="right", va="center")
        axis.set(title=_title(dataset, model, budget), xlabel="test error", ylim=(len(REMEDIES) - 0.5, -0.5))
        low = axis.get_xlim()[0]
        axis.set_xlim(low, top + 0.1 * (top - low))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_yticks(range(len(REMEDIES)), list(REMEDIES))
        axis.grid(False, axis="y")
    return drawn


def _title(dataset: str, model: str, budget: str) -> str:
    name, *changes = budget.split("+")
    said = f"{report.BUDGET.get(name, name)} budget" + ("" if not changes else f", {', '.join(changes)}")
    return f"{report.DATASET.get(dataset, dataset)}, {model}, {said}".replace("_", " ").replace("=", " ")


def verdicts(measured: pandas.DataFrame) -> list[str]:
    """What `table` says of each task, a line each: whose losses have less error than the longer search's, and who fails."""
    lines = []
    for (dataset, model, budget), part in measured.groupby(["dataset", "model", "budget"], sort=False):
        mine = part[part["losses"] > 0]
        held = mine[mine["remedy"] != LONGER]
        n = int(mine["losses"].max())
        found = {what: held[held["finding"] == what]["remedy"].tolist() for what in ("smaller", "larger")}
        said = [
            f"{_and(names)} {'has' if len(names) == 1 else 'have'} {'less' if what == 'smaller' else 'more'} error than "
            f"{LONGER}"
            for what, names in found.items()
            if names
        ]
        failing = [f"{row.remedy} ({row.failed} of {row.trainings})" for row in mine.itertuples() if row.failed]
        every = mine[mine["losses"] == n]  # the others lack seeds
        best = every.loc[every["mean"].idxmin()]
        fewer = ", or fewer" if len(every) < len(mine) else ""
        lines.append(
            f"{_title(dataset, model, budget)} (n = {n}{fewer}): "
            f"{'; '.join(said) or 'no remedy is shown to differ from the longer search'}. The least mean error over all "
            f"seeds is that of {best.remedy}, {report.number(best['mean'])}. Trainings fail under {_and(failing) or 'none'}."
        )
    return lines


def rows(cells: Iterable[ec.Cell]) -> list[ec.Cell]:
    """The rows of cells of any method: those of EvoMAL."""
    return list(dict.fromkeys(replace(cell, method=METHOD) for cell in cells))


def answer(records: report.Records) -> Answer:
    """The first screen of the notebook `remedies`, from the committed searches."""
    found = trainings(COMMITTED, own=False)
    measured = table(found)
    held = measured[(measured["losses"] > 0) & (measured["remedy"] != LONGER)]
    better = [f"{row.remedy} on {report.DATASET[row.dataset]}" for row in held.itertuples() if row.finding == "smaller"]
    mnist = held[held["dataset"] == "mnist"].set_index("remedy")
    contest = mnist.loc[CONTEST]
    shown = f"{_and(better)} {'are' if len(better) > 1 else 'is'}" if better else "no remedy is"
    sentence = (
        f"At about equal seconds {shown} shown to have less error from fresh weights than a longer search as in the text; "
        f"that of the contest on MNIST minus the longer search's is {report.number(contest['difference'], '+')} "
        f"{interval(contest)} (n = {int(contest['n'])} searches)."
    )
    alt = f"Test error from fresh weights by remedy, a dot a training, a dash a loss. {sentence}"
    return Answer(sentence, figure(found), alt, tuple(verdicts(measured)))
