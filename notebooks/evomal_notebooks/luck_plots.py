"""Figures of the luck of a draw: what `luck.measured` gives, drawn."""

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from . import luck, report
from .initialisation import SEARCH, TASK, TASK_LOSS
from .luck import methods, of_searches, title
from .plots import PALETTE, colour, grid, style


def _tasks(found: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """title -> the rows of a task."""
    return {title(group.iloc[0]): group for _, group in found.groupby(TASK, sort=False)}


def _errors(axis, values, above: float = 1.0) -> None:
    """An axis of errors around `values`, with room for so many lines of text above; logarithmic if they differ by half."""
    low, high = np.nanmin(values), np.nanmax(values)
    if high < 1.5 * low:
        room = 0.05 * (high - low) + 1e-4
        axis.set_ylim(low - room, high + room * (1 + above))
        return
    room = (high / low) ** 0.05
    axis.set(yscale="log", ylim=(low / room, high * room ** (1 + above)))
    axis.yaxis.set(major_locator=LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
    axis.yaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())


def _verdict(group: pandas.DataFrame) -> str:
    """What becomes of EvoMAL's best leaders, or of their advantage over random search's, from other starts; a line."""
    searches = luck.by_search(group)
    rows, name = luck.advantage(searches, (("evomal", "random"),)), "EvoMAL − random"
    sign = "+"
    if rows.empty:
        rows, name, sign = searches[searches["method"] == "evomal"], "EvoMAL", ""
    if rows.empty:
        return ""
    row = rows.iloc[0] if sign else rows[["seen", "mean"]].mean()
    seen, mean = (report.number(value, sign).replace("-", "−") for value in (row["seen"], row["mean"]))
    return f"\n{name}: {seen} as\nselected, {mean} elsewhere"


@style()
def best_leaders(found: pandas.DataFrame) -> Figure:
    """The best leader of each search: a dot for each other start, a bar for what the search saw, a ring for the mean.

    A panel a task, a colour a method, a column a seed. Above a column stands "×" with the number of starts that fail.
    """
    tasks = _tasks(found[found["rank"] == 0])
    figure, axes = grid(len(tasks), 3, (3.1, 2.5))
    for axis, (name, group) in zip(axes, tasks.items(), strict=False):
        x, ticks, drawn, failures = 0.0, {}, [], {}
        for method in methods(group):
            rows, first = group[group["method"] == method].sort_values("seed"), x
            for row in rows.itertuples():
                others = np.array(row.errors[1:])
                ok = others[others <= row.trivial]
                spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(ok))
                axis.plot(x + spread, ok, ".", ms=5, mew=0, alpha=0.5, color=colour(method))
                axis.plot(x, row.mean, "o", ms=6, mfc="white", mec=colour(method), mew=1.5)
                axis.plot([x - 0.42, x + 0.42], [row.seen] * 2, color="black", lw=1.8, solid_capstyle="butt")
                drawn += [*ok, row.mean, row.seen]
                if row.failed:
                    failures[x] = f"×{round(row.failed * row.others)}"
                x += 1
            ticks[(first + x - 1) / 2] = f"{'task loss' if method == TASK_LOSS else method}\nn = {len(rows)}"
            x += 0.8
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.grid(False, axis="x")
        axis.set_title(name + _verdict(group), fontsize="small")
        _errors(axis, drawn, 1.5 if failures else 0)
        for place, text in failures.items():
            how = {"color": PALETTE[3], "ha": "center", "va": "top", "fontsize": "small"}
            axis.text(place, 0.98, text, transform=axis.get_xaxis_transform(), **how)
    axes[0].set_ylabel("validation error")
    return figure


@style()
def distributions(found: pandas.DataFrame) -> Figure:
    """All leaders of searches, by seed and rank: a line from the 5th to the 95th percentile over other starts, a dot for
    the median, a black dash for the fitness that the search saw.

    A fragile leader is red. A line that leaves the panel has starts that fail. Searches of which one leader was measured are
    left out, and so is a task without others.
    """
    leaders = of_searches(found)
    leaders = leaders[leaders.groupby(SEARCH)["rank"].transform("size") > 1]
    panels = [(name, m, g[g["method"] == m]) for name, g in _tasks(leaders).items() for m in methods(g)]
    figure, axes = grid(len(panels), 3, (3.3, 2.6))
    for axis, (name, method, rows) in zip(axes, panels, strict=False):
        rows = rows.sort_values(["seed", "rank"])
        for fragile, shade in ((False, colour(method)), (True, PALETTE[3])):
            x, part = np.flatnonzero(rows["fragile"] == fragile), rows[rows["fragile"] == fragile]
            axis.vlines(
                x, part["low"], part["high"].clip(upper=10 * rows["trivial"].iloc[0]), color=shade, lw=1, alpha=0.6
            )
            axis.plot(x, part["median"], ".", ms=4, color=shade)
        axis.plot(np.arange(len(rows)), rows["seen"], "_", color="black", ms=4, mew=1.2)
        for end in np.flatnonzero(rows["seed"].diff().fillna(0)) - 0.5:
            axis.axvline(end, color="0.6", lw=0.8)
        axis.set(title=f"{name}\n{method}", xlabel="leaders, by seed and rank", xticks=[])
        shown = pandas.concat([rows[["low", "median", "seen"]].min(axis=1), rows["high"]])
        _errors(axis, shown[shown <= rows["trivial"].iloc[0]], 0)
    axes[0].set_ylabel("validation error" if panels else "no search with several leaders")
    return figure


@style()
def regression(found: pandas.DataFrame) -> Figure:
    """Mean error over the other starts against the fitness that the search saw, a dot a leader; best leaders are ringed.

    On the dotted line fitness is what it promises. A loss that fails from a start counts as the trivial predictor there.
    """
    tasks = _tasks(of_searches(found))
    figure, axes = grid(len(tasks), 3, (3.4, 3.0))
    for axis, (name, group) in zip(axes, tasks.items(), strict=False):
        for method in methods(group):
            rows = group[group["method"] == method]
            axis.scatter(rows["seen"], rows["mean"], 12, color=colour(method), alpha=0.6, lw=0, label=method)
            best = rows[rows["rank"] == 0]
            axis.scatter(best["seen"], best["mean"], 42, facecolors="none", edgecolors=colour(method), lw=1.6)
        ends = [group["seen"].min(), group["seen"].max()]
        axis.plot(ends, ends, color="0.3", ls=":", lw=1)
        axis.set(title=name, xlabel="fitness that the search saw")
        axis.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)
    axes[0].set_ylabel("mean over the other starts")
    return figure


@style()
def paths(steps: pandas.DataFrame, found: pandas.DataFrame) -> Figure:
    """Validation error against step: solid of a leader, dashed of the task loss, a colour a start; a panel a task.

    The dotted lines are the end of a fitness evaluation and the error of the trivial predictor. A cross ends a training that
    diverged.
    """
    tasks = _tasks(steps)
    figure, axes = grid(len(tasks), 2, (3.4, 2.4))
    for axis, (name, group) in zip(axes, tasks.items(), strict=False):
        facts = found[[title(row) == name for row in found.itertuples()]].iloc[0]
        starts = sorted(group["start"].unique())
        for (method, start), line in group.groupby(["method", "start"], sort=False):
            shade = ("black", *(PALETTE[k] for k in (2, 3, 4)))[starts.index(start) % 4]
            own = method != TASK_LOSS
            label = f"start {start}" + (", seen by the search" if not start else "") if own else None
            line = line[line["error"] < np.inf]
            if line.empty:
                label = label and f"{label}, diverges at once"
            axis.plot(
                line["step"], line["error"], color=shade, ls="-" if own else "--", lw=1.6 if own else 1, label=label
            )
            if len(line) and line["step"].max() < group["step"].max():
                axis.plot(line["step"].iloc[-1], line["error"].iloc[-1], "x", color=shade, ms=7, mew=2)
        axis.axvline(facts["steps"], color="0.4", lw=1, ls=":")
        axis.axhline(facts["trivial"], color="0.4", lw=1, ls=":")
        shown = group["error"][group["error"] < 3 * facts["trivial"]]
        axis.set(title=name, xlabel="step")
        _errors(axis, shown)
        axis.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)
    axes[0].set_ylabel("validation error")
    return figure
