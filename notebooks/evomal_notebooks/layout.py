"""How a notebook is laid out: the answer first, its figure, what it means; settings at the end.

show_answer("table3")                 # the first cell: from the committed records
...
show_answer("table3", p, done)        # behind the runs: with the reader's own, in the place of the first
show_settings(p)                      # the last section
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pandas
import torch
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evomal_core.experiments.cell import Cell
from evomal_core.experiments.store import Run
from evomal_core.search.state import Result

from . import plots, report, shapes
from .parameters import Parameters

MOST = 5  # bullets
FAR = 100  # a mean squared error of standardised labels that is no level any more


@dataclass(frozen=True)
class Answer:
    """The first screen of a notebook.

    Attributes:
        sentence: the finding, one sentence with its numbers, in Markdown.
        figure: the headline figure.
        alt: what the figure shows, in words.
        meaning: what follows, at most five sentences or so.
    """

    sentence: str
    figure: Figure
    alt: str
    meaning: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.meaning) <= MOST:
            raise ValueError(f"an answer must have 1 to {MOST} bullets, got {len(self.meaning)}")


def bullets(lines: Iterable[str]) -> str:
    """Lines as a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def show_lines(lines: Iterable[str]) -> None:
    """Display sentences as a list, and not as monospaced text."""
    display(Markdown(bullets(lines)))


def show_table(table: pandas.DataFrame, escape: bool = True) -> None:
    """Display a table as HTML alone: the text beside it, which no notebook shows, would double the file."""
    html = re.sub(r"\s*\n\s*", "", table.to_html(escape=escape, na_rep="–"))
    display({"text/html": html, "text/plain": f"a table of {len(table)} rows"}, raw=True)


def show(answer: Answer, name: str, update: bool = False) -> None:
    """Display an answer; with `update`, in the place of the one of this name."""
    display(Markdown(f"**{answer.sentence}**"), display_id=f"{name}-sentence", update=update)
    plots.show(answer.figure, answer.alt, display_id=f"{name}-figure", update=update)
    display(Markdown(bullets(answer.meaning)), display_id=f"{name}-meaning", update=update)


def promise(name: str) -> None:
    """Keep the place of an answer whose numbers the notebook computes; `show(answer, name, update=True)` fills it."""
    for part, text in (
        ("sentence", "*The answer comes here when the notebook has run.*"),
        ("figure", ""),
        ("meaning", ""),
    ):
        display(Markdown(text), display_id=f"{name}-{part}")


def trained(error: float) -> str:
    """The test error of one training in words."""
    if not math.isfinite(error):
        return "the training diverges"
    if error > FAR:
        return f"the training diverges (test error {error:.1g})"
    return f"a network has the test error {error:.3f}" + (" (predicting the mean has about 1)" if error > 1 else "")


def of_a_search(result: Result, loss: torch.nn.Module, errors: Mapping[str, float]) -> Answer:
    """What one search found: the answer of the quickstart.

    Args:
        result: of the search.
        loss: the loss that the notebook goes on with.
        errors: "squared error" and "learned loss" -> test error of one network; infinite or NaN where its training diverged.
    """
    history = pandas.DataFrame(result.state.history).astype(float)
    evaluated = int(history["evaluated"].sum())
    seconds = history.filter(like="seconds_").to_numpy().sum()
    found = f"A search that trained {evaluated} candidates in {seconds:.0f} s "
    found += "found no loss" if result.loss is None else f"found the loss `{loss}`"
    said = {name: trained(error) for name, error in errors.items()}
    sentence = f"{found}; under it {said['learned loss']}, and under squared error {said['squared error']}."
    meaning = (
        "One small network and one seed are an illustration, not a result: [table3](table3.ipynb) has several seeds beside "
        "the published numbers.",
        "The search sees validation data alone; a loss of good fitness can still fail from other initial weights, see "
        "[robust](robust.ipynb).",
        "Any processor rounds in its own way, so the same seed can find another loss elsewhere.",
    )
    with plots.style():
        figure, axes = plots.grid(2, 2, (3.9, 2.7))
        axes[0].plot(history["generation"] + 1, history["best_so_far"], "o-", color=plots.colour("evomal"))
        axes[0].set(xlabel="generation", ylabel="best fitness so far", title="the search")
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        shapes.draw(axes[1], {"learned": loss}, False)
        axes[1].set_title("the loss, scaled")
    return Answer(
        sentence, figure, f"Best fitness by generation, and the loss beside squared error. {sentence}", meaning
    )


def show_own(name: str, answer, records: report.Records, drawn: bool) -> None:
    """Put the reader's own runs into the first screen, and show them beside reference records of the same seed.

    Args:
        answer: a function of records that gives an `Answer`.
        records: with the own runs; without any this does nothing.
        drawn: whether the answer's figure has own runs.
    """
    if records.own:
        if drawn:
            show(answer(records), name, update=True)
        display(Markdown(same_seed(records, drawn)))


def same_seed(records: report.Records, drawn: bool) -> str:
    """The own runs beside the reference records of the same cell, as a table of Markdown with a sentence above.

    Args:
        drawn: whether the first screen has the own runs.
    """
    there = {run.cell: run for run in records.reference}
    lines = [
        f"The first screen has {'your own runs now' if drawn else 'the committed records alone; your own runs stand below'}. "
        "A run of a seed that has a reference record can end elsewhere: "
        "processors round differently, and a search takes another way from the first candidate that is ranked differently. "
        "Both are shown.",
        "",
        "| data set, model | method | budget | protocol | seed | your run | reference record |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in records.own:
        c, other = run.cell, there.get(run.cell)
        names = (
            f"{c.dataset}, {c.model} | {c.method} | {report.BUDGET.get(c.budget, c.budget)} | {c.protocol} | {c.seed}"
        )
        lines.append(f"| {names} | {_error(run)} | {_error(other) if other else '–'} |")
    return "\n".join(lines)


def _error(run: Run) -> str:
    return run.status if run.test_metric is None else report.number(run.test_metric)


def show_settings(p: Parameters, row: Cell | None = None) -> None:
    """Display what differs from the published settings, which parameters are not the default, and the machine.

    Args:
        row: the cell whose settings are meant; default the first row of `p`.
    """
    given, default = asdict(p), asdict(Parameters())
    changed = [f"`{name} = {value!r}`" for name, value in given.items() if value != default[name]]
    text = [f"Parameters that are not the package's default: {', '.join(changed) or 'none'}."]
    head, *lines = report.differences(row or p.rows[0]).splitlines()
    rows = [re.sub(r"  +", " | ", line.strip()) for line in lines]
    table = [f"| {re.sub(r'  +', ' | ', head)} |", "|---|---|---|", *(f"| {line} |" for line in rows)]
    text += ["\n".join(table) if lines else head]
    machine, versions = report.hardware(p.device).splitlines()
    display(Markdown("\n\n".join([*text, f"{machine}; {versions}."])))
