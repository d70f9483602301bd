"""How fast searches find good losses (Fig. 4), how their candidates came by a fitness (Fig. 5), and the words for both."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy
import pandas

from evomal_core.config import BUDGETS
from evomal_core.experiments.store import Run

from . import comparisons, report
from .plots import outcome_shares

VERDICTS = {"smaller": "supported", "larger": "contradicted", "open": "open"}
SAID = {"smaller": "smaller than", "larger": "larger than", "open": "not shown to differ from"}
SLACK = 1e-6  # seconds, far below what a record resolves


def elapsed(run: Run) -> pandas.Series:
    """Seconds of search that had passed at the end of each generation."""
    return run.history.filter(regex="^seconds_").astype(float).sum(axis=1).cumsum()


def best_at(run: Run, generations: int | None = None, seconds: float | None = None) -> float:
    """Best fitness of a run within so many generations or seconds of search; NaN if it had none by then."""
    history = run.history
    within = elapsed(run) <= seconds if generations is None else history["generation"] < generations
    return history["best_so_far"].astype(float)[within].min()


def points(run: Run, other: Run) -> Iterator[tuple[str, float, float]]:
    """(point, the run's fitness, the other's) at three points: "early", "end" and "equal seconds".

    The run has had a fifth of its generations at the point "early", and the other has had all of its own. Both have had all
    generations at the point "end". Both have searched until the faster one had finished at the point "equal seconds".
    """
    count, all_of_other = len(run.history), len(other.history)
    least = min(elapsed(run).iloc[-1], elapsed(other).iloc[-1]) + SLACK
    yield "early", best_at(run, max(1, round(count / 5))), best_at(other, all_of_other)
    yield "end", best_at(run, count), best_at(other, all_of_other)
    yield "equal seconds", best_at(run, seconds=least), best_at(other, seconds=least)


def compare_searches(
    records: report.Records, others: Iterable[str] = ("gp-lfl", "random", "taylorglo")
) -> pandas.DataFrame:
    """EvoMAL's fitness against that of other methods at the three `points`, over pairs of one seed.

    Args:
        records: of one protocol.

    Returns:
        One row for each source ("records"), budget, task, other method and point: in how many pairs EvoMAL is better ("3 of
        5"; a search that had found nothing finite counts as worse), and mean, interval and verdict of the differences of
        the other pairs.
    """
    found = {(*key, run.cell.seed): run for key, runs in by_task(records).items() for run in runs}
    values = [
        (source, budget, task, other, *point)
        for (source, budget, task, method, seed), run in found.items()
        for other in others
        if method == "evomal" and (source, budget, task, other, seed) in found
        for point in points(run, found[source, budget, task, other, seed])
    ]
    keys, rows = ["records", "budget", "task", "other", "at"], []
    for key, pairs in pandas.DataFrame(values, columns=[*keys, "evomal", "value"]).groupby(keys, sort=False):
        better = (pairs["evomal"].fillna(numpy.inf) < pairs["value"].fillna(numpy.inf)).sum()
        differences = (pairs["evomal"] - pairs["value"]).dropna()
        row = comparisons.paired(differences)
        numbers = (row["difference"], row["low"], row["high"])
        rows.append((*key, f"{better} of {len(pairs)}", *numbers, VERDICTS[row["finding"]]))
    return pandas.DataFrame(rows, columns=[*keys, "better", "difference", "low", "high", "verdict"])


def display_searches(table: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `compare_searches` for reading: a row for each pair of methods, a column for each point."""
    limits = ["" if pandas.isna(row.low) else f" {comparisons.interval(row)}" for row in table.itertuples()]
    numbers = [report.number(d, "+") for d in table["difference"]]
    parts = zip(table["better"], numbers, limits, table["verdict"], strict=True)
    texts = [f"{better}: {number}{limit}, {verdict}" for better, number, limit, verdict in parts]
    shown = table.assign(text=texts).set_index(["records", "budget", "task", "other", "at"])
    return shown["text"].unstack("at", sort=False)


def early_claim(table: pandas.DataFrame) -> list[str]:
    """What rows of `compare_searches` say about the paper's claim on GP-LFL, a line for each task and budget."""
    claim, lines = table.query("other == 'gp-lfl' and at == 'early'"), []
    for row in claim.itertuples():
        count = BUDGETS[row.budget]["generations"] if row.budget in BUDGETS else None
        when = f"after {round(count / 5)} of {count} generations" if count else "after a fifth of them"
        lines.append(
            f"{row.task}, {row.budget}: EvoMAL {when} is better than GP-LFL at its end in {row.better} seeds "
            f"(mean difference {row.difference:+.3f}): {row.verdict}"
        )
    if "paper" not in set(claim["budget"]):
        lines.append(
            "No pair of searches has the paper's budget, so the claim as printed (10 generations against 50) is open."
        )
    return lines


def verdicts(table: pandas.DataFrame) -> list[str]:
    """On how many tasks and budgets EvoMAL is better at the later two points, a line for each point and other method."""
    lines = []
    for at, what in {"end": "equally many candidates", "equal seconds": "equal seconds"}.items():
        for other in ("gp-lfl", "random"):
            found = table[(table["other"] == other) & (table["at"] == at)]["verdict"].value_counts()
            lines.append(
                f"EvoMAL better than {other} at {what}: supported on {found.get('supported', 0)}, contradicted on "
                f"{found.get('contradicted', 0)}, open on {found.get('open', 0)} of {found.sum()} tasks and budgets"
            )
    return lines


def at_equal_seconds(runs: Iterable[Run]) -> list[Run]:
    """The runs, each with the fitness that it had when the quickest search of its seed had ended, or None."""
    of_seed: dict[int, list[Run]] = {}
    for run in runs:
        of_seed.setdefault(run.cell.seed, []).append(run)
    cut = []
    for together in of_seed.values():
        end = min(elapsed(run).iloc[-1] for run in together) + SLACK
        best = [best_at(run, seconds=end) for run in together]
        cut += [
            replace(run, data=run.data | {"fitness": None if pandas.isna(value) else value})
            for run, value in zip(together, best, strict=True)
        ]
    return cut


def sentence(row, what: str) -> str:
    """One row of `comparisons.compare` in words; `what` is compared, for example "test error"."""
    if row.n < 3:
        return f"EvoMAL's {what} minus that of {row.other}: {report.number(row.difference, '+')}; n = {row.n}, too few."
    return (
        f"EvoMAL's {what} is {SAID[row.finding]} that of {row.other}: mean difference "
        f"{report.number(row.difference, '+')}, 95 % interval {comparisons.interval(row)}, smaller with {row.lower} of "
        f"{row.n} seeds."
    )


def answers(runs: list[Run], published: pandas.Series, budget: str) -> list[str]:
    """What the runs of one task, source, budget and protocol say, in sentences.

    They answer four questions: is the baseline the paper's, does EvoMAL beat it, does that survive the controls, and does
    evolution beat random search?

    Args:
        published: method -> the paper's mean error rate.
    """
    lines = []
    base = report.runs_table([run for run in runs if run.cell.method == "baseline"])["test_metric"].dropna()
    if len(base) and budget != "paper":
        lines.append(f"Baseline: {base.mean():.4f} (n = {len(base)}), at fewer steps than published.")
    elif len(base):
        off = 100 * (base.mean() - published["baseline"])
        near = f"{'within' if abs(off) <= 0.3 else 'NOT within'} 0.3 points"
        mean = f"{base.mean():.4f} (n = {len(base)})"
        lines.append(f"Baseline: {mean} against the published {published['baseline']:.4f}: {off:+.2f} points, {near}.")
    errors = comparisons.compare(runs, "evomal")
    lines += [sentence(row, "test error") for row in errors.itertuples()]
    if not errors.empty and budget == "paper":
        claimed = published["evomal"] - published["baseline"]
        lines.append(f"(The published difference of EvoMAL and the baseline is {claimed:+.4f}.)")
    rivals = [run for run in runs if run.cell.method in ("evomal", "random") and len(run.history)]
    for how, chosen in (("candidates", rivals), ("seconds", at_equal_seconds(rivals))):
        rows = comparisons.compare(chosen, "evomal", ["random"], value="fitness").itertuples()
        lines += [f"At equal {how}: {sentence(row, 'fitness (validation error)')}" for row in rows]
    return lines


Groups = dict[tuple[str, str, str, str], list[Run]]  # (source, budget, task, method) -> runs


def by_task(records: report.Records) -> Groups:
    """The runs that have a history, by source, budget, task and method."""
    groups: Groups = {}
    for source in report.SOURCES:
        for run in getattr(records, source):
            if len(run.history):
                key = source, run.cell.budget, f"{run.cell.dataset}, {run.cell.model}", run.cell.method
                groups.setdefault(key, []).append(run)
    return groups


def panels(groups: Groups, source: str, budget: str, methods: Iterable[str]) -> dict[str, list[Run]]:
    """title -> runs of a source and budget, for `plots.filter_shares`: a row for each task, a column for each method."""
    tasks = dict.fromkeys(task for of, size, task, _ in groups if (of, size) == (source, budget))
    found = {(task, method): groups.get((source, budget, task, method), []) for task in tasks for method in methods}
    return {f"{task}: {method}, n = {len(runs)}": runs for (task, method), runs in found.items()}


def filter_table(groups: Groups, source: str = "reference") -> pandas.DataFrame:
    """Shares of the population by budget and method, in which every task counts alike (Fig. 5).

    Returns:
        One row for each budget and method: tasks, searches, the shares "symbolic hit" and "evaluated" over all generations,
        and the shares "rejected" and "gradient hit" of the first ("early") and of the last third ("late") of a search.
    """
    rows = []
    for (of, budget, task, method), runs in groups.items():
        if of != source:
            continue
        shares = outcome_shares(runs)
        third = max(1, len(shares) // 3)
        row = {"budget": budget, "method": method, "tasks": task, "searches": len(runs)}
        row |= {name: shares[name].mean() for name in ("symbolic hit", "evaluated")}
        for name in ("rejected", "gradient hit"):
            row |= {f"{name}, early": shares[name][:third].mean(), f"{name}, late": shares[name][-third:].mean()}
        rows.append(row)
    numbers = [f"{name}, {when}" for name in ("rejected", "gradient hit") for when in ("early", "late")]
    numbers = ["symbolic hit", "evaluated", *numbers]
    table = pandas.DataFrame(rows, columns=["budget", "method", "tasks", "searches", *numbers])
    how = {"tasks": "count", "searches": "sum"} | dict.fromkeys(numbers, "mean")
    return table.groupby(["budget", "method"], sort=False).agg(how)


def display_filters(table: pandas.DataFrame) -> pandas.DataFrame:
    """`filter_table` for reading: whole percents, a column for each budget and method."""
    counts = table[["tasks", "searches"]]
    percent = (100 * table.drop(columns=counts.columns)).round().astype(int).astype(str) + " %"
    return counts.join(percent).T


def filter_words(table: pandas.DataFrame) -> list[str]:
    """How the shares of `filter_table` change from the first to the last third of a search, a line for each row."""
    lines = []
    for (budget, method), row in table.iterrows():
        rejected, gradient = (row[f"{name}, late"] - row[f"{name}, early"] for name in ("rejected", "gradient hit"))
        lines.append(
            f"{budget}, {method}: {100 * row['evaluated']:.0f} % of the population are evaluated; from the first to the last "
            f"third the rejected change by {100 * rejected:+.0f} points, the gradient hits by {100 * gradient:+.0f} points"
        )
    return lines


def seconds_by_phase(groups: Groups) -> pandas.DataFrame:
    """Mean seconds of a search by phase, over all tasks: a row for each source, budget and method."""
    phases = ["optimise", "filter", "fitness"]
    rows = [
        (source, budget, method, *(run.seconds.get(phase) for phase in phases))
        for (source, budget, _, method), runs in groups.items()
        for run in runs
    ]
    keys = ["records", "budget", "method"]
    return pandas.DataFrame(rows, columns=[*keys, *phases]).groupby(keys, sort=False).mean()


def check_histories(runs: Iterable[Run]) -> None:
    """Assert that the best fitness so far of each search never gets worse; the released code's stale best may."""
    for run in runs:
        best = run.history.reindex(columns=["best_so_far"])["best_so_far"].astype(float).dropna()
        if "stale_best" not in run.cell.protocol and not run.cell.protocol.startswith("released"):
            assert best.is_monotonic_decreasing, f"{run.cell}: the best so far got worse"
