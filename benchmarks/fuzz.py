"""Inputs refused of inputs tried: what strangers could feed the package, changed at random places.

    python -m benchmarks.fuzz [--inputs 100000] [--seed 0]

Expressions, loss files, records of searches, tests and contests, checkpoints of searches, trials and of `search_loss`,
overrides, configurations, names of cells, parameters of notebooks and data files: good ones whose bytes are flipped, cut,
doubled or replaced, or whose values are exchanged. Half of the checkpoints and contests get a new digest, as a forger would
give them. Each must be refused with ValueError or RecordError, or be read; any other exception ends the program and names
the input. What is read must be harmless: a data file is the published one, and a pickle is opened only if it is.
"""

import argparse
import collections
import contextlib
import copy
import dataclasses
import gzip
import hashlib
import json
import pickle
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import evomal_core as ec
from evomal_core import files
from evomal_core.config import parse_override
from evomal_core.experiments import contests, store
from evomal_core.losses import expression, loss_from_json
from evomal_core.own import call
from evomal_core.search import SearchState
from evomal_core.tasks import cifar, mnist, sources, tabular
from evomal_core.training import trial
from evomal_notebooks.parameters import read_parameters

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
TREE = "add(mul(y, sqrt(f)), min(tanh(sub(y, -1)), aq(1, log(f))))"
CONFIG = "smoke+population=3+generations=4+test_milestones=3,5+dtype=float64"
HOSTILE = (
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    -0.0,
    2.5,
    "",
    "x",
    "../../x",
    "__import__('os').system('false')",
    "\ud800",
    "\0",
)
HOSTILE += ([], {}, [[]], [{}], [1] * 50, {"a": {"b": [None]}}, "(" * 500, "log(" * 500, "y" * 5_000)


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes with one to four places flipped, cut out, doubled or replaced."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(changed) + 1), draw.choice((1, 1, 2, 8, 64))
        part = bytes(changed[at : at + length])
        new = (
            bytes(b ^ 1 << draw.randrange(8) for b in part),
            b"",
            part * 2,
            draw.randbytes(length),
            b"[" * length * 40,
        )
        changed[at : at + length] = draw.choice(new)
    return bytes(changed)


def mutated(data, draw: random.Random):
    """Plain data in which one value or key is exchanged, removed or added."""
    data = copy.deepcopy(data)
    place, keys = data, None
    while isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        parent, key = place, draw.choice(list(keys))
        place = parent[key]
        if draw.random() < 0.25:
            break
    if keys is None:
        return draw.choice(HOSTILE)
    if draw.random() < 0.2:
        del parent[key]
    else:
        parent[key] = draw.choice(HOSTILE)
    return data


def states(folder: Path) -> list[tuple[dict, ec.Config]]:
    """A state of every method that has checkpoints, and the configuration of its search."""
    found = []
    task = ec.load_task("diabetes", device="cpu")
    for method in ("evomal", "gp-lfl", "taylorglo", "glo"):
        config = ec.Config.for_cell(ec.Cell("diabetes", "logistic", method, 0, "smoke"))
        kept = ec.search([(task, ec.build_model("logistic", task))], config, 0, method).state.to_json()
        found.append((json.loads(json.dumps(kept)), config))
    return found


def sealed_again(state: dict, draw: random.Random) -> dict:
    """The same, half of the time with a digest that fits."""
    if not isinstance(state, dict) or draw.random() < 0.5:
        return state
    return files.sealed({name: value for name, value in state.items() if name != "digest"})


class Stop(Exception):
    """Raised in the middle of a trial."""


def half_a_trial(path: Path) -> Callable[[Path], object]:
    """Leave the checkpoint of a trial that was stopped in `path`; returns what reads one."""
    x = torch.linspace(-1, 1, 40)[:, None]
    task = ec.Task("made", (x, x), (x, x), (x, x), False)
    problem = task, torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    config, kept = ec.Config(batch_size=8), trial.Trial("test", 100, curve=(30,), starts=2)
    identity, batch, calls = [], ec.training.Problem.batch, 0

    def counted(self, *arguments):
        nonlocal calls
        calls += 1
        if calls > 160:
            raise Stop
        return batch(self, *arguments)

    with mock.patch.object(trial, "CHECKPOINT_SECONDS", 0.0), mock.patch.object(ec.training.Problem, "batch", counted):
        with contextlib.suppress(Stop):
            trial.run_trial([ec.SquaredError()], problem, config, 1, kept, path, [{"threads": 1}])
    identity = trial._identity([ec.SquaredError()], ec.training.Problem.of(problem, config), config, 1, kept)
    return lambda file: trial.Checkpoint(file, identity, kept)


def half_a_call(path: Path):
    """Leave the checkpoint of a call of `search_loss` in `path`; returns the call, which reads one by `_read`."""
    x = torch.linspace(-1, 1, 60)[:, None]
    given = {"budget": "smoke", "progress": False, "device": "cpu", "checkpoint": path}
    arguments = torch.nn.Linear(1, 1), (x[:40], x[:40]), (x[40:], x[40:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ec.search_loss(*arguments, "regression", **given)
    with mock.patch.object(call._Run, "found", lambda self: self):
        return ec.search_loss(*arguments, "regression", **given)


def data_files(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """kind -> content of a good file of data, and what reads one and raises AssertionError if it takes another for it."""
    table = np.round(np.random.default_rng(0).normal(size=(30, 4)), 3)
    columns = ("a", "b", "c", "y")
    lines = [",".join(columns), *(",".join(map(repr, row)) for row in table.tolist())]
    means = float(table[:, :-1].mean()), float(table[:, -1].mean())
    known = tabular.Table("t.csv", columns, 30, *means, tabular.digest_of(table), None, "nowhere")
    csv = ("\n".join(lines) + "\n").encode()
    idx = bytes([0, 0, 8, 3]) + np.array([2, 3, 3], ">i4").tobytes() + bytes(range(18))
    md5 = hashlib.md5(idx, usedforsecurity=False).hexdigest()
    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]})
    published = sources.Published(len(batch), hashlib.md5(batch, usedforsecurity=False).hexdigest())

    def same(found: bool) -> None:
        if not found:
            raise AssertionError("another file was taken for the published one")

    def read_pickle(path: Path) -> None:
        with sources.open_checked(path, published) as file:
            same(file.read() == batch)
            file.seek(0)
            cifar.ArrayUnpickler(file, encoding="bytes").load()

    def read_table(path: Path) -> None:
        same(tabular.digest_of(known.read(path)) == known.digest)

    images = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    return {
        "table.csv": (csv, read_table),
        "table.csv.gz": (gzip.compress(csv), read_table),
        "images": (idx, lambda path: same(np.array_equal(mnist.read_idx(path, md5), images))),
        "images.gz": (gzip.compress(idx), lambda path: same(np.array_equal(mnist.read_idx(path, md5), images))),
        "batch": (batch, read_pickle),
    }


PARAMETERS = {
    "seed": 3,
    "seeds": "0,1",
    "budget": "quick",
    "datasets": "diabetes,boston",
    "models": "mlp",
    "methods": "evomal",
    "protocol": "paper",
    "device": "cpu",
    "workers": 2,
    "plan": False,
    "rates": "0.1,1.0",
    "source": "mnist/lenet5",
    "target": "cifar10/lenet5",
}


def targets(folder: Path) -> dict[str, Callable[[random.Random], object]]:
    """kind -> a function that makes an input and feeds it."""
    losses = [path.read_bytes() for path in sorted(FIXTURES.glob("losses/*.json"))]
    records = [path.read_bytes() for path in sorted(FIXTURES.rglob("record.json"))]
    tests = [
        (path.read_bytes(), store.read_record(path.parents[1] / "record.json"))
        for path in FIXTURES.rglob("tests/*.json")
    ]
    searches, path = states(folder), folder / "file.json"

    def in_file(content: bytes, draw: random.Random) -> Path:
        changed = mutated_bytes(content, draw)
        if draw.random() < 0.6:
            changed = json.dumps(mutated(json.loads(content), draw)).encode()
        path.write_bytes(changed)
        return path

    robust = ec.Cell("diabetes", "logistic", "evomal", 0, "smoke+test_steps=40", "robust")
    home = ec.run_cell(robust, results_dir=folder / "runs", device="cpu").path
    searched, (held,) = store.read_record(home / "record.json"), home.glob("contests/*.json")
    contest_of = json.loads(held.read_bytes())

    def contest(draw: random.Random) -> None:
        place = folder / "contest.json"
        place.write_bytes(json.dumps(sealed_again(mutated(contest_of, draw), draw)).encode())
        contests._read(place, searched, robust)

    read_trial = half_a_trial(folder / "half.safetensors")
    half = (folder / "half.safetensors").read_bytes()

    def of_trial(draw: random.Random) -> None:
        path.write_bytes(mutated_bytes(half, draw))
        read_trial(path)

    own = half_a_call(folder / "own.json")
    of_own = json.loads((folder / "own.json").read_bytes())
    own.path = path

    def of_call(draw: random.Random) -> None:
        path.write_bytes(json.dumps(sealed_again(mutated(of_own, draw), draw)).encode())
        own._read()

    published = data_files(folder)

    def of_data(draw: random.Random) -> None:
        name = draw.choice(list(published))
        content, read = published[name]
        (folder / name).write_bytes(mutated_bytes(content, draw))
        read(folder / name)

    def parameter(draw: random.Random) -> None:
        given = PARAMETERS if draw.random() < 0.1 else mutated(PARAMETERS, draw)
        if isinstance(given, dict):
            read_parameters(given, " ".join(PARAMETERS))

    def configuration(draw: random.Random) -> None:
        names = [field.name for field in dataclasses.fields(ec.Config)]
        ec.Config(**{draw.choice(names): draw.choice(HOSTILE) for _ in range(draw.randint(1, 3))})

    def checkpoint(draw: random.Random) -> None:
        state, config = draw.choice(searches)
        with files.reading(path):
            SearchState.from_json(mutated(state, draw)).check(config)

    def cell(draw: random.Random) -> None:
        values = {
            "dataset": "diabetes",
            "model": "mlp",
            "method": "glo",
            "seed": 1,
            "budget": CONFIG,
            "protocol": "paper",
        }
        if draw.random() < 0.5:
            values = mutated(values, draw)
        else:
            values["budget"] = mutated_bytes(CONFIG.encode(), draw).decode(errors="replace")
        with files.reading(path):
            made = ec.Cell(**values)
            if not store.folder_of(made, folder).resolve().is_relative_to(folder.resolve()):
                raise AssertionError(f"{values} climbs out of the folder of results")

    def record_of_test(draw: random.Random) -> None:
        content, search = draw.choice(tests)
        where = folder / "seed0" / "tests" / "fresh.json"
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(in_file(content, draw).read_bytes())
        store.all_tests(where.parents[1], search)

    return {
        "expressions": lambda draw: expression.parse(mutated_bytes(TREE.encode(), draw).decode(errors="replace")),
        "loss files": lambda draw: ec.load_loss(in_file(draw.choice(losses), draw)),
        "losses": lambda draw: loss_from_json(mutated(json.loads(draw.choice(losses)), draw)),
        "records": lambda draw: store.read_record(in_file(draw.choice(records), draw)),
        "tests": record_of_test,
        "checkpoints": checkpoint,
        "checkpoints of trials": of_trial,
        "checkpoints of calls": of_call,
        "contests": contest,
        "data files": of_data,
        "parameters": parameter,
        "configurations": configuration,
        "cells": cell,
        "overrides": lambda draw: parse_override(
            draw.choice(("operators", "generations", "dtype")), draw.choice(HOSTILE)
        ),
    }


def run(inputs: int, seed: int = 0, say=lambda line: None) -> dict[str, collections.Counter]:
    """kind -> how many inputs were refused and how many were read. Raises RuntimeError for any other end of one."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kinds = targets(Path(folder))
        found = {kind: collections.Counter() for kind in kinds}
        for k in range(inputs):
            kind = list(kinds)[k % len(kinds)]
            try:
                kinds[kind](random.Random(f"{seed}/{k}"))
                found[kind]["read"] += 1
            except (ValueError, ec.RecordError):
                found[kind]["refused"] += 1
            except Exception as error:
                raise RuntimeError(f"input {k} of seed {seed}, {kind}: {error!r}") from error
            if k % 10_000 == 9_999:
                say(f"{k + 1} inputs, {time.monotonic() - begin:.0f} s: {found}")
    return found


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(run(given.inputs, given.seed, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
