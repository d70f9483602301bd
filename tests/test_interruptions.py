"""A full disk, and an interrupted cell of a notebook: nothing is lost, and the next start ends with the same record."""

import errno
import os
import subprocess
import time
from pathlib import Path

import jupyter_client
import pytest

import evomal_core as ec
from evomal_core import files
from evomal_core.experiments import run as run_module
from evomal_core.experiments import store
from evomal_core.training import trial

CELL = ec.Cell("diabetes", "logistic", "evomal", 1, "smoke+generations=4+test_steps=150")
HERE = {"device": "cpu"}


def comparable(run: ec.Run) -> dict:
    """What two runs of one cell must have in common."""
    data = {name: value for name, value in run.data.items() if name not in ("seconds", "started", "resumed")}
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in data.pop("history")]
    provenance = [{k: v for k, v in entry.items() if k != "generation"} for entry in data.pop("provenance")[:1]]
    return data | {"rows": rows, "provenance": provenance}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return comparable(ec.run_cell(CELL, results_dir=tmp_path_factory.mktemp("whole"), **HERE))


def strays(folder: Path) -> list[str]:
    """Files of a run that should not be there when it is done."""
    names = {"record.json", "loss.json", "history.csv"}
    return [str(p) for p in folder.rglob("*") if p.is_file() and p.name not in names and p.parent.name != "tests"]


# --- a kill behind the last record ---


def test_what_a_kill_behind_the_last_record_left_goes_unless_another_works_there(undisturbed, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_tidy", killed)
        with pytest.raises(Killed):
            ec.run_cell(CELL, results_dir=tmp_path, **HERE)
    run = ec.find_run(CELL, tmp_path)
    assert len(strays(tmp_path)) == 1 and len(list(tmp_path.rglob("*.safetensors"))) == 1
    with files.locked(run.path / ".lock"):  # as one that searches anew
        assert comparable(ec.run_cell(CELL, results_dir=tmp_path, **HERE)) == undisturbed
        assert (run.path / "checkpoint.json").exists() and not list(tmp_path.rglob("*.safetensors"))
    assert comparable(ec.run_cell(CELL, results_dir=tmp_path, **HERE)) == undisturbed
    assert not strays(tmp_path)


def test_a_kill_between_a_test_and_its_record_loses_no_step(undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ec.run_cell(CELL, results_dir=tmp_path, **HERE)
    with monkeypatch.context() as patch:
        patch.setattr(ec.training.Problem, "batch", None)
        run = ec.run_cell(CELL, results_dir=tmp_path, **HERE)
    assert comparable(run) == undisturbed and not strays(tmp_path)


# --- a full disk ---


@pytest.mark.parametrize("last", [0, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13])
def test_a_disk_that_fills_up_at_any_write_loses_nothing(undisturbed, tmp_path, monkeypatch, last):
    """The disk takes so many files, then half of one. There is a clear error; with room again the run goes on."""
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)
    write, left = Path.write_bytes, [last]

    def full(self, content):
        left[0] -= 1
        if left[0] < 0:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device; .* is as it was: ") as caught:
            ec.run_cell(CELL, results_dir=tmp_path, **HERE)
    assert str(tmp_path) in str(caught.value) and caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob(f".*.{'[0-9a-f]' * 32}")), "no half file is left"
    run = ec.run_cell(CELL, results_dir=tmp_path, **HERE)
    assert comparable(run) == undisturbed and run.data["resumed"] == (1 <= last <= 10)  # the eleventh is the record
    assert not strays(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a disk takes the rights for it")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_real_disk_that_is_full(undisturbed, small_disk):
    failed = 0
    for free in range(0, 28_673, 4_096):
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4_096 - free))
        try:
            ec.run_cell(CELL, results_dir=small_disk / "runs", **HERE)
        except (OSError, ec.RecordError) as error:
            assert "No space left on device" in str(error)
            failed += 1
        filler.unlink()
    run = ec.run_cell(CELL, results_dir=small_disk / "runs", **HERE)
    assert failed >= 3 and comparable(run) == undisturbed and not strays(small_disk)


def test_a_grid_on_a_full_disk_reports_the_cell_and_does_the_rest(tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(self, content):
        if "seed1" in str(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, content)

    monkeypatch.setattr(files.Path, "write_bytes", full)
    cells = [ec.Cell("diabetes", "logistic", "baseline", seed, "smoke") for seed in (0, 1, 2)]
    runs = ec.run_grid(cells, workers=1, results_dir=tmp_path, progress=None, **HERE)
    assert [run.status for run in runs] == ["complete", "failed", "complete"]
    assert "No space left on device" in runs[1].reason and "seed1" in runs[1].reason


# --- Interrupt in a notebook ---


def ran(client, code: str, interrupt=None) -> tuple[str, str]:
    """(what was printed, name of the exception) of a cell; `interrupt` is called once it printed a generation."""
    name, printed, error = client.execute(code), "", ""
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != name:
            continue
        kind, content = message["msg_type"], message["content"]
        printed += content.get("text", "") if kind == "stream" else ""
        error = content["ename"] if kind == "error" else error
        if interrupt and "generation 2/" in printed:
            interrupt()
            interrupt = None
        if kind == "status" and content["execution_state"] == "idle":
            return printed, error


@pytest.mark.parametrize("workers", [None, 2], ids=["a cell", "a grid of processes"])
def test_interrupt_in_a_notebook_and_the_next_cell_goes_on(tmp_path, workers):
    cell = "ec.Cell('diabetes', 'logistic', 'evomal', 1, 'quick+generations=6')"
    given = f"results_dir={str(tmp_path / 'runs')!r}, device='cpu', progress=lambda line: print(line, flush=True)"
    code = f"run = ec.run_cell({cell}, {given})"
    if workers:
        code = f"run = ec.run_grid([{cell}], workers={workers}, {given})[0]"
    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"OMP_NUM_THREADS": "1"})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        ran(client, "import evomal_core as ec")
        printed, error = ran(client, code, manager.interrupt_kernel)
        interrupted = time.monotonic()
        assert error == "KeyboardInterrupt", printed
        printed, error = ran(client, code + "\nprint(run.test_metric)")
        assert not error and "goes on from generation" in printed and "generation 1/" not in printed, printed
        assert time.monotonic() - interrupted < 120
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    whole = ec.run_cell(ec.Cell("diabetes", "logistic", "evomal", 1, "quick+generations=6"), tmp_path / "whole", **HERE)
    assert printed.strip().splitlines()[-1] == str(whole.test_metric)
    assert not strays(tmp_path / "runs")
