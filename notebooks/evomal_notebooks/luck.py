"""How much of a loss's fitness is luck of one draw of initial weights and batches: tables and sentences.

All read what `initialisation.read` gives. A start *fails* if the training diverges, or ends above the validation error of
the trivial predictor (`initialisation.trivial`). In means a start that fails counts as the trivial predictor, because its
own error may be infinite; medians and other quantiles are of the errors as they are. Start 0, which the search saw, is in
none of these: they are of the other starts.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas
import scipy.signal
import scipy.stats
import torch

from evomal_core.losses import expression
from evomal_core.losses.primitives import TABLE_I

from . import report, shapes
from .initialisation import METHODS, SEARCH, TASK, TASK_LOSS, loss_of
from .plots import elementwise

FRAGILE = 0.1  # a loss is fragile if at least this share of the other starts fails
NEAR = 0.1  # of the label, for a minimum of regression
SURE = 0.95  # probability of the true class, for a minimum of classification
SMALL = 10  # nodes
SQUARE = 9.5  # `shapes.growth` of squared error is 9
PAIRS = (("evomal", "random"), ("gp-lfl", "random"), ("evomal", "gp-lfl"))
WINNER, LEADERS = "the best leader", "mean of the leaders"


def measured(table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of `initialisation.read` that have another start than start 0, with what the starts say of each loss.

    Columns added: seen, the error from start 0, which for a leader is its fitness; others, the number of other starts;
    diverged and failed, shares of them; median, and low and high, the 5th and 95th percentile; mean, in which a failure
    counts as the trivial predictor; fragile.
    """
    table, rows = table.loc[table["errors"].map(len) > 1], []
    for row in table.itertuples():
        others = np.array(row.errors[1:])
        fails = ~(others <= row.trivial)
        low, median, high = np.quantile(others, [0.05, 0.5, 0.95], method="inverted_cdf")
        mean = np.where(fails, row.trivial, others).mean()
        shares = np.isinf(others).mean(), fails.mean()
        rows.append((row.errors[0], len(others), *shares, low, median, high, mean, fails.mean() >= FRAGILE))
    names = ["seen", "others", "diverged", "failed", "low", "median", "high", "mean", "fragile"]
    return pandas.concat([table, pandas.DataFrame(rows, columns=names, index=table.index)], axis=1)


def title(row) -> str:
    """Data set, model, budget and, unless it is the paper's, protocol."""
    return ", ".join([row.dataset, row.model, row.budget, *([row.protocol] if row.protocol != "paper" else [])])


def of_searches(found: pandas.DataFrame) -> pandas.DataFrame:
    """The leaders of `measured` without the task loss."""
    return found[found["method"] != TASK_LOSS]


def methods(found: pandas.DataFrame) -> list[str]:
    """The methods that were measured, in the order of `initialisation.METHODS`, the task loss last."""
    return [method for method in (*METHODS, TASK_LOSS) if method in set(found["method"])]


def by_search(found: pandas.DataFrame) -> pandas.DataFrame:
    """One row a search, or task loss, of `measured`: how many leaders there are, how many are fragile, and their errors.

    Columns behind SEARCH: leaders, fragile; others, seen, mean, median and failed of the best leader; leaders_seen and
    leaders_mean, the means over all leaders, and slope, of the line through the leaders' means over fitness. These three are
    NaN where one leader was measured, and the slope also where all have one fitness.
    """
    rows = []
    for key, group in found.groupby(SEARCH, sort=False):
        best = group[group["rank"] == 0].iloc[0]
        row = dict(zip(SEARCH, key, strict=True)) | {"leaders": len(group), "fragile": int(group["fragile"].sum())}
        row |= {name: best[name] for name in ("others", "seen", "mean", "median", "failed")}
        several = group if len(group) > 1 else group[:0]
        row |= {f"leaders_{name}": several[name].mean() for name in ("seen", "mean")}
        varied = several["seen"].nunique() > 1
        rows.append(row | {"slope": scipy.stats.linregress(group["seen"], group["mean"]).slope if varied else np.nan})
    return pandas.DataFrame(rows)


def t_interval(values: Iterable[float]) -> dict:
    """n, mean, and the 95 % interval of the mean by Student's t (low, high; NaN with fewer than 2 values)."""
    values = np.asarray(list(values), float)
    low = high = np.nan
    if len(values) > 1:
        low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    return {
        "n": len(values),
        "mean": float(values.mean()) if len(values) else np.nan,
        "low": float(low),
        "high": float(high),
    }


def curse(searches: pandas.DataFrame) -> pandas.DataFrame:
    """How far the best leader's error rises from the start that the search saw to the mean of the others, by task and method.

    Columns: n seeds; rise, with its t interval over seeds; task_rise, that of the task loss of the same seeds, which is the
    luck of the draws and no selection; own, the difference of the two, with its t interval; slope, the mean of the searches'.
    """
    rows = []
    for key, group in searches.groupby([*TASK, "method"], sort=False):
        same = searches[(searches[TASK] == list(key[:-1])).all(axis=1) & (searches["method"] == TASK_LOSS)]
        if key[-1] == TASK_LOSS:
            continue
        rise, task_rise = ((part["mean"] - part["seen"]).set_axis(part["seed"]) for part in (group, same))
        row = dict(zip([*TASK, "method"], key, strict=True)) | {"n": len(rise), "slope": group["slope"].mean()}
        row |= _named("rise", rise) | _named("task_rise", task_rise[rise.index]) | _named("own", rise - task_rise)
        rows.append(row)
    return pandas.DataFrame(rows)


def _named(name: str, values: Iterable[float]) -> dict[str, float]:
    """The mean of values and its interval, as columns of a table."""
    found = t_interval(values)
    return {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def advantage(searches: pandas.DataFrame, pairs: Sequence[tuple[str, str]] = PAIRS) -> pandas.DataFrame:
    """A method's fitness minus another's, as selected and from other starts, paired over seeds; t intervals.

    One row for each task, pair and of (WINNER, LEADERS). Columns: n; seen, seen_low, seen_high, the difference as the
    searches saw it; mean, mean_low, mean_high, that of the means over the other starts; lost, lost_low, lost_high, the
    second minus the first, which is what selection on one draw made up.
    """
    rows = []
    for key, group in searches.groupby(TASK, sort=False):
        for first, second in pairs:
            for what, prefix in ((WINNER, ""), (LEADERS, "leaders_")):
                sides = [group[group["method"] == name].set_index("seed") for name in (first, second)]
                seen, mean = ((sides[0][prefix + n] - sides[1][prefix + n]).dropna() for n in ("seen", "mean"))
                if len(seen):
                    row = dict(zip(TASK, key, strict=True)) | {
                        "method": first,
                        "other": second,
                        "of": what,
                        "n": len(seen),
                    }
                    rows.append(row | _named("seen", seen) | _named("mean", mean) | _named("lost", mean - seen))
    return pandas.DataFrame(rows)


def with_interval(row, name: str) -> str:
    """A number of a row with its interval."""
    value, low, high = (getattr(row, n) for n in (name, f"{name}_low", f"{name}_high"))
    return report.number(value, "+") + (
        "" if np.isnan(low) else f" [{report.number(low, '+')}, {report.number(high, '+')}]"
    )


def advantage_words(rows: pandas.DataFrame) -> list[str]:
    """A sentence for each row of `advantage`."""
    lines = []
    for row in rows.itertuples():
        share = f"{1 - row.mean / row.seen:.0%}" if row.seen < 0 else "–"
        lines.append(
            f"{title(row)}, n = {row.n}, {row.of}: {row.method} − {row.other} is {with_interval(row, 'seen')} as selected "
            f"and {with_interval(row, 'mean')} from other starts; selection on one draw made up {share} of it "
            f"({with_interval(row, 'lost')})"
        )
    return lines


def chosen_again(found: pandas.DataFrame) -> pandas.DataFrame:
    """What it helps to choose among the leaders of a search by other starts; a row a task and method.

    The leader of lowest mean over the first half of the other starts is compared with the best leader of the search, both
    over the second half. Columns: n searches, of which several leaders were measured; selected and chosen, the two errors;
    difference, with its t interval.
    """
    rows = []
    for key, searches in of_searches(found).groupby([*TASK, "method"], sort=False):
        pairs = []
        for _, group in searches.groupby("seed"):
            if len(group) < 2:
                continue
            group, count = group.sort_values("rank"), group["others"].min()
            errors = np.array([each[1 : count + 1] for each in group["errors"]])
            capped = np.minimum(errors, group["trivial"].to_numpy()[:, None])
            first, second = capped[:, : count // 2].mean(1), capped[:, count // 2 :].mean(1)
            pairs.append((second[0], second[first.argmin()]))
        if pairs:
            selected, chosen = np.array(pairs).T
            row = dict(zip([*TASK, "method"], key, strict=True)) | {"n": len(pairs)}
            row |= {"selected": selected.mean(), "chosen": chosen.mean()}
            rows.append(row | _named("difference", chosen - selected))
    return pandas.DataFrame(rows)


def _shares(found: pandas.DataFrame, has: pandas.DataFrame) -> pandas.DataFrame:
    """For each column of `has`, a flag of the rows of `found`: share of fragile with and without it, and the counts."""
    rows = {}
    for name in has:
        row = {}
        for words, part in (("with", found[has[name]]), ("without", found[~has[name]])):
            searches = part.groupby(SEARCH).ngroups
            row[f"{words}: fragile"] = f"{part['fragile'].mean():.0%}" if len(part) else "–"
            row[f"{words}: leaders"] = f"{len(part)} of {searches} searches"
        rows[name] = row
    return pandas.DataFrame(rows).T


def operators(found: pandas.DataFrame) -> pandas.DataFrame:
    """Share of fragile losses among the leaders of `found` that contain an operator, and among the others."""
    used = [{expression.node_name(node) for node in expression.parse(text)} for text in found["expression"]]
    flags = {name: [name in names for names in used] for name in TABLE_I}
    return _shares(found, pandas.DataFrame(flags, index=found.index))


def minima(loss: torch.nn.Module) -> int:
    """How many local minima a loss has: over the prediction, the most for six labels; over p of the true class.

    A minimum counts if it is deeper than a thousandth of the range of values. See `shapes.minimum` for the grids.
    """
    if loss.classification:
        p = torch.linspace(0.001, 0.999, 999)
        curves = [elementwise(loss, 1.0, p) + 9 * elementwise(loss, 0.0, (1 - p) / 9)]
    else:
        curves = [elementwise(loss, y, torch.linspace(-4, 4, 1601)) for y in (-1.5, -0.9, -0.3, 0.3, 0.9, 1.5)]
    count = 0
    for curve in curves:
        walled = np.concatenate([[np.inf], curve, [np.inf]]).clip(max=2 * np.abs(curve).max() + 1)
        count = max(count, len(scipy.signal.find_peaks(-walled, prominence=1e-3 * np.ptp(curve) + 1e-12)[0]))
    return count


def features(loss: torch.nn.Module) -> dict[str, bool]:
    """What shape a loss has, as the rows of `loss_shapes` name it."""
    found = {f"more than {SMALL} nodes": len(loss.tree) > SMALL, "more than one minimum": minima(loss) > 1}
    if loss.classification:
        return found | {f"least at p < {SURE}": not shapes.minimum(loss) >= SURE}
    rises = shapes.growth(loss)
    found[f"least farther than {NEAR} from y"] = shapes.minimum(loss) > NEAR
    found["grows faster than squared error"] = rises is not None and rises > SQUARE
    return found | {"does not rise with the error": rises is None}


def loss_shapes(found: pandas.DataFrame) -> pandas.DataFrame:
    """Share of fragile losses among the leaders of `found` that have a shape of `features`, and among the others."""
    flags = [features(loss_of(row)) for row in found.itertuples()]
    return _shares(found, pandas.DataFrame(flags, index=found.index))


def telling(found: pandas.DataFrame, method: str = "evomal") -> tuple[pandas.DataFrame, list[int]]:
    """(a leader and the task loss of its seed, start 0 and two others): whose trajectories are worth a look, of one task.

    The leader fails from most starts, but not from all; ties go to the widest spread. The others are the starts of its
    lowest and its highest error.
    """
    some = found[(found["method"] == method) & (found["failed"] < 1)]
    spread = some["high"].clip(upper=some["trivial"]) - some["low"]
    row = some.loc[
        pandas.DataFrame({"failed": some["failed"], "spread": spread}).sort_values(["failed", "spread"]).index[-1]
    ]
    errors = np.array(row["errors"][1:])
    same = found[(found["method"] == TASK_LOSS) & (found["seed"] == row["seed"])]
    return pandas.concat([row.to_frame().T, same]), [0, 1 + int(errors.argmin()), 1 + int(errors.argmax())]


def _shown(rows: pandas.DataFrame, index: list[str], columns: dict[str, str]) -> pandas.DataFrame:
    """Columns of rows under other names, numbers as `report.number` has them; the interval stands behind what has one."""
    shown = pandas.DataFrame(
        {"task": [title(row) for row in rows.itertuples()]} | {name: list(rows[name]) for name in index}
    )
    for name, words in columns.items():
        if f"{name}_low" in rows:
            shown[words] = [with_interval(row, name) for row in rows.itertuples()]
        elif rows[name].dtype.kind == "f":
            shown[words] = [report.number(value) for value in rows[name]]
        else:
            shown[words] = list(rows[name])
    return shown.set_index(["task", *index])


def display_searches(searches: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `by_search` for reading."""
    fragile = [f"{row.fragile} of {row.leaders}" for row in searches.itertuples()]
    failed = [f"{round(row.failed * row.others)} of {row.others}" for row in searches.itertuples()]
    columns = {
        "seen": "seen by the search",
        "mean": "mean elsewhere",
        "median": "median elsewhere",
        "failed": "starts that fail",
    }
    columns |= {"fragile": "fragile leaders", "leaders_seen": "leaders, seen", "leaders_mean": "leaders, elsewhere"}
    return _shown(searches.assign(fragile=fragile, failed=failed), ["method", "seed"], columns)


def display_curse(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `curse` for reading."""
    columns = {
        "n": "n",
        "rise": "rise",
        "task_rise": "rise of the task loss",
        "own": "rise beyond it",
        "slope": "slope",
    }
    return _shown(rows, ["method"], columns)


def display_advantage(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `advantage` for reading."""
    rows = rows.assign(difference=rows["method"] + " − " + rows["other"])
    columns = {"n": "n", "seen": "as selected", "mean": "from other starts", "lost": "made up by selection"}
    return _shown(rows, ["of", "difference"], columns)


def display_chosen(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `chosen_again` for reading."""
    columns = {"n": "n", "selected": "best by the search", "chosen": "best by other starts", "difference": "difference"}
    return _shown(rows, ["method"], columns)
