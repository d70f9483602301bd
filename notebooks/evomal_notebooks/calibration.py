"""How sure a classifier is and how often it is right (Appendix A): trained under losses that smooth labels, or do not."""

from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import pandas
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn
from torch.nn import functional

import evomal_core as ec
from evomal_core import files, machine
from evomal_core.experiments import store
from evomal_core.tasks import Task
from evomal_core.training import batches

from . import comparisons, report
from .plots import PALETTE, grid, style
from .smoothing import FocalLoss, absolute

BINS = 15
TASK = ["dataset", "model", "budget", "steps"]
KEY = [*TASK, "loss", "seed"]
MEASURES = ("error", "confidence", "ece", "nll", "norm")
COLUMNS = [*KEY, "n", "status", *MEASURES, "seconds", "hardware", "torch", "commit"]
WORDS = {
    "error": "test error",
    "confidence": "mean confidence",
    "gap": "confidence − accuracy",
    "ece": "expected calibration error",
    "nll": "test cross-entropy",
    "norm": "norm of the logits",
}
FOUND = {"smaller": "is lower", "larger": "is higher", "the same": "is the same", "open": "is open"}
SHORT = {"smaller": "lower", "larger": "higher", "the same": "same", "open": "open"}
SAME = 5e-4  # differences that are nearer to 0 are of no account
# (loss, the loss that it is compared with, what their difference shows)
PAIRS = (
    ("absolute, w = 1", "2 x cross-entropy", "ε and the bars alone"),
    ("absolute, w = 1.1", "absolute, w = 1", "the weight alone"),
    ("absolute, w = 1.25", "absolute, w = 1", "a larger weight alone"),
    ("2 x label smoothing", "2 x cross-entropy", "label smoothing at the same rate"),
    ("absolute, w = 1.1", "2 x label smoothing", "the absolute loss against label smoothing with the same optimum"),
    ("absolute, w = 1.1", "cross-entropy", "weight and doubled rate together"),
    ("label smoothing", "cross-entropy", "label smoothing"),
    ("focal", "cross-entropy", "the focal loss"),
    ("EvoMAL", "cross-entropy", "what EvoMAL found on MNIST with a logistic regression"),
)


class Times(nn.Module):
    """A loss times a number: gradient descent without weight decay then trains as with so many times the learning rate."""

    def __init__(self, factor: float, loss: nn.Module):
        super().__init__()
        self.factor, self.loss = factor, loss

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.factor * self.loss(prediction, target)


def losses(seed: int) -> dict[str, nn.Module]:
    """The losses that are compared, by name.

    The gradient of the absolute loss is twice that of cross-entropy, so that cross-entropy and label smoothing are there
    twice, the second time doubled. EvoMAL's loss is the reference record's of the same seed on MNIST with a logistic
    regression at the paper's budget; it is left out for a seed without such a record.
    """
    found = ec.find_run(ec.Cell("mnist", "logistic", "evomal", seed, "paper"), report.REFERENCE)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    chosen = {
        "cross-entropy": ec.CrossEntropy(),
        "2 x cross-entropy": Times(2, ec.CrossEntropy()),
        "label smoothing": smooth,
        "2 x label smoothing": Times(2, smooth),
        "focal": FocalLoss(),
        "absolute, w = 1": absolute(1),
        "absolute, w = 1.1": absolute(1.1),
        "absolute, w = 1.25": absolute(1.25),
    }
    return chosen | ({"EvoMAL": found.loss} if found and found.loss is not None else {})


def expected_calibration_error(confidence: torch.Tensor, correct: torch.Tensor, bins: int = BINS) -> float:
    """The mean over instances of |accuracy - mean confidence| of the bin that an instance is in (Guo et al. 2017).

    Args:
        confidence: (n,), the probability of the predicted class, above 0 and at most 1.
        correct: (n,), whether the predicted class is the true one.
        bins: how many bins of equal width ((m - 1) / bins, m / bins] there are; an empty bin counts nothing.
    """
    confidence = confidence.double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, correct.double() - confidence)
    return float(gaps.abs().sum() / len(confidence))


def measures(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Error rate, mean confidence, calibration error, cross-entropy, and mean norm of logits (n, C) with labels (n,).

    The confidence is the probability of the predicted class. The norm is taken after subtraction of an instance's mean
    logit, which softmax does not see.
    """
    logits = logits.double()
    confidence, predicted = logits.softmax(-1).max(-1)
    correct = predicted == labels
    return {
        "error": 1 - float(correct.double().mean()),
        "confidence": float(confidence.mean()),
        "ece": expected_calibration_error(confidence, correct),
        "nll": float(functional.cross_entropy(logits, labels)),
        "norm": float((logits - logits.mean(-1, keepdim=True)).norm(dim=-1).mean()),
    }


@torch.no_grad()
def outputs(model: nn.Module, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits (n, C), labels (n,)) of a model on the test part of a task, on the CPU."""
    model.eval()
    parts = [(model(x).cpu(), y.cpu()) for x, y in batches.in_order(task, "test", 1_000)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def train(cell: ec.Cell, name: str, loss: nn.Module, task: Task) -> dict:
    """Train the model of a cell under a loss, as in meta-testing, and measure it: a row of COLUMNS."""
    config, began = ec.Config.for_cell(cell), perf_counter()
    test = ec.test_loss(loss, task, ec.build_model(cell.model, task), config, cell.seed, keep_model=True)
    facts = machine.environment(task.device)
    row = {name: getattr(cell, name) for name in ("dataset", "model", "budget", "seed")}
    row |= {"steps": config.test_steps, "loss": name, "n": len(task.test[1]), "status": test.status}
    row |= measures(*outputs(test.model, task)) if test.model is not None else {}
    row |= {"seconds": round(perf_counter() - began, 2), "torch": facts["versions"]["torch"], "commit": facts["commit"]}
    hardware = facts["hardware"]
    return row | {"hardware": hardware.get("gpu", hardware["cpu"])}


def path_of(folder) -> Path:
    """The file of the measurements below a folder of results."""
    return Path(folder) / "appendix_a" / "calibration.csv"


def read(folder) -> pandas.DataFrame:
    """The measurements below a folder of results; an empty table if there are none."""
    path = path_of(folder)
    table = pandas.read_csv(path) if path.exists() else pandas.DataFrame(columns=COLUMNS)
    return table.astype(dict.fromkeys([*MEASURES, "seconds"], float))


def compute(
    cells: Iterable[ec.Cell], results_dir=None, data_dir=None, device: str = "auto", force: bool = False
) -> pandas.DataFrame:
    """Train each cell's model under each of `losses`, and keep a row for each in the file of `path_of`.

    What has a row is not computed again, unless it is forced. The file is written after each training. Of cells that differ
    in nothing but their method, one is computed. Returns the rows of these cells.
    """
    folder = store.results_dir(results_dir)
    table, wanted = read(folder), {}
    for cell in cells:
        wanted.setdefault((cell.dataset, cell.model, cell.budget, ec.Config.for_cell(cell).test_steps, cell.seed), cell)
    for (*key, seed), cell in wanted.items():
        todo = losses(seed)
        if not force:
            known = set(table.set_index(KEY).index)
            todo = {name: loss for name, loss in todo.items() if (*key, name, seed) not in known}
        task = ec.load_task(cell.dataset, data_dir=data_dir, device=device) if todo else None
        for name, loss in todo.items():
            row = pandas.DataFrame([train(cell, name, loss.to(task.device), task)], columns=COLUMNS)
            table = row if table.empty else pandas.concat([table, row])
            table = table.drop_duplicates(KEY, keep="last", ignore_index=True)
            files.write_text(path_of(folder), table.to_csv(index=False))
    keys = [(*key, seed) for *key, seed in wanted]
    asked_for = [tuple(row) in keys for row in table[[*TASK, "seed"]].itertuples(index=False)]
    return table.loc[asked_for].reset_index(drop=True)


def repeated(done: pandas.DataFrame, stored: pandas.DataFrame) -> pandas.Series:
    """How far the mean confidence of each row of `done` is from the stored row of the same KEY, where there is one."""
    old = stored.set_index(KEY)["confidence"]
    new = done.set_index(KEY)["confidence"]
    return abs(new[new.index.isin(old.index)] - old[old.index.isin(new.index)]).astype(float)


def title(budget: str, dataset: str, model: str, steps: int) -> str:
    """A task in words: its data set, model, steps, and the settings in which its budget is changed."""
    changes = [change.replace("base_learning_rate=", "learning rate ") for change in budget.split("+")[1:]]
    return ", ".join([dataset, model, f"{steps} steps", *changes])


def with_titles(table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with two columns more: "task", their `title`, and "gap", the mean confidence minus the accuracy."""
    words = [title(row.budget, row.dataset, row.model, row.steps) for row in table.itertuples()]
    return table.assign(task=words, gap=table["confidence"] - (1 - table["error"]))


def summary(table: pandas.DataFrame) -> pandas.DataFrame:
    """Mean, sample standard deviation and count of each measure over the seeds, a row for each task and loss."""
    groups = with_titles(table).groupby(["task", "loss"], sort=False)
    return groups[["error", "confidence", "gap", "ece", "nll", "norm"]].agg(["mean", "std", "count"])


def display_summary(table: pandas.DataFrame) -> pandas.DataFrame:
    """`summary` of rows for reading, with the number n of seeds and of the trainings that diverged."""
    stats, shown = summary(table), {}
    for measure, words in WORDS.items():
        signs = "+" if measure == "gap" else ""
        shown[words] = [
            report.number(r.mean, signs) + ("" if pandas.isna(r.std) else f" ± {report.number(r.std)}")
            for r in stats[measure].itertuples()
        ]
    shown["n"] = stats["error", "count"].to_list()
    groups = with_titles(table).groupby(["task", "loss"], sort=False)["status"]
    shown["diverged"] = [int((group == "diverged").sum()) for _, group in groups]
    return pandas.DataFrame(shown, index=stats.index)


def compare(table: pandas.DataFrame, pairs: Iterable[tuple[str, str, str]] = PAIRS) -> pandas.DataFrame:
    """What `comparisons.paired` says of the differences, first loss minus second over common seeds, by task and measure.

    A finding is "the same" where the interval lies within ±SAME.
    """
    rows = []
    for task, group in with_titles(table).groupby("task", sort=False):
        for first, second, shows in pairs:
            for measure in MEASURES:
                by_seed = group.dropna(subset=measure).pivot(index="seed", columns="loss", values=measure)
                if not {first, second} <= set(by_seed):
                    continue
                differences = (by_seed[first] - by_seed[second]).dropna()
                if len(differences):
                    row = {"task": task, "loss": first, "other": second, "shows": shows, "measure": measure}
                    row |= comparisons.paired(differences)
                    same = max(-row["low"], row["high"]) < SAME  # False for an interval that is NaN
                    rows.append(row | ({"finding": "the same"} if same else {}))
    return pandas.DataFrame(rows, columns=["task", "loss", "other", "shows", "measure", *comparisons.paired([0.0])])


def verdicts(comparison: pandas.DataFrame, chosen: Iterable[str] = ("confidence", "ece", "error")) -> list[str]:
    """A sentence for each task and pair of losses of a table of `compare`: which measures are lower, and which higher."""
    lines, chosen = [], list(chosen)
    for (task, first, second), group in comparison.groupby(["task", "loss", "other"], sort=False):
        rows = {row.measure: row for row in group.itertuples()}
        found = [
            f"the {WORDS[m]} {FOUND[row.finding]} ({report.number(row.difference, '+')} {comparisons.interval(row)})"
            for m, row in ((m, rows[m]) for m in chosen)
        ]
        start = f"{task}, n = {group['n'].iloc[0]}: with {first} instead of {second}, "
        lines.append(start + ", ".join(found[:-1]) + f", and {found[-1]}.")
    return lines


def counts(comparison: pandas.DataFrame, chosen: Iterable[str] = ("confidence", "ece", "error")) -> pandas.DataFrame:
    """On how many tasks each of the chosen measures is lower, higher, the same and open; a row for each pair of losses."""
    rows = {}
    for (first, second), group in comparison.groupby(["loss", "other"], sort=False):
        row = {}
        for measure in chosen:
            found = group.loc[group["measure"] == measure, "finding"].value_counts()
            row[WORDS[measure]] = ", ".join(f"{SHORT[f]} {found[f]}" for f in SHORT if f in found)
        rows[f"{first} instead of {second}"] = row
    return pandas.DataFrame(rows).T


@style()
def figure(table: pandas.DataFrame, shown: Iterable[str] = ("error", "confidence", "ece", "norm")) -> Figure:
    """A row of panels for each measure, a column for each task: a small dot for each seed and a large one for their mean.

    A vertical line among the confidences is the mean accuracy under cross-entropy.
    """
    tasks = list(with_titles(table).groupby("task", sort=False))
    places = [(measure, *task) for measure in shown for task in tasks]
    height = 0.7 + 0.15 * table["loss"].nunique()
    panels, axes = grid(len(places), len(tasks), (1.7, height))
    for place, (axis, (measure, task, group)) in enumerate(zip(axes, places, strict=False)):
        for level, (_, rows) in enumerate(group.groupby("loss", sort=False)):
            how = {"color": PALETTE[level % len(PALETTE)], "ls": ""}
            axis.plot(rows[measure], [level] * len(rows), marker=".", ms=4, alpha=0.5, **how)
            axis.plot(rows[measure].mean(), level, marker="o", ms=6, **how)
        if measure == "confidence":
            axis.axvline(1 - group.loc[group["loss"] == "cross-entropy", "error"].mean(), color="0.3", lw=1, ls=":")
        names = list(group["loss"].unique())
        axis.set_yticks(range(len(names)), names if place % len(tasks) == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlabel(WORDS[measure].replace("expected calibration", "calibration"), fontsize="small")
        axis.tick_params(labelsize="small")
        axis.xaxis.set_major_locator(MaxNLocator(3))
        if place < len(tasks):
            parts = task.split(", ")
            axis.set_title("\n".join([", ".join(parts[:2]), *parts[2:]]), fontsize="small")
    return panels


@style()
def forest(comparison: pandas.DataFrame, loss: str, other: str) -> Figure:
    """What the first loss changes against the other, a row a task: mean difference with its interval; three measures.

    Args:
        comparison: as `compare` makes it.
    """
    part = comparison[(comparison["loss"] == loss) & (comparison["other"] == other)]
    tasks = list(dict.fromkeys(part["task"]))
    panels, axes = grid(3, 3, (2.9, 0.3 * len(tasks) + 1.1), sharey=True)
    for axis, measure in zip(axes, ("confidence", "ece", "error"), strict=True):
        axis.axvline(0, color="0.4", lw=0.8)
        for row in part[part["measure"] == measure].itertuples():
            y = tasks.index(row.task)
            axis.plot([row.low, row.high], [y, y], "-", lw=2.2, color=PALETTE[0])
            axis.plot(row.difference, y, "D", ms=7, color=PALETTE[0])
        axis.set(xlabel=WORDS[measure].replace("expected ", "").replace("mean ", ""), ylim=(len(tasks) - 0.5, -0.5))
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.set_yticks(range(len(tasks)), tasks)
    panels.suptitle(f"change with {loss}, instead of {other}")
    return panels
