"""What loss landscapes say (Fig. 7): mean curves, flatness by method, flatness against test error, and figures of them.

The tables have the columns of `report.runs_table` that name a run, so `comparisons.compare` and `report.summary` read them.
Budgets, protocols, models and sources are never pooled.
"""

from collections.abc import Iterable

import numpy as np
import pandas
import scipy.stats
from matplotlib.figure import Figure

from evomal_core.registry import DATASETS, METHODS, MODELS

from . import comparisons, report
from .landscape import RADIUS, Landscape, rise
from .plots import SHADES, colour, grid, style

GROUP = ["source", *report.BLOCK]
COLUMNS = [*report.KEYS, "seed", "source", "rise", "error_rise", "loss", "test_metric", "recorded", "weight_norm"]
LEAST = 6  # runs from which a rank correlation has an interval, and is shown
NAMES = {"rise": "rise of the task loss", "error_rise": "rise of the error", "test_metric": "test error"}
NAMES |= {"loss": "task loss at α = 0", "weight_norm": "norm of the weights"}


def table(landscapes: Iterable[Landscape], radius: float = RADIUS) -> pandas.DataFrame:
    """One row for each run that has slices.

    Columns: what names the run; rise and error_rise, `landscape.rise` of the task loss and of the error, as means over the
    directions; loss, the task loss at alpha = 0; test_metric, the error on the whole test part, and recorded, that of the
    search's record; weight_norm. What is not finite is NaN.
    """
    rows = []
    for each in landscapes:
        with np.errstate(invalid="ignore"):
            rises = {name: rise(each.points, each.values(name), radius).mean() for name in ("loss", "error")}
        names = {name: getattr(each.cell, name) for name in (*report.KEYS, "seed")}
        row = names | {"source": each.source, "rise": rises["loss"], "error_rise": rises["error"]}
        row |= {"loss": each.values("loss")[0, len(each.points) // 2], "test_metric": each.data["test_error"]}
        rows.append(row | {"recorded": each.data["recorded_test_error"], "weight_norm": each.data["weight_norm"]})
    found = pandas.DataFrame(rows, columns=COLUMNS)
    numbers = COLUMNS[len(report.KEYS) + 2 :]
    found[numbers] = found[numbers].astype(float).replace([np.inf, -np.inf], np.nan)
    keys = found[[*GROUP, "method", "seed"]].itertuples(index=False, name=None)
    order = [_order(key) for key in keys]
    return found.iloc[sorted(range(len(found)), key=order.__getitem__)].reset_index(drop=True)


def _order(key: tuple) -> tuple:
    """A sort key of (source, data set, model, protocol, budget, method, seed) in the usual order."""
    source, dataset, model, protocol, budget, method, seed = key
    known = ((report.SOURCES, source), (list(DATASETS), dataset), (list(MODELS), model))
    return (*(names.index(name) for names, name in known), protocol, budget, list(METHODS).index(method), seed)


def curves(landscapes: Iterable[Landscape], name: str = "loss") -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(points, mean, standard deviation, n): the mean over directions of each run, then over the n runs.

    The deviation is the sample's (n − 1) over runs, and NaN if there is one: directions around one model are no repetitions.
    Runs with other points than the first are left out.
    """
    landscapes = list(landscapes)
    points = landscapes[0].points
    each = [one.values(name).mean(0) for one in landscapes if np.array_equal(one.points, points)]
    with np.errstate(invalid="ignore"):  # inf − inf
        spread = np.std(each, axis=0, ddof=1) if len(each) > 1 else np.full(len(points), np.nan)
    return points, np.mean(each, axis=0), spread, len(each)


def display(found: pandas.DataFrame) -> pandas.DataFrame:
    """Means over seeds for reading, a row for each task, budget, protocol and method."""
    groups = found.groupby([*GROUP, "method"], sort=False)
    shown = groups[["rise", "error_rise", "loss", "weight_norm", "test_metric"]].mean().map(report.number)
    shown.insert(0, "n", groups["rise"].count())
    names = {"rise": "rise of the loss", "error_rise": "rise of the error", "loss": "loss at 0"}
    return shown.rename(columns=names | {"weight_norm": "norm of the weights", "test_metric": "test error"})


def flatter(found: pandas.DataFrame, method: str = "evomal", other: str = "baseline", value: str = "rise") -> list[str]:
    """A line for each task, budget and protocol: is a method's landscape flatter than another's, paired over seeds?"""
    lines = []
    found = found.rename(columns={value: "value"})
    for row in comparisons.compare(found, method, [other], "value").itertuples():
        verdict = {
            "smaller": f"{method}'s landscape is flatter than {other}'s",
            "larger": f"{method}'s landscape is sharper than {other}'s",
            "open": f"which of {method}'s and {other}'s landscapes is flatter is open",
        }[row.finding]
        ends = comparisons.interval(row)
        ends = f"no interval with {row.reason}" if ends == "–" else f"95 % interval {ends}"
        numbers = f"{report.number(row.difference, '+')}, {ends}, smaller in {row.lower} of n = {row.n}"
        lines.append(f"{_place(row)}: {verdict} (difference of the {NAMES[value]} {numbers})")
    return lines or [f"{method} and {other} have no seed in common yet."]


def _place(row) -> str:
    return f"{row.source}, {row.dataset}, {row.model} ({comparisons.place(row)})"


def rank_correlation(x, y, resamples: int = 2_000) -> dict:
    """Spearman's rank correlation of paired numbers, those with a NaN left out.

    Returns:
        n; rho, NaN with fewer than 3 pairs or where one side is constant; low and high, the 95 % bootstrap percentile
        interval over the pairs, NaN with fewer than 6; finding: "together" or "against" if the interval is on one side of 0,
        else "open".
    """
    pairs = pandas.DataFrame({"x": np.asarray(x, float), "y": np.asarray(y, float)}).dropna().to_numpy()
    low = high = rho = float("nan")
    if len(pairs) >= 3:
        rho = _spearman(pairs[None]).item()
    if len(pairs) >= LEAST and rho == rho:
        drawn = np.random.default_rng(0).integers(len(pairs), size=(resamples, len(pairs)))
        low, high = np.nanquantile(_spearman(pairs[drawn]), [0.025, 0.975])  # a constant sample has no correlation
    finding = "together" if low > 0 else "against" if high < 0 else "open"
    return {"n": len(pairs), "rho": float(rho), "low": float(low), "high": float(high), "finding": finding}


def _spearman(samples: np.ndarray) -> np.ndarray:
    """Spearman's rho of each of the samples (R, n, 2), (R,); NaN where one side is constant."""
    ranks = scipy.stats.rankdata(samples, axis=1)
    apart = ranks - ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return apart.prod(2).sum(1) / np.sqrt((apart**2).sum(1).prod(1))


def correlations(found: pandas.DataFrame, x: str = "rise", y: str = "test_metric") -> pandas.DataFrame:
    """`rank_correlation` of two columns over the runs of each task, budget, protocol and source with at least six."""
    rows = []
    for key, group in found.groupby(GROUP, sort=False):
        result = rank_correlation(group[x], group[y])
        if result["n"] >= LEAST:
            rows.append(dict(zip(GROUP, key, strict=True)) | {"x": x, "y": y} | result)
    return pandas.DataFrame(rows, columns=[*GROUP, "x", "y", "n", "rho", "low", "high", "finding"])


def correlation_words(rows: pandas.DataFrame) -> list[str]:
    """A line for each row of `correlations`."""
    lines = []
    for row in rows.itertuples():
        x, y = NAMES[row.x], NAMES[row.y]
        verdict = {
            "together": f"the {y} is the larger, the larger the {x}",
            "against": f"the {y} is the smaller, the larger the {x}",
            "open": f"whether the {y} goes with the {x} is open",
        }[row.finding]
        ends = f"95 % interval [{row.low:+.2f}, {row.high:+.2f}]"
        lines.append(f"{_place(row)}: {verdict} (rho {row.rho:+.2f}, {ends}, n = {row.n})")
    return lines or ["No task has six runs yet."]


def reproduced(found: pandas.DataFrame) -> str:
    """How far the test errors of the models trained here are from those of the records of the searches."""
    apart = (found["test_metric"] - found["recorded"]).abs().dropna()
    same = int((apart < 1e-9).sum())
    most = f"the largest difference is {apart.max():.4f}" if len(apart) else "there is none to compare"
    return f"{same} of {len(apart)} models have exactly the test error of their record; {most}"


def blocks(landscapes: Iterable[Landscape]) -> dict[tuple, list[Landscape]]:
    """(source, data set, model, protocol, budget) -> its landscapes, all in the usual order, reference first."""
    result: dict[tuple, list[Landscape]] = {}
    for each in sorted(landscapes, key=lambda each: _order(_key(each))):
        result.setdefault(_key(each)[:5], []).append(each)
    return result


def _key(landscape: Landscape) -> tuple:
    return (landscape.source, *(getattr(landscape.cell, name) for name in (*report.KEYS, "seed")))


def title(key: tuple) -> str:
    """The heading of a panel of a block."""
    source, dataset, model, protocol, budget = key
    rest = [] if protocol == "paper" else [protocol]
    return ", ".join(
        [
            f"{dataset}, {model}",
            f"{report.in_words('budget', budget)} budget",
            *rest,
            *(["own"] if source == "own" else []),
        ]
    )


def by_method(landscapes: Iterable[Landscape]) -> dict[str, list[Landscape]]:
    """method -> its landscapes."""
    result: dict[str, list[Landscape]] = {}
    for each in landscapes:
        result.setdefault(each.cell.method, []).append(each)
    return result


def error_name(dataset: str) -> str:
    """What the performance metric of a data set is called."""
    return "error rate" if DATASETS[dataset].classification else "mean squared error"


@style()
def mean_curves(landscapes: Iterable[Landscape]) -> Figure:
    """Mean slices, a row of panels for each task, budget and protocol: task loss on the left, error on the right.

    A line is a method's mean over runs. Bars reach one sample standard deviation to each side; they stand at some points
    only, different ones for each method, and a single run has none.
    """
    groups = blocks(landscapes)
    figure, axes = grid(2 * len(groups), 2, (3.6, 2.4))
    if not groups:
        axes[0].text(0.5, 0.5, "no landscape", ha="center", va="center", transform=axes[0].transAxes)
    for row, (key, some) in enumerate(groups.items()):
        for axis, name in zip(axes[2 * row : 2 * row + 2], ("loss", "error"), strict=True):
            for place, (method, runs) in enumerate((methods := by_method(some)).items()):
                points, mean, spread, n = curves(runs, name)
                how = {"color": colour(method), "lw": 1.6, "label": f"{method}, n = {n}"}
                bars = {"errorevery": (place, max(7, len(methods))), "elinewidth": 1, "capsize": 2} if n > 1 else {}
                axis.errorbar(points, mean, spread if n > 1 else None, **how, **bars)
            label = "task loss" if name == "loss" else error_name(key[1])
            axis.set(title=title(key), xlabel="α", ylabel=f"{label}, test part", xlim=(-1, 1))
        axes[2 * row + 1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small")
    return figure


@style()
def against_error(found: pandas.DataFrame) -> Figure:
    """The test error against the rise, a dot a run, in a panel for each task, budget and protocol with six runs or more."""
    groups = {key: group for key, group in found.groupby(GROUP, sort=False) if group["rise"].count() >= LEAST}
    figure, axes = grid(len(groups), 3, (3.4, 2.9))
    if not groups:
        axes[0].text(0.5, 0.5, "no task has six runs", ha="center", va="center", transform=axes[0].transAxes)
    for axis, (key, group) in zip(axes, groups.items(), strict=False):
        for method, runs in group.groupby("method", sort=False):
            axis.scatter(runs["rise"], runs["test_metric"], 26, color=colour(method), label=method, ec="white", lw=0.5)
        result = rank_correlation(group["rise"], group["test_metric"])
        axis.set(title=f"{title(key)}\nrho = {result['rho']:+.2f}, n = {result['n']}".replace("-", "−"))
        axis.set(xlabel="rise of the task loss", ylabel=f"test {error_name(key[1])}")
    if groups:
        shown = {label: dot for axis in axes for dot, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


@style()
def contours(planes: Iterable[Landscape]) -> Figure:
    """The task loss over two directions, a row for each task and seed and a panel a method.

    The levels of a row are the same; they rise by equal factors from its lowest to its highest loss. A task and seed with one
    method alone has no row.
    """
    groups: dict[tuple, list[Landscape]] = {}
    for key, some in blocks(planes).items():
        for seed in dict.fromkeys(each.cell.seed for each in some):
            if len(pair := [each for each in some if each.cell.seed == seed]) > 1:
                groups[*key, seed] = pair
    columns = max(map(len, groups.values()), default=1)
    figure, axes = grid(columns * len(groups), columns, (2.9, 2.7))
    if not groups:
        axes[0].text(0.5, 0.5, "no plane", ha="center", va="center", transform=axes[0].transAxes)
    for row, (key, some) in enumerate(groups.items()):
        panels = axes[columns * row : columns * (row + 1)]
        all_values = np.concatenate([each.values("loss").ravel() for each in some])
        finite = all_values[np.isfinite(all_values) & (all_values > 0)]
        levels = np.geomspace(finite.min(), finite.max() * 1.0001, len(SHADES) + 1)
        for axis, each in zip(panels, some, strict=False):
            values = np.nan_to_num(each.values("loss"), posinf=levels[-1])
            filled = axis.contourf(each.points, each.points, values, levels=levels, colors=list(SHADES))
            axis.contour(each.points, each.points, values, levels=levels[1:-1], colors="0.3", linewidths=0.6)
            axis.plot(0, 0, "+", color="black")
            axis.set(
                title=f"{each.cell.method}, seed {key[-1]}\n{title(key[:-1])}", xlabel="α, direction 0", aspect="equal"
            )
            axis.grid(False)
        panels[0].set_ylabel("β, direction 1")
        bar = figure.colorbar(filled, ax=list(panels), format="%.2g", shrink=0.85)
        bar.set_label("task loss, test part")
    return figure
