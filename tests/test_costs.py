"""What searches cost: which seconds are held against the paper's hours, and ratios between methods."""

import math

import pytest
from test_report import DIABETES, folders, write  # noqa: F401, a fixture is used by its name

from evomal_core import Cell, cost_model
from evomal_core.registry import METHODS
from evomal_notebooks import costs, report


@pytest.fixture
def paper():
    return report.paper_table("table5").set_index(["dataset", "model", "method"])["hours"]


@pytest.fixture
def runs(folders, paper):  # noqa: F811
    """EvoMAL's search takes 4 times GP-LFL's at either budget; half of it is learning."""
    seconds = {"optimise": 40.0, "filter": 10.0, "fitness": 30.0, "test": 20.0, "total": 100.0}
    for budget in ("quick", "paper"):
        for seed in range(2):
            write(folders[1], "evomal", seed, budget=budget, seconds=seconds)
        write(folders[1], "gp-lfl", 0, budget=budget, seconds={"fitness": 20.0, "test": 20.0, "total": 40.0})
    write(folders[1], "baseline", 0, seconds={"test": 20.0, "total": 20.0})
    return costs.timed(report.collect(folders[0], reference_dir=folders[1]), paper)


def test_only_the_paper_s_budget_is_held_against_its_hours(runs, paper):
    table = costs.search_costs(runs, paper)
    part = table.xs("evomal", level="method")
    assert list(part["n"]) == [2, 2] and set(part["search"]) == {80.0} and set(part["test"]) == {20.0}
    times = part["times the published"].droplevel(["dataset", "model", "protocol", "source", "hardware"])
    assert math.isnan(times["quick"])
    assert times["paper"] == pytest.approx(80 / 3600 / paper[(*DIABETES, "evomal")])
    shown = costs.display_costs(table).xs(("evomal", "quick"), level=["method", "budget"]).iloc[0]
    assert (shown["n"], shown["hours of search"], shown["times the published"]) == ("2", "0.022", "–")


def test_ratios_are_to_gp_lfl_below_those_of_the_paper(runs, paper):
    table = costs.ratios(costs.search_costs(runs, paper), paper)
    assert list(table.index) == [
        (*DIABETES, "published"),
        (*DIABETES, "reference, quick budget, as in the text"),
        (*DIABETES, "reference, full budget, as in the text"),
    ]
    assert list(table["evomal"][1:]) == [4.0, 4.0] and set(table["gp-lfl"]) == {1.0}
    assert table["glo"].isna().all() and "baseline" not in table
    expected = paper[(*DIABETES, "evomal")] / paper[(*DIABETES, "gp-lfl")]
    assert table["evomal"].iloc[0] == pytest.approx(expected)


def test_findings_say_how_much_more_evomal_costs(runs, paper):
    first, second, last = costs.findings(runs, paper)
    assert first.startswith(
        "diabetes, mlp (reference, quick budget, as in the text): EvoMAL's search takes 4.0 times GP-LFL's"
    )
    assert "learning weights is 50 % of it; 80 s a search" in first and "full budget" in second
    assert last == "reference: 7 runs, 0.1 hours in all, on a CPU (7 runs)"
    assert costs.findings(runs[:0], paper) == ["no record yet"]


def test_rows_that_table_v_lacks_are_left_out(folders, paper):  # noqa: F811
    write(folders[1], seconds={"total": 1.0})
    records = report.collect(folders[0], reference_dir=folders[1])
    assert len(costs.timed(records, paper)) == 1
    assert costs.timed(records, paper.drop(index="diabetes", level="dataset")).empty


def test_minutes(runs):
    table = costs.minutes(runs)
    row = table.loc["reference", "quick", "evomal"]
    assert (row["runs"], row["total"]) == (2, pytest.approx(200 / 60)) and row["optimise"] == pytest.approx(80 / 60)
    mean = costs.mean_minutes(runs).loc[("reference", *DIABETES, "quick", "evomal")]
    assert (mean["runs"], mean["minutes"], mean["hardware"]) == (2, pytest.approx(100 / 60), "a CPU")
    assert costs.minutes_a_seed(runs, ["evomal", "gp-lfl"]) == pytest.approx((100 + 40) / 60)
    assert costs.minutes_a_seed(runs, ["glo"]) == 0


def test_all_rows_of_table_v_have_expected_hours_and_a_place():
    paper = report.paper_table("table5").set_index(["dataset", "model", "method"])["hours"]
    cells = costs.full_budget()
    assert len(cells) == 16 * len(METHODS) and {cell.budget for cell in cells} == {"paper"}
    table = costs.expected()
    assert set(table.index) == {(cell.dataset, cell.model, cell.method) for cell in cells}
    assert (table[["search", "test"]] >= 0).all(axis=None) and table["hardware"].nunique() == 1
    runs = costs.timed(report.collect("nowhere"), paper)
    wide = costs.seconds_or_hours(runs, paper)
    assert wide.shape == (16, 4 * 3)
    assert wide.loc[("cifar10", "allcnnc"), ("evomal", "published")] == paper["cifar10", "allcnnc", "evomal"]
    mine = runs.query("dataset == 'diabetes' and budget == 'paper' and protocol == 'paper' and method == 'evomal'")
    assert wide.loc[("diabetes", "mlp"), ("evomal", "recorded")] == pytest.approx(mine["seconds_search"].mean() / 3600)
    text = costs.not_run([("cifar10", "vgg16"), ("cifar10", "alexnet")], "table2")
    assert text.count("./run papermill") == 1 and "-p datasets cifar10 -p models vgg16" in text
    assert "| cifar10, alexnet | 356 |" in text
    assert costs.not_run([], "table2") == "Every row has a record."


def test_expectations_name_the_machine(monkeypatch):
    hours = cost_model.Hours(1.5, 0.25)
    monkeypatch.setattr(costs, "estimate", lambda cells, *where: [hours] * len(cells))
    table = costs.expect([Cell("diabetes", "mlp", "evomal", 0, "smoke")])
    (row,) = table.itertuples()
    assert (row.method, row.budget, row.search, row.test) == ("evomal", "smoke", 1.5, 0.25)
    assert "cores" in row.hardware and len(row.date) == 10
