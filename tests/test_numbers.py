"""Numbers at the edge: large trees, NaN on every path, heights, and a search on a task that explodes."""

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evomal_core as ec
from evomal_core.experiments import store
from evomal_core.fast import tape
from evomal_core.losses import export, primitives

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import extremes


def nested(name: str, depth: int) -> str:
    return f"{name}(" * depth + "sub(y, f)" + ")" * depth


def balanced(name: str, height: int) -> str:
    return name + f"({balanced(name, height - 1)}, {balanced(name, height - 1)})" if height else "f"


LARGE = {
    "nested logs": nested("log", 80),
    "nested roots": nested("sqrt", 31),
    "balanced": f"add(y, {balanced('mul', 11)})",
    "balanced max": f"add(y, {balanced('max', 9)})",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_tree_is_displayed_as_text_at_once(name):
    loss = ec.MetaLoss(LARGE[name])
    start = time.perf_counter()
    texts = (
        loss.to_latex(),
        loss._repr_latex_(),
        ec.latex(ec.simplify(loss)),
        ec.latex(ec.simplify(loss, weights=False)),
    )
    assert time.perf_counter() - start < 5
    for text in texts:
        assert r"\texttt{" + LARGE[name][:20] in text and len(text) < 1_200
    scope: dict = {}
    exec(loss.to_python(), scope)
    y, f = torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(scope["loss"](f, y), loss(f, y), equal_nan=True)


def test_a_tree_below_the_limits_is_displayed_as_a_formula():
    loss = ec.MetaLoss(nested("log", export.MAX_DISPLAYED_HEIGHT - 1))
    assert r"\texttt" not in loss.to_latex()


@pytest.mark.parametrize("name", ["sign", "abs", "log", "sqrt"])
@pytest.mark.parametrize("protection", ["abs", "clamp"])
def test_nan_is_nan_on_every_path(name, protection):
    """A candidate must not be rejected on one device and pass on another."""
    loss = ec.MetaLoss(f"add({name}(y), f)", protection=protection)
    y, f = np.array([math.nan, 1.0, -1.0], np.float32), np.array([0.5, 0.5, 0.5], np.float32)
    values = [loss.elementwise(torch.from_numpy(y), torch.from_numpy(f)).detach().numpy()]
    for xp, to in ((np, np.asarray), (torch, torch.from_numpy)):
        kind = y.dtype if xp is np else torch.float32
        listed = tape.program(str(loss.tree), protection, False, 1, xp, kind)
        made = tape.Tape(listed, list(to(loss.weights.detach().numpy())), to(y), to(f), xp.ones_like(to(y)))
        values.append(np.asarray(made.value))
    scope: dict = {}
    exec(ec.MetaLoss(str(loss.tree), protection=protection, reduction="none").to_python(), scope)
    values.append(scope["loss"](torch.from_numpy(f), torch.from_numpy(y)).detach().numpy())
    for value in values:
        assert np.isnan(value[0]) and np.isfinite(value[1:]).all()
        np.testing.assert_allclose(value[1:], values[0][1:], rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"max_height": 91}, {"initial_height": (2, 13), "max_height": 50}, {"mutation_height": (0, 40), "max_height": 60}],
)
def test_heights_beyond_what_can_be_read_or_grown_are_refused(changes):
    with pytest.raises(ValueError, match="height"):
        ec.Config(**changes)


def test_the_greatest_heights_can_be_searched(tmp_path):
    budget = "smoke+max_height=90+mutation_height=8,12+mutation_rate=0.7+crossover_rate=0.3+meta_steps=0"
    run = ec.run_cell(ec.Cell("diabetes", "logistic", "gp-lfl", 0, budget), results_dir=tmp_path, device="cpu")
    assert run.status in ("complete", "no_loss", "diverged")


@pytest.mark.parametrize("method", ["evomal", "taylorglo", "glo", "ml3", "tuned"])
def test_a_search_on_a_task_that_explodes_ends_with_a_valid_record(tmp_path, method):
    """The learning rate of the base model is a thousand times the usual one."""
    cell = ec.Cell("diabetes", "mlp", method, 0, "smoke+base_learning_rate=10.0")
    run = ec.run_cell(cell, results_dir=tmp_path, device="cpu")
    assert run.status in ("complete", "no_loss", "diverged")
    runs, damaged = store.read_runs(tmp_path)
    assert len(runs) == 1 and not damaged


@pytest.mark.parametrize("method", ["evomal", "taylorglo", "glo"])
def test_a_search_on_targets_that_explode_counts_what_is_not_finite(method):
    task = ec.load_task("diabetes", device="cpu")
    parts = {part: (x, y * 1e6) for part in ("train", "validation", "test") for x, y in [getattr(task, part)]}
    wild = ec.Task("wild", **parts, classification=False)
    config = ec.Config.for_cell(ec.Cell("diabetes", "mlp", method, 0, "smoke+base_learning_rate=10.0"))
    result = ec.search([(wild, ec.build_model("mlp", wild))], config, 0, method)
    rows = result.state.history
    counts = [
        sum(row[o] for o in ("elite", "symbolic", "rejected", "equivalent", "evaluated", "non_finite")) for row in rows
    ]
    assert counts == [config.population] * len(rows) and result.state.generation == len(rows)
    assert all(leader.fitness is None or math.isfinite(leader.fitness) for leader in result.leaders)


def test_random_trees_on_extreme_numbers():
    """No exception; every number of a finite tree is the plain form's, up to the rounding of its operations."""
    found = extremes.run(300, seed=1)
    assert sum(found["trees"].values()) == 300 and found["trees"]["finite"] >= 250
    for part in ("value", "derivative", "mixed"):
        assert not found[part]["differ"] and found[part]["equal"] >= 0.97 * sum(found[part].values()), found


def test_a_wrong_derivative_is_noticed(monkeypatch):
    """A factor of 1 % in one second derivative is more than rounding."""

    def wrong(xp, x):
        t = xp.tanh(x)
        d = 1 - t * t
        return d, -2.02 * t * d

    for rows in primitives.PRIMITIVES.values():
        monkeypatch.setitem(rows, "tanh", replace(rows["tanh"], derivatives=wrong))
    tape.program.cache_clear()
    assert extremes.run(150, seed=1)["trees"]["differ"] >= 3
    tape.program.cache_clear()
