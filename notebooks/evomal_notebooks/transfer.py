"""Transfer of losses (Table IV): the best search of each method is chosen by validation, and its loss is tested elsewhere."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pandas

import evomal_core as ec
from evomal_core.experiments.store import Run
from evomal_core.registry import METHODS

from . import comparisons, report
from .parameters import Parameters
from .searches import SAID

BASELINE = "baseline"  # the method without a loss of its own


def source_cells(p: Parameters) -> list[ec.Cell]:
    """The cells whose losses are transferred: each method on the source, under each requested seed."""
    dataset, model = p.source.split("/")
    cells = [replace(cell, dataset=dataset, model=model) for cell in p.cells()]
    return [cell for cell in cells if cell.method != BASELINE]


def merit(run: Run) -> float:
    """What searches of one method are compared by, lower is better: fitness, which is a validation error.

    ML3 has no fitness; its searches are compared by the validation error behind meta-testing. The test error never counts.
    """
    value = run.data.get("fitness")
    value = run.data.get("validation_metric") if value is None else value
    return math.inf if value is None or run.data.get("loss") is None else value


def chosen(runs: Iterable[Run]) -> dict[str, Run]:
    """method -> its search of the best `merit`; ties go to the lower seed. Methods without a loss are left out."""
    best: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (merit(run), run.cell.seed)):
        if math.isfinite(merit(run)):
            best.setdefault(run.cell.method, run)
    return best


def target_cells(p: Parameters, best: dict[str, Run]) -> list[ec.Cell]:
    """The cells on the target under each requested seed: the baseline, and each chosen loss."""
    cells = []
    for cell in p.cells():
        if cell.method == BASELINE:
            cells.append(cell)
        elif cell.method in best:
            cells.append(replace(cell, source=f"{p.source}/{best[cell.method].cell.seed}"))
    return cells


def on_source(p: Parameters, runs: Iterable[Run]) -> list[Run]:
    """The runs of the source task at the notebook's budget and protocol."""
    level = p.rows[0].budget, p.rows[0].protocol
    return [run for run in runs if not run.cell.source and _target(run) == p.source and _level(run) == level]


def pairs_of(records: report.Records) -> list[tuple[str, str]]:
    """All pairs (source, target) of tasks between which records have transferred losses."""
    runs = [run for run in records.reference + records.own if run.cell.transferred]
    return list(dict.fromkeys((_source(run), _target(run)) for run in runs))


def between(source: str, target: str, transferred: report.Records, direct: report.Records) -> report.Records:
    """The runs of one transfer: the chosen losses of `source` on `target`, and the target's baselines beside them.

    A method's loss is that of its best search (`merit`) among those whose loss has a record on the target. A baseline counts
    at the budgets and protocols at which something was transferred.
    """
    parts = []
    for moved, own in ((transferred.reference, direct.reference), (transferred.own, direct.own)):
        moved = [run for run in moved if (_source(run), _target(run)) == (source, target)]
        levels = dict.fromkeys(map(_level, moved))
        kept = []
        for level in levels:
            here = [run for run in moved if _level(run) == level]
            best = {method: run.cell.search.seed for method, run in chosen(here).items()}
            kept += [run for run in here if best.get(run.cell.method) == run.cell.search.seed]
        bases = [run for run in own if _target(run) == target and run.cell.method == BASELINE]
        parts.append(kept + [run for run in bases if _level(run) in levels])
    return report.Records(*parts, transferred.damaged)


def _source(run: Run) -> str:
    return f"{run.cell.search.dataset}/{run.cell.search.model}"


def _target(run: Run) -> str:
    return f"{run.cell.dataset}/{run.cell.model}"


def _level(run: Run) -> tuple[str, str]:
    return run.cell.budget, run.cell.protocol


def against_baseline(runs: report.Runs) -> pandas.DataFrame:
    """Every other method against the baseline, as `comparisons.compare` has it."""
    table = runs if isinstance(runs, pandas.DataFrame) else report.runs_table(runs)
    rows = [comparisons.compare(table, method, [BASELINE]) for method in METHODS if method != BASELINE]
    return pandas.concat([part for part in rows if len(part)] or rows[:1], ignore_index=True)


def kept_advantage(records: report.Records, direct: report.Records, source: str) -> pandas.DataFrame:
    """How each transferred loss does against the baseline on the target, beside how its method did on the source.

    Args:
        records: of one transfer, as `between` makes it.
        direct: runs on their own tasks.

    Returns:
        One row for each budget, protocol, source of records ("reference" or "own") and method: n pairs of the same seed, mean
        difference to the baseline on the target, its 95 % interval and the finding; the same difference on the source task.
    """
    dataset, model = source.split("/")
    names = ["budget", "protocol", "source", "method"]
    there = against_baseline(direct.select(dataset=dataset, model=model)).set_index(names)
    here = against_baseline(records).set_index(names)[["n", "difference", "low", "high", "finding"]]
    return here.join(there[["difference", "n"]].add_suffix(" on the source")).reset_index()


def display_advantage(table: pandas.DataFrame) -> pandas.DataFrame:
    """`kept_advantage` for reading."""
    shown = table.set_index(["source", "budget", "protocol", "method"])[["n"]].rename(columns={"n": "pairs"})
    shown["error − baseline's, target"] = [report.number(d, "+") for d in table["difference"]]
    shown["95 % interval"] = [comparisons.interval(row) for row in table.itertuples()]
    shown["finding"] = table["finding"].to_list()
    shown["error − baseline's, source"] = [report.number(d, "+") for d in table["difference on the source"]]
    return shown


def words(table: pandas.DataFrame, source: str, target: str) -> list[str]:
    """A sentence for each row of `kept_advantage`."""
    lines = []
    for row in table.itertuples():
        if row.n < 3:
            verdict = f"differs from the baseline's by {report.number(row.difference, '+')}; n = {row.n} is too few"
        else:
            interval = f"95 % interval {comparisons.interval(row)}, n = {row.n}"
            difference = f"mean difference {report.number(row.difference, '+')}, {interval}"
            verdict = f"is {SAID[row.finding]} the baseline's ({difference})"
        lines.append(
            f"{source} to {target}, {row.budget}, {row.protocol}, {row.source}: the error of {row.method}'s loss {verdict}."
        )
    return lines or [f"No loss of {source} was tested on {target} beside its baseline yet."]
