"""Figures of the luck of a draw: what `luck.measured` gives, drawn."""

import numpy as np
import pandas
from matplotlib.figure import Figure

from .initialisation import TASK, TASK_LOSS
from .luck import methods, of_searches, title
from .plots import PALETTE, colour, grid, style


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
    """The best leader of each search: a dot for each other start, a bar for what the search saw, a ring for the mean.

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
            for fragile, part, shade in (
                (False, rows[~rows["fragile"]], colour(method)),
                (True, rows[rows["fragile"]], PALETTE[3]),
            ):
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
            axis.plot(
                line["step"], line["error"], color=shade, ls="-" if own else "--", lw=1.6 if own else 1, label=label
            )
            if line["step"].max() < group["step"].max():
                axis.plot(line["step"].iloc[-1], line["error"].iloc[-1], "x", color=shade, ms=7, mew=2)
        axis.axvline(facts["steps"], color="0.4", lw=1, ls=":")
        axis.axhline(facts["trivial"], color="0.4", lw=1, ls=":")
        shown = group.loc[group["error"] < np.inf, "error"]
        axis.set(
            title=name,
            xlabel="step",
            yscale="log",
            ylim=(0.9 * shown.min(), min(1.1 * shown.max(), 5 * facts["trivial"])),
        )
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(which="both", labelsize="x-small")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("validation error")
    return figure
