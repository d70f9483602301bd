"""Checkpoints: nothing in them is trusted. A change of any bit, and a state that a search cannot have, are refused."""

import copy
import dataclasses
import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

import evomal_core as ec
from evomal_core import files
from evomal_core.experiments import store
from evomal_core.search import SearchState
from evomal_core.training import Trial, run_trial, trial

BUDGET = "smoke+population=3+generations=3"
METHODS = ("evomal", "gp-lfl", "random", "taylorglo", "glo")


class Stop(KeyboardInterrupt):
    """Raised in the middle of a run."""


def stopped(folder, cell, generation: int) -> dict:
    """The checkpoint of a search that was stopped behind a generation."""

    def stop(line: str) -> None:
        if f"generation {generation}/" in line:
            raise Stop

    with pytest.raises(Stop):
        ec.run_cell(cell, results_dir=folder, device="cpu", progress=stop)
    return json.loads((store.folder_of(cell, folder) / "checkpoint.json").read_text())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict:
    """(method, generation) -> what a stopped search left."""
    found = {}
    for method, generation in [*((method, 2) for method in METHODS), ("glo", 4)]:
        cell = ec.Cell("diabetes", "logistic", method, 3, BUDGET)
        found[method, generation] = cell, stopped(tmp_path_factory.mktemp("stopped"), cell, generation)
    return found


def refused(folder, cell, data, match: str = "damaged") -> None:
    path = store.folder_of(cell, folder) / "checkpoint.json"
    content = data if isinstance(data, bytes) else json.dumps(data).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ec.RecordError, match=match) as caught:
        ec.run_cell(cell, results_dir=folder, device="cpu")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content
    assert not (path.parent / "record.json").exists()


OF_ALL = {
    "generation": [1e308, 1, 99, -1, None, "2", 2.0, True],
    "history": [[], [{}], None, "x"],
    "best_fitness": [0.0, "x", -1.0],
    "best": [None, {}, {"fitness": 1}],
    "method": ["evomil", "baseline", None],
    "seed": [4, None],
    "origin": [{}, None],
}
OF_SOME = {
    "population": [[], None, [{}], "x"],
    "strategy": [None, {}, {"centroid": [1.0]}, []],
    "leaders": [None, [{}], [3]],
    "archive": [None, [{}], [3]],
    "gradients": [None, [], {"a": "x"}],
    "chosen": ["", "sub(y, f)", "import os", 3],
}


@pytest.mark.parametrize(("method", "generation"), [*((method, 2) for method in METHODS), ("glo", 4)])
def test_a_state_that_a_search_cannot_have_is_refused_even_with_its_digest(checkpoints, tmp_path, method, generation):
    cell, kept = checkpoints[method, generation]
    tried = 0
    for name, values in (OF_ALL | OF_SOME).items():
        if name not in kept["state"]:
            continue
        for value in [*values, ...]:
            if kept["state"][name] == value and type(kept["state"][name]) is type(value):
                continue
            data = copy.deepcopy(kept)
            del data["digest"]
            if value is ...:
                del data["state"][name]
            else:
                data["state"][name] = value
            refused(tmp_path, cell, files.sealed(data), r"damaged|another run")
            tried += 1
    assert tried > 40


def test_any_change_of_content_is_seen_by_the_digest(checkpoints, tmp_path):
    cell, kept = checkpoints["evomal", 2]
    content, draw = json.dumps(kept).encode(), random.Random(0)
    for _ in range(60):
        position = draw.randrange(len(content))
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        try:
            same = json.loads(changed) == kept
        except ValueError:
            same = False
        if not same:
            refused(tmp_path, cell, bytes(changed))
    for length in (0, 1, len(content) // 2, len(content) - 1):
        refused(tmp_path, cell, content[:length])
    unsealed = {name: value for name, value in kept.items() if name != "digest"}
    refused(tmp_path, cell, unsealed, "its digest must be")


def test_a_state_is_checked_by_search_too(checkpoints):
    _, kept = checkpoints["evomal", 2]
    task = ec.load_task("diabetes", device="cpu")
    config = ec.Config.for_cell(ec.Cell("diabetes", "logistic", "evomal", 3, BUDGET))
    state = SearchState.from_json(kept["state"])
    state.population = state.population[:-1]
    with pytest.raises(ValueError, match="population of the state must be 3 individuals, got 2"):
        ec.search([(task, ec.build_model("logistic", task))], config, 3, "evomal", state)


# --- trials ---

CONFIG = ec.Config(batch_size=16, base_learning_rate=0.05)
TRIAL = Trial("test", 90, curve=(30,), starts=2)


def problem():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    task = ec.Task("made", (x, y), (x, y), (x, y), False)
    return task, nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))


@pytest.fixture
def half_done(tmp_path, monkeypatch):
    """The file of a trial that was stopped in its second start."""
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)
    path, batch, calls = tmp_path / "trial.safetensors", ec.training.Problem.batch, [0]

    def counted(self, *arguments):
        calls[0] += 1
        if calls[0] > 90 + 60:
            raise Stop
        return batch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ec.training.Problem, "batch", counted)
        with pytest.raises(Stop):
            run_trial([ec.SquaredError()], problem(), CONFIG, 1, TRIAL, path)
    return path


def run(path):
    return run_trial([ec.SquaredError()], problem(), CONFIG, 1, TRIAL, path)


def test_any_changed_bit_of_a_trial_s_checkpoint_is_seen(half_done):
    content, draw = half_done.read_bytes(), random.Random(1)
    want, refusals = run(None), 0
    positions = [draw.randrange(len(content)) for _ in range(150)] + [len(content) - 1 - k for k in range(0, 200, 20)]
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        half_done.write_bytes(changed)
        try:
            got = run(half_done)
        except ec.RecordError as error:
            assert str(half_done) in str(error)
            refusals += 1
        else:  # a bit that says nothing, such as one of a blank
            assert got == want
    assert refusals > 0.9 * len(positions)
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
        half_done.write_bytes(content[:length])
        with pytest.raises(ec.RecordError, match="damaged"):
            run(half_done)
    half_done.write_bytes(content)
    assert run(half_done) == want == run(half_done)  # the second time from what was kept


FACTS = {
    "step": [1000, 90, -1, "30", None, 2.5],
    "outcomes": [
        None,
        [[]],
        [[], []],
        [1],
        [[{}]],
        [[{"errors": {}, "curve": []}]],
        [[{"errors": {}, "curve": []}]] * 3,
    ],
    "current": [[], None, [{}], [1], [{"errors": {}, "curve": [[1]]}]],
    "schema": [trial.CHECKPOINT_SCHEMA + 1, 0, None],
}


def rewritten(path, change) -> bytes:
    """The file with other facts or tensors, and digests that fit them."""
    with safe_open(path, "pt") as file:
        facts, tensors = json.loads(file.metadata()["trial"]), {name: file.get_tensor(name) for name in file.keys()}
    del facts["digest"]
    change(facts, tensors)
    facts["tensors"] = trial._digest(tensors)
    return save(tensors, {"trial": json.dumps(files.sealed(facts))})


def test_a_trial_s_state_that_cannot_be_is_refused_even_with_its_digest(half_done):
    content = half_done.read_bytes()
    changes = [lambda facts, tensors, n=n, v=v: facts.update({n: v}) for n, values in FACTS.items() for v in values]
    changes += [lambda facts, tensors, n=n: facts.pop(n) for n in FACTS]
    changes += [
        lambda facts, tensors: tensors.clear(),
        lambda facts, tensors: tensors.pop("0.momentum.1"),
        lambda facts, tensors: tensors.update({"0.weight.0.bias": torch.zeros(1)}),
        lambda facts, tensors: tensors.update({"0.weight.0.bias": torch.zeros(7, dtype=torch.float64)}),
        lambda facts, tensors: tensors.update({"0.more": torch.zeros(1)}),
    ]
    for change in changes:
        half_done.write_bytes(content)
        half_done.write_bytes(rewritten(half_done, change))
        with pytest.raises(ec.RecordError) as caught:
            run(half_done)
        assert str(half_done) in str(caught.value)


def test_a_damaged_checkpoint_of_a_cell_s_test_is_named(tmp_path):
    cell = ec.Cell("diabetes", "logistic", "baseline", 0, "smoke")
    path = store.trial_checkpoint(store.folder_of(cell, tmp_path), cell)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no tensors")
    with pytest.raises(ec.RecordError, match="checkpoint of a trial") as caught:
        ec.run_cell(cell, results_dir=tmp_path, device="cpu")
    assert str(path) in str(caught.value) and path.read_bytes() == b"no tensors"
    (run,) = ec.run_grid([cell], results_dir=tmp_path, device="cpu", workers=1, progress=None)
    assert run.status == "failed" and str(path) in run.reason
    assert ec.run_cell(cell, results_dir=tmp_path, device="cpu", force=True).status == "complete"


def test_a_search_of_another_configuration_does_not_go_on_from_it(checkpoints, tmp_path):
    cell, kept = checkpoints["taylorglo", 2]
    other = dataclasses.replace(cell, budget="smoke+population=4+generations=3")
    refused(tmp_path, other, kept, "another run")
