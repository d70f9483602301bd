"""Kills survived of kills tried: cells of every method are killed at random moments until they have their record.

    python -m benchmarks.kills [--kills 300] [--seed 0] [--methods evomal glo]

A process is killed (SIGKILL) after a random time, at a random batch, or at a random step of writing a file: before it, when
half is written, before and after the rename. The next one goes on. A kill is survived if the cell ends with the record of a
run that nobody disturbed, equal to the last digit but for seconds, and nothing but that is left in its folder.
"""

import argparse
import copy
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import evomal_core as ec
from evomal_core.experiments import store

METHODS = ("baseline", "tuned", "ml3", "taylorglo", "gp-lfl", "glo", "evomal", "random")
BUDGET = "smoke+population=3+generations=3+test_steps=150"
MOST_SECONDS = 8.0  # until a kill by the clock; starting takes some
# argv: folder, method, what to kill at ("batch", "write", "none"), how many of these to let pass
CHILD = """
import os, signal, sys
import evomal_core as ec
from evomal_core import files
from evomal_core.training import Problem, trial
folder, method, at, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
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
Problem.batch, files.Path.write_bytes, files.os.replace = counted, half, renamed
print("ready", flush=True)
ec.run_cell(ec.Cell("diabetes", "logistic", method, 1, BUDGET), results_dir=folder, device="cpu")
"""


def record(run: ec.Run) -> dict:
    """What two runs of one cell must have in common; the commit is that of a source tree that may be worked on meanwhile."""
    own = ("seconds", "started", "resumed", "commit")
    data = {name: value for name, value in copy.deepcopy(run.data).items() if name not in own}
    data["history"] = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in data["history"]]
    return data


def start(folder: Path, method: str, at: str, left: int) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD.replace("BUDGET", repr(BUDGET)), folder, method, at, left]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_one(folder: Path, method: str, draw: random.Random) -> bool:
    """Start a run and kill it at a random moment; False if it had ended before. Raises RuntimeError for any other end."""
    at = draw.choice(("clock", "batch", "write", "write"))
    process = start(folder, method, at, draw.randrange({"batch": 200, "write": 30}.get(at, 1)))
    if at == "clock":
        process.stdout.readline()
        time.sleep(draw.random() ** 2 * MOST_SECONDS / 4)
        process.kill()
    _, errors = process.communicate()
    if process.returncode not in (0, -9):
        raise RuntimeError(f"{method}, killed at {at}: exit {process.returncode}: {errors[-2000:]}")
    return process.returncode == -9


def until_recorded(folder: Path, method: str, draw: random.Random, most: int) -> int:
    """Kill a cell's runs, at most so many, and let one end; how many kills there were. Raises if the record differs."""
    cell, kills = ec.Cell("diabetes", "logistic", method, 1, BUDGET), 0
    wanted = record(ec.run_cell(cell, results_dir=folder / "whole", device="cpu"))
    there = folder / f"killed{draw.randrange(10**9)}"
    while kills < most and kill_one(there, method, draw):
        kills += 1
    run = ec.run_cell(cell, results_dir=there, device="cpu")
    if record(run) != wanted:
        raise RuntimeError(f"{method}: another record than undisturbed after {kills} kills, in {there}")
    left = [p.name for p in run.path.rglob("*") if p.is_file() and p.stat().st_size]  # an empty lock says nothing
    names = {"record.json", "loss.json", "history.csv", store.test_path(run.path, cell).name}
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
    with tempfile.TemporaryDirectory() as folder:
        while total < given.kills:
            for method in given.methods:
                counts[method] += until_recorded(Path(folder), method, draw, min(4, given.kills - total))
                total = sum(counts.values())
                print(
                    f"{total} kills survived of {total} tried, {time.monotonic() - begin:.0f} s: {counts}", flush=True
                )


if __name__ == "__main__":
    main()
