"""Kills survived of kills tried: cells of every method are killed at random moments until they have their record.

    python -m benchmarks.kills [--kills 300] [--seed 0] [--methods evomal glo]

A process is killed (SIGKILL) after a random time, at a random batch, or at a random step of writing a file: before it, when
half is written, before and after the rename. The next one goes on. A kill is survived if the cell ends with the record of a
run that nobody disturbed, equal to the last digit but for seconds, and nothing but that is left in its folder.
"""

import argparse
import contextlib
import copy
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import evomal_core as ec
from evomal_core.experiments import store

METHODS = ("baseline", "tuned", "early", "ml3", "taylorglo", "gp-lfl", "glo", "evomal", "evomal+robust", "random")
BUDGET = "smoke+population=3+generations=3+test_steps=150"
MOST_SECONDS = 3.0  # until a kill by the clock
# Imports the package once, and forks for every line of input a process that runs a cell. A line holds folder, method, what to
# kill at ("batch", "write", "none") and how many of these to let pass; the answers are the process's id and how it ended.
NURSERY = """
import os, signal, sys, traceback
import torch
torch.set_num_threads(1)
import evomal_core as ec
from evomal_core import files
from evomal_core.training import Problem, trial
trial.CHECKPOINT_SECONDS = 0.0
def tick(name):
    global left
    if name == at:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
batch, write, replace = Problem.batch, files.Path.write_bytes, os.replace
def counted(self, *rest):
    tick("batch")
    return batch(self, *rest)
def half(self, content):
    tick("write")
    write(self, content[: len(content) // 2])
    tick("write")
    write(self, content)
    tick("write")
def renamed(*paths):
    tick("write")
    replace(*paths)
    tick("write")
def run():
    Problem.batch, files.Path.write_bytes, files.os.replace = counted, half, renamed
    name, _, protocol = method.partition("+")
    cell = ec.Cell("diabetes", "logistic", name, 1, BUDGET, protocol or "paper")
    ec.run_cell(cell, results_dir=folder, device="cpu")
ec.load_task("diabetes", device="cpu")
for line in sys.stdin:
    folder, method, at, left = line.rstrip("\\n").split("\\t")
    left = int(left)
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """Processes that run cells, without the seconds that an import takes; a block in which there are some."""

    def __enter__(self) -> "Nursery":
        command, one = [sys.executable, "-c", NURSERY.replace("BUDGET", repr(BUDGET))], {"OMP_NUM_THREADS": "1"}
        self.errors = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, text=True, env=os.environ | one, **pipes)
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self, folder: Path, method: str, at: str, left: int, seconds: float = math.inf) -> bool:
        """Run a cell in a process that is killed after so many seconds; False if it ended before. Raises RuntimeError."""
        self.process.stdin.write(f"{folder}\t{method}\t{at}\t{left}\n")
        self.process.stdin.flush()
        child = self.process.stdout.readline()
        if math.isfinite(seconds):
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        status = self.process.stdout.readline()
        if not status or int(status) not in (0, signal.SIGKILL):
            self.errors.seek(0)
            raise RuntimeError(f"{method}, killed at {at}: status {status}: {self.errors.read()[-2000:]}")
        return int(status) == signal.SIGKILL


def record(run: ec.Run) -> dict:
    """What two runs of one cell must have in common; the commit is that of a source tree that may be worked on meanwhile."""
    own = ("seconds", "started", "resumed", "commit")
    data = {name: value for name, value in copy.deepcopy(run.data).items() if name not in own}
    data["history"] = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in data["history"]]
    return data


def kill_one(nursery: Nursery, folder: Path, method: str, draw: random.Random) -> bool:
    """Start a run and kill it at a random moment; False if it had ended before."""
    at = draw.choice(("clock", "batch", "write", "write"))
    seconds = draw.random() ** 2 * MOST_SECONDS if at == "clock" else math.inf
    return nursery.run(folder, method, at, draw.randrange({"batch": 200, "write": 30}.get(at, 1)), seconds)


def until_recorded(nursery: Nursery, folder: Path, method: str, draw: random.Random, most: int) -> int:
    """Kill a cell's runs, at most so many, and let one end; how many kills there were. Raises if the record differs."""
    name, _, protocol = method.partition("+")
    cell, kills = ec.Cell("diabetes", "logistic", name, 1, BUDGET, protocol or "paper"), 0
    wanted = record(ec.run_cell(cell, results_dir=folder / "whole", device="cpu"))
    there = folder / f"killed{draw.randrange(10**9)}"
    while kills < most and kill_one(nursery, there, method, draw):
        kills += 1
    run = ec.run_cell(cell, results_dir=there, device="cpu")
    if record(run) != wanted:
        raise RuntimeError(f"{method}: another record than undisturbed after {kills} kills, in {there}")
    left = [p.name for p in run.path.rglob("*") if p.is_file() and p.stat().st_size]  # an empty lock says nothing
    names = {"record.json", "loss.json", "history.csv", store.test_path(run.path, cell).name, f"{cell.selected}.json"}
    if not set(left) <= names:
        raise RuntimeError(f"{method}: {sorted(set(left) - names)} left in {run.path}")
    return kills


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    given = parser.parse_args(arguments)
    draw, total, counts, begin = random.Random(given.seed), 0, dict.fromkeys(given.methods, 0), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
        while total < given.kills:
            for method in given.methods:
                counts[method] += until_recorded(nursery, Path(folder), method, draw, min(4, given.kills - total))
                total = sum(counts.values())
                print(
                    f"{total} kills survived of {total} tried, {time.monotonic() - begin:.0f} s: {counts}", flush=True
                )


if __name__ == "__main__":
    main()
