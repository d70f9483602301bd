"""What contests over fresh starts changed (`evomal_core.remedies.halving`), and what they cost."""

from collections.abc import Iterable

import numpy
import pandas

from evomal_core.experiments import store
from evomal_core.registry import DATASETS

from . import report
from .conventions import FRESH, REDRAWN, ROBUST, convention, panels, table, tests

PARTS = {ROBUST: "those of the search", REDRAWN: "redrawn for each start"}
SAID = {ROBUST: "", REDRAWN: " with parts redrawn"}


def changed(found: pandas.DataFrame, beside: Iterable[str] = ("mnist",)) -> str:
    """What contests changed, a sentence for each row but those of the data sets `beside`; of searches that have one.

    Args:
        found: as `conventions.trainings` makes it.
    """
    where, lines = ["dataset", "model", "budget"], []
    found = found[(found["protocol"] == "paper") & ~found["dataset"].isin(list(beside))]
    for task in panels(found):
        row = found[(found[where] == task).all(axis=1)]
        parts = [_beside(row, kind) for kind in PARTS]
        if any(parts):
            name = f"{report.DATASET.get(task[0], task[0])} at the {report.BUDGET.get(task[2], task[2])} budget"
            loss = "cross-entropy" if DATASETS[task[0]].classification else "squared error"
            of_task = f"{loss} has {_mean(row, 'baseline', FRESH)}, at a tuned rate {_mean(row, 'tuned', FRESH)}"
            lines.append(f"On {name} {'; '.join([*filter(None, parts), of_task])}.")
    return " ".join(lines)


def _beside(row: pandas.DataFrame, kind: str) -> str:
    """The winners of a kind of contest beside the losses of best fitness of the same searches; empty without one."""
    mine = row[row["method"] == "evomal"]
    seeds = mine[(mine["convention"] == kind) & numpy.isfinite(mine["error"])]["loss_seed"].unique()
    mine = mine[mine["loss_seed"].isin(seeds)]
    if not len(seeds):
        return ""
    return (
        f"the winners of {len(seeds)} contest{'' if len(seeds) == 1 else 's'}{SAID[kind]} have {_mean(mine, 'evomal', kind)} "
        f"from fresh weights, and the losses of best fitness {_mean(mine, 'evomal', FRESH)}"
    )


def _mean(row: pandas.DataFrame, method: str, convention: str) -> str:
    at = table(row).set_index(["method", "convention"])
    if (method, convention) not in at.index:
        return "no record"
    one = at.loc[(method, convention)]
    failed = f", {one.failed} failed" if one.failed else ""
    count = f"{one.trainings} training" + ("" if one.trainings == 1 else "s")
    return f"{report.number(one['mean'], '', 'none')} ({count}{failed})"


def costs(results_dir=None, reference_dir=None) -> pandas.DataFrame:
    """What contests cost and whom they chose: a row for each task, budget, method and kind of contest.

    Returns:
        parts, training and validation part of a contest: those of the search, or redrawn; n; seconds of search and of
        selection, means; share, of selection in search; leader, how often the winner was the leader of best fitness, another
        leader, the task loss, or the task loss at its tuned rate.
    """
    rows: dict[tuple, list[store.Run]] = {}
    for source, run in tests(results_dir, reference_dir):
        parts = PARTS.get(convention(run.cell))
        if run.data.get("selection") and not run.cell.source and parts:
            key = (source, run.cell.dataset, run.cell.model, run.cell.budget, run.cell.method, parts)
            rows.setdefault(key, []).append(run)
    found = []
    for key, runs in rows.items():
        search, selection = (numpy.mean([run.seconds[name] for run in runs]) for name in ("search", "selection"))
        names = [run.data["selection"] for run in runs]
        winners = {
            "best leader": names.count("leader 0"),
            "another leader": sum(n.startswith("leader ") for n in names),
        }
        winners["another leader"] -= winners["best leader"]
        winners |= {name: names.count(name) for name in ("task loss", "task loss, tuned")}
        about = dict(zip(("source", "dataset", "model", "budget", "method", "parts"), key, strict=True))
        spent = {"n": len(runs), "search s": search, "selection s": selection, "share": selection / search}
        found.append(about | spent | winners)
    return pandas.DataFrame(found)
