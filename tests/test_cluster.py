"""Grids over a Dask cluster: a real scheduler, three worker processes, and what happens if they end or are others."""

import copy
import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evomal_core as ec
from evomal_core import cluster, machine
from evomal_core.experiments import store

distributed = pytest.importorskip("distributed", reason="Dask is the extra `cluster`")

ROOT = Path(__file__).parents[1]
COUNTS = [3, 150, 4, 5]  # generations of each seed; the second one is there long enough to be killed
CELLS = [ec.Cell("diabetes", "logistic", "evomal", s, f"smoke+generations={n}") for s, n in enumerate(COUNTS)]
FAILING = ec.Cell("diabetes", "lenet5", "baseline", 0, "smoke")  # a model that takes no table


def comparable(run) -> dict:
    """A record without times."""
    data = {k: v for k, v in copy.deepcopy(run.data).items() if k not in ("seconds", "started", "resumed")}
    data["history"] = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in data["history"]]
    return data


class Machines:
    """A scheduler and workers, each a process in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, []
        self.scheduler = self.start("distributed.cli.dask_scheduler", "--port", "0", "--dashboard-address", ":0")
        self.address = None
        while self.address is None:
            time.sleep(0.1)
            named = [line.split()[-1] for line in self.log(self.scheduler) if "Scheduler at:" in line]
            self.address = named[0] if named else None

    def start(self, module: str, *arguments: str, path: Path = ROOT) -> subprocess.Popen:
        home = self.folder / f"process{len(self.processes)}"
        home.mkdir()
        given = {k: v for k, v in os.environ.items() if k != "EVOMAL_RESULTS"} | {"PYTHONPATH": str(path)}
        with open(home / "log", "w") as log:
            process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=home, env=given, stderr=log)
        self.processes.append((process, home))
        return process

    def log(self, process) -> list[str]:
        (home,) = (home for other, home in self.processes if other is process)
        return (home / "log").read_text().splitlines()

    def worker(self, path: Path = ROOT) -> subprocess.Popen:
        """A worker that stands once it runs: no nanny starts it again."""
        module, local = "distributed.cli.dask_worker", str(self.folder / "scratch")
        return self.start(
            module,
            self.address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            local,
            path=path,
        )

    def close(self) -> None:
        for process, _ in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def machines(tmp_path):
    made = Machines(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    return {cell: comparable(ec.run_cell(cell, results_dir=folder, device="cpu")) for cell in CELLS}


def computing(address: str, seed: int) -> int:
    """The process that computes the cell of a seed."""
    with distributed.Client(address, set_as_default=False) as client:
        (worker,) = (w for w, keys in client.processing().items() if any(f"seed{seed}" in str(key) for key in keys))
        return client.run(os.getpid, workers=[worker])[worker]


@pytest.mark.parametrize("shared", [True, False], ids=["one disk", "a disk each"])
def test_a_worker_is_killed_in_mid_cell_and_the_records_are_those_of_a_serial_grid(
    machines, serial, tmp_path, monkeypatch, shared
):
    if not shared:
        monkeypatch.setattr(cluster, "Cluster", functools.partial(cluster.Cluster, shared=False))
    for _ in range(3):
        machines.worker()
    lines: list[str] = []
    killed: list[int] = []

    def kill_once(line: str) -> None:
        lines.append(line)
        if "seed 1 " in line and "generation 4/" in line and not killed:
            killed.append(computing(machines.address, 1))
            os.kill(killed[0], 9)

    monkeypatch.chdir(tmp_path)  # a relative folder is the client's, whatever a worker takes for it
    monkeypatch.setenv("EVOMAL_RESULTS", "results")
    runs = ec.run_grid([*CELLS, FAILING], machines.address, device="cpu", progress=kill_once)
    assert [run.status for run in runs] == ["complete"] * 4 + ["failed"], [run.reason for run in runs]
    assert "inputs" in runs[4].reason
    for run, count in zip(runs, COUNTS, strict=False):
        assert comparable(run) == serial[run.cell]
        assert run.path == store.folder_of(run.cell, tmp_path / "results")
        assert comparable(ec.find_run(run.cell)) == serial[run.cell]
        said = [line for line in lines if line.startswith(f"{run.cell}: generation ")]
        assert [line.split("generation ")[1].split("/")[0] for line in said] == [str(n + 1) for n in range(count)]
    assert killed and runs[1].data["resumed"] == 1, "it went on from where it was"
    assert any("goes on elsewhere" in line and "seed 1 " in line for line in lines)
    assert sum("dashboard at http" in line for line in lines) == 1
    assert sum("which sends its files" in line for line in lines) == (0 if shared else 3)
    assert not list((tmp_path / "results").rglob("checkpoint.json")) and not list(Path("results").glob(".*"))
    assert not list((tmp_path / "scratch").rglob("record.json")), "nothing stays with the workers"


def test_workers_with_other_code_are_refused(machines, serial, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "evomal_core", other / "evomal_core", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "evomal_core" / "config.py", "a") as source:
        source.write("# another line\n")
    machines.worker(path=other)
    lines: list[str] = []
    (run,) = ec.run_grid(CELLS[:1], machines.address, tmp_path / "a", device="cpu", progress=lines.append)
    assert run.status == "failed" and run.reason.startswith("RuntimeError: all workers are refused: tcp://")
    assert f"instead of {machine.SOURCES!r}" in run.reason
    machines.worker()
    with distributed.Client(machines.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        (run,) = ec.run_grid(CELLS[:1], client.get_executor(), tmp_path / "b", device="cpu", progress=lines.append)
    assert sum("is refused" in line for line in lines) == 2
    assert comparable(run) == serial[CELLS[0]]


def test_a_scheduler_that_ends_is_named(machines, tmp_path):
    machines.worker()
    long = ec.Cell("diabetes", "logistic", "evomal", 0, "smoke+generations=3000")

    def kill(line: str) -> None:
        if "generation 2/" in line:
            machines.scheduler.kill()

    (run,) = ec.run_grid([long], machines.address, tmp_path / "r", device="cpu", progress=kill)
    assert run.status == "failed" and "Dask scheduler" in run.reason, run.reason


def test_control_c_stops_the_workers_and_the_next_grid_goes_on(machines, tmp_path):
    machines.worker()
    cell = ec.Cell("diabetes", "logistic", "evomal", 0, "smoke+generations=3000")

    def interrupt(line: str) -> None:
        if "generation 3/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ec.run_grid([cell], machines.address, tmp_path / "r", device="cpu", progress=interrupt)
    checkpoint = store.folder_of(cell, tmp_path / "r") / "checkpoint.json"
    time.sleep(4 * cluster.SHIP_SECONDS)
    before = checkpoint.read_bytes()
    time.sleep(2)
    assert checkpoint.read_bytes() == before, "the worker computes no more"
    lines: list[str] = []

    def first(line: str) -> None:
        lines.append(line)
        if "generation" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ec.run_grid([cell], machines.address, tmp_path / "r", device="cpu", progress=first)
    assert int(lines[-1].split("generation ")[1].split("/")[0]) > 3


# --- without a cluster ---


class Client:
    """A client whose scheduler knows the workers that it is told."""

    status = "running"

    def __init__(self, workers: dict[str, dict]):
        self.told, self.given = workers, []

    def nthreads(self):
        return dict.fromkeys(self.told, 1)

    def run(self, function, marker, workers, on_error):
        return {address: self.told[address] for address in workers}

    def submit(self, *call, workers, **how):
        self.given += workers
        return self

    def done(self):
        return False

    def cancel(self, *call, **how):
        pass


class Queue:
    def __init__(self, name, client):
        pass

    def get(self, batch):
        return ()

    def close(self):
        pass


def worker(n: int, gpus: list[str], **changes) -> dict:
    own = {"process": f"p{n}", "host": f"host{n // 2}", "gpus": gpus, "code": cluster.code(), "shared": True}
    return own | {"versions": machine.versions()} | changes


@pytest.mark.parametrize("device, most, at_once", [("auto", None, "ac"), ("cpu", None, "abcd"), ("cpu", 3, "abc")])
def test_one_cell_a_gpu(tmp_path, monkeypatch, device, most, at_once):
    monkeypatch.setattr(distributed, "Queue", Queue)
    gpus = {"a": ["GPU-0"], "b": ["GPU-0"], "c": ["GPU-0", "GPU-1"], "d": ["GPU-0"]}  # two on each of two hosts
    client = Client({address: worker(n, gpus[address]) for n, address in enumerate(gpus)})
    with cluster.Cluster(client, tmp_path, most, device) as executor:
        for cell in CELLS:
            executor.submit(print, cell, results_dir=tmp_path)
        lines: list[str] = []
        executor.step(lines.append)
    assert "".join(client.given) == at_once
    assert ("uses the first of its 2 GPUs" in "".join(lines)) == (device == "auto")


def test_a_worker_that_cannot_import_the_package_or_has_other_versions_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "Queue", Queue)
    others = machine.versions() | {"torch": "1.0"}
    told = {"a": ModuleNotFoundError("no evomal_core"), "b": worker(1, [], versions=others), "c": OSError("gone")}
    told["d"] = worker(3, [], code=cluster.code() | {"portable": True})
    lines: list[str] = []
    executor = cluster.Cluster(Client(told), tmp_path)
    executor.step(lines.append)
    assert set(executor.workers) == {"b"} and set(executor.refused) == {"a", "d"}
    assert "cannot import this version of evomal_core (ModuleNotFoundError" in lines[0]
    assert lines[1].endswith(", with torch 1.0") and "portable True instead of False" in lines[2]


def test_files_that_a_worker_sends_stay_in_the_folder_of_the_search():
    good = ["record.json", "history.csv", "tests/fresh.json", "tests/.fresh.safetensors", "checkpoint.json"]
    bad = ["../record.json", "/etc/x.json", "tests/../../x.json", "record.json.tmp", ".lock", "a/b.json", "..", ".json"]
    assert all(cluster.CARRIED.fullmatch(name) for name in good)
    assert not [name for name in bad if cluster.CARRIED.fullmatch(name)]


def test_what_is_no_cluster_is_refused(tmp_path):
    with pytest.raises(ConnectionError, match="address of a Dask scheduler"):
        ec.run_grid(CELLS[:1], "no where", tmp_path, progress=None)
    with pytest.raises(ValueError, match="executor must be an Executor, a Dask client"):
        ec.run_grid(CELLS[:1], 3, tmp_path, progress=None)
