"""How does the cost grow with `population`, `batch`, `width` (of the MLP), `cells` (at once) and in a `run`?

A `run` varies S_meta, S_testing and the number of generations. `python -m benchmarks.scaling [PART …] [--quick]` prints a
table for each part that is named, or for all parts if none is.
"""

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import evomal_core as ec
from evomal_core.models.mlp import mlp

from . import common
from .floor import phases

CELL = """
import sys
import evomal_core as ec
dataset, model, budget, results = sys.argv[1:]
ec.run_cell(ec.Cell(dataset, model, "evomal", 0, budget), results, device="cpu", threads=1)
"""
RUN_COUNTS = {"meta_steps": (20, 80), "fitness_steps": (40, 160), "generations": (2, 4)}
QUICK_COUNTS = {"meta_steps": (2, 8), "fitness_steps": (4, 16), "generations": (2, 3)}


def compare(setups: dict, candidates: dict, args) -> list[dict]:
    """Milliseconds of a candidate and step in each phase, and candidates a second at the paper's counts.

    A quarter of the candidates is evaluated.
    """
    steps = {"meta": 2, "filter": 10, "fitness": 4} if args.quick else {"meta": 5, "filter": 50, "fitness": 20}
    sides, counts = {}, {}
    for name, setup in setups.items():
        losses = setup.losses(candidates[name])
        for phase, function in phases(setup, losses, losses[::4], steps).items():
            sides[name, phase] = function
            counts[name, phase] = steps[phase] * (len(losses[::4]) if phase == "fitness" else len(losses))
    seconds = common.turns(sides, args.repeats)
    rows = []
    for name, setup in setups.items():
        ms = {phase: common.median(s / counts[name, phase] * 1e3 for s in seconds[name, phase]) for phase in steps}
        paper = setup.config
        one = (
            paper.meta_steps * ms["meta"]
            + paper.rejection_steps * ms["filter"]
            + paper.fitness_steps * ms["fitness"] / 4
        )
        rows.append({"at": name, **ms, "candidates_per_second": common.median([1e3 / one])})
    return rows


def population(setup, args):
    sizes = (1, 5) if args.quick else (1, 5, 25, 50)
    return compare(dict.fromkeys(sizes, setup), {size: size for size in sizes}, args)


def batch(setup, args):
    sizes = (32, 128) if args.quick else (32, 64, 128, 256)
    changed = {n: dataclasses.replace(setup, config=dataclasses.replace(setup.config, batch_size=n)) for n in sizes}
    return compare(changed, dict.fromkeys(sizes, 5), args)


def width(setup, args):
    task = setup.task
    sizes = (125, 250) if args.quick else (250, 500, 1000, 2000)
    models = {n: mlp(task.input_shape, task.outputs, (n, n)).to(task.device) for n in sizes}
    return compare(
        {n: dataclasses.replace(setup, model=model) for n, model in models.items()}, dict.fromkeys(sizes, 5), args
    )


def cells(args) -> list[dict]:
    """Cells a minute of one process and of two side by side, from the start of the interpreter to the finished record."""
    counts = {
        "population": 4,
        "generations": 2,
        "meta_steps": 4,
        "fitness_steps": 4,
        "rejection_steps": 4,
        "test_steps": 4,
    }
    if not args.quick:
        counts = {"population": 8, "generations": 3, "meta_steps": 80, "fitness_steps": 100, "rejection_steps": 100}
        counts["test_steps"] = 500
    budget = "+".join(["quick", *(f"{name}={value}" for name, value in counts.items())])

    def at_once(n: int):
        with tempfile.TemporaryDirectory() as results:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-W", "ignore", "-c", CELL, args.dataset, args.model, budget]
            folders = [tempfile.mkdtemp(dir=results) for _ in range(n)]
            running = [subprocess.Popen([*command, f], env=environment, stdout=sys.stderr) for f in folders]
            if any(process.wait() for process in running):
                raise RuntimeError("a cell failed; its message stands above")

    seconds = common.turns({n: lambda n=n: at_once(n) for n in (1, 2)}, args.repeats, time.perf_counter)
    rate = {n: [n / s for s in values] for n, values in seconds.items()}
    return [
        {
            "at_once": n,
            "cells_per_minute": common.median(60 * r for r in rate[n]),
            "ratio": common.ratio(rate[n], rate[1]),
        }
        for n in seconds
    ]


def run(args) -> list[dict]:
    """Seconds of whole runs, to which least squares fit seconds = a + generations (b + c S_meta + d S_testing)."""
    counts = QUICK_COUNTS if args.quick else RUN_COUNTS
    rows, features, seconds = [], [], []
    for meta, fitness, generations in itertools.product(*counts.values()):
        values = dict(zip(counts, (meta, fitness, generations), strict=True))
        values |= {"population": 8, "rejection_steps": 20, "test_steps": 20}
        with tempfile.TemporaryDirectory() as results:
            now = common.CLOCKS[common.clock]
            start = now()
            cell = ec.Cell(args.dataset, args.model, "evomal").with_overrides(values)
            kept = ec.run_cell(cell, results, device=args.device, threads=args.threads)
            seconds.append(now() - start)
        events = {name: int(kept.history[name].sum()) for name in ("rejected", "evaluated")}
        features.append([1, generations, generations * meta, generations * fitness])
        rows.append(
            {"S_meta": meta, "S_testing": fitness, "generations": generations, **events, "seconds": seconds[-1]}
        )
    features, seconds = np.array(features, float), np.array(seconds)
    fit = np.linalg.lstsq(features, seconds, rcond=None)[0]
    left = 1 - ((features @ fit - seconds) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    names = ("start_s", "generation_s", "generation_and_meta_step_s", "generation_and_fitness_step_s")
    model = {name: common.median([value]) for name, value in zip(names, fit, strict=True)}
    rows = [row | {"seconds": common.median([row["seconds"]])} for row in rows]
    return [*rows, {"fit": "population of 8", **model, "R2": common.median([left])}]


PARTS = ("population", "batch", "width", "cells", "run")


def main(arguments=None) -> None:
    parser = common.parser(__doc__, problem=False)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--dataset", default="diabetes", choices=list(ec.DATASETS))
    parser.add_argument("--model", default="mlp", choices=list(ec.MODELS))
    parser.add_argument("--quick", action="store_true", help="take sizes for a try, not for a table")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    common.start(args)
    setup = common.setup(args.dataset, args.model, args.device, args.synthetic)
    result = {"benchmark": "scaling", "dataset": args.dataset, "model": args.model, "data": setup.data}
    for part in args.parts or PARTS:
        result[part] = globals()[part](args) if part in ("cells", "run") else globals()[part](setup, args)
    common.report(result, args)


if __name__ == "__main__":
    main()
