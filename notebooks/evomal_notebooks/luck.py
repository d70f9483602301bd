"""How much of a loss's fitness is luck of one draw of initial weights and batches: tables and sentences.

All read what `initialisation.read` gives. A start *fails* if the training diverges, or ends above the validation error of
the trivial predictor (`initialisation.trivial`). In means a start that fails counts as the trivial predictor, because its
own error may be infinite; medians and other quantiles are of the errors as they are. Start 0, which the search saw, is in
none of these: they are of the other starts. A loss is *fragile* if it is better than the task loss from start 0 and worse,
or failing, from at least the share `FRAGILE` of the others, each time compared from the same start.
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
from .flatness import rank_correlation
from .initialisation import METHODS, SEARCH, TASK, TASK_LOSS, loss_of
from .plots import elementwise

FRAGILE = 0.1
NEAR = 0.1  # of the label, for a minimum of regression
SURE = 0.95  # probability of the true class, for a minimum of classification
SMALL = 10  # nodes
SQUARE = 9.5  # `shapes.growth` of squared error is 9
PAIRS = (("evomal", "random"), ("gp-lfl", "random"), ("evomal", "gp-lfl"))
# What is compared of two searches, and the columns of `by_search` that have it as seen and from other starts
WINNER, MEDIAN, LEADERS = "best leader, mean", "best leader, median", "all leaders, mean"
COMPARED = {WINNER: ("seen", "mean"), MEDIAN: ("seen", "median"), LEADERS: ("leaders_seen", "leaders_mean")}


def measured(table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of `initialisation.read` that have another start than start 0, with what the starts say of each loss.

    Columns added: seen, the fitness as the search recorded it, and of the task loss the error from start 0; others, the
    number of other starts; diverged and failed, shares of them; low, median and high, the 5th, 50th and 95th percentile;
    mean, in which a failure counts as the trivial predictor; better, whether the loss is better than the task loss from
    start 0; worse, the share of other starts from which it is worse, or fails; fragile.
    """
    table, rows = table.loc[table["errors"].map(len) > 1], []
    task = table[table["method"] == TASK_LOSS].set_index([*TASK, "seed"])["errors"]
    for row in table.itertuples():
        errors, baseline = np.array(row.errors), np.array(task[*(getattr(row, name) for name in TASK), row.seed])
        others, n = errors[1:], min(len(errors), len(baseline))
        fails = ~(others <= row.trivial)
        quantiles = np.quantile(others, [0.05, 0.5, 0.95], method="inverted_cdf")
        mean, seen = np.where(fails, row.trivial, others).mean(), errors[0] if np.isnan(row.fitness) else row.fitness
        worse = ((others[: n - 1] > baseline[1:n]) | fails[: n - 1]).mean()
        shares = np.isinf(others).mean(), fails.mean()
        better = seen < baseline[0]
        rows.append((seen, len(others), *shares, *quantiles, mean, better, worse, better and worse >= FRAGILE))
    names = "seen others diverged failed low median high mean better worse fragile".split()
    return pandas.concat([table, pandas.DataFrame(rows, columns=names, index=table.index)], axis=1)


def title(row) -> str:
    """Data set, model, budget and, unless it is as in the text, protocol."""
    budget = report.in_words("budget", row.budget)
    return ", ".join([row.dataset, row.model, budget, *([row.protocol] if row.protocol != "paper" else [])])


def of_searches(found: pandas.DataFrame) -> pandas.DataFrame:
    """The leaders of `measured` without the task loss."""
    return found[found["method"] != TASK_LOSS]


def methods(found: pandas.DataFrame) -> list[str]:
    """The methods that were measured, in the order of `initialisation.METHODS`, the task loss last."""
    return [method for method in (*METHODS, TASK_LOSS) if method in set(found["method"])]


def by_search(found: pandas.DataFrame) -> pandas.DataFrame:
    """One row a search, or task loss, of `measured`: how many leaders there are, how many are fragile, and their errors.

    Columns behind SEARCH: leaders, better and fragile, numbers of leaders; others, seen, mean, median, failed and worse, of
    the best leader; leaders_seen and leaders_mean, the means over all leaders, and rho, Spearman's correlation of fitness
    and mean over the leaders. These three are NaN where one leader was measured, and rho also where all have one fitness.
    """
    rows = []
    for key, group in found.groupby(SEARCH, sort=False):
        best = group[group["rank"] == 0].iloc[0]
        row = dict(zip(SEARCH, key, strict=True)) | {"leaders": len(group)}
        row |= {name: int(group[name].sum()) for name in ("better", "fragile")}
        row |= {name: best[name] for name in ("others", "seen", "mean", "median", "failed", "worse")}
        several = group if len(group) > 1 else group[:0]
        row |= {f"leaders_{name}": several[name].mean() for name in ("seen", "mean")}
        rows.append(row | {"rho": rank_correlation(several["seen"], several["mean"])["rho"]})
    return pandas.DataFrame(rows)


def t_interval(values: Iterable[float]) -> dict:
    """n, mean, and the 95 % interval of the mean by Student's t (low, high; NaN with fewer than 2 values)."""
    values = np.asarray(list(values), float)
    mean = float(values.mean()) if len(values) else np.nan
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values) if len(values) > 1 else np.nan
    return {"n": len(values), "mean": mean, "low": float(mean - half), "high": float(mean + half)}


def curse(searches: pandas.DataFrame) -> pandas.DataFrame:
    """How far the best leader's error rises from the start that the search saw to the mean of the others, by task and method.

    Columns: n seeds; rise, with its t interval over seeds; task_rise, that of the task loss of the same seeds, which is the
    luck of the draws and no selection; own, the difference of the two, with its t interval; rho, the mean of the searches'.
    """
    rows = []
    for key, group in searches.groupby([*TASK, "method"], sort=False):
        same = searches[(searches[TASK] == list(key[:-1])).all(axis=1) & (searches["method"] == TASK_LOSS)]
        if key[-1] == TASK_LOSS:
            continue
        rise, task_rise = ((part["mean"] - part["seen"]).set_axis(part["seed"]) for part in (group, same))
        row = dict(zip([*TASK, "method"], key, strict=True)) | {"n": len(rise), "rho": group["rho"].mean()}
        row |= (
            _named("rise", rise)
            | _named("task_rise", task_rise[rise.index])
            | _named("own", rise - task_rise[rise.index])
        )
        rows.append(row)
    return pandas.DataFrame(rows)


def _named(name: str, values: Iterable[float]) -> dict[str, float]:
    """The mean of values and its interval, as columns of a table."""
    found = t_interval(values)
    return {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def advantage(searches: pandas.DataFrame, pairs: Sequence[tuple[str, str]] = PAIRS) -> pandas.DataFrame:
    """A method's fitness minus another's, as selected and from other starts, paired over seeds; t intervals.

    One row for each task, pair and what is compared (`COMPARED`). Columns: n; seen, the difference as the searches saw it;
    mean, that from the other starts; lost, the second minus the first, which is what selection on one draw made up; each
    with its interval.
    """
    rows = []
    for key, group in searches.groupby(TASK, sort=False):
        for first, second in pairs:
            sides = [group[group["method"] == name].set_index("seed") for name in (first, second)]
            for what, columns in COMPARED.items():
                seen, mean = ((sides[0][name] - sides[1][name]).dropna() for name in columns)
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
    """A sentence for each row of `advantage` whose first method has the lower fitness as selected."""
    lines = []
    for row in rows.itertuples():
        if row.seen >= 0:
            continue
        share = "all" if row.mean >= 0 else "none" if row.mean < row.seen else f"{1 - row.mean / row.seen:.0%}"
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
    """For each column of `has`, a flag of the rows of `found`: "10% of 21 (7)" with it and without it, which is the share of
    fragile losses among so many leaders (of so many searches)."""
    rows = {}
    for name in has:
        sides = {"with": found[has[name]], "without": found[~has[name]]}
        rows[name] = {
            side: f"{part['fragile'].mean():.0%} of {len(part)} ({part.groupby(SEARCH).ngroups})" if len(part) else "–"
            for side, part in sides.items()
        }
    return pandas.DataFrame(rows).T


def operators(found: pandas.DataFrame) -> pandas.DataFrame:
    """Share of fragile losses among the rows of `found` that contain an operator, and among the others."""
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
    found["grows faster than squared error"] = rises is not None and bool(rises > SQUARE)
    return found | {"does not rise with the error": rises is None}


def loss_shapes(found: pandas.DataFrame) -> pandas.DataFrame:
    """Share of fragile losses among the rows of `found` that have a shape of `features`, and among the others."""
    flags = [features(loss_of(row)) for row in found.itertuples()]
    return _shares(found, pandas.DataFrame(flags, index=found.index))


def telling(found: pandas.DataFrame, method: str = "evomal") -> tuple[pandas.DataFrame, list[int]]:
    """(a leader and the task loss of its seed, start 0 and some others): whose trajectories are worth a look, of one task.

    The leader is better than the task loss from start 0 and worse from the most others; ties go to the widest spread. It is
    one of the method, if that has any. The others are the starts of its lowest, its highest and its highest finite
    error. Nothing if there is no leader.
    """
    if of_searches(found).empty:
        return found[:0], []
    some = of_searches(found).assign(own=found["method"] == method, spread=found["high"].clip(upper=found["trivial"]))
    row = some.assign(spread=some["spread"] - some["low"]).sort_values(["own", "better", "worse", "spread"]).iloc[-1]
    errors = np.array(row["errors"][1:])
    last = np.where(np.isfinite(errors), errors, -1).argmax()
    starts = [0, *sorted({1 + int(place) for place in (errors.argmin(), last, errors.argmax())})]
    same = found[(found["method"] == TASK_LOSS) & (found["seed"] == row["seed"])]
    return pandas.concat([row.to_frame().T, same])[found.columns], starts


def _shown(rows: pandas.DataFrame, index: list[str], columns: dict[str, str]) -> pandas.DataFrame:
    """Columns of rows under other names, numbers as `report.number` has them; the interval stands behind what has one."""
    if rows.empty:
        return rows
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
    fragile = [f"{row.fragile} of {row.better}" for row in searches.itertuples()]
    shares = {
        n: [f"{round(s * m)} of {m}" for s, m in zip(searches[n], searches["others"], strict=True)]
        for n in ("failed", "worse")
    }
    columns = {"seen": "seen", "mean": "mean", "median": "median", "failed": "fails", "worse": "worse than task loss"}
    columns |= {"leaders_seen": "leaders, seen", "leaders_mean": "leaders, mean", "fragile": "fragile leaders"}
    return _shown(searches.assign(fragile=fragile, **shares), ["method", "seed"], columns)


def display_curse(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `curse` for reading."""
    columns = {
        "n": "n",
        "rise": "rise",
        "task_rise": "rise of the task loss",
        "own": "rise beyond it",
        "rho": "rank correlation",
    }
    return _shown(rows, ["method"], columns)


def display_advantage(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `advantage` for reading."""
    rows = rows.assign(difference=[f"{row.method} − {row.other}" for row in rows.itertuples()])
    columns = {"n": "n", "seen": "as selected", "mean": "from other starts", "lost": "made up by selection"}
    return _shown(rows, ["of", "difference"], columns)


def display_chosen(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of `chosen_again` for reading."""
    columns = {"n": "n", "selected": "best by the search", "chosen": "best by other starts", "difference": "difference"}
    return _shown(rows, ["method"], columns)


def not_repeated(found: pandas.DataFrame, most: float = 1e-3) -> list[str]:
    """A line for each leader whose error from start 0 is more than `most` from the fitness of its record, and a count."""
    lines, leaders = [], of_searches(found)
    for row in leaders.itertuples():
        if abs(row.errors[0] - row.fitness) > most:
            name = f"{title(row)}, {row.method}, seed {row.seed}, rank {row.rank}"
            lines.append(f"{name}: {report.number(row.errors[0])} instead of {report.number(row.fitness)}")
    return [*lines, f"{len(leaders) - len(lines)} of {len(leaders)} leaders repeat their recorded fitness to {most:g}"]


def fragile_leaders(found: pandas.DataFrame, most: int = 6) -> list[str]:
    """A line for each fragile leader of `found`, those that are worse than the task loss from the most starts first."""
    rows = found[found["fragile"]].sort_values("worse", ascending=False)
    lines = []
    for row in rows.head(most).itertuples():
        errors = f"{report.number(row.seen)} as seen, median {report.number(row.median)}"
        worse = f"worse from {round(row.worse * row.others)} of {row.others} starts"
        lines.append(f"{row.method}, seed {row.seed}, rank {row.rank}: {errors}, {worse}: {row.expression}")
    return lines
