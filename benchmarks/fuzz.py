"""Inputs refused of inputs tried: what strangers could feed the package, changed at random places.

    python -m benchmarks.fuzz [--inputs 100000] [--seed 0]

Expressions, loss files, records of searches and of tests, checkpoints, overrides and names of cells: good ones whose bytes
are flipped, cut, doubled or replaced, or whose values are exchanged. Each must be refused with ValueError or
RecordError, or be read; any other exception ends the program and names the input.
"""

import argparse
import collections
import copy
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import evomal_core as ec
from evomal_core import files
from evomal_core.config import parse_override
from evomal_core.experiments import store
from evomal_core.losses import expression, loss_from_json
from evomal_core.search import SearchState

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
