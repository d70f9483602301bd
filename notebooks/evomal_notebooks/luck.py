"""How much of a loss's fitness is luck of one draw of initial weights and batches: tables, sentences and figures.

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
from matplotlib.figure import Figure

from evomal_core.losses import expression
from evomal_core.losses.primitives import TABLE_I

from . import report, shapes
from .initialisation import METHODS, SEARCH, TASK, TASK_LOSS, loss_of
from .plots import PALETTE, colour, elementwise, grid, style

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

    Columns behind SEARCH: leaders, fragile; seen, mean and failed of the best leader; leaders_seen and leaders_mean, the
    means over all leaders; slope, of the line through the leaders' means over fitness (NaN if all have one fitness).
    """
    rows = []
    for key, group in found.groupby(SEARCH, sort=False):
        best = group[group["rank"] == 0].iloc[0]
        row = dict(zip(SEARCH, key, strict=True)) | {"leaders": len(group), "fragile": int(group["fragile"].sum())}
        row |= {"seen": best["seen"], "mean": best["mean"], "failed": best["failed"], "median": best["median"]}
        varied = group["seen"].nunique() > 1
        slope = scipy.stats.linregress(group["seen"], group["mean"]).slope if varied else np.nan
        rows.append(row | {"leaders_seen": group["seen"].mean(), "leaders_mean": group["mean"].mean(), "slope": slope})
    return pandas.DataFrame(rows)


def t_interval(values: Iterable[float]) -> dict:
    """n, mean, and the 95 % interval of the mean by Student's t (low, high; NaN with fewer than 2 values)."""
    values = np.asarray(list(values), float)
    low = high = np.nan
    if len(values) > 1:
        low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    return {"n": len(values), "mean": float(values.mean()) if len(values) else np.nan, "low": float(low), "high": float(high)}


def curse(searches: pandas.DataFrame) -> pandas.DataFrame:
    """How far fitness rises from the start that the search saw to the mean of the others, a row a task and method.

    Columns: n seeds; rise of the best leader's error, with low and high, its t interval over seeds; leaders_rise, the same
    of the mean of all leaders; task_rise, that of the task loss from the same starts, which is the draw's own luck.
    """
    rows = []
    for key, group in searches.groupby([*TASK, "method"], sort=False):
        if key[-1] == TASK_LOSS:
            continue
        names = dict(zip([*TASK, "method"], key, strict=True))
        same = searches[(searches[TASK] == list(key[:-1])).all(axis=1) & (searches["method"] == TASK_LOSS)]
        same = same[same["seed"].isin(group["seed"])]
        own = t_interval(group["mean"] - group["seen"])
        rows.append(
            names
            | {"n": own["n"], "rise": own["mean"], "low": own["low"], "high": own["high"]}
            | {"leaders_rise": (group["leaders_mean"] - group["leaders_seen"]).mean()}
            | {"task_rise": (same["mean"] - same["seen"]).mean(), "slope": group["slope"].mean()}
        )
    return pandas.DataFrame(rows)


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
                    row = dict(zip(TASK, key, strict=True)) | {"method": first, "other": second, "of": what, "n": len(seen)}
                    for name, values in (("seen", seen), ("mean", mean), ("lost", mean - seen)):
                        found = t_interval(values)
                        row |= {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
                    rows.append(row)
    return pandas.DataFrame(rows)


def with_interval(row, name: str) -> str:
    """A number of a row with its interval."""
    value, low, high = (getattr(row, n) for n in (name, f"{name}_low", f"{name}_high"))
    return report.number(value, "+") + ("" if np.isnan(low) else f" [{report.number(low, '+')}, {report.number(high, '+')}]")


def advantage_words(rows: pandas.DataFrame) -> list[str]:
    """A sentence for each row of `advantage`."""
    lines = []
    for row in rows.itertuples():
        share = f"{1 - row.mean / row.seen:.0%}" if row.seen < 0 else "–"
        lines.append(
            f"{title(row)}, n = {row.n}, {row.of}: {row.method} − {row.other} is {with_interval(row, 'seen')} as selected and "
            f"{with_interval(row, 'mean')} from other starts; selection on one draw made up {share} of it "
            f"({with_interval(row, 'lost')})"
        )
    return lines


def chosen_again(found: pandas.DataFrame) -> pandas.DataFrame:
    """What it helps to choose among the leaders of a search by other starts; a row a task and method.

    The leader of lowest mean over the first half of the other starts is compared with the best leader of the search, both
    over the second half. Columns: n searches; selected and chosen, the two errors; difference, low, high (t, over seeds).
    """
    rows = []
    for key, searches in of_searches(found).groupby([*TASK, "method"], sort=False):
        pairs = []
        for _, group in searches.groupby("seed"):
            group, count = group.sort_values("rank"), group["others"].min()
            errors = np.array([each[1 : count + 1] for each in group["errors"]])
            capped = np.minimum(errors, group["trivial"].to_numpy()[:, None])
            first, second = capped[:, : count // 2].mean(1), capped[:, count // 2 :].mean(1)
            pairs.append((second[0], second[first.argmin()]))
        selected, chosen = np.array(pairs).T
        row = dict(zip([*TASK, "method"], key, strict=True)) | {"selected": selected.mean(), "chosen": chosen.mean()}
        difference = t_interval(chosen - selected)
        rows.append(row | {"difference": difference.pop("mean")} | difference)
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
    row = some.loc[pandas.DataFrame({"failed": some["failed"], "spread": spread}).sort_values(["failed", "spread"]).index[-1]]
    errors = np.array(row["errors"][1:])
    same = found[(found["method"] == TASK_LOSS) & (found["seed"] == row["seed"])]
    return pandas.concat([row.to_frame().T, same]), [0, 1 + int(errors.argmin()), 1 + int(errors.argmax())]


def _tasks(found: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """title -> the rows of a task."""
    return {title(group.iloc[0]): group for _, group in found.groupby(TASK, sort=False)}


def _top(axis, values, failures: dict) -> None:
    """End the axis above `values`, and write above each x of `failures` how many starts failed there."""
    low, high = np.nanmin(values), np.nanmax(values)
    room = 0.06 * (high - low or abs(high) or 1)
    axis.set_ylim(low - room, high + room * (3 if failures else 1))
    for x, text in failures.items():
        axis.text(x, high + 1.7 * room, text, color=PALETTE[3], ha="center", va="center", fontsize="x-small")


@style()
def best_leaders(found: pandas.DataFrame) -> Figure:
    """The best leader of each search: a dot for each other start, a bar for the fitness that the search saw, a ring for the mean.

    A panel a task, a colour a method, a column a seed. Above a column stands "×" with the number of starts that fail.
    """
    tasks = _tasks(found[found["rank"] == 0])
    figure, axes = grid(len(tasks), 2, (4.9, 3.4))
    for axis, (name, group) in zip(axes, tasks.items(), strict=False):
        x, ticks, drawn, failures = 0.0, {}, [], {}
        for method in methods(group):
            rows, first = group[group["method"] == method].sort_values("seed"), x
            for row in rows.itertuples():
                others = np.array(row.errors[1:])
                ok = others[others <= row.trivial]
                spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(ok))
                axis.plot(x + spread, ok, ".", ms=4, mew=0, alpha=0.5, color=colour(method))
                axis.plot(x, row.mean, "o", ms=6, mfc="white", mec=colour(method), mew=1.5)
                axis.plot([x - 0.42, x + 0.42], [row.seen] * 2, color="black", lw=1.8, solid_capstyle="butt")
                drawn += [*ok, row.mean, row.seen]
                if row.failed:
                    failures[x] = f"× {round(row.failed * row.others)}"
                x += 1
            ticks[(first + x - 1) / 2] = f"{'task loss' if method == TASK_LOSS else method}\nn = {len(rows)}"
            x += 0.8
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.grid(False, axis="x")
        axis.set(title=name)
        _top(axis, drawn, failures)
    axes[0].set_ylabel("validation error")
    return figure


@style()
def distributions(found: pandas.DataFrame) -> Figure:
    """All leaders, by seed and by rank: a line from the 5th to the 95th percentile over other starts, a dot for the median.

    A black dash is the fitness that the search saw. A fragile leader is red, and a line that leaves the panel fails.
    """
    tasks = _tasks(of_searches(found))
    names = methods(of_searches(found))
    figure, axes = grid(len(tasks) * len(names), len(names), (3.3, 2.5))
    for row, (name, group) in enumerate(tasks.items()):
        top = min(group["trivial"].iloc[0], 1.1 * group.loc[~group["fragile"], "high"].replace(np.inf, np.nan).max())
        for axis, method in zip(axes[row * len(names) :], names, strict=False):
            rows = group[group["method"] == method].sort_values(["seed", "rank"])
            for fragile, part, shade in ((False, rows[~rows["fragile"]], colour(method)), (True, rows[rows["fragile"]], PALETTE[3])):
                x = np.flatnonzero(rows["fragile"] == fragile)
                axis.vlines(x, part["low"], part["high"].clip(upper=10 * top), color=shade, lw=1, alpha=0.6)
                axis.plot(x, part["median"], ".", ms=4, color=shade)
            axis.plot(np.arange(len(rows)), rows["seen"], "_", color="black", ms=3, mew=1.2)
            ends = np.flatnonzero(rows["seed"].diff().fillna(0)) - 0.5
            for end in ends:
                axis.axvline(end, color="0.6", lw=0.8)
            axis.set(title=f"{name}\n{method}", xlabel="leaders, by seed and rank", xticks=[])
            axis.set_ylim(0.97 * group["seen"].min(), top)
        axes[row * len(names)].set_ylabel("validation error")
    return figure


@style()
def regression(found: pandas.DataFrame) -> Figure:
    """Mean error over the other starts against the fitness that the search saw, a dot a leader; best leaders are ringed.

    On the dotted line fitness is what it promises. A loss that fails from a start counts as the trivial predictor there.
    """
    tasks = _tasks(of_searches(found))
    figure, axes = grid(len(tasks), 2, (4.4, 3.4))
    for axis, (name, group) in zip(axes, tasks.items(), strict=False):
        for method in methods(group):
            rows = group[group["method"] == method]
            axis.scatter(rows["seen"], rows["mean"], 12, color=colour(method), alpha=0.6, lw=0, label=method)
            best = rows[rows["rank"] == 0]
            axis.scatter(best["seen"], best["mean"], 42, facecolors="none", edgecolors=colour(method), lw=1.6)
        ends = [group["seen"].min(), group["seen"].max()]
        axis.plot(ends, ends, color="0.3", ls=":", lw=1)
        axis.set(title=name, xlabel="fitness that the search saw")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("mean over the other starts")
    return figure


@style()
def paths(steps: pandas.DataFrame, found: pandas.DataFrame) -> Figure:
    """Validation error against step: solid of a leader, dashed of the task loss, a colour a start; a panel a task.

    The dotted lines are the end of a fitness evaluation and the error of the trivial predictor. A cross ends a training that
    diverged.
    """
    tasks = _tasks(steps)
    figure, axes = grid(len(tasks), 2, (4.4, 3.4))
    for axis, (name, group) in zip(axes, tasks.items(), strict=False):
        facts = found[[title(row) == name for row in found.itertuples()]].iloc[0]
        starts = sorted(group["start"].unique())
        for (method, start), line in group.groupby(["method", "start"], sort=False):
            shade = ("black", PALETTE[2], PALETTE[3])[starts.index(start) % 3] if start else "black"
            own = method != TASK_LOSS
            label = f"start {start}" + (", seen by the search" if not start else "") if own else None
            line = line[line["error"] < np.inf]
            axis.plot(line["step"], line["error"], color=shade, ls="-" if own else "--", lw=1.6 if own else 1, label=label)
            if line["step"].max() < group["step"].max():
                axis.plot(line["step"].iloc[-1], line["error"].iloc[-1], "x", color=shade, ms=7, mew=2)
        axis.axvline(facts["steps"], color="0.4", lw=1, ls=":")
        axis.axhline(facts["trivial"], color="0.4", lw=1, ls=":")
        shown = group.loc[group["error"] < np.inf, "error"]
        axis.set(title=name, xlabel="step", yscale="log", ylim=(0.9 * shown.min(), min(1.1 * shown.max(), 5 * facts["trivial"])))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(which="both", labelsize="x-small")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("validation error")
    return figure
