"""The grid of learning rates: its cells, what counts as a failure, and choices by validation alone."""

import math

import pandas
import pytest

import evomal_core as ec
from evomal_core.experiments.store import Run
from evomal_notebooks import rates, read_parameters, report

ROW = ec.Cell("digits", "logistic", "baseline", 0, "smoke")


def run(method="evomal", seed=0, error=0.5, validation=None, budget="smoke", status="complete", rate=None):
    cell = ec.Cell("digits", "logistic", method, seed, budget)
    error = None if status != "complete" else error
    return Run(cell, status, error, None, {"validation_metric": validation or error, "learning_rate": rate})


def table(*runs):
    return rates.tidy(report.Records([], list(runs), []), ROW)


def test_the_grid_has_each_rate_twice_and_the_usual_one_once():
    cells = rates.cells([ROW, ec.Cell("digits", "logistic", "tuned", 0, "smoke")], (0.01, 0.1))
    budgets = [cell.budget for cell in cells if cell.method == "baseline"]
    assert budgets == ["smoke", "smoke+base_learning_rate=0.1", "smoke+test_learning_rate=0.1"]
    assert [cell.budget for cell in cells if cell.method == "tuned"] == ["smoke"]


def test_runs_stand_in_their_panels():
    found = table(
        run(),
        run(budget="smoke+base_learning_rate=0.1", error=0.2),
        run(budget="smoke+test_learning_rate=0.1", status="diverged"),
        run("tuned", rate=0.3),
        run(budget="smoke+test_learning_rate=0.1+test_steps=7"),
        run(budget="quick"),
        run("tuned", budget="smoke+test_learning_rate=0.1"),
    )
    places = list(found[["panel", "method", "rate"]].itertuples(index=False, name=None))
    usual = [(rates.BOTH, "evomal", 0.01), (rates.ALONE, "evomal", 0.01)]
    assert places == [*usual, (rates.BOTH, "evomal", 0.1), (rates.ALONE, "evomal", 0.1), ("tuned", "tuned", 0.3)]
    assert found["error"].isna().tolist() == [False, False, False, True, False]


def grid():
    """EvoMAL has a lower error than the baseline everywhere; its best rate by test is not its best by validation."""
    runs = []
    for seed in range(3):
        noise = seed / 1000
        runs += [run("baseline", seed, 0.30 + noise, 0.30), run("evomal", seed, 0.20 + noise, 0.20)]
        higher = "smoke+base_learning_rate=0.1"
        runs += [run("baseline", seed, 0.25 + noise, 0.25, higher), run("evomal", seed, 0.10 + noise, 0.22, higher)]
    runs += [
        run("evomal", s, 0.05, 0.05, "smoke+base_learning_rate=1.0", "diverged" if s else "complete") for s in range(3)
    ]
    return table(*runs)


def test_means_and_failures():
    found = rates.summary(grid())
    row = found.loc[("own", rates.BOTH, "baseline", 0.01)]
    assert row["mean"] == pytest.approx(0.301) and (row["n"], row["failed"]) == (3, 0)
    row = found.loc[("own", rates.BOTH, "evomal", 1.0)]
    assert (row["n"], row["failed"]) == (1, 2)
    assert "0.0500 (n = 1, 2 failed)" in rates.display(grid()).to_string()


def test_pairs_at_each_rate():
    pairs = rates.at_each_rate(grid()).set_index(["panel", "rate"])
    assert pairs.loc[(rates.BOTH, 0.01), "difference"] == pytest.approx(-0.1)
    assert pairs.loc[(rates.BOTH, 0.1), "difference"] == pytest.approx(-0.15)
    assert pairs.loc[(rates.BOTH, 0.1), ["n", "finding"]].tolist() == [3, "smaller"]


def test_the_best_rate_is_chosen_by_validation_where_nothing_failed():
    found = grid()
    assert rates.best_rate(found, rates.BOTH, "evomal") == 0.01
    assert rates.best_rate(found, rates.BOTH, "baseline") == 0.1
    assert math.isnan(rates.best_rate(found, rates.BOTH, "gp-lfl"))
    row = rates.at_best(found, rates.BOTH)
    assert (row["rate"], row["base"], row["n"]) == (0.01, 0.1, 3)
    assert row["difference"] == pytest.approx(-0.05)
    assert rates.at_best(found, rates.BOTH, usual=0.1)["difference"] == pytest.approx(-0.15)
    lines = rates.words(found, 0.01)
    assert "evomal at the usual rate (0.01) is smaller than the baseline's at its best rate (0.1): -0.0500" in lines[0]
    assert rates.words(found[:0], 0.01) == ["There is no grid yet."]


def test_the_figure_marks_failures():
    figure = rates.draw(grid())
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert "2" in texts and "×: failed runs" in figure.axes[0].get_xlabel()
    assert [axis.get_title() for axis in figure.axes] == [f"rate varied in {p}" for p in (rates.BOTH, rates.ALONE)]


def test_crosses_of_several_methods_do_not_cover_one_another():
    some = table(*[run(method, seed, status="diverged") for method in ("evomal", "baseline") for seed in range(2)])
    figure = rates.draw(some)
    heights = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert len(set(heights)) == 2 and all(map(math.isfinite, heights)), "though no run has an error"
    figure.canvas.draw()


def test_runs_that_could_not_be_made_are_no_failures_of_a_rate():
    assert table(run(status="unavailable"), run(status="failed", seed=1)).empty


def test_a_search_without_loss_has_failed_at_every_rate_of_the_test():
    found = table(run(seed=0, status="no_loss"), run(seed=1), run(seed=1, budget="smoke+test_learning_rate=0.1"))
    failed = found[found["error"].isna()]
    places = list(failed[["panel", "rate", "seed"]].itertuples(index=False, name=None))
    assert places == [(rates.BOTH, 0.01, 0), (rates.ALONE, 0.01, 0), (rates.ALONE, 0.1, 0)]


def test_the_best_rate_is_chosen_among_seeds_that_have_all_rates():
    higher = "smoke+base_learning_rate=0.1"
    found = table(run(error=0.1), run(seed=1, error=0.5), run(error=0.2, budget=higher))
    assert rates.best_rate(found, rates.BOTH, "evomal") == 0.01, "seed 1 has one rate alone"


def test_rates_as_a_parameter():
    known = "seed rates"
    for given in ([0.01, 0.1], "0.01,0.1", "[0.01, 0.1]", (0.01, 0.1)):
        assert read_parameters({"rates": given}, known).rates == (0.01, 0.1)
    assert read_parameters({"rates": 0.5}, known).rates == (0.5,)
    for bad in ("0", "-1", "x", "inf"):
        with pytest.raises(ValueError, match="rates must be positive numbers"):
            read_parameters({"rates": bad}, known)


def test_the_committed_grid_is_read_and_was_tested_on_its_own_searches():
    records = report.collect("nowhere", reference_dir=rates.REFERENCE)
    assert not records.damaged
    found = rates.tidy(records, ec.Cell("mnist", "logistic", "baseline", 0, "paper"))
    counts = found.groupby(["panel", "method"])["rate"].nunique()
    assert (counts[[(p, m) for p in (rates.BOTH, rates.ALONE) for m in ("baseline", "evomal", "gp-lfl")]] == 7).all()
    usual = found.query("rate == 0.01 and method == 'evomal'").pivot(index="seed", columns="panel", values="error")
    pandas.testing.assert_series_equal(usual[rates.BOTH], usual[rates.ALONE], check_names=False)
