"""The core alone: a wheel, installed where there are no notebooks and no checkout, searches for a loss."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SEARCH = """
import importlib.util, sys, warnings
absent = [m for m in ("matplotlib", "jupyterlab", "papermill", "seaborn", "IPython") if importlib.util.find_spec(m)]
assert not absent, absent
import torch
import evomal_core as ec
assert "site" in ec.__file__, ec.__file__
warnings.simplefilter("ignore")
x, y = torch.randn(60, 4), torch.arange(60) % 3
budget = "smoke+generations=1+test_steps=5"
found = ec.search_loss(torch.nn.Linear(4, 3), (x[:40], y[:40]), (x[40:], y[40:]), "multiclass", budget=budget, progress=True)
print(found)
print(ec.run_cell(ec.Cell("diabetes", "mlp", "baseline", budget="smoke"), results_dir=sys.argv[1]).status)
"""


def closure(names) -> set[str]:
    """The distributions that these need, themselves included, without extras."""
    found, waiting = set(), list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        needed = [r for r in map(Requirement, requirements) if r.marker is None or r.marker.evaluate({"extra": ""})]
        waiting += [r.name for r in needed]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the wheel's content, and links to what the core requires, and to nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    skipped = shutil.ignore_patterns("__pycache__", "*.ipynb")
    for name in ("evomal_core", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    for name in closure(
        Requirement(line).name
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    ):
        files = importlib.metadata.files(name) or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            target, link = Path(str(importlib.metadata.distribution(name).locate_file(top))), site / top
            if not link.exists():
                link.symlink_to(target)
    return site


def test_the_core_alone_searches_for_a_loss_without_notebooks_and_checkout(site, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EVOMAL"))} | {
        "PYTHONPATH": str(site)
    }
    command = [sys.executable, "-S", "-c", SEARCH, str(tmp_path / "results")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trivial predictor" in done.stdout and done.stdout.endswith("complete\n")
    assert "comparison" in done.stderr  # the bar


def test_the_wheel_has_the_articles_numbers(site):
    assert (site / "evomal_notebooks" / "published" / "table2.csv").is_file()
