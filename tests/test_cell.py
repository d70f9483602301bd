"""Cells and records: what is written and where, what is used again and what is refused, resuming and many at once."""

import copy
import csv
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest
import torch
from sklearn import datasets

from evomal_core import (
    Cell,
    Config,
    DataUnavailable,
    MetaLoss,
    RecordError,
    SquaredError,
    files,
    find_run,
    machine,
    run_cell,
    run_grid,
    streams,
)
from evomal_core.experiments import run as run_module
from evomal_core.experiments import store
from evomal_core.experiments.store import folder_of, read_runs
from evomal_core.models.random_layers import seeded

CELL = Cell("diabetes", "logistic", "evomal", 1, "smoke")
RUN_KEYS = {"seconds", "started", "resumed"}  # what two runs of one cell may differ in
MACHINE_KEYS = {"versions", "hardware", "commit"}


def comparable(run) -> dict:
    """A record without times and machine."""
    data = {k: v for k, v in copy.deepcopy(run.data).items() if k not in RUN_KEYS | MACHINE_KEYS}
    data["history"] = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in data["history"]]
    return data


def contents(folder) -> dict:
    return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def strict(path) -> dict:
    """JSON without the tokens that are none."""

    def refuse(token):
        raise AssertionError(f"{token} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(results folder, run): read only."""
    folder = tmp_path_factory.mktemp("made")
    return folder, run_cell(CELL, results_dir=folder, device="cpu")


@pytest.fixture
def results(made, tmp_path):
    """A copy of it, to be changed."""
    import shutil

    shutil.copytree(made[0], tmp_path / "results")
    return tmp_path / "results"


def damage(results, change, file: str = "record.json") -> None:
    """Change the record of CELL's search, or of its test, by a function of its data, or replace its text."""
    path = folder_of(CELL, results) / file
    if isinstance(change, (str, bytes)):
        path.write_bytes(change if isinstance(change, bytes) else change.encode())
        return
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# One record


def test_record_lies_where_it_was_promised(made):
    folder, run = made
    want = folder / "diabetes" / "logistic" / "evomal" / "smoke-paper" / "seed1"
    assert run.path == want
    assert {p.name for p in want.iterdir()} == {"record.json", "loss.json", "history.csv", "tests"}
    assert [p.name for p in (want / "tests").iterdir()] == ["fresh.json"]


def test_record_says_what_was_run(made):
    _, run = made
    search, test = strict(run.path / "record.json"), strict(run.path / "tests" / "fresh.json")
    data = run.data
    assert data == store.Run.of(CELL, run.path, search, test).data
    assert search["schema"] == test["schema"] == 2
    assert "test_metric" not in search and test["search"]["cell"] == search["cell"]
    assert test["search"]["loss"] == store.digest_of(search["loss"])
    assert Cell(**data["cell"]) == CELL == run.cell
    assert data["status"] == run.status == "complete"
    assert data["reason"] is None
    assert data["metric"] == "mean squared error"
    assert run.test_metric == data["test_metric"] > 0
    for name in ("train_metric", "validation_metric", "fitness"):
        assert math.isfinite(data[name])
    assert data["engine"] == "gram"
    assert data["config"]["generations"] == 2
    assert data["config"]["threads"] == 1
    assert set(data["versions"]) >= {"python", "torch", "numpy", "deap"}
    assert (
        data["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ in data["versions"]["torch"]
    )
    assert data["hardware"]["device"] == "cpu"
    assert data["resumed"] == 0
    assert set(data["seconds"]) >= {"optimise", "filter", "fitness", "search", "test", "total"}
    assert all(s >= 0 for s in data["seconds"].values())
    assert data["seconds"]["total"] >= data["seconds"]["search"]


def test_history_and_loss_are_files_of_their_own(made):
    _, run = made
    with open(run.path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(run.history) == len(run.data["history"]) == 2
    for row, kept in zip(rows, run.data["history"], strict=True):
        assert int(row["generation"]) == kept["generation"]
        for name in ("best_so_far", "best", "median"):
            assert (float(row[name]) if row[name] else None) == kept[name]
        outcomes = ("elite", "symbolic", "rejected", "equivalent", "evaluated", "non_finite")
        assert sum(int(row[o]) for o in outcomes) == 4
    assert strict(run.path / "loss.json") == run.data["loss"]
    assert run.data["loss"]["version"] == machine.version()
    assert isinstance(run.loss, MetaLoss)
    assert str(run.loss) == run.data["loss"]["expression"]


def test_record_holds_what_meta_testing_gives_by_hand(made):
    """The loss found, trained in full by an ordinary loop, has the error that the record claims."""
    from evomal_core import build_model, load_task
    from evomal_core.models import initialise

    _, run = made
    task = load_task("diabetes", device="cpu")
    model = build_model("logistic", task)
    initialise(model, streams.torch_generator(1, "test-init"))
    sgd = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
    x, y = task.train
    for t in range(20):
        rows = streams.numpy_generator(1, "test-batch", t).choice(len(x), 128, replace=False)
        sgd.zero_grad()
        run.loss(model(x[rows]), y[rows]).backward()
        sgd.step()
    for part in ("train", "validation", "test"):
        x, y = getattr(task, part)
        value = float((model(x) - y).square().mean().detach())
        assert run.data[f"{part}_metric"] == pytest.approx(value, rel=1e-4)


def test_same_seed_same_record_and_another_seed_another(made, tmp_path):
    _, run = made
    again = run_cell(CELL, results_dir=tmp_path, device="cpu")
    assert comparable(again) == comparable(run)
    assert (again.path / "loss.json").read_bytes() == (run.path / "loss.json").read_bytes()
    other = run_cell(Cell("diabetes", "logistic", "evomal", 2, "smoke"), results_dir=tmp_path, device="cpu")
    assert other.test_metric != run.test_metric
    assert other.path != again.path


def test_the_state_of_global_generators_does_not_matter(made, tmp_path):
    import random

    import numpy as np

    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 (DEAP's generator)
    torch.manual_seed(99)
    assert comparable(run_cell(CELL, results_dir=tmp_path, device="cpu")) == comparable(made[1])


@pytest.mark.parametrize("engine", ["jvp", "higher"])
def test_engine_is_recorded_and_is_no_part_of_the_identity(results, tmp_path, engine):
    run = run_cell(CELL, results_dir=tmp_path / "other", device="cpu", engine=engine)
    assert run.data["engine"] == engine
    assert run_cell(CELL, results_dir=results, device="cpu", engine=engine).data["engine"] == "gram"  # the old record


def test_number_of_threads_is_put_back(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    run = run_cell(CELL, results_dir=tmp_path, device="cpu", threads=2)
    assert run.data["config"]["threads"] == 2
    assert torch.get_num_threads() == before


def test_overrides_stand_in_the_path_and_the_configuration(tmp_path):
    run = run_cell(CELL, results_dir=tmp_path, device="cpu", overrides={"generations": 1, "population": 3})
    assert run.path == tmp_path / "diabetes/logistic/evomal/smoke+generations=1+population=3-paper/seed1"
    assert run.cell.budget == "smoke+generations=1+population=3"
    assert (run.data["config"]["generations"], run.data["config"]["population"]) == (1, 3)
    assert len(run.history) == 1
    assert Config.for_cell(run.cell).population == 3
    again = run_cell(run.cell, results_dir=tmp_path, device="cpu")
    assert again.data == run.data
    protocol = Cell("diabetes", "logistic", "gp-lfl", 0, "smoke+generations=1", "paper+elitism=off")
    assert folder_of(protocol, tmp_path).parts[-2:] == ("smoke+generations=1-paper+elitism=off", "seed0")


@pytest.mark.parametrize("method", ["baseline", "gp-lfl", "random", "glo"])
def test_other_methods(method, tmp_path):
    run = run_cell(Cell("diabetes", "logistic", method, 1, "smoke"), results_dir=tmp_path, device="cpu")
    assert run.status in ("complete", "no_loss")
    if method == "baseline":
        assert isinstance(run.loss, SquaredError)
        assert run.history.empty
        assert run.test_metric < 5
        assert run.data["fitness"] is None
    else:
        assert len(run.history) >= 2


@pytest.mark.parametrize("method", ["baseline", "gp-lfl"])
def test_classification(method, tmp_path):
    cell = Cell("digits", "logistic", method, 0, "smoke+population=3+generations=1")
    run = run_cell(cell, results_dir=tmp_path, device="cpu")
    assert run.data["metric"] == "error rate"
    assert run.status == "no_loss" or 0 <= run.test_metric <= 1
    if method == "gp-lfl" and run.loss:
        assert run.loss.classification


def test_progress_has_a_line_a_generation(tmp_path):
    lines: list[str] = []
    run_cell(CELL, results_dir=tmp_path, device="cpu", progress=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith(f"{CELL}: generation 1/2, best ")
    assert "min left" in lines[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"generation": 3}, "Did you mean 'generations'"),
        ({"engine": "jvp"}, "override"),
        ({"population": 0}, "population"),
    ],
)
def test_unknown_overrides_write_nothing(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        run_cell(CELL, results_dir=tmp_path, overrides=overrides)
    assert not list(tmp_path.iterdir())


def test_results_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOMAL_RESULTS", str(tmp_path / "there"))
    assert folder_of(CELL).is_relative_to(tmp_path / "there")
    assert folder_of(CELL, tmp_path / "here").is_relative_to(tmp_path / "here")
    assert find_run(CELL) is None


# Statuses


def test_no_loss_is_a_status(tmp_path):
    """Without steps the rejection protocol gains nothing: every candidate is rejected."""
    run = run_cell(CELL, results_dir=tmp_path, device="cpu", overrides={"rejection_steps": 0})
    assert run.status == "no_loss"
    assert run.test_metric is None
    assert run.loss is None
    assert "rejected" in run.reason
    data = strict(run.path / "record.json")
    assert data["loss"] is data["fitness"] is run.data["test_metric"] is None
    assert all(row["best_so_far"] is None and row["evaluated"] == 0 for row in data["history"])
    assert {p.name for p in run.path.iterdir()} == {"record.json", "history.csv"}
    assert find_run(run.cell, tmp_path).status == "no_loss"


def test_divergence_is_a_status(tmp_path):
    cell = Cell("diabetes", "logistic", "baseline", 0, "smoke+base_learning_rate=1000.0+test_steps=300")
    run = run_cell(cell, results_dir=tmp_path, device="cpu")
    assert run.status == "diverged"
    assert run.test_metric is None
    assert "not finite" in run.reason
    data = strict(run.path / "tests" / "fresh+test_steps=300.json")
    assert data["test_metric"] is data["train_metric"] is None
    assert run_cell(cell, results_dir=tmp_path, device="cpu").data == run.data  # a record like others


def test_a_search_in_which_everything_overflows_is_written_in_strict_json(tmp_path):
    cell = Cell("diabetes", "logistic", "evomal", 0, "smoke+base_learning_rate=1000000.0+meta_learning_rate=1e9")
    seen = []
    write = files.write_json

    def watch(path, data):
        write(path, data)
        seen.append(strict(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_json", watch)
        run = run_cell(cell, results_dir=tmp_path, device="cpu")
    assert len(seen) == 3  # two checkpoints and the record
    assert run.status in ("no_loss", "diverged")
    outcomes = sum(row["non_finite"] + row["rejected"] for row in run.data["history"])
    assert outcomes > 0


# Records that are there already


def test_a_record_is_used_again(results, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(run_module, "load_task", forbidden)
    before = contents(results)
    run = run_cell(CELL, results_dir=results)
    assert comparable(run) == comparable(find_run(CELL, results))
    assert [r.test_metric for r in run_grid([CELL, CELL], results_dir=results, progress=None)] == [run.test_metric] * 2
    assert contents(results) == before


def test_force_computes_again(results):
    before = find_run(CELL, results)
    (before.path / "checkpoint.json").write_text("left over")
    time.sleep(0.01)
    mtime = (before.path / "record.json").stat().st_mtime_ns
    run = run_cell(CELL, results_dir=results, device="cpu", force=True)
    assert comparable(run) == comparable(before)
    assert (run.path / "record.json").stat().st_mtime_ns > mtime
    assert run.data["resumed"] == 0
    assert not (run.path / "checkpoint.json").exists()


def test_a_forced_run_that_is_stopped_leaves_the_old_record(results, monkeypatch):
    before = find_run(CELL, results)

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_test", stop)
    with pytest.raises(KeyboardInterrupt):
        run_cell(CELL, results_dir=results, device="cpu", force=True)
    assert find_run(CELL, results).data == before.data


def test_a_copy_inside_another_repository_has_no_commit(monkeypatch, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", str(machine._commit())) or not (machine.ROOT / ".git").exists()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(machine, "ROOT", tmp_path / "copy")
    assert machine._commit() is None


def test_another_configuration_in_the_same_place_is_refused_and_unharmed(results):
    damage(results, lambda data: data["config"].update(tournament_size=3))
    before = contents(results)
    for call in (find_run, run_cell):
        with pytest.raises(RecordError, match="tournament_size = 3 instead of 4") as caught:
            call(CELL, results)
        assert str(folder_of(CELL, results)) in str(caught.value)
    (run,) = run_grid([CELL], results_dir=results, progress=None)
    assert run.status == "failed"
    assert "tournament_size" in run.reason
    assert contents(results) == before
    forced = run_cell(CELL, results_dir=results, device="cpu", force=True)
    assert forced.data["config"]["tournament_size"] == 4


def test_another_cell_in_the_same_place_is_refused(results):
    damage(results, lambda data: data["cell"].update(seed=7))
    with pytest.raises(RecordError, match="another run"):
        find_run(CELL, results)


def test_settings_that_do_not_change_results_are_no_difference(results):
    damage(results, lambda data: data["config"].update(engine="higher", threads=64))
    assert find_run(CELL, results).status == "complete"


def test_a_setting_that_an_old_record_lacks_has_its_default(results):
    damage(results, lambda data: data["config"].pop("equivalence_digits"))
    assert find_run(CELL, results).status == "complete"
    damage(results, lambda data: data["config"].pop("generations"))  # whose default is 50, not 2
    with pytest.raises(RecordError, match="generations = 50 instead of 2"):
        find_run(CELL, results)


def test_a_setting_that_is_not_known_is_a_difference(results):
    damage(results, lambda data: data["config"].update(warmup=3))
    with pytest.raises(RecordError, match="unknown warmup"):
        find_run(CELL, results)


DAMAGED = {
    "empty": "",
    "cut off": '{"schema": 1, "cell": {',
    "bytes": b"\xff\xfe\x00",
    "no object": "[1, 2]",
    "nested": "[" * 100_000,
    "schema": lambda d: d.update(schema=99),
    "status": lambda d: d.update(status="finished"),
    "complete without metric": lambda d: d.update(test_metric=None),
    "metric as text": lambda d: d.update(test_metric="0.5"),
    "metric NaN": lambda d: d.update(test_metric=math.nan),
    "metric of a diverged run": lambda d: d.update(status="diverged"),
    "NaN elsewhere": lambda d: d.update(fitness=math.nan),
    "no cell": lambda d: d.pop("cell"),
    "cell of another type": lambda d: d.update(cell=[1]),
    "bad cell": lambda d: d["cell"].update(model="mpl"),
    "no status": lambda d: d.pop("status"),
    "no history": lambda d: d.pop("history"),
    "no seconds": lambda d: d.update(seconds=None),
    "bad loss": lambda d: d["loss"].update(expression="__import__('os')"),
    "loss of another type": lambda d: d.update(loss=3),
    "configuration of another type": lambda d: d.update(config=[]),
}


OF_SEARCHES = ("NaN elsewhere", "no history", "bad loss", "loss of another type")


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("file", ["record.json", "tests/fresh.json"])
def test_a_damaged_record_is_named_left_out_and_not_overwritten(results, what, file):
    if ("metric" in what and file == "record.json") or (what in OF_SEARCHES and file != "record.json"):
        pytest.skip("this file has no such field")
    damage(results, DAMAGED[what], file)
    before = contents(results)
    path = folder_of(CELL, results) / file
    for call in (find_run, run_cell):
        with pytest.raises(RecordError) as caught:
            call(CELL, results)
        assert str(path) in str(caught.value)
    runs, damaged = read_runs(results)
    assert runs == []
    assert len(damaged) == 1
    assert str(path) in damaged[0]
    (run,) = run_grid([CELL], results_dir=results, progress=None)
    assert run.status == "failed"
    assert contents(results) == before


def test_force_replaces_a_damaged_record(results):
    good = find_run(CELL, results)
    damage(results, "")
    assert comparable(run_cell(CELL, results_dir=results, device="cpu", force=True)) == comparable(good)


def test_read_runs_leaves_out_the_damaged_only(results):
    other = run_cell(Cell("diabetes", "logistic", "baseline", 5, "smoke"), results_dir=results, device="cpu")
    damage(results, "{")
    runs, damaged = read_runs(results)
    assert [r.cell for r in runs] == [other.cell]
    assert len(damaged) == 1


def test_files_are_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"a": math.nan})
    assert strict(path) == {"a": 1}

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"a": 2})
    assert strict(path) == {"a": 1}


# Resuming

LONG = Cell("diabetes", "logistic", "evomal", 3, "smoke+population=4+generations=6")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_cell(LONG, results_dir=tmp_path_factory.mktemp("long"), device="cpu")


def test_a_killed_run_ends_with_the_record_that_it_would_have_had(uninterrupted, tmp_path):
    code = f"""
        import sys, time
        from evomal_core import Cell, run_cell
        cell = Cell("diabetes", "logistic", "evomal", 3, {LONG.budget!r})
        # slow enough to be caught in the middle
        run_cell(cell, results_dir=sys.argv[1], device="cpu", progress=lambda line: time.sleep(0.3))
    """
    history = folder_of(LONG, tmp_path) / "history.csv"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)])
    try:
        deadline = time.time() + 120
        while not history.exists() or len(history.read_text().splitlines()) < 3:  # header and two generations
            assert process.poll() is None, "it ended before it could be killed"
            assert time.time() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    left = {p.name for p in history.parent.iterdir()}
    assert {"checkpoint.json", "history.csv"} <= left
    assert "record.json" not in left
    assert find_run(LONG, tmp_path) is None
    generation = strict(history.parent / "checkpoint.json")["state"]["generation"]
    assert 2 <= generation < 6
    lines: list[str] = []
    run = run_cell(LONG, results_dir=tmp_path, device="cpu", progress=lines.append)
    assert f"goes on from generation {generation}" in lines[0]
    assert len(lines) == 1 + 6 - generation
    assert run.data["resumed"] == 1
    assert comparable(run) == comparable(uninterrupted)
    assert (run.path / "loss.json").read_bytes() == (uninterrupted.path / "loss.json").read_bytes()
    assert not (run.path / "checkpoint.json").exists()


@pytest.mark.parametrize("generation", [1, 6])
def test_resuming_in_the_process(uninterrupted, tmp_path, generation):
    class Stop(KeyboardInterrupt):
        pass

    def stop(line):
        if f"generation {generation}/6" in line:
            raise Stop

    with pytest.raises(Stop):
        run_cell(LONG, results_dir=tmp_path, device="cpu", progress=stop)
    run = run_cell(LONG, results_dir=tmp_path, device="cpu")
    assert comparable(run) == comparable(uninterrupted)
    assert run.data["resumed"] == 1
    assert run.seconds["total"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["config"].update(tournament_size=3), "tournament_size"),
        (lambda d: d["cell"].update(seed=4), "another run"),
        (lambda d: d.update(schema=7), "schema"),
        (lambda d: d.pop("config"), "damaged"),
        (lambda d: d["state"].pop("population"), "damaged"),
    ],
)
def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path, change, message):
    class Stop(KeyboardInterrupt):
        pass

    def stop(line):
        raise Stop

    with pytest.raises(Stop):
        run_cell(LONG, results_dir=tmp_path, device="cpu", progress=stop)
    path = folder_of(LONG, tmp_path) / "checkpoint.json"
    data = strict(path)
    change(data)
    del data["digest"]
    path.write_text(json.dumps(files.sealed(data)))
    before = contents(tmp_path)
    with pytest.raises(RecordError, match=message) as caught:
        run_cell(LONG, results_dir=tmp_path, device="cpu")
    assert str(path) in str(caught.value)
    assert contents(tmp_path) == before


def test_a_search_lists_all_that_it_was_computed_with(tmp_path, monkeypatch):
    """Begun by one engine and thread, gone on with others, and by other code; the usual search has one entry."""

    class Stop(KeyboardInterrupt):
        pass

    def stop(line):
        if "goes on" not in line:
            raise Stop

    with pytest.raises(Stop):
        run_cell(LONG, results_dir=tmp_path, device="cpu", engine="jvp", progress=stop)
    with pytest.raises(Stop):
        run_cell(LONG, results_dir=tmp_path, device="cpu", engine="jvp", progress=stop)
    with pytest.raises(Stop):
        run_cell(LONG, results_dir=tmp_path, device="cpu", engine="gram", threads=2, progress=stop)
    monkeypatch.setattr(machine, "SOURCES", "other code")
    data = run_cell(LONG, results_dir=tmp_path, device="cpu").data
    names = ("generation", "engine", "threads", "plain", "portable")
    listed = [tuple(entry[name] for name in names) for entry in data["provenance"]]
    assert listed == [(0, "jvp", 1, False, False), (2, "gram", 2, False, False), (3, "gram", 1, False, False)]
    assert [entry["sources"] == "other code" for entry in data["provenance"]] == [False, False, True]
    assert all(entry["versions"] and entry["hardware"] for entry in data["provenance"])
    assert data["resumed"] == 3 and (data["engine"], data["sources"]) == ("gram", "other code")
    alone = run_cell(LONG, results_dir=tmp_path / "alone", device="cpu").data
    assert [entry["generation"] for entry in alone["provenance"]] == [0]
    (test,) = (tmp_path / "alone").rglob("tests/*.json")
    (entry,) = json.loads(test.read_text())["provenance"]
    assert (entry["step"], entry["threads"], entry["sources"]) == (0, 1, "other code")


# Many cells

GRID = [Cell("diabetes", "logistic", m, s, "smoke") for m in ("baseline", "evomal", "gp-lfl") for s in (0, 1)]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {cell: comparable(run_cell(cell, results_dir=folder, device="cpu")) for cell in GRID}


def check(runs, cells, reference) -> None:
    assert [run.cell for run in runs] == list(cells)
    for run in runs:
        assert comparable(run) == reference[run.cell], run.cell


def test_grid_in_this_process(one_by_one, tmp_path):
    lines: list[str] = []
    cells = [*GRID[::-1], GRID[0]]
    runs = run_grid(cells, results_dir=tmp_path, workers=1, device="cpu", progress=lines.append)
    check(runs, cells, one_by_one)
    for cell in GRID:
        assert sum(line.startswith(f"{cell}: ") and "on the test part" in line for line in lines) == 1


def test_grid_in_spawned_processes(one_by_one, tmp_path):
    lines: list[str] = []
    runs = run_grid(GRID, results_dir=tmp_path, workers=2, device="cpu", progress=lines.append)
    check(runs, GRID, one_by_one)
    assert sum("on the test part" in line for line in lines) == len(GRID)
    for cell in GRID[2:]:  # the searches: of each generation one line, in order
        said = [line.removeprefix(f"{cell}: ") for line in lines if line.startswith(f"{cell}: generation ")]
        assert [line.split(",")[0] for line in said] == ["generation 1/2", "generation 2/2"]


def test_what_has_no_generations_has_no_line_of_them(tmp_path):
    lines: list[str] = []
    cells = [Cell("diabetes", "logistic", method, 0, "smoke") for method in ("ml3", "tuned")]
    run_grid(cells, results_dir=tmp_path, workers=2, device="cpu", progress=lines.append)
    assert len(lines) == 2
    assert not any("generation" in line for line in lines)


def test_grid_over_an_executor(one_by_one, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        runs = run_grid(GRID, executor=pool, results_dir=tmp_path, device="cpu", progress=None)
    check(runs, GRID, one_by_one)


def test_grid_over_two_threads_at_once(one_by_one, tmp_path):
    """DEAP and Dropout draw from global generators, which threads share."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            runs = run_grid(GRID, executor=pool, results_dir=tmp_path, device="cpu", progress=None)
    finally:
        sys.setswitchinterval(interval)
    check(runs, GRID, one_by_one)


@pytest.mark.parametrize("kind", ["global", "layer"])
def test_threads_do_not_take_one_another_s_draws(kind):
    def draws() -> list[float]:
        import random

        return [random.random() if kind == "global" else torch.rand(()).item() for _ in range(3)]

    def context(seed):
        return streams.global_generators(seed) if kind == "global" else seeded(seed, torch.device("cpu"))

    want = []
    for seed in (1, 2):
        with context(seed):
            want.append(draws())
    inside, got = threading.Event(), {}

    def first():
        with context(1):
            inside.set()
            time.sleep(0.2)  # the other one comes in between, or waits
            got[1] = draws()

    def second():
        inside.wait()
        with context(2):
            got[2] = draws()

    threads = [threading.Thread(target=f) for f in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert got == {1: want[0], 2: want[1]}


def test_a_grid_goes_on_where_it_was(one_by_one, tmp_path):
    run_grid(GRID[:2], results_dir=tmp_path, workers=1, device="cpu", progress=None)
    before = contents(tmp_path)
    runs = run_grid(GRID[:3], results_dir=tmp_path, workers=1, device="cpu", progress=None)
    check(runs, GRID[:3], one_by_one)
    after = contents(tmp_path)
    assert {k: after[k] for k in before} == before


def test_overrides_of_a_grid(tmp_path):
    runs = run_grid(GRID[:1], results_dir=tmp_path, overrides={"test_steps": 3}, workers=1, device="cpu", progress=None)
    assert runs[0].cell.budget == "smoke+test_steps=3"
    assert runs[0].data["config"]["test_steps"] == 3


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    for name in ("fetch_openml", "fetch_california_housing"):
        monkeypatch.setattr(datasets, name, refuse)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path / "data"))


def test_a_data_set_that_cannot_be_had_does_not_keep_the_others_from_running(no_network, one_by_one, tmp_path):
    missing = [Cell(d, "logistic", "baseline", 0, "smoke") for d in ("boston", "california")]
    cells = [missing[0], GRID[0], missing[1], GRID[1]]
    lines: list[str] = []
    runs = run_grid(cells, results_dir=tmp_path / "r", workers=1, device="cpu", progress=lines.append)
    assert [r.status for r in runs] == ["unavailable", "complete", "unavailable", "complete"]
    check([runs[1], runs[3]], [GRID[0], GRID[1]], one_by_one)
    assert "boston_housing.csv" in runs[0].reason
    assert runs[0].path is None
    assert runs[0].test_metric is None
    assert runs[0].loss is None
    assert runs[0].history.empty
    assert any("unavailable" in line and "boston" in line for line in lines)
    assert {r.cell.dataset for r in read_runs(tmp_path / "r")[0]} == {"diabetes"}
    with pytest.raises(DataUnavailable, match=r"boston_housing\.csv"):
        run_cell(missing[0], results_dir=tmp_path / "r")


def test_somebody_else_s_executor_that_breaks_makes_failed_runs(tmp_path, monkeypatch):
    class Cancelled(Future):
        def __init__(self):
            super().__init__()
            self.cancel()
            self.set_running_or_notify_cancel()

    class Dying(Executor):
        def submit(self, *call, **arguments):
            future = Future()
            future.set_exception(BrokenExecutor("a process ended"))
            return future

    runs = run_grid(GRID[:2], executor=Dying(), results_dir=tmp_path, progress=None)
    assert [r.status for r in runs] == ["failed"] * 2
    assert runs[0].reason == "BrokenExecutor: a process ended"
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    (run,) = run_grid(GRID[:1], executor=closed, results_dir=tmp_path, progress=None)
    assert run.reason == "RuntimeError: cannot schedule new futures after shutdown"
    monkeypatch.setattr(Dying, "submit", lambda *call, **arguments: Cancelled())
    (run,) = run_grid(GRID[:1], executor=Dying(), results_dir=tmp_path, progress=None)
    assert run.reason == "CancelledError: the executor gave it up; its scheduler may have ended"


def test_a_worker_that_is_killed_takes_no_cell_along(tmp_path):
    cells = [Cell("diabetes", "logistic", "evomal", seed, "smoke") for seed in (1, 2, 3)]
    lines: list[str] = []

    def kill_once(line: str) -> None:
        if not lines:
            multiprocessing.active_children()[0].kill()
        lines.append(line)

    runs = run_grid(cells, results_dir=tmp_path, workers=2, device="cpu", progress=kill_once)
    assert [run.status for run in runs] == ["complete"] * 3, [run.reason for run in runs]
    assert any("goes on elsewhere" in line for line in lines)
    assert comparable(runs[0]) == comparable(run_cell(cells[0], results_dir=tmp_path / "alone", device="cpu"))


def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "import evomal_core as ec\n"
        "def tell(line):\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    cells = [ec.Cell('diabetes', 'logistic', 'evomal', s, 'quick+generations=5000') for s in (0, 1)]\n"
        "    ec.run_grid(cells, workers=2, device='cpu', progress=tell)\n"
    )
    given = os.environ | {"EVOMAL_RESULTS": str(tmp_path / "runs")}
    with subprocess.Popen([sys.executable, script], env=given, stdout=subprocess.PIPE, text=True) as process:
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(running(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(running(pid) for pid in children)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:  # one that is dead but not yet waited for is a zombie
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_script_without_a_main_guard_is_told_what_spawning_needs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import evomal_core as ec\n"
        "cells = [ec.Cell('diabetes', 'logistic', 'baseline', s, 'smoke') for s in (0, 1)]\n"
        "print([r.reason for r in ec.run_grid(cells, workers=2, device='cpu', progress=None)])\n"
    )
    given = os.environ | {"EVOMAL_RESULTS": str(tmp_path / "runs")}
    done = subprocess.run([sys.executable, script], env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("NotStarted") == done.stdout.count("__main__") == 2


@pytest.mark.parametrize("call", [run_cell, lambda cell, **named: run_grid([cell], **named)])
def test_what_is_no_cell_and_an_argument_that_is_none_are_refused(call, tmp_path):
    with pytest.raises(ValueError, match=r"cells? must be a .*Cell.*, got 'diabetes'"):
        call("diabetes", results_dir=tmp_path)
    with pytest.raises(TypeError, match="enginee"):
        call(GRID[0], results_dir=tmp_path, enginee="jvp")
    assert not list(tmp_path.iterdir())


def test_a_cell_that_fails_does_not_keep_the_others_from_running(one_by_one, tmp_path):
    cells = [Cell("diabetes", "lenet5", "baseline", 0, "smoke"), GRID[0]]  # a model that takes no table
    runs = run_grid(cells, results_dir=tmp_path, workers=1, device="cpu", progress=None)
    assert [r.status for r in runs] == ["failed", "complete"]
    assert runs[0].reason
    with ThreadPoolExecutor(1) as pool:
        again = run_grid(cells, executor=pool, results_dir=tmp_path, device="cpu", progress=None)
    assert [r.status for r in again] == ["failed", "complete"]
