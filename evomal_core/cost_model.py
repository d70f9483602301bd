"""What runs will cost: expected hours of any cells on this machine, from a few timed steps of each kind.

A cell's work is counted in four kinds of steps, whose numbers its method's row tells (`Method.work`): meta-gradients, steps
of the rejection protocol, steps of base training, and instances on which trained models are measured. Each kind is timed
here, on the cell's own base model, batch size and data; random images of the data set's shape stand in where the data
cannot be had. How many candidates reach which filter differs from search to search, so most estimates, not all, are good to a
factor of 1.5 (`benchmarks.estimates` holds them against runs).
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from .checks import check
from .config import Config
from .experiments.cell import Cell
from .experiments.run import prepared
from .losses.meta_network import MetaLoss
from .registry import DATASETS, METHODS, Work
from .remedies import halving
from .search.filters import Probe, improvement
from .tasks import DataUnavailable, Task, find_device, load_task, sources
from .tasks.task import PARTS
from .training import Trial, evaluate, optimise_losses, run_trial
from .training.trial import LOOKS

# Losses of the size that searches have, none of which diverges
CLASSES = ("abs(log(mul(y, f)))", "square(aq(sub(y, f), add(f, abs(y))))", "sub(tanh(mul(f, f)), mul(y, log(f)))")
VALUES = (
    "square(sub(y, f))",
    "abs(sub(y, tanh(add(f, f))))",
    "sqrt(add(square(sub(f, y)), abs(mul(1, tanh(sub(y, f))))))",
)
BRIEF = 0.2  # seconds from which one timing is long enough
MEASURED = 200  # instances on which a model is timed
STAND_IN = 2_000  # random instances of each part, at most, where the data cannot be had


class Rates(NamedTuple):
    """Seconds of one step of each kind: a loss's meta-gradient, rejection step, step of fitness and of meta-testing, and
    the measurement of one instance; and how many instances each part has."""

    meta: float
    filter: float
    fitness: float
    test: float
    instance: float
    sizes: dict[str, int]


class Hours(float):
    """Hours of a run; `search` and `test` are its parts."""

    def __new__(cls, search: float, test: float) -> "Hours":
        made = super().__new__(cls, search + test)
        made.search, made.test = search, test
        return made


def estimate(cells: Iterable[Cell], data_dir=None, device: str = "auto") -> list[Hours]:
    """Expected hours of each cell on this machine, one cell at a time; `.search` of them are those of Table V.

    Nothing is downloaded. Records that are there already are not looked for: see `find_run`. The steps are timed in this
    process, with the number of threads that `run_cell` would use; a very slow step is timed on a smaller batch.

    Raises:
        ValueError: something that is no cell, or a method whose row does not tell its work.
    """
    known, hours = {}, []
    for cell in cells:
        check(isinstance(cell, Cell), "cells", "a list of Cells, like [Cell('diabetes', 'mlp', 'evomal')]", repr(cell))
        check(METHODS[cell.method].work, f"Method.work of {cell.method}", "a function of the Config", "None")
        config, rates = Config.for_cell(cell), _rates(cell, known, data_dir, device)
        looks = LOOKS if config.test_stop == "validation" else 1
        test = config.test_steps * rates.test + looks * _instances(rates, config, PARTS) * rates.instance
        if cell.selected:
            test += sum(each.most * each.starts * each.steps for each in halving.rounds(config)) * rates.fitness
        hours.append(Hours(_seconds_of_search(cell.search, known, data_dir, device) / 3600, test / 3600))
    return hours


def _seconds_of_search(cell: Cell, known: dict, data_dir, device) -> float:
    config = Config.for_cell(cell)
    work: Work = METHODS[cell.method].work(config)
    if not any(work):
        return 0.0
    rates = _rates(cell, known, data_dir, device)
    measured = _instances(rates, config, ("validation",)) * rates.instance
    return (
        work.optimised * config.meta_steps * rates.meta
        + work.filtered * config.rejection_steps * rates.filter
        + work.evaluated * config.fitness_starts * (config.fitness_steps * rates.fitness + measured)
    )


def _instances(rates: Rates, config: Config, parts: Iterable[str]) -> int:
    most = config.evaluation_instances
    return sum(min(rates.sizes[part], most) if most else rates.sizes[part] for part in parts)


def _rates(cell: Cell, known: dict, data_dir, device) -> Rates:
    """The rates of a cell's base model, timed once for all methods."""
    config = Config.for_cell(cell)
    key = (
        cell.dataset,
        cell.model,
        cell.protocol,
        config.batch_size,
        config.inner_steps,
        config.dtype,
        config.autocast,
    )
    if key not in known:
        row = DATASETS[cell.dataset]
        try:
            with sources.offline():
                task = load_task(cell.dataset, cell.protocol, data_dir, device, config.dtype)
            instances = [len(getattr(task, part)[0]) for part in PARTS]
        except DataUnavailable:
            if not row.shape:
                raise
            task, instances = random_task(cell.dataset, config.dtype).to(find_device(device)), row.instances
        # Parts whose images are cropped and flipped, such as the training part of CIFAR, are not measured.
        sizes = {part: 0 if part in task.augmented else n for part, n in zip(PARTS, instances, strict=True)}
        with prepared(cell, (data_dir, device), {}, task) as (problem, config):
            known[key] = timed(problem, config, sizes)
    return known[key]


def random_task(name: str, dtype: str = "float32") -> Task:
    """Random instances of a data set's shape, on the CPU; at most `STAND_IN` a part."""
    row, draw = DATASETS[name], torch.Generator().manual_seed(0)

    def part(instances: int) -> tuple[torch.Tensor, torch.Tensor]:
        n = min(instances, STAND_IN)
        x = torch.randn(n, *row.shape, generator=draw, dtype=getattr(torch, dtype))
        if row.classification:
            return x, torch.randint(row.outputs, (n,), generator=draw)
        return x, torch.randn(n, 1, generator=draw, dtype=x.dtype)

    parts = {name: part(n) for name, n in zip(PARTS, row.instances, strict=True)}
    augmented = ("train",) if len(row.shape) == 3 and row.shape[0] == 3 else ()  # colour images
    return Task(name, **parts, classification=row.classification, outputs=row.outputs, augmented=augmented)


def timed(problem, config: Config, sizes: dict[str, int]) -> Rates:
    """The rates of a problem under a configuration, each from at least a fifth of a second of work.

    Where a step takes long, it is timed on two smaller batches, and its seconds are taken as linear in the batch size.
    """
    kinds = CLASSES if problem.task.classification else VALUES
    losses = [MetaLoss(text, None, problem.task.classification) for text in kinds]
    losses = [loss.to(device=problem.task.device, dtype=problem.task.dtype) for loss in losses]

    def train(size: int, steps: int, under=losses[:1]) -> None:
        run_trial(under, problem, replace(config, batch_size=size), 0, Trial("fitness", steps, (0,), parts=()))

    def meta(size: int, steps: int) -> None:
        optimise_losses(losses, [problem], replace(config, batch_size=size, meta_steps=steps), 0)

    largest = config.batch_size
    size = next((s for s in (4, 16, 64) if s < largest and _a_step(partial(train, s)) > BRIEF), largest)
    losses = losses if size == largest else losses[:1]
    batches = [size] if size == largest else [size, min(4 * size, largest)]

    def a_step(run: Callable[[int, int], object]) -> float:
        seconds = [_a_step(partial(run, batch)) for batch in batches]
        slope = (seconds[-1] - seconds[0]) / (batches[-1] - size) if len(batches) > 1 else 0.0
        return seconds[0] + max(slope, 0.0) * (largest - size)

    count, probe = len(losses), Probe.of(problem, config, 0)
    filtering = _a_step(lambda n: improvement(losses, probe, replace(config, rejection_steps=n)))
    test = a_step(train)
    fitness = test if count == 1 else a_step(partial(train, under=losses)) / count
    model, seed = problem.model, 0 if problem.draws else None
    evaluate(model, problem.task, "validation", 1, seed)
    measured = _seconds(lambda: evaluate(model, problem.task, "validation", MEASURED, seed))
    instance = measured / min(MEASURED, len(problem.task.validation[0]))
    return Rates(a_step(meta) / count, filtering / count, fitness, test, instance, sizes)


def _a_step(run: Callable[[int], object]) -> float:
    """Seconds of one step of `run(steps)`; what comes before the first step is subtracted.

    Each time is the lower of two, since memory that is new to the process can make a single one far too long.
    """
    run(1)
    first, steps = _quickest(partial(run, 1)), 1
    while True:
        steps *= 4 if steps > 1 or first < BRIEF else 2
        seconds = _quickest(partial(run, 1 + steps))
        if seconds - first > BRIEF or steps >= 4096:
            return max(seconds - first, seconds / 20) / steps


def _quickest(run: Callable[[], object]) -> float:
    return min(_seconds(run) for _ in range(2))


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
