"""Tables of runs: tidy rows, the published numbers beside this package's (Tables II to IV), exports.

Budgets and protocols are never pooled, and neither are the committed reference records and the reader's own runs. Every
table keeps full precision; only `display_summary`, `paper_layout` and `display_comparison` round, for reading.
"""

import operator
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas

from evomal_core import files, machine
from evomal_core.checks import check_choice
from evomal_core.config import BUDGETS, NOT_IDENTITY, SWITCHES, Config, Protocol
from evomal_core.experiments import store
from evomal_core.experiments.cell import Cell
from evomal_core.losses.meta_network import MetaLoss
from evomal_core.registry import DATASETS, METHODS, MODELS
from evomal_core.search import state
from evomal_core.tasks import find_device

REFERENCE = machine.ROOT / "results" / "reference"
PAPER = Path(__file__).parent / "published"  # the numbers of the article
SOURCES = ("reference", "own")
BLOCK = ["dataset", "model", "protocol", "budget"]  # what is compared with one another: the methods of one of these
KEYS = [*BLOCK, "method"]
PHASES = (*state.PHASES, "test")
TABULAR = ("diabetes", "boston", "california")  # whose split differs between text and code
NOTE = (
    "Each entry is the mean ± sample standard deviation (n − 1; the article does not say which it gives) over n seeds, or "
    "the median and the range where the deviation is larger than the mean. Runs that diverged or found no loss are counted "
    "behind n and are in no mean. The rule of the article decides what is bold: the best mean of a data set, "
    "protocol and budget, "
    "and the means within its standard deviation."
)
# What budgets, protocols and data sets are called where people read them
BUDGET = {"paper": "full"}
PROTOCOL = {"paper": "as in the text", "released": "as in the code"}
DATASET = {"diabetes": "Diabetes", "boston": "Boston", "california": "California", "mnist": "MNIST"}


@dataclass(frozen=True)
class Records:
    """The runs that have a record: `reference` (committed) and `own`, with messages about damaged records, left out here."""

    reference: list[store.Run]
    own: list[store.Run]
    damaged: list[str]

    @property
    def problems(self) -> list[str]:
        """A line for each record or run that is missing for a reason."""
        return self.damaged + [f"{run.cell}: {run.status}, {run.reason}" for run in self.own if run.reason]

    def select(self, **wanted) -> "Records":
        """The runs whose cells have these values: `select(dataset="diabetes", method=("evomal", "random"))`."""
        wanted = {name: v if isinstance(v, (tuple, list, set)) else (v,) for name, v in wanted.items()}
        reference, own = (
            [run for run in runs if all(getattr(run.cell, name) in values for name, values in wanted.items())]
            for runs in (self.reference, self.own)
        )
        return Records(reference, own, self.damaged)


Runs = Records | Iterable[store.Run] | pandas.DataFrame  # a list of runs counts as own, a table is one of `runs_table`


def collect(results_dir=None, also: Iterable[store.Run] = (), reference_dir=None, transferred: bool = False) -> Records:
    """All records of `results_dir` (default as for `run_cell`) and of `results/reference/`.

    Args:
        also: what `run_grid` returned. Runs that could not be made have no record, and stand in the table as such.
        transferred: collect tests of losses on another task than that of their search, instead of those on their own task
            from initial weights and batches of the search's seed.
    """
    reference, damaged = store.read_runs(reference_dir or REFERENCE)
    own, more = store.read_runs(store.results_dir(results_dir))
    own += [run for run in also if run.path is None]
    reference, own = ([run for run in runs if bool(run.cell.source) == transferred] for runs in (reference, own))
    for runs in (reference, own):
        runs.sort(key=lambda run: (order(_key(run.cell)), run.cell.seed))
    return Records(reference, own, [message.replace(f"{machine.ROOT}/", "") for message in damaged + more])


def reference() -> Records:
    """The committed records alone, as `collect` has them."""
    runs, damaged = store.read_runs(REFERENCE)
    runs = [run for run in runs if not run.cell.source]
    runs.sort(key=lambda run: (order(_key(run.cell)), run.cell.seed))
    return Records(runs, [], damaged)


def paper_table(name: str = "table3") -> pandas.DataFrame:
    """The paper's numbers: dataset, model, method, metric, mean, std; `table5` has hours.

    `table6` has, for each loss, its LaTeX as printed (with the bars that the text has lost), the same as a tree of Table I,
    its weights where they are not all 1 (the paper leaves out the learned ones), and a remark.

    Raises:
        ValueError: an unknown table.
    """
    check_choice("paper table", name, sorted(path.stem for path in Path(PAPER).glob("*.csv")))
    return pandas.read_csv(PAPER / f"{name}.csv").fillna({"weights": "", "remark": ""})


def paper_loss(letter: str) -> MetaLoss:
    """A loss of Table VI: "a" to "e" are for classification, "f" to "j" for regression. Any other letter is a ValueError."""
    rows = paper_table("table6").set_index("loss")
    row = rows.loc[check_choice("loss of Table VI", letter, rows.index)]
    weights = [float(weight) for weight in row.weights.split()]
    return MetaLoss(row.expression, weights or None, bool(row.classification))


def runs_table(runs: Records | Iterable[store.Run]) -> pandas.DataFrame:
    """A table with one row for each run, in which missing numbers are NaN.

    A row has the run's cell, source ("reference" or "own"), status, metrics, loss found, counts of candidates, wall-clock
    seconds (in all, and by phase) and hardware.
    """
    records = runs if isinstance(runs, Records) else Records([], list(runs), [])
    rows = [_row(run) | {"source": source} for source in SOURCES for run in getattr(records, source)]
    return pandas.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_NUMBERS, float))


_NUMBERS = ["test_metric", "validation_metric", "train_metric", "fitness", "candidates", "evaluated", "seconds"]
_NUMBERS += [f"seconds_{phase}" for phase in PHASES]
_COLUMNS = [*KEYS, "seed", "source", "status", "reason", "metric", *_NUMBERS, "expression", "hardware"]


def _row(run: store.Run) -> dict:
    data, machine = run.data, run.data.get("hardware", {})
    loss, history = data.get("loss") or {}, data.get("history", [])
    return {
        **data,  # of which the columns are taken
        **asdict(run.cell),
        **{f"seconds_{phase}": run.seconds.get(phase) for phase in PHASES},
        "status": run.status,
        "reason": run.reason,
        "candidates": sum(row.get(outcome, 0) for row in history for outcome in state.OUTCOMES) if history else None,
        "evaluated": sum(row.get("evaluated", 0) for row in history) if history else None,
        "seconds": run.seconds.get("total"),
        "expression": loss.get("expression") or loss.get("kind"),
        "hardware": machine.get("gpu", machine.get("cpu")),
    }


def differences(cell: Cell) -> str:
    """The settings in which a cell differs from the published configuration, as a small table of text.

    The published configuration is the one that the cell has at the budget `paper` under the protocol `paper`. A setting
    that changes no result in exact arithmetic is left out. A switch of the cell's protocol that is no setting of `Config`,
    such as the split of the data, is a row, too.
    """
    published = replace(cell, budget="paper", protocol="paper", source=None)
    here, there = (asdict(Config.for_cell(each)) for each in (cell, published))
    rows = [(name, here[name], there[name]) for name in here if here[name] != there[name] and name not in NOT_IDENTITY]
    protocol = Protocol.parse(cell.protocol)
    switches = [(name, protocol[name], switch.paper) for name, switch in SWITCHES.items() if not switch.field]
    rows += [row for row in switches if row[1] != row[2]]
    if not rows:
        return "All settings are the published ones."
    texts = [("setting", "here", "published"), *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)


def summary(
    runs: Runs, paper: pandas.DataFrame | None = None, rows: Iterable[Cell] = (), value: str = "test_metric"
) -> pandas.DataFrame:
    """Mean and standard deviation over seeds, beside those of the paper.

    Args:
        runs: `Records`, a list of runs (which count as own), or a table as `runs_table` makes it.
        paper: as `paper_table` makes it.
        rows: cells that have a row even without a record; their seeds do not matter.
        value: column of `runs_table`.

    Returns:
        One row for each data set, model, protocol, budget and method. Columns: ("paper", mean, std, best); and for
        "reference" and "own" each: mean, std (n − 1), median, min, max, n (runs that have the value), left_out (text: how
        many runs of which status have none), difference (of the means, to the published; NaN unless `alike`) and best (bold
        by the article's rule, Table II).
    """
    table = runs if isinstance(runs, pandas.DataFrame) else runs_table(runs)
    index = sorted({*map(_key, rows), *table[KEYS].itertuples(index=False, name=None)}, key=order)
    parts, index = {}, pandas.MultiIndex.from_tuples(index, names=KEYS)
    if paper is not None:
        known = paper.set_index(["dataset", "model", "method"])[["mean", "std"]]
        known["best"] = _best(known, ["dataset", "model"])
        parts["paper"] = known.reindex(index.droplevel(["protocol", "budget"])).set_axis(index)
        parts["paper"]["best"] = parts["paper"]["best"].eq(True)
    for source in SOURCES:
        groups = table[table["source"] == source].groupby(KEYS)
        agg = {"mean": "mean", "std": "std", "median": "median", "min": "min", "max": "max", "n": "count"}
        part = groups[value].agg(**agg).reindex(index).fillna({"n": 0}).astype({"n": int})
        without = {key: Counter(group["status"][group[value].isna()]) for key, group in groups}
        part["left_out"] = [", ".join(f"{n} {s}" for s, n in sorted(without.get(key, {}).items())) for key in index]
        if paper is not None:
            same = [alike(key[0], key[2], key[3]) for key in index]
            part["difference"] = (part["mean"] - parts["paper"]["mean"]).where(same)
        part["best"] = _best(part, BLOCK)
        parts[source] = part
    return pandas.concat(parts, axis=1, names=["source", "quantity"])


def _best(part: pandas.DataFrame, block: list[str]) -> pandas.Series:
    """True for the lowest mean of a block of several, and for those within its standard deviation."""
    means = part["mean"].groupby(block)
    margin = part["std"].where(part["mean"] == means.transform("min")).groupby(block).transform("max").fillna(0)
    return (part["mean"] <= means.transform("min") + margin) & (means.transform("count") > 1)


_key = operator.attrgetter(*KEYS)  # of a cell: the tuple of its KEYS


def order(key: tuple) -> tuple:
    """A sort key for rows in the paper's order. Unknown names come behind the known, variants behind their base."""
    orders = (list(DATASETS), list(MODELS), ("paper", "released"), tuple(BUDGETS), list(METHODS))
    bases = [value.split("+")[0] for value in key]
    return tuple((o.index(b) if b in o else len(o), v) for o, b, v in zip(orders, bases, key, strict=True))


def alike(dataset: str, protocol: str, budget: str) -> bool:
    """Whether runs can be held against the published numbers: at the full budget, and with the same split.

    The published level of the three tables is that of the split of the authors' code, as the plain baseline shows.
    """
    return budget == "paper" and (
        dataset not in TABULAR or Protocol.parse(protocol)["split"] == SWITCHES["split"].released
    )


def in_words(name: str, value: str) -> str:
    """A value of the column `name` as people read it: the budget `paper` is full, a protocol is as in the text or code."""
    known = {"budget": BUDGET, "protocol": PROTOCOL}.get(name, {})
    base, plus, rest = str(value).partition("+")
    return known.get(base, base) + plus + rest


def read_aloud(table: pandas.DataFrame) -> pandas.DataFrame:
    """The table with the levels and columns `budget` and `protocol` in words."""
    if isinstance(table.index, pandas.MultiIndex):
        names = table.index.names
        rows = [tuple(in_words(n, v) for n, v in zip(names, key, strict=True)) for key in table.index]
        table = table.set_axis(pandas.MultiIndex.from_tuples(rows, names=names) if rows else table.index)
    columns = [name for name in ("budget", "protocol") if name in table]
    return table.assign(**{n: [in_words(n, v) for v in table[n]] for n in columns}) if columns else table


def display_summary(table: pandas.DataFrame, bold: str = "{}") -> pandas.DataFrame:
    """A summary for reading: `0.3829 ± 0.0065`, with n behind it, four digits, and the sign of differences.

    A source without any run has no column. The best are put into `bold`, which is `"<b>{}</b>"` for HTML.
    """
    shown = pandas.DataFrame(index=table.index)
    if "paper" in table:
        shown["published"] = [_mean_std(row, bold) for row in table["paper"].itertuples()]
    there = [s for s in SOURCES if table[s, "n"].any() or table[s, "left_out"].any()] or SOURCES
    for source in there:
        shown[f"{source} runs"] = [_with_n(row, bold) for row in table[source].itertuples()]
        if "paper" in table and table[source, "difference"].notna().any():
            shown[f"{source} − published"] = [number(d, "+", none="") for d in table[source, "difference"]]
    shown = read_aloud(shown)
    one_model = shown.index.get_level_values("model").nunique() < 2
    return shown.droplevel("model") if one_model else shown


def paper_layout(
    table: pandas.DataFrame, order: Iterable[tuple[str, str]], bold: str = "<b>{}</b>"
) -> pandas.DataFrame:
    """A summary in the layout of Table II: a column for each method, and several lines for each data set and model.

    The first line is the published one. One more follows for each source, budget and protocol that has a record. A data set
    and model without any record has no line.

    Args:
        table: as `summary` makes it.
        order: the rows of the paper, (data set, model).
        bold: as for `display_summary`.
    """
    lines: dict[tuple, dict[str, str]] = {}
    for dataset, model in order:
        block, found = table.xs((dataset, model), level=["dataset", "model"]), {}
        for (protocol, budget), part in block.groupby(level=["protocol", "budget"], sort=False):
            for source in SOURCES:
                texts = _by_method(part[source], lambda row: _with_n(row, bold))
                if set(texts.values()) != {"no record"}:
                    kind = "" if source == "reference" else "your own, "
                    found[dataset, model, f"{kind}{in_words('budget', budget)} budget, {said(protocol)}"] = texts
        if found:
            lines |= {
                (dataset, model, "published"): _by_method(block["paper"], lambda row: _mean_std(row, bold))
            } | found
    return pandas.DataFrame(lines).T.reindex(columns=list(METHODS)).fillna("–").replace("no record", "–")


def said(protocol: str) -> str:
    """A protocol in words: "as in the text, from fresh weights"."""
    read = Protocol.parse(protocol)
    start = {"fresh": "fresh weights", "search": "the search's weights"}[read["test_start"]]
    changes = tuple(change for change in read.changes if change[0] != "test_start")
    return f"{in_words('protocol', str(replace(read, changes=changes)))}, from {start}"


def _by_method(part: pandas.DataFrame, text) -> dict[str, str]:
    return {row.Index[-1]: text(row) for row in part.itertuples()}


def means(runs: Runs, value: str = "test_metric") -> list[str]:
    """A line for each data set, model, protocol and budget: the mean of each method of the reference runs, and its n.

    Where the deviation is larger than the mean, the line has the median.
    """
    found = summary(runs, value=value)["reference"].query("n > 0")
    lines = []
    for block, group in found.groupby(BLOCK, sort=False):
        each = [f"{row.Index[-1]} {_middle(row)} ({row.n})" for row in group.itertuples()]
        block = [in_words(*pair) for pair in zip(BLOCK, block, strict=True)]
        lines.append(f"{value}, {', '.join(block)}: {', '.join(each)}")
    return lines


def _middle(row) -> str:
    """The mean of a row of `summary`, or the median where the deviation is larger."""
    return f"median {number(row.median)}" if row.std > abs(row.mean) else number(row.mean)


def above(runs: Runs, least: float = 1.0) -> list[str]:
    """A line for each method with complete runs whose test error is above `least`, and a last line that counts them."""
    table = runs if isinstance(runs, pandas.DataFrame) else runs_table(runs)
    worse, lines = table[table["test_metric"] > least], []
    for key, group in worse.groupby(KEYS, sort=False):
        errors = [f"{number(row.test_metric)} (seed {row.seed}, {row.source})" for row in group.itertuples()]
        names = [in_words(*pair) for pair in zip(KEYS, key, strict=True)]
        lines.append(f"{', '.join(names)}: {', '.join(errors)}")
    return [*lines, f"{len(worse)} of {table['test_metric'].count()} complete runs"]


def number(value: float, sign: str = "", none: str = "–") -> str:
    """The value with four decimals as in the paper's tables, or four significant digits if it is large; `none` for NaN."""
    return none if pandas.isna(value) else f"{value:{sign}{'.4f' if abs(value) < 10 else '.4g'}}"


def _mean_std(row, bold: str, behind: str = "") -> str:
    text = number(row.mean) + ("" if pandas.isna(row.std) else f" ± {number(row.std)}") + behind
    if row.std > abs(row.mean):  # a mean of such values says nothing
        text = f"median {number(row.median)}, {number(row.min)} to {number(row.max)}{behind}"
    return bold.format(text) if row.best else text


def _with_n(row, bold: str) -> str:
    behind = f" (n = {row.n}{'; ' if row.left_out else ''}{row.left_out})"
    return _mean_std(row, bold, behind) if row.n else row.left_out or "no record"


def export(runs: Records, table: pandas.DataFrame, path) -> list[Path]:
    """Write `path`.csv and `path`.tex, and return both.

    The first has a row for each run in full precision, the second is a summary as LaTeX that needs the package booktabs.
    """
    csv, tex = Path(f"{path}.csv"), Path(f"{path}.tex")
    files.write_text(csv, runs_table(runs).to_csv(index=False))
    text = display_summary(table, r"\textbf{{{}}}").style.to_latex(hrules=True, multirow_align="naive")
    text = re.sub(r"(?<= )-(?=\d)", "$-$", text)
    files.write_text(tex, text.translate(str.maketrans({"_": r"\_", "±": r"$\pm$", "−": "$-$", "–": "--"})))
    return [csv, tex]


def hardware(device: str = "auto") -> str:
    """Two lines that name this machine and the versions that matter, without a path."""
    facts = machine.environment(find_device(device))
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    here = facts["hardware"]
    return f"{here['cpu']}, {here['cores']} cores, {here.get('gpu', here['device'])}\n{versions}"


def best_runs(runs: Records) -> list[store.Run]:
    """The complete run of lowest fitness (validation, not test) of each data set, model, protocol, budget and method."""
    found = [r for r in runs.reference + runs.own if r.status == "complete" and r.data.get("fitness") is not None]
    best = {_key(run.cell): run for run in sorted(found, key=lambda run: -run.data["fitness"])}  # the last is kept
    return [best[key] for key in sorted(best, key=order)]
