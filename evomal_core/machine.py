"""The machine, the versions and the code that a record names."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from . import portable
from .checks import check

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "deap", "scikit-learn", "evomal-core")
LARGE_MODEL = 5_000_000  # parameters from which a model is worth all cores


def _sources() -> str:
    """A digest of the package's own code, which tells apart what a version number or an unclean commit does not."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted((ROOT / "evomal_core").rglob("*.py"), key=Path.as_posix):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


SOURCES = _sources()  # when this was imported: the files of a process that runs for days may change under it


def version() -> str | None:
    """The version of this package: that which is installed, else that of the source tree."""
    installed = next(iter(importlib.metadata.distributions(name="evomal-core")), None)
    project = ROOT / "pyproject.toml"
    if installed or not project.is_file():
        return installed and installed.version
    return tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("version")


def environment(device: torch.device) -> dict:
    """Versions, hardware and code that a record names, and whether its numerics are portable."""
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count(), "device": str(device)}
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    numerics = {"portable": portable.enabled() and device.type == "cpu"}
    return {"versions": versions(), "hardware": hardware, "commit": _commit(), "sources": SOURCES} | numerics


def since(entries: list[dict], where: dict, now: dict) -> list[dict]:
    """A provenance whose last entry is `now`, from `where` on; the same one if its last entry says so already.

    Raises:
        ValueError: the entries are none.
    """
    good = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    check(good, "provenance", "a list of objects", entries)
    return entries if entries and entries[-1] | now == entries[-1] else [*entries, where | now]


@contextmanager
def threads(model: torch.nn.Module, count: int | None = None) -> Iterator[int]:
    """Within this block PyTorch computes on `count` threads, which is its value.

    Args:
        count: left out, one thread, or all cores for a large model. Threads slow a small one, which waits for them.
    """
    large = sum(p.numel() for p in model.parameters()) > LARGE_MODEL and not portable.enabled()
    count, before = count or ((os.cpu_count() or 1) if large else 1), torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str | None]:
    """Versions of what numbers depend on; None for a package that runs from its sources without being installed."""
    found = {"python": platform.python_version(), "libc": "-".join(platform.libc_ver())}
    for package in PACKAGES:
        installed = next(iter(importlib.metadata.distributions(name=package)), None)
        found[package] = installed and installed.version
    return found


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
            return None  # a copy inside another repository
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "evomal_core")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None
