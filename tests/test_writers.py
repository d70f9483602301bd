"""Writers of one file or one cell: one works, the others wait; what killed ones left goes; a folder is tried beforehand."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid

import pytest

import evomal_core as ec
from evomal_core import files
from evomal_core.experiments import run as run_module
from evomal_core.experiments import store

CELL = ec.Cell("diabetes", "logistic", "gp-lfl", 1, "smoke")
HERE = {"device": "cpu"}


def start(code: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# --- one file ---


def test_writers_of_one_process_id_do_not_collide(tmp_path, monkeypatch):
    """Containers on a shared disk are all process 1, and threads share theirs."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path, wrong, done = tmp_path / "file.json", [], threading.Event()

    def write(k: int) -> None:
        try:
            for n in range(60):
                files.write_json(path, {"schema": 1, "k": k, "n": [n] * 2000})
        except Exception as error:
            wrong.append(error)

    def read() -> None:
        while not done.is_set():
            try:
                data = files.read_json(path, 1)
                assert data["n"] == data["n"][:1] * 2000
            except FileNotFoundError:
                pass
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert not wrong
    assert os.listdir(tmp_path) == ["file.json"]


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path):
    path, other = tmp_path / "a[b].json", tmp_path / f".c.json.{uuid.uuid4().hex}"
    old, new = (tmp_path / f".{path.name}.{uuid.uuid4().hex}" for _ in range(2))
    for left in (old, new, other):
        left.write_text("half")
    os.utime(old, (0, time.time() - 2 * files.ABANDONED))
    files.write_text(path, "whole")
    assert set(tmp_path.iterdir()) == {path, new, other}
    files.remove_leftovers(path)
    assert set(tmp_path.iterdir()) == {path, other}


@pytest.mark.parametrize("name", ["~/there/loss.json", "$HOME/loss.json"])
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ec.MetaLoss("sub(y, f)").save(name)
    where = tmp_path / "there" / "loss.json" if name.startswith("~") else tmp_path / name
    assert where.is_file() and str(ec.load_loss(name)) == "sub(y, f)"
    assert store.results_dir("~/runs") == tmp_path / "runs"
    monkeypatch.setenv("EVOMAL_RESULTS", "~/others")
    assert store.results_dir() == tmp_path / "others"


# --- locks ---


def test_a_lock_ends_with_its_owner(tmp_path):
    lock = tmp_path / "deep" / ".lock"
    owner = start(
        """
        import sys, time
        from pathlib import Path
        from evomal_core import files
        with files.locked(Path(sys.argv[1])):
            print("locked", flush=True)
            time.sleep(600)
        """,
        lock,
    )
    try:
        assert owner.stdout.readline() == "locked\n"
        waited, got = [], threading.Event()

        def wait() -> None:
            with files.locked(lock, lambda: waited.append(1)):
                got.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.5) and waited == [1]
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert got.wait(30)
    thread.join()
    assert not lock.exists()


def test_no_two_are_in_a_locked_block(tmp_path):
    inside, most, wrong = [], [], []

    def work() -> None:
        try:
            for _ in range(50):
                with files.locked(tmp_path / ".lock"):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.0005)
                    inside.pop()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and max(most) == 1 and len(most) == 250
    assert not list(tmp_path.iterdir())


RUN = """
    import sys
    import evomal_core as ec
    cell = ec.Cell("diabetes", "logistic", "gp-lfl", 1, sys.argv[2])
    made = []
    search = ec.experiments.run._search
    ec.experiments.run._search = lambda *rest: (made.append("search"), search(*rest))[1]
    test = ec.experiments.run._test
    ec.experiments.run._test = lambda *rest: (made.append("test"), test(*rest))[1]
    run = ec.run_cell(cell, results_dir=sys.argv[1], device="cpu", progress=lambda line: None)
    print(run.status, repr(run.test_metric), *made)
"""


def test_two_processes_on_one_cell_make_one_record(tmp_path):
    processes = [start(RUN, tmp_path, CELL.budget) for _ in range(3)]
    texts = [process.communicate(timeout=300)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], texts
    assert len({tuple(text[:2]) for text in texts}) == 1 and texts[0][0] == "complete"
    assert sorted(word for text in texts for word in text[2:]) == ["search", "test"]
    assert not [path for path in tmp_path.rglob(".*")]


def test_two_tests_of_one_search_share_it(tmp_path):
    budgets = [CELL.budget, f"{CELL.budget}+test_steps=30"]
    processes = [start(RUN, tmp_path, budget) for budget in budgets]
    texts = [process.communicate(timeout=300)[0].split() for process in processes]
    assert sorted(word for text in texts for word in text[2:]) == ["search", "test", "test"]
    runs, damaged = store.read_runs(tmp_path)
    assert len(runs) == 2 and not damaged


def test_a_cell_in_another_thread_is_waited_for_and_said(tmp_path):
    lines: list[str] = []
    folder = store.folder_of(CELL, tmp_path)
    with files.locked(folder / ".lock"):
        (folder / f".record.json.{uuid.uuid4().hex}").write_text("half")  # of a writer that was killed
        thread = threading.Thread(target=ec.run_cell, args=(CELL, tmp_path), kwargs=HERE | {"progress": lines.append})
        thread.start()
        deadline = time.time() + 60
        while not lines and time.time() < deadline:
            time.sleep(0.02)
        assert "waiting" in lines[0] and str(CELL) in lines[0]
    thread.join()
    assert ec.find_run(CELL, tmp_path).status == "complete"
    assert not [path for path in tmp_path.rglob(".*")]


# --- folders ---


def test_an_unusable_results_dir_is_noticed_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "prepared", lambda *rest: pytest.fail("computed"))
    file = tmp_path / "file"
    file.write_text("in the way")
    for folder in (file, file / "below", "/proc/nowhere", "/dev/null"):
        with pytest.raises(ec.RecordError, match=r"folder|damaged") as caught:
            ec.run_cell(CELL, results_dir=folder, **HERE)
        assert str(folder) in str(caught.value)
    assert file.read_text() == "in the way"


def test_permissions_are_a_matter_of_the_record(tmp_path, monkeypatch):
    from pathlib import Path

    def forbidden(self, *rest, **named):
        raise PermissionError(13, "Permission denied", str(self))

    for name in ("exists", "stat", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, forbidden)
            with pytest.raises(ec.RecordError, match="Permission denied"):
                ec.run_cell(CELL, results_dir=tmp_path, **HERE)


LONG = "smoke+" + "+".join(
    f"{name}={value}"
    for name, value in {
        "population": 3,
        "generations": 1,
        "crossover_rate": 0.71234567,
        "mutation_rate": 0.2345678,
        "elitism_rate": 0.0512345,
        "tournament_size": 3,
        "base_weight_decay": 0.000512345,
        "base_learning_rate": 0.0123456,
        "batch_size": 64,
        "meta_learning_rate": 0.00123456,
        "weight_std": 0.00123456,
        "rejection_batch": 50,
        "test_learning_rate": 0.0123456789,
        "test_milestones": ",".join(map(str, range(1, 60))),
    }.items()
)


def test_names_too_long_for_a_disk_get_a_digest(tmp_path):
    cell = ec.Cell("diabetes", "logistic", "gp-lfl", 1, LONG)
    assert max(len(f"{cell.search.budget}-paper"), len(cell.test)) > 200
    run = ec.run_cell(cell, results_dir=tmp_path, **HERE)
    assert all(len(part) <= 255 - 40 for path in run.path.rglob("*") for part in path.parts)
    assert ec.find_run(cell, tmp_path).data == run.data
    runs, damaged = store.read_runs(tmp_path)
    assert [r.cell for r in runs] == [cell] and not damaged
    other = ec.Cell("diabetes", "logistic", "gp-lfl", 1, LONG.replace("batch_size=64", "batch_size=65"))
    assert store.folder_of(other, tmp_path) != run.path and ec.find_run(other, tmp_path) is None


# --- what watches a run ---


def test_an_exception_in_progress_is_said_once_and_ends_nothing(tmp_path):
    calls = []

    def progress(line: str) -> None:
        calls.append(line)
        raise ZeroDivisionError("of the caller")

    with pytest.warns(UserWarning, match="of the caller") as caught:
        run = ec.run_cell(CELL, results_dir=tmp_path, progress=progress, **HERE)
    assert run.status == "complete" and len(calls) == 1
    assert len([w for w in caught if "of the caller" in str(w.message)]) == 1


@pytest.mark.parametrize(
    "row", [{}, {"generation": "x"}, {"best_so_far": "text", "median": None}, {"a": 1, "b": [2]}, {"evaluated": {}}]
)
def test_a_foreign_history_makes_a_line(row):
    line = run_module.progress_line(CELL, [row, row])
    assert str(CELL) in line and "cannot be read" in line


def test_a_forced_run_that_is_killed_leaves_the_history_of_the_old_record(tmp_path):
    run = ec.run_cell(CELL, results_dir=tmp_path, **HERE)
    marked = "generation,mine\n0,1\n"
    (run.path / "history.csv").write_text(marked)

    class Stop(KeyboardInterrupt):
        pass

    def stop(line: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        ec.run_cell(CELL, results_dir=tmp_path, force=True, progress=stop, **HERE)
    assert (run.path / "history.csv").read_text() == marked
    assert ec.find_run(CELL, tmp_path).data == run.data
    ec.run_cell(CELL, results_dir=tmp_path, force=True, **HERE)
    assert (run.path / "history.csv").read_text().startswith("generation,best_so_far")


@pytest.mark.parametrize("overrides", ["generations=3", ["generations"], 3])
def test_overrides_that_are_no_dict_are_refused(tmp_path, overrides):
    with pytest.raises(ValueError, match="overrides must be a dict, like"):
        ec.run_cell(CELL, results_dir=tmp_path, overrides=overrides, **HERE)
    assert not list(tmp_path.iterdir())
