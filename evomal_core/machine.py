"""The machine, the versions and the commit that a record names."""

import importlib.metadata
import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "deap", "scikit-learn", "evomal-core")


def version() -> str | None:
    """The version of this package: that which is installed, else that of the source tree."""
    installed = next(iter(importlib.metadata.distributions(name="evomal-core")), None)
    project = ROOT / "pyproject.toml"
    if installed or not project.is_file():
        return installed and installed.version
    return tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("version")


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
            return None  # a copy inside another repository
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "evomal_core")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None
