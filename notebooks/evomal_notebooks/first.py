"""`show_answer`: the first cell of a notebook, and once more behind its runs."""

from collections.abc import Iterable

from evomal_core.checks import check_choice
from evomal_core.experiments.store import Run

from . import answers, answers_figures, layout, remedies, report
from .parameters import Parameters

ANSWERS = {
    "table1": answers.table1,
    "table2": answers.table2,
    "table3": answers.table3,
    "table4": answers.table4,
    "table5": answers.table5,
    "table6": answers.table6,
    "protocol": answers.protocol,
    "robust": answers.robust,
    "remedies": remedies.answer,
    "fig4": answers_figures.fig4,
    "fig5": answers_figures.fig5,
    "fig6": answers_figures.fig6,
    "fig7": answers_figures.fig7,
    "fig8": answers_figures.fig8,
    "appendix_a": answers_figures.appendix_a,
    "initialisation": answers_figures.initialisation_,
}

DRAWN = ("table2", "table3")  # whose figures have the reader's own runs


def show_answer(name: str, p: Parameters | None = None, done: Iterable[Run] = ()) -> None:
    """Show the first screen of a notebook: a sentence, a figure, and what they mean.

    Args:
        name: of the notebook; ValueError for one without an answer.
        p: None for the committed records alone. With the notebook's parameters, the runs that it was asked for, if any, come
            into the first screen if its figure has own runs (`DRAWN`), and stand in a table beside the reference records of
            the same seeds.
        done: what `planning.compute` returned.
    """
    answer = ANSWERS[check_choice("name of an answer", name, ANSWERS)]
    if p is None:
        layout.show(answer(report.reference()), name)
    elif done := list(done):
        records = report.reference()
        layout.show_own(name, answer, report.Records(records.reference, done, []), name in DRAWN)
