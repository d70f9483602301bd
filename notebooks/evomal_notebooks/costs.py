"""What searches cost: seconds by phase beside the paper's hours (Table V), ratios, minutes of records, expected hours."""

import datetime
from collections.abc import Iterable

import pandas

from evomal_core import Cell, estimate
from evomal_core.machine import environment
from evomal_core.registry import METHODS
from evomal_core.tasks import find_device

from . import report

PHASES = [f"seconds_{phase}" for phase in ("optimise", "filter", "fitness", "search", "test")]
DIGITS = {"n": 0, "hours of search": 3, "published, hours": 2, "times the published": 2}  # 1 of all others


def timed(runs: report.Runs, paper: pandas.Series) -> pandas.DataFrame:
    """The runs of Table V's rows that have seconds, as `report.runs_table` has them, with a column `seconds_search`.

    Args:
        paper: hours by (dataset, model, method).
    """
    table = runs if isinstance(runs, pandas.DataFrame) else report.runs_table(runs)
    table = table.dropna(subset="seconds").fillna({"hardware": "not recorded"})
    table = table[table.set_index(["dataset", "model"]).index.isin(paper.index.droplevel("method"))]
    return table.assign(seconds_search=table["seconds"] - table["seconds_test"])


def search_costs(runs: pandas.DataFrame, paper: pandas.Series) -> pandas.DataFrame:
    """Mean seconds by phase, hours of search, and the paper's hours.

    Args:
        runs: as `timed` makes it; paper: as there.

    Returns:
        One row for each data set, model, protocol, budget, method, source and hardware. "times the published" is NaN unless
        the budget is the full one, because only then do both numbers measure the same.
    """
    keys = [*report.KEYS, "source", "hardware"]
    groups = runs.groupby(keys, sort=False)
    costs = groups[PHASES].mean().rename(columns=lambda name: name.removeprefix("seconds_"))
    costs.insert(0, "n", groups.size())
    costs["hours of search"] = costs["search"] / 3600
    hours = [paper.get((key[0], key[1], key[4])) for key in costs.index]
    costs["published, hours"] = pandas.Series(hours, costs.index, dtype=float)
    same = costs.index.get_level_values("budget") == "paper"
    costs["times the published"] = (costs["hours of search"] / costs["published, hours"]).where(same)
    return costs


def display_costs(costs: pandas.DataFrame) -> pandas.DataFrame:
    """`search_costs` for reading; – stands where there is no number."""
    text = {name: [f"{v:.{DIGITS.get(name, 1)}f}" if v == v else "–" for v in costs[name]] for name in costs}
    return pandas.DataFrame(text, costs.index)


def to_gp_lfl(seconds: pandas.Series) -> pandas.DataFrame:
    """Each method's seconds as a multiple of GP-LFL's in the same row; the baseline, which searches nothing, is left out."""
    wide = seconds.unstack("method").reindex(columns=list(METHODS)).drop(columns="baseline")
    return wide.div(wide["gp-lfl"], axis=0).dropna(how="all")


def ratios(costs: pandas.DataFrame, paper: pandas.Series) -> pandas.DataFrame:
    """The multiples of GP-LFL's seconds, in which each task's rows stand below the row of the paper's Table V."""
    here, there = to_gp_lfl(costs["search"]), to_gp_lfl(paper)
    rows = {}
    for (dataset, model), group in here.groupby(level=["dataset", "model"], sort=False):
        rows[dataset, model, "published"] = there.loc[(dataset, model)]
        for (_, _, protocol, budget, source, _), row in group.iterrows():
            words = f"{report.in_words('budget', budget)} budget, {report.in_words('protocol', protocol)}"
            rows[dataset, model, f"{source}, {words}"] = row
    return pandas.DataFrame(rows).T.reindex(columns=here.columns)


def findings(runs: pandas.DataFrame, paper: pandas.Series) -> list[str]:
    """What the runs of `timed` say about EvoMAL's cost against GP-LFL's, and how long all runs of each source took."""
    lines = []
    for (dataset, model, split, budget, source), group in runs.groupby([*report.BLOCK, "source"], sort=False):
        search = group.groupby("method")["seconds_search"].mean()
        if {"evomal", "gp-lfl"} <= set(search.index):
            here = search["evomal"] / search["gp-lfl"]
            there = paper[dataset, model, "evomal"] / paper[dataset, model, "gp-lfl"]
            spent = group[group["method"] == "evomal"][PHASES].sum()
            share = spent["seconds_optimise"] / spent["seconds_search"]
            where = f"{source}, {report.in_words('budget', budget)} budget, {report.in_words('protocol', split)}"
            lines.append(
                f"{dataset}, {model} ({where}): EvoMAL's search takes {here:.1f} times GP-LFL's (published: {there:.1f}); "
                f"learning weights is {100 * share:.0f} % of it; {search['evomal']:.0f} s a search."
            )
    for source, group in runs.groupby("source", sort=False):
        machines = ", ".join(f"{name} ({n} runs)" for name, n in group["hardware"].value_counts().items())
        lines.append(f"{source}: {len(group)} runs, {group['seconds'].sum() / 3600:.1f} hours in all, on {machines}")
    return lines or ["no record yet"]


def minutes(runs: pandas.DataFrame) -> pandas.DataFrame:
    """Minutes by phase and in all, summed over the runs of a source, budget and method, and how many runs there are."""
    groups = runs.groupby(["source", "budget", "method"])
    cost = groups[[*(f"seconds_{phase}" for phase in report.PHASES), "seconds"]].sum() / 60
    cost.insert(0, "runs", groups.size())
    return cost.rename(columns=lambda name: name.removeprefix("seconds_").replace("seconds", "total"))


def mean_minutes(runs: pandas.DataFrame) -> pandas.DataFrame:
    """Mean minutes of a run by source, data set, model, budget and method, with the number of runs and the hardware."""
    keys = ["source", "dataset", "model", "budget", "method"]
    groups = runs.assign(minutes=runs["seconds"] / 60).groupby(keys, sort=False)
    return groups.agg(runs=("seed", "size"), minutes=("minutes", "mean"), hardware=("hardware", "first"))


def minutes_a_seed(runs: pandas.DataFrame, methods: Iterable[str], budget: str = "quick") -> float:
    """Mean core minutes of the reference runs of a seed at a budget, summed over methods, data sets and protocols."""
    wanted = (runs["source"] == "reference") & (runs["budget"] == budget) & runs["method"].isin(list(methods))
    return runs[wanted].groupby(["dataset", "method", "protocol"])["seconds"].mean().sum() / 60


EXPECTED = report.REFERENCE / "expected_hours.csv"


def expect(cells: Iterable[Cell], data_dir=None, device: str = "auto") -> pandas.DataFrame:
    """Expected hours of cells on this machine, by the cost model: one row for each, with the hardware and the date."""
    cells = list(cells)
    facts = environment(find_device(device))["hardware"]
    rows = [
        {name: getattr(cell, name) for name in ("dataset", "model", "method", "budget", "protocol")}
        | {"search": round(hours.search, 3), "test": round(hours.test, 3)}
        for cell, hours in zip(cells, estimate(cells, data_dir, device), strict=True)
    ]
    there = f"{facts['cpu']}, {facts['cores']} cores" if "gpu" not in facts else facts["gpu"]
    return pandas.DataFrame(rows).assign(hardware=there, date=f"{datetime.date.today():%Y-%m-%d}")


def full_budget(methods: Iterable[str] = METHODS) -> list[Cell]:
    """One cell at the full budget for each row of Table V and each method."""
    rows = report.paper_table("table5")[["dataset", "model"]].drop_duplicates().itertuples(index=False, name=None)
    return [Cell(*row, method, 0, "paper") for row in rows for method in methods]


def expected() -> pandas.DataFrame:
    """The committed table of `expect` for `full_budget`, with the index dataset, model, method."""
    return pandas.read_csv(EXPECTED).set_index(["dataset", "model", "method"])


def seconds_or_hours(runs: pandas.DataFrame, paper: pandas.Series) -> pandas.DataFrame:
    """Hours of search of each row of Table V: published, recorded here at the full budget, and expected on a CPU.

    Args:
        runs: as `timed` makes it.
        paper: hours by (dataset, model, method).

    Returns:
        One row for each row of the paper, columns (method, "published" | "recorded" | "expected"). "recorded" is the mean
        over the reference records of the protocol `paper`, NaN where there is none.
    """
    full = runs.query("budget == 'paper' and protocol == 'paper' and source == 'reference'")
    recorded = full.groupby(["dataset", "model", "method"])["seconds_search"].mean() / 3600
    table = pandas.DataFrame({"published": paper, "recorded": recorded.reindex(paper.index)})
    table["expected"] = expected()["search"].reindex(paper.index)
    order = list(
        dict.fromkeys(zip(*(paper.index.get_level_values(name) for name in ("dataset", "model")), strict=True))
    )
    methods = list(dict.fromkeys(paper.index.get_level_values("method")))
    wide = table.unstack("method").swaplevel(axis=1).reindex(index=order)
    return wide.reindex(columns=[(method, kind) for method in methods for kind in table])


def not_run(rows: Iterable[tuple[str, str]], notebook: str) -> str:
    """The rows of the article without a record, in Markdown: the hours of a seed of all methods, and one command."""
    rows, table = list(rows), expected()
    if not rows:
        return "Every row has a record."
    hours = table[["search", "test"]].sum(axis=1).groupby(["dataset", "model"]).sum()
    made, methods = table.iloc[0], table.index.get_level_values("method").nunique()
    lines = ["| not run | expected hours |", "|---|---|"]
    lines += [f"| {dataset}, {model} | {hours[dataset, model]:,.0f} |" for dataset, model in rows]
    where = f"The hours are those of a seed of all {methods} methods at the full budget on a CPU "
    where += f"({made.hardware}, {made.date})."
    how = f"    ./run papermill notebooks/{notebook}.ipynb out.ipynb -p datasets {rows[0][0]} -p models {rows[0][1]} "
    how += "-p seed 0 -p budget paper"
    return "\n".join(
        [*lines, "", f"{where} The command for the first is below, and for the others with their names:", "", how]
    )
