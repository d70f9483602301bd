"""Learned losses one at a time, for notebooks/explore.ipynb: what is chosen, changed, said and trained, without any widget.

An `Explorer` holds one loss at a time: that of a record, with weights that can be moved, or an expression of the reader's.
`explore_plots` draws what it gives, and `explore_view` puts both under the mouse.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import evomal_core as ec
from evomal_core.checks import check_choice
from evomal_core.losses import expression
from evomal_core.losses.handcrafted import task_loss
from evomal_core.losses.primitives import PRIMITIVES
from evomal_core.search.state import OUTCOMES
from evomal_core.tasks.sources import offline

from . import report, shapes
from .plots import elementwise

LABELS = (-1.0, 0.5, 1.5)  # of the curves of a regression loss; targets are standardised
REACH = 4.0  # from a label, within which a loss of regression is looked at
NEAR, SURE = 0.1, 0.99  # a minimum so near the label, or from this probability on, is where it should be
SLACK = 0.01  # of the height of a curve: what is no higher above its lowest point counts as as low
STARTS, STEPS, LOOKS = 10, 500, 25
STAND_IN = {False: ("diabetes", "mlp"), True: ("digits", "logistic")}  # tasks whose data need no file
OWN = "own expression"
OUTCOME_WORDS = {"symbolic": "known by their tree", "equivalent": "equivalent", "non_finite": "not finite"}


class Reference(torch.nn.Module):
    """A well-known loss beside the learned ones, element by element: `function` of (y, f), tensors of one shape."""

    def __init__(self, classification: bool, function: Callable):
        super().__init__()
        self.classification, self.elementwise = classification, function


def huber(y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """Huber (1964) with delta = 1: quadratic up to an error of 1, then linear."""
    return torch.nn.functional.huber_loss(f, y, reduction="none", delta=1.0)


def focal(y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """Focal loss (Lin et al. 2017) with gamma = 2, of probabilities f."""
    return -y * (1 - f) ** 2 * torch.log(f)


REFERENCES: dict[bool, dict[str, torch.nn.Module]] = {
    False: {"squared error": ec.SquaredError(), "Huber, δ = 1": Reference(False, huber)},
    True: {"cross-entropy": ec.CrossEntropy(), "focal, γ = 2": Reference(True, focal)},
}


@dataclass(frozen=True)
class Shape:
    """Curves of a loss, where they are least, and what that means.

    Attributes:
        x: (301,), f − y for regression, p of the true class for classification.
        curves: name -> values, (301,): a curve for each of `LABELS`, or one.
        references: the same of the losses beside it.
        minima: name of a curve -> intervals of x where it is least; an interval is one point unless the curve is flat.
        asks: whether every curve is least at the label (at p = 1), and nowhere else.
        words: the same as a sentence.
    """

    classification: bool
    x: np.ndarray
    curves: dict[str, np.ndarray]
    references: dict[str, np.ndarray]
    minima: dict[str, list[tuple[float, float]]]
    asks: bool
    words: str


def shape_of(loss: torch.nn.Module) -> Shape:
    """The shape of a loss: against f − y for three labels, or against p with the rest spread evenly over nine classes."""
    if loss.classification:
        x = torch.linspace(0.001, 0.999, 301)
        curves = {"": shapes.instance(loss, x)}
    else:
        x = torch.linspace(-REACH, REACH, 301)
        curves = {f"y = {_signed(y)}": elementwise(loss, y, x + y) for y in LABELS}
    of_one = shapes.instance if loss.classification else lambda other, errors: elementwise(other, 0.0, errors)
    references = {name: of_one(other, x) for name, other in REFERENCES[loss.classification].items()}
    found = {name: minima(x.numpy(), values) for name, values in curves.items()}
    right = {name: where_it_should_be(intervals, loss.classification) for name, intervals in found.items()}
    words = _words(found, right, loss.classification)
    return Shape(loss.classification, x.numpy(), curves, references, found, all(right.values()), words)


def minima(x: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    """The intervals of x of a curve's lowest local minima: the lowest, and those less than `SLACK` of its height above it.

    The height is the median above the lowest value. Neither a constant curve nor one that is nowhere finite has a minimum.
    """
    values = np.where(np.isfinite(values), values, np.inf).astype(float)
    finite = values[np.isfinite(values)]
    if not len(finite) or np.ptp(finite) < 1e-5 * max(1, abs(finite.max())):
        return []
    low = finite.min()
    height = (np.median(finite) - low) or np.ptp(finite)
    bounds = [0, *(np.flatnonzero(np.abs(np.diff(np.minimum(values, 1e30))) > 1e-6 * height) + 1), len(values)]
    pieces = [slice(a, b) for a, b in itertools.pairwise(bounds)]  # on each the curve is flat
    levels = [math.inf, *(values[piece].min() for piece in pieces), math.inf]
    return [
        (float(x[piece][0]), float(x[piece][-1]))
        for piece, before, level, after in zip(pieces, levels, levels[1:], levels[2:], strict=False)
        if level < min(before, after) and level <= low + SLACK * height
    ]


def where_it_should_be(intervals: list[tuple[float, float]], classification: bool) -> bool:
    """Do the minima of a curve lie at p = 1, or at f = y, alone?"""
    if classification:
        return bool(intervals) and all(low >= SURE for low, _ in intervals)
    return bool(intervals) and all(-NEAR <= low and high <= NEAR for low, high in intervals)


def _words(found: dict, right: dict[str, bool], classification: bool) -> str:
    goal = "p = 1 for the true class" if classification else "the label"
    if all(right.values()):
        where = "p = 1" if classification else f"f = y for the labels {', '.join(map(_signed, LABELS))}"
        return f"The loss asks for {goal}: it is least at {where}, and nowhere else."
    parts = [
        f"{f'for {name} ' if name else ''}{_place(intervals, classification)}"
        for name, intervals in found.items()
        if not right[name]
    ]
    return f"The loss does not ask for {goal}: {'; '.join(parts)}."


def _place(intervals: list[tuple[float, float]], classification: bool) -> str:
    if not intervals:
        return "it is constant, or nowhere finite"
    name, edges = ("p", (0.001, 0.999)) if classification else ("f − y", (-REACH, REACH))
    texts = []
    for low, high in intervals:
        edge = " (the edge of the axis)" * (min(abs(end - e) for end in (low, high) for e in edges) < 1e-3)
        flat = high - low > NEAR / 2
        where = f"between {_signed(low)} and {_signed(high)}" if flat else _signed((low + high) / 2)
        texts.append(f"{where}{edge}")
    return f"it is least where {name} is {' or '.join(texts)}"


def _signed(value: float) -> str:
    return f"{value:.2g}".replace("-", "−") if abs(value) >= 5e-3 else "0"


@dataclass(frozen=True)
class Training:
    """What came of training from one start under a loss and under the task loss.

    Attributes:
        steps: after which the validation part was measured.
        curves: name of a loss -> validation error after each of `steps`; inf once the training has diverged.
    """

    task: str
    metric: str
    start: int
    steps: tuple[int, ...]
    curves: dict[str, tuple[float, ...]]

    @property
    def words(self) -> str:
        """The last errors as a sentence."""
        (name, own), (other, usual) = ((name, errors[-1]) for name, errors in self.curves.items())
        end = f"After {self.steps[-1]} steps on {self.task} from start {self.start}"
        if math.inf in (own, usual):
            diverged = " and ".join(name for name, error in ((name, own), (other, usual)) if error == math.inf)
            return f"{end}: the training under {diverged} diverged."
        than = "equal to" if own == usual else f"{abs(own - usual):.4f} {'below' if own < usual else 'above'}"
        return f"{end} the validation {self.metric} is {own:.4f} under {name}, {than} the {usual:.4f} under {other}."


class Explorer:
    """The loss that is looked at, and everything that is asked of it.

    Attributes:
        runs: label -> run of each search on record whose loss is a tree.
        run: that of the chosen record; None for an expression of one's own.
        loss: a `MetaLoss` with the weights as they stand.
        learned: the weights that were learned; all 1 for an expression of one's own.

    Args:
        records: from which the losses are.
        data_dir, device: as for `ec.load_task`.

    Raises:
        ValueError: no record has a loss that is a tree.
    """

    def __init__(self, records: report.Records, data_dir=None, device: str = "auto"):
        self.data_dir, self.device = data_dir, device
        self.runs = {}
        for source in report.SOURCES:
            for run in getattr(records, source):
                if isinstance(run.loss, ec.MetaLoss):
                    self.runs.setdefault(label_of(run) + ("" if source == "reference" else " (own)"), run)
        if not self.runs:
            raise ValueError("expected a record of a search that found a tree, got none")
        self.choose(next(iter(self.runs)))

    def nearest(self, cell: ec.Cell) -> str:
        """The label of a cell's record; without one that of the record that shares most of its name, the first in doubt."""
        names = ("seed", "dataset", "model", "method", "budget", "protocol")

        def shared(label: str) -> tuple[bool, int]:
            own = self.runs[label].cell.search
            return own == cell.search, sum(getattr(own, name) == getattr(cell, name) for name in names)

        return max(self.runs, key=shared)

    def choose(self, label: str) -> None:
        """Take the loss of a record, as it was learned."""
        self.run, self.label = self.runs[label], label
        self._take(self.run.loss)

    def write(self, text: str, classification: bool) -> None:
        """Take an expression of one's own, with all weights 1. Raises ValueError, and keeps the loss, if it is none."""
        loss = ec.MetaLoss.from_expression(text, classification=classification)
        self.run, self.label = None, OWN
        self._take(loss)

    def _take(self, loss: ec.MetaLoss) -> None:
        self.loss, self.learned = loss, tuple(loss.weights.tolist())

    def move(self, edge: int, weight: float) -> None:
        """Set one weight, that of `edges[edge]`. The loss is replaced, so that one in use elsewhere stays as it is."""
        weights = self.loss.weights.detach().clone()
        weights[edge] = weight
        self._reweigh(weights)

    def reset(self) -> None:
        """Give all weights their learned values."""
        self._reweigh(self.learned)

    def ones(self) -> None:
        """Set all weights to 1: the tree itself."""
        self._reweigh(None)

    def _reweigh(self, weights) -> None:
        self.loss = copy.deepcopy(self.loss)
        with torch.no_grad():
            self.loss.weights.copy_(
                torch.as_tensor(weights) if weights is not None else torch.ones_like(self.loss.weights)
            )

    @property
    def edges(self) -> list[str]:
        """The name of each weight's edge, "f → sub", in the order of the weights."""
        names = [expression.node_name(node) for node in self.loss.tree]
        above = {c: parent for parent, arguments in enumerate(expression.children(self.loss.tree)) for c in arguments}
        return [f"{names[node]} → {names[above[node]]}" for node in range(1, len(names))]

    @property
    def formula(self) -> str:
        """The loss in LaTeX; a large tree as text."""
        return self.loss.to_latex()

    @property
    def shape(self) -> Shape:
        return shape_of(self.loss)

    @property
    def title(self) -> str:
        """What is looked at, and whether its weights were moved."""
        weights = self.loss.weights.tolist()
        moved = ", weights moved" if not np.allclose(weights, self.learned, atol=1e-6) else ""
        return f"{self.label}{', all weights 1' if moved and set(weights) == {1.0} else moved}"

    @property
    def tasks(self) -> dict[str, tuple[str, str]]:
        """Name -> data set and model on which the loss can be tried: the record's, and one whose data are always there."""
        own = [(self.run.cell.dataset, self.run.cell.model)] if self.run else []
        return {f"{d}, {m}": (d, m) for d, m in dict.fromkeys([*own, STAND_IN[self.loss.classification]])}

    def train(self, task: str, start: int = 0, steps: int = STEPS) -> Training:
        """Train under the loss as it stands, and under the task loss, from one start: initial weights and batches.

        Start 0 on a record's own task is what its search saw of it (Algorithm 2). Nothing is downloaded.

        Args:
            task: one of `tasks`.
            start: 0 to 9.

        Raises:
            DataUnavailable: the data set is not on disk; the message says which file is missing.
            ValueError: the file is not the data set, or the task is unknown.
        """
        dataset, model = self.tasks[check_choice("task", task, self.tasks)]
        own = self.run is not None and (dataset, model) == (self.run.cell.dataset, self.run.cell.model)
        seed = self.run.cell.seed if own else 0
        budget, protocol = (self.run.cell.budget, self.run.cell.protocol) if own else ("paper", "paper")
        config = ec.Config.for_cell(ec.Cell(dataset, model, "evomal", seed, budget, protocol))
        with offline():
            data = ec.load_task(dataset, protocol, self.data_dir, self.device)
        usual = task_loss(data)
        looks = tuple(range(max(1, steps // LOOKS), steps, max(1, steps // LOOKS)))
        trial = ec.Trial("fitness", steps, (0,), curve=looks).of_start(start)
        losses = [copy.deepcopy(self.loss).to(data.device), usual]
        outcomes = ec.run_trial(losses, (data, ec.build_model(model, data)), config, seed, trial)
        names = ("this loss", "cross-entropy" if data.classification else "squared error")
        errors = [(*(e["validation"] for _, e in o.curve), o.errors["validation"]) for (o,) in outcomes]
        curves = dict(zip(names, errors, strict=True))
        return Training(task, data.metric_name, start, (*looks, steps), curves)

    @property
    def history(self) -> list[dict]:
        """The rows of the search that found the loss, one a generation; none of an expression of one's own."""
        return self.run.data.get("history", []) if self.run else []

    def told(self, generation: int) -> str:
        """What happened in a generation, from 1, as a sentence."""
        if not self.history:
            return "This loss was not searched for, so it has no history."
        row = self.history[generation - 1]
        counts = [f"{row[name]} {OUTCOME_WORDS.get(name, name)}" for name in OUTCOMES if row[name]]
        counts = counts if len(counts) < 2 else [*counts[:-2], f"{counts[-2]} and {counts[-1]}"]
        total = sum(row[name] for name in OUTCOMES)
        best, median = (
            report.number(row[name]) if row[name] is not None else "none" for name in ("best_so_far", "median")
        )
        return (
            f"Generation {generation} of {len(self.history)}: the best fitness so far is {best}, the generation's median "
            f"{median}. Of {total} candidates {', '.join(counts)}."
        )


def label_of(run: ec.Run) -> str:
    """What a search is called in the list of records."""
    cell = run.cell.search
    protocol = "" if cell.protocol == "paper" else f", protocol {cell.protocol}"
    return f"{cell.dataset}, {cell.model}: {cell.method}, seed {cell.seed}, budget {cell.budget}{protocol}"


def operators(arity: int) -> dict[str, str]:
    """Name -> formula of each operator with so many arguments, a user's own among them."""
    return {name: operator.formula for name, operator in PRIMITIVES["abs"].items() if operator.arity == arity}


def askers(explorer: Explorer) -> dict[tuple[str, bool], tuple[int, int]]:
    """(method, classification) -> (how many losses on record ask for the label, how many there are)."""
    found: dict[tuple[str, bool], list[bool]] = {}
    for run in explorer.runs.values():
        found.setdefault((run.cell.method, run.loss.classification), []).append(shape_of(run.loss).asks)
    return {key: (sum(asks), len(asks)) for key, asks in found.items()}
