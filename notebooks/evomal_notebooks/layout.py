"""How a notebook is laid out: the answer first, its figure, what it means; settings at the end.

show_answer("table3")                 # the first cell: from the committed records
...
show_answer("table3", p, done)        # behind the runs: with the reader's own, in the place of the first
show_settings(p)                      # the last section
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from evomal_core.experiments.cell import Cell
from evomal_core.experiments.store import Run

from . import plots, report
from .parameters import Parameters

MOST = 5  # bullets


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


def show_own(name: str, answer, records: report.Records) -> None:
    """Put the reader's own runs into the first screen, and show them beside reference records of the same seed.

    Args:
        answer: a function of records that gives an `Answer`.
        records: with the own runs; without any this does nothing.
    """
    if records.own:
        show(answer(records), name, update=True)
        display(Markdown(same_seed(records)))


def same_seed(records: report.Records) -> str:
    """The own runs beside the reference records of the same cell, as a table of Markdown with a sentence above."""
    there = {run.cell: run for run in records.reference}
    lines = [
        "The first screen has your own runs now. A run of a seed that has a reference record can end elsewhere: "
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
