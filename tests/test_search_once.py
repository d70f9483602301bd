"""A search is kept once, and tested as often as one likes; records of schema 1 are read as both, with their numbers."""

import dataclasses
import json
import math

import pytest
import torch

import evomal_core as ec
from evomal_core.config import TESTING
from evomal_core.experiments import run as run_module
from evomal_core.experiments import store
from evomal_core.machine import ROOT

REFERENCE = ROOT / "results" / "reference"
SMOKE = ec.Cell(
    "digits", "logistic", "gp-lfl", 3, "smoke+fitness_steps=40+generations=3+population=8+rejection_steps=60"
)
HERE = {"device": "cpu"}


@pytest.fixture
def results(tmp_path):
    run = ec.run_cell(SMOKE, results_dir=tmp_path, **HERE)
    assert run.status == "complete"
    return tmp_path


@pytest.fixture
def no_search(monkeypatch):
    def forbidden(*arguments, **named):
        raise AssertionError("searched again")

    monkeypatch.setattr(run_module, "search", forbidden)


@pytest.mark.parametrize(
    "changes", ["test_steps=300", "test_learning_rate=0.3", "test_start=search", "test_milestones=5,9"]
)
def test_settings_of_testing_use_the_same_search(results, no_search, changes):
    cell = dataclasses.replace(SMOKE, budget=f"{SMOKE.budget}+{changes}")
    before = (store.folder_of(SMOKE, results) / "record.json").read_bytes()
    run = ec.run_cell(cell, results_dir=results, **HERE)
    first = ec.run_cell(SMOKE, results_dir=results)
    assert run.path == first.path and run.data["loss"] == first.data["loss"]
    assert run.test_metric != first.test_metric or changes.startswith("test_mile")
    assert (run.path / "record.json").read_bytes() == before
    assert {test["name"] for test in run.tests} == {"fresh", cell.test}
    assert cell.search == SMOKE.search and cell.test != SMOKE.test
    assert ec.find_run(cell, results).data == run.data


def test_the_start_of_the_search_begins_as_the_fitness_evaluation(results, no_search):
    config = ec.Config.for_cell(SMOKE)
    changes = f"{SMOKE.budget}+test_start=search+test_steps={config.fitness_steps}"
    run = ec.run_cell(dataclasses.replace(SMOKE, budget=changes), results_dir=results, **HERE)
    assert run.data["validation_metric"] == pytest.approx(run.data["fitness"], abs=1e-7)


def test_tests_say_what_they_are(results):
    cell = dataclasses.replace(SMOKE, budget=f"{SMOKE.budget}+test_learning_rate=0.3+test_start=search+test_steps=7")
    run = ec.run_cell(cell, results_dir=results, **HERE)
    (test,) = [test for test in run.tests if test["name"] == cell.test]
    assert cell.test == "search+test_learning_rate=0.3+test_steps=7"
    assert (test["start"], test["steps"], test["learning_rate"], test["status"]) == ("search", 7, 0.3, "complete")
    assert test["error"] == run.test_metric


def test_leaders_are_the_best_distinct_candidates(results):
    run = ec.find_run(SMOKE, results)
    leaders = run.leaders
    assert 1 < len(leaders) <= 25
    assert len({(leader.expression, leader.weights) for leader in leaders}) == len(leaders)
    fitnesses = [leader.fitness for leader in leaders]
    assert fitnesses == sorted(fitnesses) and fitnesses[0] == run.data["fitness"]
    assert leaders[0].loss.to_json() == run.loss.to_json()
    few = ec.run_cell(dataclasses.replace(SMOKE, budget=f"{SMOKE.budget}+leaders=2"), results_dir=results, **HERE)
    assert [leader.expression for leader in few.leaders] == [leader.expression for leader in leaders[:2]]


def test_transfer_takes_the_loss_of_another_search(results, no_search):
    cell = dataclasses.replace(SMOKE, model="mlp", source="digits/logistic")
    run = ec.run_cell(cell, results_dir=results, **HERE)
    assert run.path == store.folder_of(SMOKE, results) and run.cell == cell
    assert cell.test == "digits-mlp-fresh" and (run.path / "tests" / "digits-mlp-fresh.json").exists()
    task = ec.load_task("digits", device="cpu")
    loss, model = ec.find_run(SMOKE, results).loss, ec.build_model("mlp", task)
    test = ec.test_loss(loss, task, model, ec.Config.for_cell(cell), seed=3, keep_model=True)
    assert (test.status, test.error) == ("complete", run.test_metric)
    assert float(task.metric(test.model(task.test[0]), task.test[1])) == pytest.approx(test.error)
    runs, damaged = store.read_runs(results)
    assert {r.cell for r in runs} == {SMOKE, cell} and not damaged


def test_a_source_that_has_no_record_is_searched_first(tmp_path):
    cell = ec.Cell("digits", "mlp", "tuned", 0, "smoke", source="digits/logistic")
    run = ec.run_cell(cell, results_dir=tmp_path, **HERE)
    assert run.status == "complete" and run.path == store.folder_of(
        ec.Cell("digits", "logistic", "tuned", 0, "smoke"), tmp_path
    )
    (leader,) = run.leaders[:1]
    assert run.data["learning_rate"] == leader.learning_rate  # the rate goes along


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("diabetes/mlp", "must be a data set of classification, got diabetes, of regression"),
        ("digits/mpl", "Did you mean 'mlp'"),
        ("digit/mlp", "Did you mean 'digits'"),
    ],
)
def test_a_source_that_does_not_go_with_the_target_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        ec.Cell("digits", "mlp", "evomal", source=source)
    assert ec.Cell("digits", "mlp", "evomal", source="digits/mlp") == ec.Cell("digits", "mlp", "evomal")


def test_force_replaces_the_search_and_its_tests(results):
    longer = dataclasses.replace(SMOKE, budget=f"{SMOKE.budget}+test_steps=40")
    ec.run_cell(longer, results_dir=results, **HERE)
    run = ec.run_cell(SMOKE, results_dir=results, force=True, **HERE)
    assert [test["name"] for test in run.tests] == ["fresh"]
    assert ec.find_run(longer, results) is None


def test_a_test_of_a_search_that_was_replaced_does_not_count(results):
    path = store.folder_of(SMOKE, results) / "tests" / "fresh.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"search": data["search"] | {"loss": "another"}}))
    assert ec.find_run(SMOKE, results) is None and store.read_runs(results)[0] == []
    assert ec.run_cell(SMOKE, results_dir=results, **HERE).test_metric == data["test_metric"]


def test_test_loss_counts_a_divergence():
    task = ec.load_task("diabetes", device="cpu")
    config = dataclasses.replace(ec.Config(), test_steps=50)
    test = ec.test_loss(ec.SquaredError(), task, ec.build_model("logistic", task), config, learning_rate=1e4)
    assert (test.status, test.error, test.model) == ("diverged", math.inf, None)
    with pytest.raises(ValueError, match="test_start"):
        ec.test_loss(ec.SquaredError(), task, ec.build_model("logistic", task), config, start="anywhere")


# --- records of schema 1 ---


def committed() -> list:
    return sorted(p for p in REFERENCE.rglob("record.json") if json.loads(p.read_text())["schema"] == 1)


def as_tested(raw: dict) -> ec.Cell:
    """The cell of a record of schema 1, whose loss was tested from fresh weights under `released`, too."""
    cell = ec.Cell(**raw["cell"])
    return cell if raw["status"] == "no_loss" else cell.with_overrides({"test_start": "fresh"})


def test_every_committed_record_keeps_its_numbers():
    found = {}
    for folder in (
        REFERENCE,
        *(REFERENCE / name for name in ("protocol", "rates", "robust", "smoke", "remedies", "meta_steps")),
    ):
        runs, damaged = store.read_runs(folder)
        assert not damaged
        found |= {(run.path, run.cell): run for run in runs}
    paths = committed()
    assert len(paths) > 300
    for path in paths:
        raw = json.loads(path.read_text())
        run = found[path.parent, as_tested(raw)]
        assert run.status == raw["status"] and run.reason == raw["reason"]
        names = (
            "test_metric",
            "validation_metric",
            "train_metric",
            "fitness",
            "loss",
            "history",
            "metric",
            "hardware",
            "commit",
        )
        for name in names:
            assert run.data[name] == raw[name], (path, name)
        assert run.test_metric == raw["test_metric"]
        if raw["status"] != "no_loss":
            assert run.seconds == raw["seconds"]
        if raw["status"] != "no_loss":
            assert run.data["learning_rate"] == raw.get("learning_rate", raw["config"]["base_learning_rate"])
            (leader,) = run.leaders
            assert leader.fitness == raw["fitness"] and leader.loss.to_json() == run.loss.to_json()
            assert [test["error"] for test in run.tests if test["name"] == "fresh"] == [raw["test_metric"]]
        weights = (raw["loss"] or {}).get("weights", [])
        assert weights == ([] if run.loss is None else [w for p in run.loss.parameters() for w in p.tolist()])


def test_every_committed_cell_is_found_by_its_name():
    for path in committed():
        raw = json.loads(path.read_text())
        folder = REFERENCE / "protocol" if "protocol" in path.parts else REFERENCE
        run = ec.find_run(as_tested(raw), folder)
        assert run is not None and run.test_metric == raw["test_metric"]


def test_another_test_of_a_committed_search_needs_no_new_search(tmp_path, no_search):
    cell = ec.Cell("mnist", "logistic", "evomal", 0, "quick")
    target = store.folder_of(cell, tmp_path)
    target.mkdir(parents=True)
    (target / "record.json").write_bytes((store.folder_of(cell, REFERENCE) / "record.json").read_bytes())
    digits = dataclasses.replace(cell, dataset="digits", source="mnist/logistic", budget="quick+test_steps=20")
    run = ec.run_cell(digits, results_dir=tmp_path, **HERE)
    assert run.data["loss"] == ec.find_run(cell, REFERENCE).data["loss"]
    assert {test["name"] for test in run.tests} == {"fresh", "digits-logistic-fresh+test_steps=20"}


def test_a_new_field_refuses_no_old_record(monkeypatch):
    """Records from which a field is missing have its default, as if it had been added to the package just now."""
    paths, fields = committed()[::9], [field.name for field in dataclasses.fields(ec.Config)]
    for path in paths:
        raw = json.loads(path.read_text())
        cell = ec.Cell(**{name: value for name, value in raw["cell"].items() if name != "protocol" or value != "paper"})
        config = ec.Config.for_cell(cell.search)
        lacking = [n for n in fields if n not in TESTING and getattr(config, n) == getattr(ec.Config(), n)]
        less = raw | {"config": {name: value for name, value in raw["config"].items() if name not in lacking}}
        store.check_identity(path, less, cell, config)
        more = raw | {"config": raw["config"] | {"invented": 3}}
        with pytest.raises(ec.RecordError, match="unknown invented"):
            store.check_identity(path, more, cell, config)


@pytest.mark.parametrize("value", [True, False])
def test_a_setting_that_is_gone_and_changed_no_result_refuses_no_old_record(value):
    assert "cuda_graphs" not in {field.name for field in dataclasses.fields(ec.Config)}
    for path in committed()[::9]:
        raw = json.loads(path.read_text())
        cell, old = as_tested(raw), raw | {"config": raw["config"] | {"cuda_graphs": value}}
        for check in (store.check_identity, store.check_test_identity):
            check(path, old, cell, ec.Config.for_cell(cell))


def test_old_losses_compute_what_they_did():
    """The loss of a committed record gives the value that its formula has."""
    run = ec.find_run(ec.Cell("diabetes", "mlp", "evomal", 0, "paper"), REFERENCE)
    y, f = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(0)).unbind()
    scope: dict = {}
    exec(run.loss.to_python(), scope)
    torch.testing.assert_close(run.loss(f, y), scope["loss"](f, y))
