"""Portable numerics: committed digits, on whatever x86-64 CPU this runs; and that half of them is refused."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evomal_core import machine, portable
from evomal_core.losses.primitives import PRIMITIVES

HERE = Path(__file__).parent
COMMITTED = json.loads((HERE / "fixtures" / "portable.json").read_text(encoding="utf-8"))
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or platform.libc_ver()[0] != "glibc",
    reason="portable numerics need Linux with the GNU C library on x86-64",
)
MADE_ON = "AMD EPYC"


def portably(*command, **changes) -> subprocess.CompletedProcess:
    given = os.environ | portable.SETTINGS | {"EVOMAL_PORTABLE": "1", "PYTHONPATH": str(HERE.parent)} | changes
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=600)


def test_a_search_has_the_digits_that_it_has_on_other_processors():
    here = machine.versions()
    other = {name: here[name] for name, version in COMMITTED["versions"].items() if here[name] != version}
    if other:
        pytest.skip(f"the digits are of other versions; here {other}")
    done = portably(HERE / "portable_digits.py")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["portable"] is True
    if found != COMMITTED and machine.environment(torch.device("cpu"))["hardware"]["cpu"] != MADE_ON:
        pytest.xfail(
            f"the digits were made on an {MADE_ON}, and two generations of it have them; no other make has been tried yet"
        )
    assert found == COMMITTED


def test_an_environment_that_is_not_portable_is_refused():
    for changes in ({"MKL_CBWR": "AUTO"}, {"GLIBC_TUNABLES": ""}):
        ((name, value),) = changes.items()
        done = portably("-c", "import evomal_core", **changes)
        assert done.returncode == 1
        assert f"settings of its own in the environment, got {name}={value!r}; use ./run" in done.stderr
    assert portably("-c", "import evomal_core", MKL_CBWR="AUTO", EVOMAL_PORTABLE="0").returncode == 0


def test_settings_are_printed_for_a_shell():
    done = subprocess.run([sys.executable, portable.__file__], capture_output=True, text=True, check=True)
    shell = subprocess.run(["sh", "-c", f"{done.stdout}\nenv -0"], capture_output=True, text=True, check=True)
    got = dict(line.partition("=")[::2] for line in shell.stdout.split("\0"))
    assert {name: got[name] for name in portable.SETTINGS} == portable.SETTINGS


def test_numpy_knows_the_features_that_are_switched_off():
    done = portably("-W", "error", "-c", "import numpy")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("protection", ["abs", "clamp"])
def test_the_portable_square_root_is_a_square_root(monkeypatch, protection):
    row = PRIMITIVES[protection]["sqrt"]
    x = torch.tensor([-3.0, 1e-30, 0.5, 2.0, 1e30, float("inf")], dtype=torch.float64, requires_grad=True)
    usual, (slope,) = row.value(torch, x), torch.autograd.grad(row.value(torch, x[:5]).sum(), x)
    monkeypatch.setenv("EVOMAL_PORTABLE", "1")
    assert row.value(torch, x).detach().numpy() == pytest.approx(usual.detach().numpy(), rel=1e-15)
    (portable_slope,) = torch.autograd.grad(row.value(torch, x[:5]).sum(), x)
    assert portable_slope.numpy() == pytest.approx(slope.numpy(), rel=1e-12)
