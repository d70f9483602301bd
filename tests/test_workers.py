"""Local workers: what a killed one takes along, and that nothing computes on after Ctrl-C."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import evomal_core as ec
from evomal_core.experiments import grid
from evomal_core.workers import Processes, WorkerLost


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_takes_its_own_call_along_and_is_replaced():
    with Processes(2) as pool:
        futures = [pool.submit(call, *given) for call, *given in [(nap, 0.5), (end,), (nap, 0), (nap, 0), (nap, 0)]]
        with pytest.raises(WorkerLost, match="code -9"):
            futures[1].result(300)
        pids = {futures[i].result(300) for i in (0, 2, 3, 4)}
        assert os.getpid() not in pids
        both = [pool.submit(nap, 1.0) for _ in range(2)]
        assert len({future.result(300) for future in both}) == 2, "there are two workers again"
    assert not multiprocessing.active_children()


def test_what_a_call_raises_and_what_cannot_be_sent_reach_the_caller():
    with Processes(1) as pool:
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result(300)
        with pytest.raises(Exception, match=r"pickle|local"):
            pool.submit(lambda: 1).result(300)
        assert pool.submit(int, "3").result(300) == 3


def test_an_exception_in_the_block_kills_the_workers_at_once():
    began = None
    with pytest.raises(KeyboardInterrupt), Processes(2) as pool:
        futures = [pool.submit(nap, 600) for _ in range(3)]
        pool.submit(nap, 0).add_done_callback(lambda future: None)
        while not any(future.running() for future in futures):
            time.sleep(0.05)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 5 and not multiprocessing.active_children()


class Losing(Executor):
    """Computes in this process, and loses as many workers of a seed as it is told."""

    def __init__(self, lost: dict[int, int]):
        self.lost, self.forced = dict(lost), []

    def submit(self, call, cell, *arguments, **named):
        self.forced.append(named["force"])
        future: Future = Future()
        if self.lost.get(cell.seed):
            self.lost[cell.seed] -= 1
            future.set_exception(WorkerLost("a worker ended with code -9"))
        else:
            future.set_result(call(cell, *arguments, **named))
        return future


def test_a_cell_that_ends_its_workers_fails_after_three_tries_and_the_rest_is_done(tmp_path):
    lines: list[str] = []
    cells = [ec.Cell("diabetes", "logistic", "evomal", seed, "smoke") for seed in range(3)]
    executor = Losing({1: 3, 2: 2})
    runs = ec.run_grid(cells, executor, tmp_path, device="cpu", progress=lines.append, force=True)
    assert [run.status for run in runs] == ["complete", "failed", "complete"]
    assert runs[1].reason == "WorkerLost: a worker ended with code -9"
    assert sum("goes on elsewhere" in line for line in lines) == 4
    assert executor.forced == [True] * 3 + ["resume"] * 4, "only the first try begins at zero"


def test_cells_of_one_search_come_one_after_another(tmp_path):
    """Another test of a loss needs no search of its own, on whatever worker it runs."""
    cells = [ec.Cell("diabetes", "logistic", "tuned", 0, f"smoke+test_steps={n}") for n in (5, 6, 7)]
    at_once, now = [], []

    def call(*arguments, **named):
        now.append(1)
        at_once.append(len(now))
        try:
            return grid._attempt(*arguments, **named)
        finally:
            now.pop()

    class Counting(ThreadPoolExecutor):
        def submit(self, _, *arguments, **named):
            return super().submit(call, *arguments, **named)

    with Counting(3) as pool:
        runs = ec.run_grid(cells, pool, tmp_path, device="cpu", progress=None)
    assert [run.status for run in runs] == ["complete"] * 3 and at_once == [1, 1, 1]
    assert len({run.path for run in runs}) == 1 and len(runs[0].tests) == 3


SCRIPT = """
import evomal_core as ec
if __name__ == '__main__':
    cells = [ec.Cell('diabetes', 'logistic', 'evomal', s, 'quick+generations=400') for s in (0, 1)]
    ec.run_grid(cells, workers=2, device='cpu', progress=lambda line: print(line, flush=True))
"""


def computing(path: Path, group: int) -> bool:
    """Is it a living worker of a process group?"""
    try:
        state, _, of = path.read_text().rsplit(")", 1)[1].split()[:3]
        return int(of) == group and state != "Z" and b"spawn_main" in path.with_name("cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_control_c_ends_a_grid_at_once_and_the_next_goes_on(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    given = os.environ | {"EVOMAL_RESULTS": str(tmp_path / "runs")}
    command = [sys.executable, tmp_path / "script.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731, a job in the background ignores it
    with subprocess.Popen(command, env=given, start_new_session=True, preexec_fn=heard, **pipes) as process:
        while "generation 3/" not in process.stdout.readline():
            assert process.poll() is None
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to the workers too
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 5 and process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1, errors
    assert not [path for path in Path("/proc").glob("[0-9]*/stat") if computing(path, process.pid)]
    kept = list((tmp_path / "runs").rglob("checkpoint.json"))
    assert kept
    with subprocess.Popen(command, env=given, start_new_session=True, preexec_fn=heard, **pipes) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert not any("generation 1/" in line for line in lines[: len(kept)]), lines


def test_a_forced_grid_goes_on_after_a_lost_worker(tmp_path):
    """The old record stays until the new one is there, which is not begun twice."""
    cell = ec.Cell("diabetes", "logistic", "evomal", 0, "smoke+generations=40")
    ec.run_cell(cell, results_dir=tmp_path, device="cpu")
    lines: list[str] = []
    killed = []

    def kill_once(line: str) -> None:
        lines.append(line)
        if "generation 5/" in line and not killed:
            killed.append(True)
            for child in multiprocessing.active_children():
                child.kill()

    other = ec.Cell("diabetes", "logistic", "evomal", 1, "smoke+generations=40")
    runs = ec.run_grid([cell, other], results_dir=tmp_path, workers=2, device="cpu", force=True, progress=kill_once)
    assert [run.status for run in runs] == ["complete"] * 2, [run.reason for run in runs]
    assert killed and runs[0].data["resumed"] == 1
