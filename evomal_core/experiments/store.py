"""Records on disk: one folder a run, never half written, never overwritten by another run.

    <results_dir>/<dataset>/<model>/<method>/<budget>-<protocol>/seed<k>/
        record.json      cell, configuration, status, metrics, history, seconds, versions, hardware; strict JSON
        loss.json        the loss found
        history.csv      a row a generation
        checkpoint.json  while it runs: the state it goes on from

A run's identity is its cell and every setting that changes results in exact arithmetic: not engine, device or threads.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas
import torch

from .. import files
from ..config import NOT_IDENTITY, Config, check_choice
from ..losses import loss_from_json

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[2]
STATUSES = ("complete", "diverged", "no_loss")  # of a record
PACKAGES = ("torch", "numpy", "deap", "scikit-learn", "evomal-core")


class RecordError(RuntimeError):
    """A record that is damaged, or that another run owns; the message names its path."""


@dataclass(frozen=True, eq=False)
class Run:
    """The record of one finished run, or of one that could not be made (`status` "unavailable" or "failed", with `reason`).

    Attributes:
        status: "complete", "diverged" (meta-testing did), "no_loss" (no candidate passed), "unavailable", "failed".
        test_metric: error on the test part, None unless complete.
        data: all of record.json.
    """

    cell: object
    status: str
    test_metric: float | None = None
    path: Path | None = None
    data: dict = field(default_factory=dict, repr=False)
    reason: str | None = None

    @property
    def loss(self):
        """The loss found, as a module; None if there is none."""
        return loss_from_json(self.data["loss"]) if self.data.get("loss") else None

    @property
    def history(self) -> pandas.DataFrame:
        """A row a generation: best so far, generation's best and median, counts, seconds."""
        return pandas.DataFrame(self.data.get("history", []))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by phase."""
        return self.data.get("seconds", {})


def results_dir(folder=None) -> Path:
    """Where records go: the argument, else the environment variable EVOMAL_RESULTS, else `results/runs/`."""
    return Path(folder or os.environ.get("EVOMAL_RESULTS") or ROOT / "results" / "runs")


def folder_of(cell, folder=None) -> Path:
    """The folder of a cell's record."""
    parts = (cell.dataset, cell.model, cell.method, f"{cell.budget}-{cell.protocol}", f"seed{cell.seed}")
    return results_dir(folder).joinpath(*parts)


def identity(cell, config: Config) -> dict:
    """What makes a run this run, as JSON has it."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_IDENTITY}
    return json.loads(json.dumps({"cell": asdict(cell), "config": settings}))


def check_identity(path: Path, recorded: dict, cell, config: Config) -> None:
    """Raise RecordError that says what differs, unless a record or checkpoint is of this cell and configuration.

    A setting absent from an old record counts as its default.
    """
    own, old = identity(cell, config), identity(cell, Config())["config"] | recorded["config"]
    differing = [f"{n} = {old[n]!r} instead of {value!r}" for n, value in own["config"].items() if old[n] != value]
    differing += [f"unknown {n}" for n in old if n not in own["config"] and n not in NOT_IDENTITY]
    if recorded["cell"] != own["cell"]:
        differing = [f"cell {recorded['cell']} instead of {own['cell']}"]
    if differing:
        advice = "it is not overwritten: use another results_dir, or force=True to replace it"
        raise RecordError(f"{path} is of another run ({', '.join(differing)}); {advice}")


@contextlib.contextmanager
def reading(path: Path):
    """A block that reads a file; whatever is wrong with it is raised as RecordError that names the file."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordError(f"{path} is damaged ({error!r}); move it away to compute this run again") from None


def read_run(folder: Path, cell_type) -> Run:
    """The record in a folder. Raises RecordError if it is damaged or its loss is."""
    with reading(path := folder / "record.json"):
        data = files.read_json(path, SCHEMA)
        cell, status, metric = cell_type(**data["cell"]), data["status"], data["test_metric"]
        number = (int, float) if status == "complete" else type(None)
        kinds = {"test_metric": number, "history": list, "seconds": dict, "config": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(data[name], kind)]
        check_choice("status", status, STATUSES)
        if wrong or isinstance(metric, bool) or not math.isfinite(metric or 0):
            raise ValueError(f"status {status!r} with test metric {metric!r}; of another type: {wrong}")
        if data.get("loss") is not None:
            loss_from_json(data["loss"])
    return Run(cell, status, metric, folder, data, data.get("reason"))


def read_runs(folder, cell_type) -> tuple[list[Run], list[str]]:
    """(all records below a folder, what was wrong with those left out)."""
    runs, damaged = [], []
    for path in sorted(Path(folder).glob("*/*/*/*/seed*/record.json")):
        try:
            runs.append(read_run(path.parent, cell_type))
        except RecordError as error:
            damaged.append(str(error))
    return runs, damaged


def environment(device: torch.device) -> dict:
    """Versions, hardware and commit that a record names."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        installed = next(iter(importlib.metadata.distributions(name=package)), None)
        versions[package] = installed and installed.version
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count(), "device": str(device)}
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return {"versions": versions, "hardware": hardware, "commit": _commit()}


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")  # of Linux
    named = re.search(r"^model name\s*: (.*)", facts.read_text() if os.access(facts, os.R_OK) else "", re.M)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Commit of the source tree, with "+changes" if it is not clean; None outside a checkout."""

    def git(*arguments):
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return None  # a copy inside somebody else's repository
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "evomal_core")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None
