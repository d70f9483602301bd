"""Tables of runs: tidy rows, and the paper's numbers beside this package's (Tables II to IV).

Budgets and protocols are never pooled, and neither are the committed reference records and the reader's own runs. Full
precision is kept in every table; `display_summary` rounds, for reading only.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas
import torch

from ..config import BUDGETS, DATASETS, MODELS, check_choice
from ..search import GENETIC_METHODS
from ..search.evaluate import OUTCOMES
from . import store
from .cell import Cell

REFERENCE = store.ROOT / "results" / "reference"
PAPER = store.ROOT / "data" / "paper"
METHOD_ORDER = ("baseline", "tuned", "ml3", "taylorglo", "gp-lfl", "evomal", "random")
SOURCES = ("reference", "own")
KEYS = ["dataset", "model", "method", "protocol", "budget"]
NOTE = (
    "mean ± sample standard deviation (n − 1; the paper does not say which it gives) over n seeds. Runs that diverged or "
    "found no loss are counted behind n and are not in the mean. Differences are to the paper's mean."
)


@dataclass(frozen=True)
class Records:
    """The runs there are: `reference` (committed), `own`, and messages about damaged records, which are left out."""

    reference: list[store.Run]
    own: list[store.Run]
    damaged: list[str]

    @property
    def problems(self) -> list[str]:
        """A line for each record or run that is missing for a reason."""
        return self.damaged + [f"{run.cell}: {run.status}, {run.reason}" for run in self.own if run.reason]

    def select(self, **wanted) -> "Records":
        """Those whose cells have these values: `select(dataset="diabetes", method=("evomal", "random"))`."""
        wanted = {name: v if isinstance(v, (tuple, list, set)) else (v,) for name, v in wanted.items()}

        def fits(run):
            return all(getattr(run.cell, name) in values for name, values in wanted.items())

        return Records(list(filter(fits, self.reference)), list(filter(fits, self.own)), self.damaged)


def collect(results_dir=None, also: Iterable[store.Run] = (), reference_dir=None) -> Records:
    """All records of `results_dir` (default as for `run_cell`) and of `results/reference/`.

    Args:
        also: what `run_grid` returned; those of it that could not be run have no record, and stand in the table as such.
    """
    reference, damaged = store.read_runs(reference_dir or REFERENCE, Cell)
    own, more = store.read_runs(store.results_dir(results_dir), Cell)
    own += [run for run in also if run.path is None]
    reference, own = (
        sorted(runs, key=lambda run: (_order(_key(run.cell)), run.cell.seed)) for runs in (reference, own)
    )
    return Records(reference, own, [message.replace(f"{store.ROOT}/", "") for message in damaged + more])


def paper_table(name: str = "table3") -> pandas.DataFrame:
    """The paper's numbers: dataset, model, method, metric, mean, std. Raises ValueError for an unknown table."""
    check_choice("paper table", name, sorted(path.stem for path in Path(PAPER).glob("*.csv")))
    return pandas.read_csv(PAPER / f"{name}.csv")


def runs_table(runs: Records | Iterable[store.Run]) -> pandas.DataFrame:
    """One row a run: its cell, source ("reference" or "own"), status, metrics, the loss found, counts and seconds. Missing
    numbers are NaN."""
    records = runs if isinstance(runs, Records) else Records([], list(runs), [])
    rows = [_row(run) | {"source": source} for source in SOURCES for run in getattr(records, source)]
    return pandas.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_NUMBERS, float))


_NUMBERS = ["test_metric", "validation_metric", "train_metric", "fitness", "candidates", "evaluated", "seconds"]
_COLUMNS = [*KEYS, "seed", "source", "status", "reason", "metric", *_NUMBERS, "expression"]


def _row(run: store.Run) -> dict:
    cell, data = run.cell, run.data
    loss = data.get("loss") or {}
    history = data.get("history", [])
    return {
        **{name: getattr(cell, name) for name in [*KEYS, "seed"]},
        "status": run.status,
        "reason": run.reason,
        **{name: data.get(name) for name in ("metric", "validation_metric", "train_metric", "fitness")},
        "test_metric": run.test_metric,
        "candidates": sum(row.get(outcome, 0) for row in history for outcome in OUTCOMES) if history else None,
        "evaluated": sum(row.get("evaluated", 0) for row in history) if history else None,
        "seconds": run.seconds.get("total"),
        "expression": loss.get("expression") or loss.get("kind"),
    }


def summary(
    runs: Records | Iterable[store.Run] | pandas.DataFrame,
    paper: pandas.DataFrame | None = None,
    rows: Iterable[Cell] = (),
) -> pandas.DataFrame:
    """Mean and standard deviation over seeds, beside the paper's.

    Args:
        runs: `Records`, a list of runs (which count as own), or a table as `runs_table` makes it.
        paper: as `paper_table` makes it.
        rows: cells that have a row even without a record; their seeds do not matter.

    Returns:
        One row for each data set, model, method, protocol and budget. Columns: ("paper", mean, std); and for "reference"
        and "own" each: mean, std (n − 1), n (complete runs), left_out (text: how many runs of which other status) and
        difference (of the means, to the paper's).
    """
    table = runs if isinstance(runs, pandas.DataFrame) else runs_table(runs)
    index = sorted({*map(_key, rows), *table[KEYS].itertuples(index=False, name=None)}, key=_order)
    result = pandas.DataFrame(index=pandas.MultiIndex.from_tuples(index, names=KEYS))
    if paper is not None:
        known = paper.set_index(KEYS[:3])
        for name in ("mean", "std"):
            result["paper", name] = [known[name].get(key[:3], float("nan")) for key in index]
    for source in SOURCES:
        own = table[table["source"] == source]
        groups = own[own["status"] == "complete"].groupby(KEYS)["test_metric"]
        others = own[own["status"] != "complete"].groupby(KEYS)["status"]
        result[source, "mean"] = groups.mean().reindex(result.index)
        result[source, "std"] = groups.std(ddof=1).reindex(result.index)
        result[source, "n"] = groups.count().reindex(result.index, fill_value=0).astype(int)
        left_out = {key: ", ".join(f"{n} {s}" for s, n in sorted(Counter(g).items())) for key, g in others}
        result[source, "left_out"] = [left_out.get(key, "") for key in index]
        if paper is not None:
            result[source, "difference"] = result[source, "mean"] - result["paper", "mean"]
    result.columns = pandas.MultiIndex.from_tuples(result.columns, names=["source", "quantity"])
    return result


def _key(cell: Cell) -> tuple:
    return tuple(getattr(cell, name) for name in KEYS)


def _order(key: tuple) -> tuple:
    """Rows in the paper's order; unknown names behind the known, variants behind their base."""
    orders = (DATASETS, MODELS, METHOD_ORDER, ("paper", "released"), tuple(BUDGETS))
    bases = [value.split("+")[0] for value in key]
    return tuple((o.index(b) if b in o else len(o), v) for o, b, v in zip(orders, bases, key, strict=True))


def display_summary(table: pandas.DataFrame) -> pandas.DataFrame:
    """A summary for reading: `0.3829 ± 0.0065`, n behind it, four digits, differences with their sign."""
    shown = pandas.DataFrame(index=table.index)
    if ("paper", "mean") in table:
        shown["paper"] = [_mean_std(*pair) for pair in table["paper"][["mean", "std"]].itertuples(index=False)]
    for source in SOURCES:
        part = table[source]
        cells = part[["mean", "std", "n", "left_out"]].itertuples(index=False)
        shown[f"{source} runs"] = [_with_n(*cell) for cell in cells]
        if "difference" in part:
            shown[f"{source} − paper"] = ["" if pandas.isna(d) else number(d, "+") for d in part["difference"]]
    shown.columns.name = None
    one_model = shown.index.get_level_values("model").nunique() < 2
    return shown.droplevel("model") if one_model else shown


def number(value: float, sign: str = "") -> str:
    """Four decimals as in the paper's tables, or four significant digits of a large number; "–" for none."""
    if pandas.isna(value):
        return "–"
    return f"{value:{sign}.4f}" if abs(value) < 100 else f"{value:{sign}.4g}"


def _mean_std(mean: float, std: float) -> str:
    return number(mean) if pandas.isna(std) else f"{number(mean)} ± {number(std)}"


def _with_n(mean: float, std: float, n: int, left_out: str) -> str:
    if n == 0:
        return left_out or "no record"
    return f"{_mean_std(mean, std)} (n = {n}{'; ' + left_out if left_out else ''})"


def searches(runs: Records | Iterable[store.Run] | pandas.DataFrame) -> pandas.DataFrame:
    """What the searches found and spent, a row for each method and source: mean and standard deviation over seeds of the
    best fitness and the test metric, mean number of candidates, of those whose fitness was computed, and of minutes."""
    table = runs if isinstance(runs, pandas.DataFrame) else runs_table(runs)
    table = table[table["method"].isin(GENETIC_METHODS)].assign(minutes=table["seconds"] / 60)
    groups = table.groupby([*KEYS, "source"])
    result = groups.agg(
        runs=("seed", "count"),
        complete=("test_metric", "count"),
        **{f"{name}_{f}": (name, f) for name in ("fitness", "test_metric") for f in ("mean", "std")},
        **{name: (name, "mean") for name in ("candidates", "evaluated", "minutes")},
    )
    return result.loc[sorted(result.index, key=lambda key: (_order(key[:-1]), key[-1]))]


def hardware(device: str = "auto") -> str:
    """This machine and the versions that matter, in two lines without a path."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    facts = store.environment(torch.device(name))
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    machine = facts["hardware"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine.get('gpu', machine['device'])}\n{versions}"


def levels(runs: Records, dataset: str, method="baseline", budget="paper") -> dict[str, tuple[float, int]]:
    """Protocol -> (mean test metric, n) of the reference records, for what the split alone does."""
    chosen = Records(runs.select(dataset=dataset, method=method, budget=budget).reference, [], [])
    groups = runs_table(chosen).dropna(subset="test_metric").groupby("protocol")["test_metric"]
    return {protocol: (values.mean(), len(values)) for protocol, values in groups}


def best_runs(runs: Records) -> list[store.Run]:
    """Of each data set, model, method, protocol and budget the complete run of lowest fitness (validation, not test)."""
    best: dict[tuple, store.Run] = {}
    for run in runs.reference + runs.own:
        key = _key(run.cell)
        if run.status == "complete" and run.data.get("fitness") is not None:
            best[key] = min(best.get(key, run), run, key=lambda r: r.data["fitness"])
    return [best[key] for key in sorted(best, key=_order)]
