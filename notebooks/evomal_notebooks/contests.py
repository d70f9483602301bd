"""What contests over fresh starts changed (`evomal_core.remedies.halving`), and what they cost."""

from collections.abc import Iterable

import numpy
import pandas

from evomal_core.experiments import store
from evomal_core.registry import DATASETS

from . import report
from .conventions import FRESH, REDRAWN, ROBUST, convention, panels, table, tests

PARTS = {ROBUST: "those of the search", REDRAWN: "redrawn for each start"}


def changed(found: pandas.DataFrame, beside: Iterable[str] = ("mnist",)) -> str:
    """What contests changed, a sentence for each row but those of the data sets `beside`; of searches that have one.

    Args:
        found: as `conventions.trainings` makes it.
    """
    where, lines = ["dataset", "model", "budget"], []
    found = found[(found["protocol"] == "paper") & ~found["dataset"].isin(list(beside))]
    held = found[(found["method"] == "evomal") & (found["convention"] == ROBUST) & numpy.isfinite(found["error"])]
    for task in panels(found):
        seeds = held[(held[where] == task).all(axis=1)]["loss_seed"].unique()
        if not len(seeds):
            continue
        row = found[(found[where] == task).all(axis=1)]
        row = row[(row["method"] != "evomal") | row["loss_seed"].isin(seeds)]
        at = table(row).set_index(["method", "convention"])

        def mean(method: str, convention: str, at=at) -> str:
            if (method, convention) not in at.index:
                return "no record"
            row = at.loc[(method, convention)]
            failed = f", {row.failed} failed" if row.failed else ""
            count = f"{row.trainings} training" + ("" if row.trainings == 1 else "s")
            return f"{report.number(row['mean'], '', 'none')} ({count}{failed})"

        name = f"{report.DATASET.get(task[0], task[0])} at the {report.BUDGET.get(task[2], task[2])} budget"
        redrawn = f", with parts redrawn {mean('evomal', REDRAWN)}" if ("evomal", REDRAWN) in at.index else ""
        lines.append(
            f"On {name} the losses of best fitness have {mean('evomal', FRESH)} from fresh weights, the winners of contests "
            f"{mean('evomal', ROBUST)}{redrawn}, and "
            f"{'cross-entropy' if DATASETS[task[0]].classification else 'squared error'} has "
            f"{mean('baseline', FRESH)}, at a tuned rate {mean('tuned', FRESH)}; n = {len(seeds)}."
        )
    return " ".join(lines)


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
