"""The benchmarks run at tiny sizes and print one JSON line, and the naive loop computes what the package computes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evomal_core import Config, Task
from evomal_core.cost_model import Hours
from evomal_core.losses import expression
from evomal_core.models.logistic import logistic
from evomal_core.models.mlp import mlp
from evomal_core.search import filters
from evomal_core.training import batches, fitness, unroll

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import common, estimates, everything, floor, generation, memory, meta_gradient, scaling
from benchmarks.naive import Naive
from benchmarks.trees import TREES

ROOT = Path(__file__).parents[1]


def small(classification: bool) -> common.Setup:
    """A problem in float64. Its images are made of bytes, as those of the naive loop are."""
    draw = torch.Generator().manual_seed(0)

    def part(n):
        if classification:
            x = torch.randint(256, (n, 1, 4, 4), generator=draw) / 255
            x[0] = 0
            x[1] = 1
            return x.double(), torch.randint(3, (n,), generator=draw)
        return torch.randn(n, 5, generator=draw).double(), torch.randn(n, 1, generator=draw).double()

    parts = {name: part(40) for name in ("train", "validation", "test")}
    task = Task("small", **parts, classification=classification, outputs=3 if classification else 1)
    model = (logistic(task.input_shape, 3) if classification else mlp(task.input_shape, 1, (8, 8))).double()
    return common.Setup(task, model, Config(batch_size=16, dtype="float64", rejection_batch=20), "random")


class Part:
    """A task as far as drawing a batch of one part needs it."""

    augmented = ()

    def __init__(self, x, y):
        self.train = self.validation = x, y

    def inputs(self, x):
        return x

    def targets(self, y):
        return y


class SameBatches(Naive):
    """The naive loop, which gets the batches that the package draws."""

    def batch(self, part, purpose, *index):
        x, y = getattr(self.task, part)
        if x.ndim == 4:  # through the per-image transforms
            data = self.loaders[part].dataset
            x = torch.stack([data[i][0] for i in range(len(data))]).double()
        return batches.draw(Part(x, y), part, self.config.batch_size, self.seed, purpose, 0, *index)


@pytest.mark.parametrize("classification", [False, True])
def test_naive_loop_computes_what_the_package_computes(classification):
    setup, steps = small(classification), 3
    config = dataclasses.replace(setup.config, meta_steps=steps, rejection_steps=steps, fitness_steps=steps)
    fast, plain = setup.losses(6), setup.losses(6)
    loop = SameBatches(setup.task, setup.model, config)

    unroll.optimise_losses(fast, [setup.problem], config, 0)
    for loss, other in zip(fast, plain, strict=True):
        loop.optimise(other, steps)
        torch.testing.assert_close(loss.weights, other.weights, rtol=1e-5, atol=1e-6)

    gains = filters.improvement(fast, filters.Probe.of(setup.problem, config, 0), config)
    assert gains == pytest.approx([loop.improvement(loss, steps) for loss in fast], rel=1e-5, abs=1e-9)

    values = fitness(fast, [setup.problem], config, 0)
    for loss, value in zip(fast, values, strict=True):
        loop.train(loss, steps)
        assert value == pytest.approx(loop.evaluate(), rel=1e-5, abs=1e-9)
    assert len(loop.history) == 2 * steps * len(fast)


def test_trees_are_25_of_5_to_30_nodes():
    sizes = [len(expression.parse(tree)) for tree in TREES]
    assert len(set(TREES)) == 25 and (min(sizes), max(sizes)) == (5, 30)
    small(True).losses(25)  # raises if one lacks y or f


def test_turns_alternate():
    calls = []
    seconds = common.turns({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3)
    assert "".join(calls) == "ab" * 4  # one unmeasured turn first
    assert {len(values) for values in seconds.values()} == {3}


def test_ratio_is_the_median_over_turns():
    assert common.ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_recorded_products_are_counted_and_run_again():
    a, w = torch.randn(4, 1).expand(4, 8), torch.randn(8, 16)  # a layout with a stride of 0, too
    products = floor.record(lambda: (a @ w, a @ w, a * 2))
    assert products.total() == 2 * (2 * 4 * 8 * 16)
    again = floor.record(products.replay())
    assert again.calls == products.calls


def printed(capsys) -> dict:
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert {"benchmark", "date", "hardware", "versions", "commit", "threads"} <= set(result)
    return result


@pytest.fixture
def tiny_steps(monkeypatch):
    monkeypatch.setattr(generation, "STEPS", {"meta": 1, "filter": 2, "fitness": 2})
    monkeypatch.setattr(generation, "NAIVE_STEPS", {"meta": 1, "filter": 2, "fitness": 1})


def test_generation_prints_one_json_line(capsys, tiny_steps):
    generation.main("digits logistic --candidates 4 --repeats 1 --json".split())
    result = printed(capsys)
    assert set(result["ratio"]) == {"meta", "filter", "fitness", "evaluate"}
    assert result["meta"] > 0 and result["naive"]["filter"] > 0
    assert result["losses"] == list(TREES[:4])
    assert result["generation_seconds"]["package"].keys() == {"optimise", "filter", "fitness", "total"}
    assert result["fitness_share_of_products"] > 0


def test_meta_gradient_agrees_between_ways(capsys):
    meta_gradient.main("digits logistic --batch 32 --lockstep 2 --repeats 1 --only seconds --json".split())
    rows = printed(capsys)["rows"]
    assert {"higher", "func", "jvp", "gram"} <= {row["way"] for row in rows}
    assert all(row.get("difference", 0) < 1e-4 for row in rows)


def test_floor_prints_one_json_line(capsys):
    floor.main("digits logistic --candidates 2 --repeats 1 --json".split())
    rows = {row["phase"]: row for row in printed(capsys)["rows"]}
    assert rows["meta"]["mflop"] > 0 and rows["fitness"]["achieved_over_floor"] > 0 and rows["filter"]["mflop"] == 0


def test_scaling_prints_one_json_line(capsys):
    scaling.main("population batch run --quick --dataset digits --model logistic --repeats 1 --json".split())
    result = printed(capsys)
    assert len(result["run"]) == 2**3 + 1 and result["run"][-1]["R2"] <= 1
    assert [row["at"] for row in result["population"]] == [1, 5]
    assert [row["at"] for row in result["batch"]] == [32, 128]


def test_synthetic_images_stand_in():
    setup = common.setup("svhn", "logistic", synthetic=True)
    assert setup.data == "synthetic" and setup.task.input_shape == (3, 32, 32)


def test_everything_appends_a_line_a_benchmark(tmp_path, monkeypatch, capfd):
    tiny = "meta_gradient diabetes logistic --only seconds --ways jvp gram"
    monkeypatch.setattr(everything, "COMMANDS", (tiny, tiny + " --lockstep 2"))
    everything.main([str(tmp_path / "out.jsonl"), "--repeats", "1", "--clock", "cpu"])
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [row["way"] for row in first["rows"]] == ["jvp", "gram"] and first["clock"] == "cpu"
    assert second["rows"][-1]["way"] == "gram x2"
    monkeypatch.setattr(everything, "COMMANDS", ("meta_gradient diabetes no_model",))
    with pytest.raises(SystemExit, match="no_model ended with 2"):
        everything.main([str(tmp_path / "out.jsonl")])


def test_peak_memory_is_seen_and_not_negative():
    """The peak is measured in a process of its own, because memory that an allocator kept is used again without growth."""
    program = """
import time, torch
from benchmarks import meta_gradient
with meta_gradient.Peak(torch.device("cpu")) as peak:
    assert peak.growth() >= 0
    block = torch.ones(50_000_000)  # 200 MB
    time.sleep(0.05)
print(int(block.sum() > 0) and peak.growth())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 150e6 < int(done.stdout) < 400e6


def test_memory_counts_activations_and_weights(capsys):
    memory.main(["logistic", "mlp", "--batch", "16", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    rows = {row["model"]: row for row in json.loads(line)["rows"]}
    weights = 4 * (784 * 10 + 10) / 1e6
    logistic = rows["logistic"]
    assert logistic["meta"] - logistic["step"] == pytest.approx(2 * weights, rel=0.05)
    kept = logistic["step"] - 3 * weights
    assert logistic["meta in lockstep"] - logistic["meta"] == pytest.approx(kept, rel=0.05)
    assert kept >= 16 * 4 * 10 / 1e6, "at least the outputs are kept"
    assert rows["mlp"]["data"] == "diabetes" and rows["mlp"]["step"] > 3 * 4 * 1_012_001 / 1e6


def test_estimates_are_held_against_the_seconds_of_the_run(capsys, monkeypatch):
    guesses = iter([(1.0, 2.0), (3.0, 6.0)])  # before and after the run, in seconds
    monkeypatch.setattr(estimates.ec, "estimate", lambda *cells, **where: [Hours(*(s / 3600 for s in next(guesses)))])
    monkeypatch.setattr(estimates, "SHORTEST", 0.0)
    estimates.main("digits/logistic --methods random --budget smoke --json".split())
    result = printed(capsys)
    (row,) = result["rows"]
    assert row["search expected"] == 2.0 and row["test expected"] == 4.0, "the mean of the two"
    assert row["search ratio"] == pytest.approx(2.0 / row["search spent"], rel=1e-3)
    assert {row["search ratio"], row["test ratio"]} == {result["least"], result["largest"]}
    tried, of = row["evaluated"].split(" of ")
    assert 0 < int(tried) <= int(of) and result["repeats"] == 1
