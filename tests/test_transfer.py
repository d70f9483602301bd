"""Transfer: the loss that moves is chosen by validation alone, and what is compared is what was meant."""

import math

import pytest

import evomal_core as ec
from evomal_core.experiments.store import Run
from evomal_notebooks import Parameters, report, transfer

P = Parameters(
    seed=3, budget="smoke", source="mnist/logistic", target="digits/logistic", methods=("baseline", "evomal", "ml3")
)


def run(
    method="evomal",
    seed=0,
    fitness=0.5,
    test=0.5,
    validation=0.5,
    source=None,
    dataset="mnist",
    loss=True,
    budget="smoke",
):
    cell = ec.Cell(dataset, "logistic", method, seed, budget, "paper", source)
    data = {"fitness": fitness, "validation_metric": validation, "loss": {"kind": "x"} if loss else None}
    return Run(cell, "complete", test, None, data | {"test_metric": test, "status": "complete"})


def test_cells_of_both_tasks():
    assert transfer.source_cells(P) == [ec.Cell("mnist", "logistic", m, 3, "smoke") for m in ("evomal", "ml3")]
    best = {"evomal": run(seed=1)}
    expected = [ec.Cell("digits", "logistic", "baseline", 3, "smoke")]
    expected += [ec.Cell("digits", "logistic", "evomal", 3, "smoke", source="mnist/logistic/1")]
    assert transfer.target_cells(P, best) == expected
    own = transfer.target_cells(P, {"evomal": run(seed=3)})[1]
    assert own.source == "mnist/logistic" and own.search.seed == 3


def test_the_choice_is_by_validation_and_never_by_test():
    runs = [run(seed=0, fitness=0.3, test=0.1), run(seed=1, fitness=0.2, test=0.9), run(seed=2, fitness=0.2, test=0.0)]
    assert transfer.chosen(runs)["evomal"].cell.seed == 1
    assert transfer.chosen(runs[::-1])["evomal"].cell.seed == 1, "ties go to the lower seed"
    networks = [run("ml3", 0, None, validation=0.4), run("ml3", 1, None, validation=0.3)]
    assert transfer.chosen(networks)["ml3"].cell.seed == 1
    assert transfer.merit(run("ml3", 0, None, validation=None)) == math.inf
    assert transfer.chosen([run(loss=False)]) == {}


def test_only_searches_of_the_source_at_this_level_are_chosen_from():
    runs = [run(), run(budget="quick"), run(dataset="digits"), run(source="digits/logistic")]
    assert transfer.on_source(P, runs) == runs[:1]


def records():
    """Two searches of evomal, the second the better by validation; both tested on digits under three seeds."""
    moved = [
        run(seed=s, dataset="digits", source=f"mnist/logistic/{k}", fitness=0.5 - k / 10, test=0.3 + s / 100 - k / 10)
        for s in range(3)
        for k in range(2)
    ]
    bases = [run("baseline", s, None, dataset="digits", test=0.4 + s / 100, loss=True) for s in range(3)]
    home = [run("baseline", 0, None, test=0.2), run(seed=0, test=0.1)]
    other = [run("baseline", 0, None, dataset="digits", budget="quick")]
    return report.Records([], moved, []), report.Records([], bases + home + other, [])


def test_a_table_has_the_chosen_loss_and_the_baselines_of_its_level():
    transferred, direct = records()
    assert transfer.pairs_of(transferred) == [("mnist/logistic", "digits/logistic")]
    found = transfer.between("mnist/logistic", "digits/logistic", transferred, direct)
    assert {r.cell.search.seed for r in found.own if r.cell.method == "evomal"} == {1}
    assert sorted(r.cell.method for r in found.own) == ["baseline"] * 3 + ["evomal"] * 3
    assert transfer.between("digits/logistic", "mnist/logistic", transferred, direct).own == []


def test_advantage_here_and_there_in_numbers_and_words():
    transferred, direct = records()
    found = transfer.between("mnist/logistic", "digits/logistic", transferred, direct)
    (row,) = transfer.kept_advantage(found, direct, "mnist/logistic").itertuples()
    assert (row.method, row.n, row.finding) == ("evomal", 3, "smaller")
    assert row.difference == pytest.approx(-0.2)
    table = transfer.kept_advantage(found, direct, "mnist/logistic")
    assert table["difference on the source"].item() == pytest.approx(-0.1)
    (line,) = transfer.words(table, "mnist/logistic", "digits/logistic")
    assert "the error of evomal's loss is smaller than the baseline's (mean difference -0.2000" in line
    few = transfer.words(table.assign(n=2), "a", "b")[0]
    assert "n = 2 is too few" in few
    assert "beside its baseline yet" in transfer.words(table[:0], "a", "b")[0]
    assert transfer.display_advantage(table)["pairs"].item() == 3


def test_a_loss_is_searched_here_and_tested_there_under_another_seed(tmp_path):
    cell = ec.Cell("digits", "logistic", "tuned", 5, "smoke", source="digits/mlp/0")
    done = ec.run_cell(cell, tmp_path)
    assert done.path == tmp_path / "digits/mlp/tuned/smoke-paper/seed0"
    assert (done.path / "tests" / "digits-logistic-fresh-seed5.json").exists()
    assert done.data["learning_rate"] == pytest.approx(
        ec.run_cell(ec.Cell("digits", "mlp", "tuned", 0, "smoke"), tmp_path).data["learning_rate"]
    )
    twin = ec.run_cell(ec.Cell("digits", "mlp", "tuned", 5, "smoke", source="digits/mlp/0"), tmp_path)
    assert (twin.path / "tests" / "fresh-seed5.json").exists() and twin.path == done.path
    names = {test["name"] for test in twin.tests}
    assert names == {"fresh", "fresh-seed5", "digits-logistic-fresh-seed5"}
