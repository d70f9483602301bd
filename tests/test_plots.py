"""Figures: what is drawn, from hand-made records."""

import math

import pandas
import pytest
import torch
from matplotlib import rcParams
from test_report import folders, history, write  # noqa: F401 (a fixture)

import evomal_core as ec
from evomal_core.experiments import store
from evomal_notebooks import paper_loss, plots, report

SECONDS = {"seconds_optimise": 2.0, "seconds_filter": 0.5, "seconds_fitness": 1.5}  # of a generation


def collect(folders):  # noqa: F811
    return report.collect(reference_dir=folders[0], results_dir=folders[1])


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_fitness_curve_is_the_mean_over_seeds_where_all_have_a_value(folders):  # noqa: F811
    write(folders[0], "evomal", 0, history=history(None, 0.8, 0.6))
    write(folders[0], "evomal", 1, history=history(0.9, 0.6, 0.5))
    write(folders[0], "random", 0, status="no_loss", history=history(None, None, None))
    (axis,) = plots.fitness_curve(collect(folders)).axes
    mean, *each = axis.lines
    assert list(mean.get_xdata()) == [2, 3]
    assert list(mean.get_ydata()) == pytest.approx([0.7, 0.55])
    assert sorted(pandas.Series(line.get_ydata()).count() for line in each) == [2, 3]  # thin, one a seed
    assert [text.get_text() for text in axis.get_legend().texts] == ["evomal, n = 2"]


def test_fitness_curve_against_seconds_keeps_the_last_value_of_a_run_that_has_ended(folders):  # noqa: F811
    write(folders[0], "evomal", 0, history=[row | SECONDS for row in history(0.9, 0.5)])
    slow = [row | SECONDS for row in history(0.8, 0.7)]
    slow[1]["seconds_optimise"] += 10
    write(folders[0], "evomal", 1, history=slow)
    _, axis = plots.fitness_curve(collect(folders), ("generation", "seconds")).axes
    mean = axis.lines[0]
    assert list(mean.get_xdata()) == [4, 8, 18]
    assert list(mean.get_ydata()) == pytest.approx([0.85, 0.65, 0.6])
    assert mean.get_drawstyle() == "steps-post"


def test_fitness_curve_tells_own_runs_from_the_reference_and_cuts_what_is_far_above(folders):  # noqa: F811
    write(folders[0], "gp-lfl", history=history(50.0, 0.9))
    write(folders[1], "gp-lfl", history=history(0.7, 0.6))
    (axis,) = plots.fitness_curve(collect(folders)).axes
    assert {text.get_text() for text in axis.get_legend().texts} == {"gp-lfl, n = 1", "gp-lfl (own), n = 1"}
    assert {line.get_linestyle() for line in axis.lines} == {"-", "--"}
    assert axis.get_ylim()[1] == pytest.approx(1.8)


def test_fitness_curve_refuses_to_pool_and_draws_nothing_from_nothing(folders):  # noqa: F811
    write(folders[0], "evomal", history=history(0.9))
    write(folders[0], "evomal", history=history(0.9), protocol="released")
    with pytest.raises(ValueError, match="one budget and protocol"):
        plots.fitness_curve(collect(folders))
    for figure in (plots.fitness_curve([]), plots.filter_shares({})):
        assert [axis.get_ylabel() for axis in figure.axes] == ["no record"]


def test_filter_shares_are_of_the_population_and_the_mean_over_runs(folders):  # noqa: F811
    write(folders[0], "evomal", 0, history=history(0.9, 0.8, evaluated=3, rejected=5))
    write(folders[0], "evomal", 1, history=history(0.9, 0.8, evaluated=1, rejected=7))
    runs = collect(folders).reference
    shares = plots.outcome_shares(runs)
    assert list(shares.index) == [1, 2]
    assert dict(shares.loc[2]) == pytest.approx(dict.fromkeys(shares, 0) | {"evaluated": 0.25, "rejected": 0.75})
    axis, spare = plots.filter_shares({"one": runs, "two": runs}).axes
    assert [axis.get_title(), spare.get_title()] == ["one", "two"]
    assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(2)


def test_network_has_a_weight_an_edge_and_a_label_a_node():
    loss = ec.MetaLoss.from_expression("add(square(sub(y, f)), -1)", weights=[1.5, 0.25, -2, 3, 0.125])
    labels = texts(plots.draw_network(loss))
    for label in ("+", "square", "−", "y", "f", "−1", "1.500", "0.2500", "−2.000", "3.000", "0.1250"):
        assert labels.count(label) == 1, (label, labels)


def test_elementwise_of_learned_and_of_task_losses():
    f = torch.tensor([0.25, 0.5])
    loss = ec.MetaLoss.from_expression("square(sub(y, f))", weights=[1.0, 1.0, 0.5])
    assert plots.elementwise(loss, 1.0, f) == pytest.approx([(1 - 0.125) ** 2, (1 - 0.25) ** 2])
    assert plots.elementwise(ec.SquaredError(), 1.0, f) == pytest.approx([0.75**2, 0.5**2])
    assert plots.elementwise(ec.CrossEntropy(), 1.0, f) == pytest.approx([-math.log(0.25), -math.log(0.5)])
    assert plots.elementwise(ec.MetaLoss("sub(y, sub(f, f))"), 3.0, f) == pytest.approx([3, 3])
    assert all(plots.elementwise(paper_loss(letter), 1.0, f).shape == (2,) for letter in "abcdefghij")


def test_saved_as_pdf_and_png_in_a_style_that_is_put_back(tmp_path):
    before = dict(rcParams)
    with plots.style():
        figure, axes = plots.grid(3, 2, (2, 2))
    assert len(axes) == len(figure.axes) == 3
    pdf, png = plots.save(figure, tmp_path / "new" / "figure")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert dict(rcParams) == before


def test_show_is_silent_without_a_notebook(capsys):
    assert plots.show(plots.grid(1, 1, (2, 2))[0], "an empty panel") is None
    assert capsys.readouterr() == ("", "")


def test_four_tasks_stand_in_two_blocks_of_three_columns(folders):  # noqa: F811
    tasks = [ec.Cell(dataset, "mlp", "evomal") for dataset in ("diabetes", "boston", "california", "mnist")]
    rows = [row | SECONDS for row in history(0.9, 0.6)]
    runs = [store.Run(cell, "complete", data={"history": rows}) for cell in tasks]
    axes = plots.fitness_curve(runs, ["generation", "seconds"]).axes
    assert [axis.get_title().split(",")[0] for axis in axes] == [
        *("diabetes", "boston", "california") * 2,
        *("mnist",) * 2,
    ]
    assert [axis.get_xlabel() == "generation" for axis in axes] == [True] * 3 + [False] * 3 + [True, False]
    assert [bool(axis.get_legend()) for axis in axes] == [False] * 3 + [True] * 3 + [False, True]
    labels = [text.get_text() for text in axes[3].get_xticklabels(which="both") if text.get_text()]
    assert len(labels) == len(set(labels)) > 1, "less than two powers of ten have more than one label"


def test_displayed_figures_keep_the_colours_of_every_method():
    few = plots._few_colours().getpalette()
    known = {tuple(few[i : i + 3]) for i in range(0, len(few), 3)}
    assert {tuple(round(255 * part) for part in plots.colour(method)) for method in ec.METHODS} <= known
