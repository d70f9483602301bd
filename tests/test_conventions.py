"""Tests of one search under several conventions: which columns they stand in, and what is counted."""

import json
import math

import pytest
from test_report import DIABETES, folders, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_core.experiments import store
from evomal_notebooks import contests, conventions, report


def cell(protocol="paper", seed=0, **more) -> ec.Cell:
    return ec.Cell(*DIABETES, "evomal", seed, "quick", protocol, **more)


@pytest.fixture
def written(folders):  # noqa: F811
    """A loss that is good from the search's weights, and fails from one of three fresh starts; and a search without one."""
    for protocol, error in (("paper", 0.9), ("paper+test_start=search", 0.4), ("robust", 0.5)):
        write(folders[1], "evomal", 0, test=error, protocol=protocol)
    for seed, status in ((7, "complete"), (8, "diverged")):
        write(folders[1], "evomal", seed, test=0.7, status=status, source="diabetes/mlp/0")
    write(folders[1], "evomal", 1, status="no_loss")
    for seed, error in ((0, 0.6), (1, 0.6), (7, 0.65), (8, 0.6)):
        write(folders[1], "baseline", seed, test=error)
    return folders


def test_the_convention_of_a_cell():
    protocols = [
        "paper+test_start=search",
        "paper",
        "paper+test_stop=validation",
        "robust",
        "paper+selection=resplit",
        "robust+test_stop=validation",
    ]
    assert [conventions.convention(cell(protocol)) for protocol in protocols] == list(conventions.CONVENTIONS.values())
    assert conventions.convention(cell("released")) == conventions.SEARCHS
    assert conventions.convention(cell("released+test_start=fresh")) == conventions.FRESH
    assert conventions.convention(cell("robust+test_start=search")) is None


def test_a_table_counts_losses_trainings_and_failures(written):
    found = conventions.trainings(written[0], written[1])
    table = conventions.table(found).query("method == 'evomal'").set_index("convention")
    fresh = table.loc[conventions.FRESH]
    assert (fresh["losses"], fresh["trainings"], fresh["failed"]) == (2, 4, 2)
    assert fresh["mean"] == pytest.approx(0.8) and fresh["worst"] == 0.9 and math.isnan(fresh["std"])
    assert table.loc[conventions.SEARCHS, "mean"] == 0.4 and table.loc[conventions.SEARCHS, "failed"] == 1
    assert table.loc[conventions.ROBUST, "losses"] == 2, (
        "a search without a loss has none, unless a contest chose the task loss"
    )
    shown = conventions.display(found).xs("evomal", level="method").iloc[0]
    assert shown[conventions.FRESH] == "0.8000 (2 losses, 4 trainings; 2 failed)"
    assert shown[conventions.SEARCHS] == "0.4000 (n = 2; 1 failed)"


def test_differences_are_taken_start_by_start(written):
    found = conventions.trainings(written[0], written[1])
    (search,) = conventions.against(found, conventions.ROBUST).to_dict("records")
    assert (search["n"], search["pairs"], search["lower"]) == (2, 2, 1)  # no loss is worse than the baseline
    (fresh,) = conventions.against(found, conventions.FRESH).to_dict("records")
    assert (fresh["n"], fresh["pairs"], fresh["lower"], fresh["finding"]) == (2, 4, 0, "open")
    assert not len(conventions.against(found, conventions.SEARCHS)), "the baseline was not tested from there"


def test_both_columns_stand_side_by_side(written):
    records = report.collect(written[0], reference_dir=written[1])
    shown = conventions.both(records, report.paper_table("table3"), [cell()])
    row = shown.xs("evomal", level="method").iloc[0]
    assert row["reference, from the search's weights"] == "0.4000 (n = 1; 1 no_loss)"
    assert row["reference, from fresh weights"] == "0.9000 (n = 1; 1 no_loss)"
    assert row["published"] == "0.3573 ± 0.0198"
    assert set(shown.index.get_level_values("protocol")) == {"as in the text"}
    assert shown.xs("baseline", level="method").iloc[0]["reference, from the search's weights"] == "no record"


def test_across_has_a_row_a_method_and_a_column_a_start(written):
    records = report.collect(written[0], reference_dir=written[1])
    wide = conventions.across(records, report.paper_table("table3"), [cell()])
    assert list(wide.columns[:1]) == ["published"] and len(wide.columns) == 3
    assert wide.xs("evomal", level="method").iloc[0].iloc[1:].to_list() == [
        "0.4000 (n = 1; 1 no_loss)",
        "0.9000 (n = 1; 1 no_loss)",
    ]


def test_a_search_counts_once_however_often_it_was_tested(written):
    records = report.collect(written[0], reference_dir=written[1])
    each = conventions.searches(records).reference
    assert sorted((run.cell.method, run.cell.seed) for run in each) == [
        *[("baseline", s) for s in (0, 1, 7, 8)],
        ("evomal", 0),
        ("evomal", 1),
    ]
    (first,) = [run for run in each if run.cell.method == "evomal" and run.cell.seed == 0]
    assert first.test_metric == 0.9 and first.cell.protocol == "paper"


def test_rows_of_a_small_budget_are_shown_where_a_contest_was_held(written):
    found = conventions.trainings(written[0], written[1])
    assert conventions.panels(found) == [("diabetes", "mlp", "quick")]
    shown = conventions.with_contest(found)
    assert set(shown[shown["method"] == "evomal"]["loss_seed"]) == {0}, "the other search has no contest"
    assert len(shown[shown["method"] == "baseline"]) == 4
    without = found[
        (found["convention"] != conventions.ROBUST) | (found["error"] == math.inf)
    ]  # a search without a loss
    assert not len(conventions.with_contest(without)) and not conventions.panels(without)
    full = without.assign(budget="paper")
    assert len(conventions.with_contest(full)) == len(full)
    assert conventions.panels(full) == [("diabetes", "mlp", "paper")]


def test_the_figure_has_a_panel_a_task_and_shows_what_failed(written):
    found = conventions.trainings(written[0], written[1])
    figure = conventions.figure(found, [("diabetes", "mlp", "quick"), ("boston", "mlp", "quick")])
    first, second = figure.axes
    labels = [label.get_text() for label in first.get_xticklabels()]
    assert labels == list(conventions.LABELS.values())
    dots = {line.get_xdata()[0] > 0.5: line for line in first.lines if line.get_marker() == "^"}
    assert dots and first.texts and not second.lines


def test_old_tests_of_released_are_from_fresh_weights(folders):  # noqa: F811
    write(folders[1], "evomal", 0, test=0.4, protocol="released+test_start=fresh")
    (run,) = store.read_runs(folders[1])[0]
    assert run.cell.protocol == "released+test_start=fresh" and run.cell.search.protocol == "released"
    assert conventions.convention(run.cell) == conventions.FRESH


def test_a_search_below_robust_stands_for_the_same_search(written):
    write(written[1] / "robust", "evomal", 0, test=0.3)
    write(written[1] / "robust", "evomal", 0, test=0.2, protocol="robust")
    found = conventions.trainings(written[0], written[1]).query("method == 'evomal' and loss_seed == 0")
    errors = {(row.convention, row.start_seed): row.error for row in found.itertuples()}
    assert errors == {(conventions.FRESH, 0): 0.3, (conventions.ROBUST, 0): 0.2}


def test_cells_of_every_convention():
    cells = conventions.cells([cell(seed=3)], 3)
    assert [conventions.convention(c) for c in cells] == [
        conventions.SEARCHS,
        conventions.STOPPED,
        *[conventions.FRESH] * 3,
        *[conventions.ROBUST] * 3,
    ]
    assert {c.search for c in cells} == {cell(seed=3)} and {c.seed for c in cells[2:5]} == {3, 0, 1}


def test_contests_are_counted_with_their_cost(folders):  # noqa: F811
    names = ("leader 0", "leader 4", "task loss, tuned", "leader 2")
    for seed, name in enumerate(names):
        protocol = "robust" if seed < 3 else "paper+selection=resplit"
        path = write(folders[1], "evomal", seed, protocol=protocol, seconds={"total": 60.0, "test": 20.0})
        (test,) = path.parent.glob("tests/*.json")
        data = json.loads(test.read_text())
        data |= {"selection": name, "loss": {"kind": "squared_error"}, "seconds": {"test": 20.0, "selection": 10.0}}
        test.write_text(json.dumps(data))
    row, redrawn = contests.costs(folders[0], folders[1]).to_dict("records")
    assert (row["parts"], redrawn["parts"]) == tuple(contests.PARTS.values())
    assert (redrawn["n"], redrawn["another leader"]) == (1, 1)
    assert (row["n"], row["search s"], row["selection s"], row["share"]) == (3, 40, 10, 0.25)
    assert (row["best leader"], row["another leader"], row["task loss"], row["task loss, tuned"]) == (1, 1, 0, 1)


def test_what_contests_changed_is_said_of_the_searches_that_have_one(written):
    found = conventions.trainings(written[0], written[1])
    text = contests.changed(found)
    assert text == (
        "On Diabetes at the quick budget the winners of 1 contest have 0.5000 (1 training) from fresh weights, and the "
        "losses of best fitness 0.8000 (3 trainings, 1 failed); squared error has 0.6125 (4 trainings), at a tuned rate "
        "no record."
    )
    assert contests.changed(found, beside=("diabetes",)) == ""
    write(written[1], "evomal", 0, test=0.45, protocol="paper+selection=resplit")
    text = contests.changed(conventions.trainings(written[0], written[1]))
    assert (
        "; the winners of 1 contest with parts redrawn have 0.4500 (1 training) from fresh weights, and the losses"
        in text
    )
