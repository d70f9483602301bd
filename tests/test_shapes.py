"""Minima, growth and simplified gradients of losses whose answers are known, and tables and figures of them."""

import math

import numpy as np
import pytest
import sympy
import torch
from test_report import folders, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_notebooks import paper_loss, report, shapes

SQUARE = ec.MetaLoss.from_expression("square(sub(y, f))")


def test_minimum_of_losses_that_ask_for_the_label_and_of_others():
    assert shapes.minimum(SQUARE) == pytest.approx(0, abs=0.01)
    assert shapes.minimum(ec.SquaredError()) == pytest.approx(0, abs=0.01)
    assert shapes.minimum(ec.MetaLoss("square(sub(f, add(y, 1)))")) == pytest.approx(1, abs=0.01)
    assert shapes.minimum(ec.CrossEntropy()) == pytest.approx(0.999)
    assert math.isnan(shapes.minimum(ec.MetaLoss("mul(sub(f, f), y)", None, True))), "constant"


def test_growth_from_error_1_to_3():
    assert shapes.growth(ec.SquaredError()) == pytest.approx(9, abs=1e-4)
    assert shapes.growth(ec.MetaLoss("abs(sub(y, f))")) == pytest.approx(3)
    assert shapes.growth(paper_loss("g")) is None
    assert shapes.growth_words(SQUARE) == "grows 9.0 times from error 1 to 3"
    assert shapes.growth_words(paper_loss("g")) == "does not rise with the error"


def test_gradient_kept_is_the_relative_difference_of_the_slopes():
    y, f = sympy.symbols("y f", real=True)
    assert shapes.gradient_kept(SQUARE, (y - f) ** 2) == pytest.approx(0, abs=1e-6)
    assert shapes.gradient_kept(SQUARE, 1.5 * (y - f) ** 2) == pytest.approx(0.5, abs=1e-6)
    assert shapes.gradient_kept(ec.MetaLoss("mul(sub(f, f), y)"), f * 0 + y) == 0, "there is no gradient to keep"


def test_scaled_curves_span_the_central_part():
    line = shapes.scaled(np.linspace(0, 3, 301))
    assert line[15] == 0 and line[-16] == 1 and line[0] < 0 < 1 < line[-1]
    assert not shapes.scaled(np.full(301, 7.0)).any()


@pytest.fixture
def table(folders):  # noqa: F811
    """Two losses of EvoMAL, the second of which is fitter, and one of random search; the baseline has no tree."""
    shifted = ec.MetaLoss("square(sub(f, add(y, 1)))")
    write(folders[1], "evomal", 0, loss=shifted.to_json(), fitness=0.5)
    write(folders[1], "evomal", 1, loss=SQUARE.to_json(), fitness=0.4, test=0.3)
    write(folders[0], "random", 0, loss=SQUARE.to_json(), fitness=0.6)
    write(folders[1], "baseline")
    return shapes.found_losses(report.collect(folders[0], reference_dir=folders[1]))


def test_found_losses_have_a_row_each(folders, table):  # noqa: F811
    assert list(table["method"]) == ["evomal", "evomal", "random"] and list(table["records"])[2] == "own"
    assert list(table["minimum"]) == pytest.approx([1, 0, 0], abs=0.01)
    assert (table["gradient"] < 1e-3).all()
    best = shapes.best_losses(table)
    assert list(best["seed"]) == [1, 0]
    records = report.collect(folders[0], reference_dir=folders[1])
    text = shapes.display_losses(best, records.reference + records.own)
    row = next(
        line for line in text.splitlines() if line.startswith("| diabetes, mlp<br>quick budget, seed 1 | <img alt=")
    )
    assert row.split(" | ")[2] == "0.4000, 0.3000" and "quick budget, seed 0 (own)" in text
    assert list(shapes.of_each_task(best)["seed"]) == [1], "one row a task"
    assert shapes.gradient_shares(table).loc[("reference", "quick", "evomal"), "count"] == 2


def test_how_many_ask_for_the_label(table):
    line, last = shapes.asking_for_the_label(table)
    assert line == "quick budget, evomal: 2 losses, 1 with the minimum at y; operators: square 2, sub 2, add 1"
    assert last == "2 losses of regression, fitness in all 0.900"


def test_without_a_record_the_tables_say_so(folders):  # noqa: F811
    table = shapes.found_losses(report.collect(folders[0], reference_dir=folders[1]))
    assert shapes.display_losses(shapes.best_losses(table), []) == "no record of a search that found a loss"
    assert len(shapes.asking_for_the_label(table)) == 1


def test_a_formula_in_a_table_has_no_bar():
    assert "|" not in shapes.math(ec.simplify(ec.MetaLoss("abs(sub(y, f))")))
    assert shapes.math(sympy.Integer(0)) == "no gradient"
    assert shapes.printed_losses().count("\n") == 11


def test_figures_have_a_panel_a_kind_and_a_panel_a_loss(folders, table):  # noqa: F811
    paper = {letter: paper_loss(letter) for letter in "aj"}
    runs = report.best_runs(report.collect(folders[0], reference_dir=folders[1]).select(method="evomal"))
    figure = shapes.side_by_side(paper, {shapes.name_of(run): run.loss for run in runs})
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "classification: published, all weights 1" and titles[3] == "regression: found here"
    assert [text.get_text() for text in figure.axes[2].texts] == ["no record"]
    names = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert names == ["squared error", "diabetes, mlp: evomal, quick"]
    panels = shapes.one_by_one(paper).axes
    assert [axis.get_xlabel() for axis in panels] == ["p", "f − y"]
    assert [len(axis.lines) for axis in panels] == [2, 3]
    shapes.one_by_one({})


def test_an_instance_counts_its_other_outputs_too():
    p = torch.tensor([0.2, 0.6])
    flat = ec.MetaLoss("mul(f, add(y, sub(f, f)))", classification=True)  # y f: on one output it rises with p
    assert shapes.instance(flat, p) == pytest.approx(p.numpy())
    lifted = ec.MetaLoss("add(f, sub(y, y))", classification=True)  # f: the outputs of an instance sum to one
    assert shapes.instance(lifted, p) == pytest.approx([1, 1])


def test_weights_are_put_to_one():
    loss = ec.MetaLoss("square(sub(y, f))", [2.0, 3.0, 4.0])
    assert torch.equal(shapes.with_weights_one(loss).weights, torch.ones(3))
