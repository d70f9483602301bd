"""What `search_loss` found: the loss, what it is worth, as text, table and figure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from ..config import Config
from ..search.state import Leader, SearchState


@dataclass(frozen=True)
class Row:
    """A loss in the comparison: its learning rate, and the metric of full trainings, one a start; inf where one diverged."""

    name: str
    learning_rate: float
    errors: tuple[float, ...]

    @property
    def mean(self) -> float:
        """inf if a training diverged."""
        return statistics.fmean(self.errors)

    @property
    def spread(self) -> float:
        """Sample standard deviation; NaN of one start, or if a training diverged."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 and math.isfinite(self.mean) else math.nan

    def below(self, others: "Sequence[Row]") -> bool:
        """Is it lower than each of the others on the mean, and than the best of them from every start?"""
        best = min(others, key=lambda row: row.mean)
        return self.mean < best.mean and all(a < b for a, b in zip(self.errors, best.errors, strict=True))

    def __str__(self) -> str:
        diverged = sum(not math.isfinite(e) for e in self.errors)
        if diverged:
            return f"{self.name}: {diverged} of {len(self.errors)} diverged"
        spread = f" ± {self.spread:.2g}" if len(self.errors) > 1 else ""
        return f"{self.name} {self.mean:.4g}{spread}"


@dataclass(frozen=True)
class Found:
    """What `search_loss` gives.

    Attributes:
        loss: called as `loss(outputs, targets)` in the shapes of the model: the learned loss if it beats both baselines, or
            where nothing was compared; else the task loss. Its weights are frozen.
        learning_rate: to train with under `loss`.
        beats_baseline: is the learned loss's mean below that of the task loss at both learning rates, and its error below
            the better one's from every start? None where it was not compared.
        metric, part: what judges, and on which part.
        rows: the comparison, full trainings from fresh starts.
        trivial: metric of the best constant output.
        leaders: the best learned losses of the search, whether they beat anything or not.
        state: of the search, with its `history`.
        notes: what else the user should know.
    """

    loss: nn.Module
    learning_rate: float
    beats_baseline: bool | None
    metric: str
    part: str
    rows: tuple[Row, ...]
    trivial: float
    leaders: tuple[Leader, ...]
    state: SearchState = field(repr=False)
    config: Config = field(repr=False)
    seconds: float = 0.0
    stopped: str = ""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.leaders:
            return "no learned loss was found (every candidate was rejected or not finite); the task loss is returned"
        if self.beats_baseline is None:
            return "the learned loss was not compared with the task loss from fresh starts"
        if self.beats_baseline:
            starts = len(self.rows[0].errors)
            return f"the learned loss beats the task loss, at its tuned learning rate too, from each of {starts} starts"
        return "no learned loss beats the task loss from every start; the task loss is returned, at its better rate"

    def table(self):
        """The comparison as a DataFrame: a row a loss, with mean, spread, number that diverged, and every start."""
        import pandas

        starts = range(len(self.rows[0].errors)) if self.rows else ()
        rows = [
            {"loss": row.name, "learning rate": row.learning_rate, "mean": row.mean, "spread": row.spread}
            | {"diverged": sum(not math.isfinite(e) for e in row.errors)}
            | {f"start {k}": row.errors[k] for k in starts}
            for row in self.rows
        ]
        rows.append({"loss": "trivial predictor", "mean": self.trivial})
        return pandas.DataFrame(rows).set_index("loss")

    def plot(self):
        """A figure: the metric of every start, a row a loss, and the fitness in the course of the search.

        Raises:
            ImportError: without matplotlib, which `pip install 'evomal-core[notebooks]'` brings.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        for k, row in enumerate(reversed(self.rows)):
            finite = [e for e in row.errors if math.isfinite(e)]
            left.plot(
                finite, [k] * len(finite), "o", alpha=0.7, color="C0" if row.name.startswith("learned loss") else "0.4"
            )
        left.set_yticks(range(len(self.rows)), [row.name for row in reversed(self.rows)])
        left.margins(y=0.2)
        if math.isfinite(self.trivial):
            left.axvline(self.trivial, color="0.6", linestyle=":", label="trivial predictor")
            left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
        left.set_xlabel(f"{self.metric}, {self.part} part")
        best = [
            (row["generation"] + 1, row["best_so_far"]) for row in self.state.history if row["best_so_far"] is not None
        ]
        right.plot(*zip(*best, strict=True), marker="o") if best else None
        right.set(xlabel="generation", ylabel="best fitness so far (validation)")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure

    def __str__(self) -> str:
        learned = f"{self.leaders[0].expression}\n" if self.leaders else ""
        compared = " | ".join([*map(str, self.rows), f"trivial predictor {self.trivial:.4g}"])
        starts = f", {len(self.rows[0].errors)} starts" if self.rows else ""
        lines = [
            self.verdict[0].upper() + self.verdict[1:] + ".",
            f"{self.metric} on the {self.part} part{starts}: {compared}",
        ]
        lines += [f"Note: {note}." for note in self.notes]
        return learned + "\n".join(lines)
