"""Searches compared at equal generations and seconds, shares of the filters, and the words made from both."""

import math

import pytest
from test_report import folders, history, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_notebooks import plots, report, searches


def timed(seconds, *best, **counts):
    """A history in which each generation takes `seconds`."""
    phases = {"seconds_optimise": seconds, "seconds_filter": 0.0, "seconds_fitness": 0.0}
    return [row | phases for row in history(*best, **counts)]


def collected(folders):  # noqa: F811
    return report.collect(folders[0], reference_dir=folders[1])


def test_best_at_is_within_generations_or_seconds(folders):  # noqa: F811
    write(folders[1], history=timed(2.0, None, 0.9, 0.4))
    (run,) = collected(folders).reference
    assert searches.elapsed(run).tolist() == [2.0, 4.0, 6.0]
    assert searches.best_at(run, generations=2) == searches.best_at(run, seconds=5.9) == 0.9
    assert searches.best_at(run, seconds=6.0) == 0.4
    assert math.isnan(searches.best_at(run, generations=1)) and math.isnan(searches.best_at(run, seconds=0))


def test_three_points_of_two_searches(folders):  # noqa: F811
    write(folders[1], "evomal", history=timed(3.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3))
    write(folders[1], "gp-lfl", history=timed(1.0, 0.95, 0.85, 0.65, 0.55))
    evomal, other = sorted(collected(folders).reference, key=lambda run: run.cell.method)
    found = {at: values for at, *values in searches.points(evomal, other)}
    assert found == {"early": [0.8, 0.55], "end": [0.3, 0.55], "equal seconds": [0.9, 0.55]}


@pytest.fixture
def pairs(folders):  # noqa: F811
    """Three pairs of EvoMAL and GP-LFL, in the first of which EvoMAL found nothing finite."""
    for seed, last in enumerate((None, 0.3, 0.2)):
        write(folders[1], "evomal", seed, history=timed(1.0, None, last))
        write(folders[1], "gp-lfl", seed, history=timed(1.0, 0.9, 0.5))
    write(folders[0], "evomal", 0, history=timed(1.0, 0.1, 0.1))
    return collected(folders)


def test_pairs_are_of_one_source_and_nothing_finite_counts_as_worse(pairs):
    table = searches.compare_searches(pairs)
    assert set(table["records"]) == {"reference"} and list(table["at"]) == ["early", "end", "equal seconds"]
    end = table[table["at"] == "end"].iloc[0]
    assert (end["better"], end["verdict"]) == ("2 of 3", "open")
    assert end["difference"] == pytest.approx(-0.25) and math.isnan(end["low"])
    shown = searches.display_searches(table)
    assert shown.loc[("reference", "quick", "diabetes, mlp", "gp-lfl"), "end"] == "2 of 3: -0.2500, open"
    assert searches.verdicts(table)[0].endswith("supported on 0, contradicted on 0, open on 1 of 1 tasks and budgets")
    first, second = searches.early_claim(table)
    assert "EvoMAL after 2 of 8 generations is better than GP-LFL at its end in 0 of 3 seeds" in first
    assert "is open" in second


def test_no_search_makes_no_row_and_no_claim():
    table = searches.compare_searches(report.Records([], [], []))
    assert table.empty and "verdict" in table
    assert searches.verdicts(table)[0].endswith("open on 0 of 0 tasks and budgets")
    assert len(searches.early_claim(table)) == 1


def test_at_equal_seconds_the_slower_search_is_cut(folders):  # noqa: F811
    write(folders[1], "evomal", 0, history=timed(3.0, 0.9, 0.5), fitness=0.5)
    write(folders[1], "random", 0, history=timed(1.0, 0.8, 0.7, 0.6), fitness=0.6)
    write(folders[1], "evomal", 1, history=timed(9.0, 0.4), fitness=0.4)
    write(folders[1], "random", 1, history=timed(1.0, 0.8), fitness=0.8)
    cut = searches.at_equal_seconds(collected(folders).reference)
    found = {(run.cell.method, run.cell.seed): run.data["fitness"] for run in cut}
    assert found == {("evomal", 0): 0.9, ("random", 0): 0.6, ("evomal", 1): None, ("random", 1): 0.8}


def test_answers_are_made_from_the_runs(folders):  # noqa: F811
    for seed in range(3):
        write(folders[1], "baseline", seed, test=0.08, budget="paper")
        write(folders[1], "evomal", seed, test=0.07, budget="paper", fitness=0.09, history=timed(1.0, 0.09))
        write(folders[1], "random", seed, test=0.06, budget="paper", fitness=0.10, history=timed(1.0, 0.10))
    lines = searches.answers(collected(folders).reference, {"baseline": 0.0787, "evomal": 0.0721}, "paper")
    assert lines[0] == "Baseline: 0.0800 (n = 3) against the published 0.0787: +0.13 points, within 0.3 points."
    assert lines[1].startswith("EvoMAL's test error is smaller than that of baseline: mean difference -0.0100")
    assert lines[2].startswith("EvoMAL's test error is larger than that of random")
    assert lines[3] == "(The published difference of EvoMAL and the baseline is -0.0066.)"
    assert lines[4].startswith(
        "At equal candidates: EvoMAL's fitness (validation error) is smaller than that of random"
    )
    assert lines[5].startswith("At equal seconds: ") and len(lines) == 6
    few = searches.answers(collected(folders).select(seed=0).reference, {"baseline": 0.09, "evomal": 0.07}, "quick")
    assert "at fewer steps" in few[0] and few[1].endswith("n = 1, too few.")


def test_filters_every_task_counts_alike_and_missing_searches_have_empty_panels(folders):  # noqa: F811
    early, late = {"rejected": 8, "evaluated": 2}, {"rejected": 2, "evaluated": 4, "equivalent": 2, "symbolic": 2}
    rows = [timed(1.0, 0.5, **early)[0], timed(1.0, 0.5, 0.5, **late)[1], timed(1.0, 0.5, 0.5, 0.5, **late)[2]]
    for seed in range(2):
        write(folders[1], "evomal", seed, history=rows, seconds={"total": 9.0, "optimise": 4.0 + 2 * seed})
    write(folders[1], "baseline")
    groups = searches.by_task(collected(folders))
    assert list(groups) == [("reference", "quick", "diabetes, mlp", "evomal")]
    table = searches.filter_table(groups)
    row = table.loc["quick", "evomal"]
    assert (row["tasks"], row["searches"]) == (1, 2)
    assert row["rejected, early"] == pytest.approx(0.8) and row["rejected, late"] == pytest.approx(0.2)
    assert row["evaluated"] == pytest.approx((0.2 + 0.4 + 0.4) / 3)
    assert searches.display_filters(table).loc["rejected, late"].item() == "20 %"
    (line,) = searches.filter_words(table)
    assert line.endswith("the rejected change by -60 points, the gradient hits by +20 points")
    assert searches.seconds_by_phase(groups).loc[("reference", "quick", "evomal"), "optimise"] == 5.0
    panels = searches.panels(groups, "reference", "quick", ["evomal", "random"])
    assert {title: len(runs) for title, runs in panels.items()} == {
        "diabetes, mlp: evomal, n = 2": 2,
        "diabetes, mlp: random, n = 0": 0,
    }
    texts = [text.get_text() for axis in plots.filter_shares(panels).axes for text in axis.texts]
    assert texts == ["no record"]


def test_no_search_gives_an_empty_table_of_filters():
    table = searches.filter_table({})
    assert table.empty and searches.filter_words(table) == [] and searches.seconds_by_phase({}).empty


def test_a_best_that_gets_worse_is_named_unless_the_protocol_lets_it(folders):  # noqa: F811
    worse = timed(1.0, 0.5, 0.6)
    write(folders[1], "evomal", history=worse, protocol="released")
    write(folders[1], "baseline")
    searches.check_histories(collected(folders).reference)
    write(folders[1], "evomal", history=worse)
    with pytest.raises(AssertionError, match="the best so far got worse"):
        searches.check_histories(collected(folders).reference)


def test_every_method_of_the_registry_has_a_colour():
    assert all(len(plots.colour(method)) == 3 for method in ec.METHODS)
