"""The first screen of the notebooks: answers from the records, forest plots, own runs beside the reference."""

import math

import pytest
from test_report import folders, write  # noqa: F401 (a fixture)

from evomal_core.machine import ROOT
from evomal_notebooks import answers, layout, rebuild, report
from evomal_notebooks.first import ANSWERS, show_answer
from evomal_notebooks.forests import Row, forest


@pytest.fixture(scope="module")
def reference():
    return report.reference()


def test_every_notebook_but_the_quickstart_has_an_answer():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(ANSWERS) <= names and "quickstart" not in ANSWERS
    assert {"table1", "table2", "table3", "fig4", "protocol"} <= set(ANSWERS)
    with pytest.raises(ValueError, match="name of an answer"):
        show_answer("table33")


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5", "protocol", "fig5"])
def test_an_answer_is_one_sentence_with_numbers_and_at_most_five_bullets(reference, name):
    answer = ANSWERS[name](reference)
    assert answer.sentence.endswith(".") and any(sign.isdigit() for sign in answer.sentence)
    assert 1 <= len(answer.meaning) <= 5 and answer.sentence in answer.alt
    words = " ".join([answer.sentence, *answer.meaning])
    assert "nan" not in words.split() and "paper budget" not in words


def test_an_answer_follows_its_records(reference):
    before = ANSWERS["table3"](reference).sentence
    fewer = report.Records([run for run in reference.reference if run.cell.seed], [], [])
    assert ANSWERS["table3"](fewer).sentence != before


def test_an_answer_has_no_more_than_five_bullets():
    with pytest.raises(ValueError, match="1 to 5 bullets, got 6"):
        layout.Answer("It is so.", None, "", tuple("abcdef"))


def test_a_level_is_a_mean_unless_a_mean_says_nothing():
    assert answers.level([]) == "no run"
    assert answers.level([0.5]) == "0.5000 (n = 1)"
    assert answers.level([0.4, 0.6]) == "0.5000 ± 0.1414 (n = 2)"
    assert answers.level([0.6, 1.8, 87.7]) == "0.6000 to 87.7 (n = 3)"
    assert answers.level([0.6, math.inf]) == "0.6000 to a failed run (n = 2)"


def test_a_forest_has_a_dot_a_run_a_hollow_diamond_and_counts_what_is_far_away():
    rows = [
        Row("baseline", {"a": [0.5, 0.6]}, (0.55, 0.02)),
        Row("evomal", {"a": [0.4, 90.0, math.inf]}, (0.5, math.nan), [0.45]),
        Row("random", {"a": []}),
    ]
    (axis,) = forest({"Diabetes": rows}, "test error").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["baseline", "evomal", "random"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[0.5, 0.6], [0.4], []]
    assert [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "x"] == [[0.45]]
    hollow = [line for line in axis.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in hollow] == [0.55, 0.5]
    assert {line.get_markerfacecolor() for line in hollow} == {"white"}
    assert [text.get_text() for text in axis.texts] == ["2 ▸", "no run"]


def test_own_runs_stand_beside_reference_records_of_the_same_seed(folders):  # noqa: F811
    write(folders[0], "evomal", 3, test=0.82)
    write(folders[0], "evomal", 4, status="diverged")
    write(folders[1], "evomal", 3, test=0.59)
    records = report.collect(folders[0], reference_dir=folders[1])
    text = layout.same_seed(records, True)
    assert "The first screen has your own runs now." in text
    assert "the committed records alone; your own runs stand below." in layout.same_seed(records, False)
    assert "processors round differently" in text
    assert "| diabetes, mlp | evomal | quick | paper | 3 | 0.8200 | 0.5900 |" in text
    assert "| 4 | diverged | – |" in text


def test_a_training_that_diverges_is_said_and_not_asserted():
    assert layout.trained(math.nan) == layout.trained(math.inf) == "the training diverges"
    assert layout.trained(5.96e32) == "the training diverges (test error 6e+32)"
    assert layout.trained(0.5) == "a network has the test error 0.500"


def test_links_name_the_notebooks_around_and_only_those_that_are_there():
    assert "Next: [table" in rebuild.links("quickstart") or "Next: [explore]" in rebuild.links("quickstart")
    assert rebuild.links("quickstart").startswith("Next: ")
    assert "Previous: [table2](table2.ipynb)" in rebuild.links("table3")
    there = {path.stem for path in rebuild.FOLDER.glob("*.ipynb")}
    assert there <= set(rebuild.ORDER)
    with pytest.raises(ValueError, match="expected the name of a notebook"):
        rebuild.rebuild("table33")
