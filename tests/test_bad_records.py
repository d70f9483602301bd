"""Records and losses from strangers: what tables cannot use is named and left out; every schema ever written is read."""

import copy
import json
import math
import os
import shutil
import threading
import warnings
from pathlib import Path

import pytest

import evomal_core as ec
from evomal_core import files, machine
from evomal_core.experiments import store
from evomal_notebooks import report

FIXTURES = Path(__file__).parent / "fixtures"
CELL = ec.Cell("diabetes", "logistic", "evomal", 1, "smoke")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    ec.run_cell(CELL, results_dir=folder, device="cpu")
    return folder


@pytest.fixture
def results(made, tmp_path):
    shutil.copytree(made, tmp_path / "results")
    return tmp_path / "results"


def everything(folder):
    """All that tables and figures take from records; raises if one of them breaks a table."""
    found = report.collect(folder, reference_dir=folder / "none")
    report.summary(found)
    report.runs_table(found)
    for run in found.own:
        run.history, run.seconds, run.leaders, run.loss  # noqa: B018
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged tests, which `collect` names
            run.tests  # noqa: B018
    return found


# --- what JSON may hold ---

NO_JSON = {
    "twice": '{"schema": 1, "a": 1, "a": 2}',
    "twice inside": '{"schema": 1, "a": [{"b": 1, "b": 1}]}',
    "infinite": '{"schema": 1, "a": 1e400}',
    "infinite, negative": '{"schema": 1, "a": -1e999}',
    "NaN": '{"schema": 1, "a": NaN}',
    "nested": '{"schema": 1, "a": ' + "[" * 100_000,
    "nested objects": '{"a":' * 50_000,
    "half a character": '{"schema": 1, "a": "\\ud800"}',
    "digits": '{"schema": 1, "a": ' + "1" * 10_000 + "}",
    "true as schema": '{"schema": true}',
    "later": '{"schema": 2}',
    "two": '{"schema": 1} {"schema": 1}',
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + b'{"schema": 1}',
}


@pytest.mark.parametrize("what", NO_JSON)
def test_what_is_no_strict_json_is_refused(tmp_path, what):
    content, path = NO_JSON[what], tmp_path / "file.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError):
        files.read_json(path, 1)
    with pytest.raises(ec.RecordError) as caught, files.reading(path):
        files.read_json(path, 1)
    assert str(path) in str(caught.value)


def test_only_regular_files_of_some_size_are_opened(tmp_path):
    pipe, zero, large, folder = (tmp_path / name for name in ("pipe", "zero", "large", "folder"))
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    folder.mkdir()
    with large.open("wb") as file:
        file.truncate(files.MOST_BYTES + 1)
    for path in (pipe, zero, large, folder):
        done = threading.Event()

        def refused(path=path, done=done):
            with pytest.raises((ValueError, IsADirectoryError)):
                files.read_json(path, 1)
            done.set()

        thread = threading.Thread(target=refused, daemon=True)
        thread.start()
        assert done.wait(20), path


# --- what a record may hold ---

OF_SEARCH = {
    "fitness": ["x", -3, [1], True],
    "learning_rate": ["x", -1],
    "history": [[[]], [{}], [3], None, {}],
    "hardware": [None, [], {}, {"cpu": 3}, {"cpu": {"a": 1}}],
    "versions": [None, {"torch": [1]}],
    "seconds": [{"search": "x"}, {"search": None}, {"search": -1}, []],
    "leaders": [None, [3], [{}], [{"loss": {"kind": "no"}, "fitness": 1, "learning_rate": None}]],
    "reason": [3, []],
    "commit": [3],
    "started": [None, 3],
    "resumed": ["x", -1, 1.5],
    "metric": [3],
    "cell": [{}, {"dataset": "diabetes"}],
    "loss": [{}, [], {"kind": "symbolic"}],
    "engine": [None],
    "status": ["diverged", "no_loss", 3],
}
OF_TEST = {
    "test_metric": [-3, -1e-9, "x", True, [0.5]],
    "train_metric": ["x", -1],
    "validation_metric": [[1]],
    "hardware": [None, {}],
    "seconds": [{"test": "x"}, None],
    "learning_rate": [None, "x"],
    "start": ["anywhere", None],
    "steps": ["x", 1.5],
    "milestones": [None],
    "metric": [None],
    "status": ["no_loss", "diverged", "done"],
    "search": [{}, {"cell": {}, "loss": ""}],
    "cell": [{}],
}
CASES = [("record.json", name, value) for name, values in OF_SEARCH.items() for value in [*values, ...]]
CASES += [("tests/fresh.json", name, value) for name, values in OF_TEST.items() for value in [*values, ...]]


def change(path, name, value) -> None:
    data = json.loads(path.read_text())
    if value is ...:
        del data[name]
    else:
        data[name] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("file", ["record.json", "tests/fresh.json"])
def test_a_record_is_held_to_what_tables_use(made, tmp_path, file):
    for k, (_, name, value) in enumerate(case for case in CASES if case[0] == file):
        if name == "metric" and file == "record.json" and value is ...:
            continue  # the first records of schema 2 have it in the test alone
        folder = tmp_path / str(k)
        shutil.copytree(made, folder)
        path = store.folder_of(CELL, folder) / file
        change(path, name, value)
        before = path.read_bytes()
        found = everything(folder)
        assert not found.own and len(found.damaged) == 1 and str(path) in found.damaged[0], (name, value, found)
        for call in (ec.find_run, ec.run_cell):
            with pytest.raises(ec.RecordError) as caught:
                call(CELL, folder)
            assert str(path) in str(caught.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["evaluated", "best_so_far", "seconds_fitness", "generation", "another"])
@pytest.mark.parametrize("value", ["x", None, [], -1, {}])
def test_rows_of_a_history_are_held_to_what_figures_use(results, name, value):
    path = store.folder_of(CELL, results) / "record.json"
    data = json.loads(path.read_text())
    data["history"][1][name] = value
    path.write_text(json.dumps(data))
    found = everything(results)
    allowed = value is None and name in ("best_so_far", "another")
    assert len(found.damaged) == (not allowed) and len(found.own) == allowed


def test_copies_and_moved_records_are_misplaced_and_count_once(results):
    folder = store.folder_of(CELL, results)
    for other in ("seed1.bak", "seed1 (copy)", "seed2", "seed01"):
        shutil.copytree(folder, folder.with_name(other))
    for above in ("smoke-paper.bak", "quick-paper", "smoke+population=5-paper"):
        shutil.copytree(folder, folder.parent.with_name(above) / folder.name)
    for model in ("mlp", "logistic.old"):
        shutil.copytree(folder.parents[2], folder.parents[2].with_name(model))
    found = everything(results)
    assert [run.path for run in found.own] == [folder]
    assert len(found.damaged) >= 9 and all("its place must be" in message for message in found.damaged)
    assert ec.find_run(CELL, results).path == folder


def test_a_copied_test_counts_once(results):
    tests = store.folder_of(CELL, results) / "tests"
    shutil.copy(tests / "fresh.json", tests / "fresh.bak.json")
    shutil.copy(tests / "fresh.json", tests / "fresh+test_steps=30.json")
    found = everything(results)
    assert len(found.own) == 1 and len(found.damaged) == 2
    assert all("the file of this test must be fresh.json" in message for message in found.damaged)


def test_a_test_of_another_seed_s_search_is_misplaced(tmp_path):
    """Baselines have equal losses, so that a digest of the loss does not tell them apart."""
    cells = [ec.Cell("diabetes", "logistic", "baseline", seed, "smoke") for seed in (0, 1)]
    first, second = (
        ec.run_cell(cell, results_dir=tmp_path, device="cpu").path / "tests" / "fresh.json" for cell in cells
    )
    shutil.copy(first, second)
    found = everything(tmp_path)
    assert len(found.own) == 1 and "the search of this test" in found.damaged[0]


# --- every schema ever written ---


def losses() -> list[Path]:
    return sorted(FIXTURES.glob("losses/*.json"))


def test_records_of_every_schema_are_read_for_ever():
    runs, damaged = store.read_runs(FIXTURES / "records")
    assert not damaged
    schemas = set()
    for run in runs:
        kept = json.loads((run.path / "record.json").read_text())
        schemas.add(kept["schema"])
        assert run.status == kept.get("status", "complete")
        if kept["schema"] == 1 and not (run.path / "tests" / f"{run.cell.test}.json").exists():  # its own test
            assert run.test_metric == kept["test_metric"] and run.data["history"] == kept["history"]
        elif kept["loss"]:
            tests = [json.loads(path.read_text()) for path in run.path.glob("tests/*.json")]
            assert run.test_metric in [test["test_metric"] for test in tests]
        assert ec.find_run(run.cell, FIXTURES / "records").data == run.data
    assert schemas == {1, store.SCHEMA}, "a small record of every schema, the newest too"
    assert len(runs) >= 4


def test_loss_files_of_every_schema_are_read_for_ever():
    schemas = set()
    for path in losses():
        kept, loss = json.loads(path.read_text()), ec.load_loss(path)
        schemas.add(kept["schema"])
        assert loss.to_json() == {name: value for name, value in kept.items() if name not in ("schema", "version")}
    assert schemas == {1, ec.losses.SCHEMA} and len(losses()) >= 6


def test_a_loss_file_says_which_version_wrote_it(tmp_path):
    ec.MetaLoss("sub(y, f)").save(tmp_path / "loss.json")
    assert json.loads((tmp_path / "loss.json").read_text())["version"] == machine.version() != ""


def test_a_later_schema_says_that_it_is_one(results, tmp_path):
    folder = store.folder_of(CELL, results)
    path = folder / "loss.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": ec.losses.SCHEMA + 1, "more": 1}))
    with pytest.raises(ValueError, match=r"it has schema 3, .* reads schema 1 or 2: use a later version"):
        ec.load_loss(path)
    for name in ("tests/fresh.json", "record.json"):
        change(folder / name, "schema", store.SCHEMA + 1)
        with pytest.raises(ec.RecordError, match=r"it has schema 3, .*: use a later version") as caught:
            ec.run_cell(CELL, results_dir=results)
        assert str(folder / name) in str(caught.value) and "damaged" not in str(caught.value)


def test_a_copy_of_a_record_is_not_changed_by_reading(results):
    data = store.read_record(store.folder_of(CELL, results) / "record.json")
    again = copy.deepcopy(data)
    everything(results)
    assert data == again and math.isfinite(data["seconds"]["search"])
