"""Statistics of runs: methods paired over seeds, and their ranks over data sets. A run that failed counts as the worst."""

import math
from collections.abc import Iterable

import numpy
import pandas
import scipy.stats

from evomal_core.registry import METHODS

from . import report
from .report import BLOCK

FAILED = ("diverged", "no_loss")  # what a method did to itself; data that cannot be had is no verdict on it
COMPARISON_NOTE = (
    "The runs of a pair have the same seed, so the same data, initial weights and batches. A run that diverged or found no "
    "loss is worse than any other. A difference below 0 means that the first method has the smaller error. The interval of "
    "the mean difference is Student's, from 3 pairs on, where no run of them failed: for n = 3, 5 and 10 it covered the mean "
    "of 1,000 normal draws in 96, 95 and 96 % of cases, and of lognormal ones in 84, 82 and 83 %; BCa bootstrap intervals "
    "covered 72, 83 and 91 %, and 63, 74 and 80 %. The finding follows from this interval, or, where a run failed, "
    "from Wilcoxon's signed-rank test, whose p is given from 6 pairs on, because with fewer it cannot fall below 0.05. "
    "Nothing is corrected for the number of comparisons: of 20 that are open in truth, one is expected to have a finding."
)


def compare(
    runs: report.Runs, method: str = "evomal", others: Iterable[str] = METHODS, value: str = "test_metric"
) -> pandas.DataFrame:
    """Compare a method with others, paired over the seeds that both have, and never between sources.

    Returns:
        One row for each data set, model, protocol, budget, source and other method with a common seed. It has method, other,
        what `paired` says about the differences, method minus other, and how many runs of either failed.
    """
    table = runs if isinstance(runs, pandas.DataFrame) else report.runs_table(runs)
    group = [*BLOCK, "source"]
    by_seed = by_method(table, value, [*group, "seed"])
    rows = []
    for other in [name for name in others if name != method and {name, method} <= set(by_seed)]:
        for block, pairs in by_seed[[method, other]].dropna().groupby(level=group):
            differences = (pairs[method] - pairs[other]).fillna(0.0)  # two that failed are equal
            failed = {"method_failed": int(numpy.isinf(pairs[method]).sum())}
            failed |= {"other_failed": int(numpy.isinf(pairs[other]).sum())}
            names = dict(zip(group, block, strict=True)) | {"method": method, "other": other}
            rows.append(names | paired(differences) | failed)
    rows.sort(key=lambda row: (row["source"], report.order(tuple(row[name] for name in [*BLOCK, "other"]))))
    return pandas.DataFrame(rows, columns=[*group, "method", "other", *paired([0.0]), "method_failed", "other_failed"])


def by_method(table: pandas.DataFrame, value: str, index: list[str]) -> pandas.DataFrame:
    """A column for each method, in which a run that failed (by its `status`, if there is one) has inf, and NaN is no run."""
    failed = table["status"].isin(FAILED) if "status" in table else False
    values = table[value].mask(table[value].isna() & failed, math.inf)
    return table.assign(value=values).dropna(subset="value").pivot(index=index, columns="method", values="value")


def paired(differences: Iterable[float]) -> dict:
    """What the differences of paired runs say, by scipy; inf and -inf are those of a run that failed.

    Returns:
        n; difference, their mean, NaN where a run failed; low and high, Student's 95 % interval of the mean, NaN with fewer
        than 3 or where a run failed; lower, how many are below 0; p of Wilcoxon's two-sided signed-rank test, NaN with fewer
        than 6; reason, why something is NaN; finding: "smaller" or "larger" if the interval is on one side of 0, or, where a
        run failed, if p is below 0.05; else "open".
    """
    d = numpy.asarray(list(differences), dtype=float)
    finite = bool(numpy.isfinite(d).all())
    low = high = p = math.nan
    if len(d) >= 3 and finite:
        low = high = d.mean()  # where all are equal
        if d.std():
            low, high = scipy.stats.t.interval(0.95, len(d) - 1, d.mean(), scipy.stats.sem(d))
    few = [f"fewer than {least} pairs" for least in (3, 6) if len(d) < least]
    reason = few[0] if few else "" if d.any() else "no difference"
    reason = "; ".join(filter(None, [reason, "" if finite else "a run failed"]))
    if len(d) >= 6 and d.any():
        largest = 1 + 2 * numpy.abs(d[numpy.isfinite(d)]).max(initial=0.0)
        p = scipy.stats.wilcoxon(numpy.clip(d, -largest, largest)).pvalue
    finding = "smaller" if high < 0 else "larger" if low > 0 else "open"
    if not finite and p < 0.05:
        finding = "smaller" if (d < 0).sum() > (d > 0).sum() else "larger"
    numbers = {"difference": d.mean() if len(d) and finite else math.nan, "low": low, "high": high}
    return {"n": len(d), **numbers, "lower": int((d < 0).sum()), "p": p, "reason": reason, "finding": finding}


def display_comparison(table: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `compare` for reading."""
    shown = table.set_index([name for name in BLOCK if name != "model" or table[name].nunique() > 1])
    result = (shown["method"] + " − " + shown["other"]).to_frame("difference of")
    result[["source", "n"]] = shown[["source", "n"]]
    result["failed"] = [f"{row.method_failed} and {row.other_failed}" for row in shown.itertuples()]
    result["mean"] = [report.number(d, "+") for d in shown["difference"]]
    result["95 % interval"] = [interval(row) for row in shown.itertuples()]
    result["smaller in"] = [f"{lower} of {n}" for lower, n in zip(shown["lower"], shown["n"], strict=True)]
    result["Wilcoxon p"] = [f"{p:.3f}" if p == p else "–" for p in shown["p"]]
    result["finding"] = shown["finding"]
    return report.read_aloud(result)


def interval(row) -> str:
    """The interval of one row of `compare`."""
    return "–" if pandas.isna(row.low) else f"[{report.number(row.low, '+')}, {report.number(row.high, '+')}]"


def findings(comparison: pandas.DataFrame) -> list[str]:
    """What a table of `compare` says of each other method, in one line each; models are named where there are several."""
    lines, several = [], comparison["model"].nunique() > 1
    for (source, other), group in comparison.groupby(["source", "other"], sort=False):
        found = [
            f"{r.finding} on {f'{r.dataset}/{r.model}' if several else r.dataset} "
            f"({place(r)}, smaller with {r.lower} of {r.n} {'seed' if r.n == 1 else 'seeds'})"
            for r in group.itertuples()
        ]
        lines.append(f"{source}: EvoMAL's error against {other}: {'; '.join(found)}")
    return lines or ["No two methods have a seed in common yet."]


def counts(runs: report.Runs, others: tuple[str, str], least: int = 3, method: str = "evomal") -> list[str]:
    """With how many seeds a method's error is below that of two others: a text for each row with `least` seeds of both."""
    found = compare(runs, method, others)
    texts = []
    for key, group in found[found["n"] >= least].groupby([*BLOCK, "source"], sort=False):
        if set(group["other"]) == set(others):
            row, n = dict(zip([*BLOCK, "source"], key, strict=True)), group["n"].min()
            many = " and ".join(str(group.set_index("other").loc[other, "lower"]) for other in others)
            texts.append(
                f"{many} of {n} on {row['dataset']}/{row['model']} ({report.in_words('budget', row['budget'])})"
            )
    return texts


def place(row) -> str:
    """Budget and protocol of a row in words."""
    return f"{report.in_words('budget', row.budget)} budget, {report.in_words('protocol', row.protocol)}"


def ranks(runs: report.Runs, value: str = "test_metric") -> pandas.DataFrame:
    """The methods' ranks over all data sets at once: Friedman's test, and Nemenyi's for all pairs (Demšar, JMLR 2006).

    Methods are ranked for each data set, model and seed that all of them have; failed runs share the last ranks. The ranks of
    a row of the tables are averaged over its seeds, because seeds of one row are no independent data sets.

    Returns:
        One row for each source, budget and protocol: rows (N of data sets and models), p of Friedman's test, the critical
        difference of mean ranks at 0.05, and the mean rank of each method (1 is best; NaN where it has no run). Test and
        critical difference are NaN with fewer than 3 rows or methods.
    """
    table = runs if isinstance(runs, pandas.DataFrame) else report.runs_table(runs)
    found = []
    for names, part in table.groupby(["source", "budget", "protocol"], sort=False):
        values = by_method(part, value, ["dataset", "model", "seed"]).dropna()
        each = values.rank(axis=1).groupby(level=["dataset", "model"]).mean()
        rows, k = each.shape
        p = critical = math.nan
        if rows >= 3 and k >= 3:
            p = scipy.stats.friedmanchisquare(*each.to_numpy().T).pvalue
            q = scipy.stats.studentized_range.ppf(0.95, k, numpy.inf) / math.sqrt(2)
            critical = q * math.sqrt(k * (k + 1) / (6 * rows))
        about = dict(zip(("source", "budget", "protocol"), names, strict=True))
        found.append(about | {"rows": rows, "Friedman p": p, "critical difference": critical} | each.mean().to_dict())
    first = ["source", "budget", "protocol", "rows", "Friedman p", "critical difference"]
    return pandas.DataFrame(found, columns=[*first, *(m for m in METHODS if any(m in row for row in found))])
