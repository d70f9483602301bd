"""The benchmarks share a problem from the command line, a timer whose sides take turns, and a line of provenance."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

import evomal_core as ec
from evomal_core.machine import environment
from evomal_core.training import Problem

from .trees import TREES

IMAGES = {"mnist": (1, 28, 28), "digits": (1, 8, 8), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}
SIZES = {"train": 54_000, "validation": 6_000, "test": 10_000}


@dataclass(frozen=True)
class Setup:
    """A task with a base model, the settings of an EvoMAL cell at the paper's budget, and the source of the data."""

    task: ec.Task
    model: nn.Module
    config: ec.Config
    data: str

    @cached_property
    def problem(self) -> Problem:
        """What training works on: the task, and a copy of the model with the layers that the package trains it with."""
        return Problem(self.task, self.model)

    def losses(self, n: int) -> list[ec.MetaLoss]:
        """The first n of the fixed trees, with weights drawn from N(1, 1e-3); behind the last tree comes the first again."""
        draw = torch.Generator().manual_seed(0)
        losses = [ec.MetaLoss(TREES[i % len(TREES)], None, self.task.classification) for i in range(n)]
        for loss in losses:
            loss.weights.data += self.config.weight_std * torch.randn(len(loss.weights), generator=draw)
        return [loss.to(device=self.task.device, dtype=self.task.dtype) for loss in losses]


def setup(dataset: str, model: str, device: str = "cpu", synthetic: bool = False, dtype: str = "float32") -> Setup:
    """Load a problem. Random images of the data set's shape stand in where the data set is missing."""
    task, source = None, "published"
    if not synthetic:
        try:
            task = ec.load_task(dataset, device=device, dtype=dtype)
        except ec.DataUnavailable:
            pass
    if task is None:
        task, source = synthetic_images(dataset).to(device, getattr(torch, dtype)), "synthetic"
    return Setup(
        task, ec.build_model(model, task), ec.Config.for_cell(ec.Cell(dataset, model, "evomal", 0, "paper")), source
    )


def synthetic_images(dataset: str) -> ec.Task:
    """Ten faint prototypes under grey noise. There are as many images as in MNIST, or a tenth of it if they have colours."""
    shape, rng = IMAGES[dataset], np.random.default_rng(0)
    prototypes = rng.standard_normal((10, *shape), dtype=np.float32)

    def part(n):
        n = n if shape[0] == 1 else n // 10
        y = rng.integers(10, size=n)
        x = prototypes[y] + rng.standard_normal((n, *shape), dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(y)

    return ec.Task(dataset, **{name: part(n) for name, n in SIZES.items()}, classification=True, outputs=10)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = "wall"  # set by `start`


def start(args: argparse.Namespace) -> None:
    """Take over the settings that hold for the whole process."""
    global clock
    clock = args.clock
    torch.set_num_threads(args.threads)


def turns(
    sides: dict[str, Callable[[], object]], repeats: int = 5, now: Callable | None = None
) -> dict[str, list[float]]:
    """Seconds of each side, `repeats` times, the sides taking turns (A B A B …) after one unmeasured turn of all."""
    now = now or CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, repeats):
        for name, side in sides.items():
            synchronise()
            begin = now()
            side()
            synchronise()
            if turn >= 0:
                seconds[name].append(now() - begin)
    return seconds


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median(values) -> float:
    """Rounded to four significant digits, as all printed numbers are."""
    return float(f"{statistics.median(values):.4g}")


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the turns of slow / fast. A disturbance that both sides met in the same turn cancels."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def parser(doc: str, problem: bool = True) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=doc.splitlines()[0])
    if problem:
        result.add_argument("dataset", choices=list(ec.DATASETS))
        result.add_argument("model", choices=list(ec.MODELS))
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--repeats", type=int, default=5, help="turns, of which the median is taken")
    result.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu is the time of this process alone, for a machine that others use",
    )
    result.add_argument("--device", default="cpu")
    result.add_argument("--synthetic", action="store_true", help="random images even where the data set is there")
    result.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    return result


def report(result: dict, args: argparse.Namespace) -> None:
    """Print `result` with date, hardware, versions and commit, as one JSON line or with a line for each entry."""
    result |= {"date": time.strftime("%Y-%m-%d"), "threads": args.threads, "clock": clock, "repeats": args.repeats}
    if hasattr(os, "getloadavg"):
        result["load"] = round(os.getloadavg()[0], 2)
    result |= environment(torch.device(args.device))
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{name}:")
            for row in value:
                print("  " + "  ".join(f"{k} {v}" for k, v in row.items()))
        elif name != "losses":
            print(f"{name}: {value}")
