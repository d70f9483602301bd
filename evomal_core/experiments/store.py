"""Records on disk: one folder a run, never half written, never overwritten by another run.

    <results_dir>/<dataset>/<model>/<method>/<budget>-<protocol>/seed<k>/
        record.json      cell, configuration, status, metrics, history, seconds, versions, hardware; strict JSON
        loss.json        the loss found
        history.csv      a row a generation
        checkpoint.json  while it runs: the state it goes on from

A run's identity is its cell and every setting that changes results in exact arithmetic: not engine, device or threads.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pandas
import torch

from .. import files
from ..config import NOT_IDENTITY, Config
from ..losses import loss_from_json

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[2]
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
    """What makes a run this run. A setting absent from an old record counts as its default."""
    settings = {f.name: f.default for f in dataclasses.fields(Config)} | dataclasses.asdict(config)
    settings = {name: value for name, value in settings.items() if name not in NOT_IDENTITY}
    return json.loads(json.dumps({"cell": dataclasses.asdict(cell), "config": settings}))


def same_identity(recorded: dict, cell, config: Config) -> str | None:
    """None if a record is of this cell and configuration, else what differs."""
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    own = identity(cell, config)
    old_cell = recorded.get("cell")
    if old_cell != own["cell"]:
        return f"cell {old_cell} instead of {own['cell']}"
    old = json.loads(json.dumps({**defaults, **recorded.get("config", {})}))
    differing = [n for n, v in own["config"].items() if old.get(n) != v]
    unknown = [n for n in old if n not in own["config"] and n not in NOT_IDENTITY]
    if differing or unknown:
        return ", ".join(
            [f"{n} = {old[n]!r} instead of {own['config'][n]!r}" for n in differing] + [f"unknown {n}" for n in unknown]
        )
    return None


def read_json(path: Path) -> dict:
    """Read strict JSON. Raises RecordError that names the file."""
    try:
        return files.read_json(path, SCHEMA)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged ({error}); move it away to compute this run again") from None


def read_run(folder: Path, cell_type) -> Run:
    """The record in a folder. Raises RecordError if it is damaged or its loss is."""
    data = read_json(folder / "record.json")
    try:
        cell, status, metric = cell_type(**data["cell"]), data["status"], data["test_metric"]
        ok = status in ("complete", "diverged", "no_loss") and (metric is None) == (status != "complete")
        ok = ok and (metric is None or (isinstance(metric, (int, float)) and math.isfinite(metric)))
        kinds = (("history", list), ("seconds", dict), ("config", dict))
        ok = ok and all(isinstance(data[name], kind) for name, kind in kinds)
        if not ok:
            raise ValueError(f"status {status!r} with test metric {metric!r}")
        if "loss" in data and data["loss"] is not None:
            loss_from_json(data["loss"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{folder / 'record.json'} is damaged ({error!r}); move it away to compute this run again"
        ) from None
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
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count(), "device": str(device)}
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return {"versions": versions, "hardware": hardware, "commit": _commit()}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Commit of the source tree, with "+changes" if it is not clean; None outside a checkout."""

    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)

    try:
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return None
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "evomal_core").stdout.strip()
        return head.stdout.strip() + ("+changes" if dirty else "")
    except (OSError, subprocess.TimeoutExpired):
        return None
