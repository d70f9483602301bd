"""Fitness over many starts: the leaders of searches trained from initial weights and batches that their search did not see.

A search judges all candidates from one draw of initial weights and batches, start 0. Here its leaders, and the task loss,
are judged from start 0 again and from other starts, each time by a fitness evaluation (Algorithm 2) and nothing else. All
losses of a seed see the same starts, whatever their method. Two files below a folder of results keep what was measured:

    <results_dir>/initialisation/starts.csv        a row a loss: what names it, and its validation error from each start
                                 trajectories.csv  validation error against step, of some losses from some starts

Starts that were measured are not measured again, and a killed measurement goes on behind its last start.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas
import torch
from torch import nn

import evomal_core as ec
from evomal_core import files, machine
from evomal_core.experiments import store
from evomal_core.experiments.run import prepared
from evomal_core.losses.handcrafted import task_loss
from evomal_core.tasks import Task

from . import planning, report
from .parameters import Parameters

METHODS = ("evomal", "gp-lfl", "random")  # whose candidates are trees
TASK_LOSS = "baseline"
TASK = ["dataset", "model", "budget", "protocol"]
SEARCH = [*TASK, "method", "seed"]
KEY = [*SEARCH, "rank"]
FACTS = ["seconds", "hardware", "torch", "commit"]
COLUMNS = [*KEY, "expression", "weights", "fitness", "steps", "n", "trivial", "errors", *FACTS]
STEP_COLUMNS = [*KEY, "start", "step", "error"]
LONGER, LOOKS = 2, 50  # a trajectory has so many times the steps of a fitness evaluation, and so many points
SAID_EVERY = 10  # starts


def searched(cell: ec.Cell, results_dir=None) -> ec.Run | None:
    """The record of a cell's search, the reader's own or else a committed one; None if there is none.

    The older committed records keep the best candidate alone, as the only leader.
    """
    return ec.find_run(cell, results_dir) or ec.find_run(cell, report.REFERENCE)


def trivial(task: Task) -> float:
    """Validation error of the best constant prediction on the training part: its mean, or its most frequent class."""
    y, target = task.train[1], task.validation[1]
    row = torch.bincount(y, minlength=task.outputs) if task.classification else y.mean(0)
    return float(task.metric(row.to(task.dtype).expand(len(target), -1), target))


def path_of(folder, name: str = "starts") -> Path:
    """A file of the measurements below a folder of results: "starts" or "trajectories"."""
    return Path(folder) / "initialisation" / f"{name}.csv"


def read(folder) -> pandas.DataFrame:
    """The measurements below a folder of results, a row a loss; an empty table if there are none.

    Columns: what names the search, and the loss's rank among its leaders (the task loss is of the method "baseline", rank
    0); its tree and weights; fitness, as the search recorded it (NaN for the task loss); steps of each training; n, the
    instances of the validation part; trivial, see `trivial`; errors, a tuple of the validation errors from start 0, 1, …,
    inf where the training diverged; seconds of all trainings; hardware, version of PyTorch, commit.
    """
    path = path_of(folder)
    if not path.exists():
        return pandas.DataFrame(columns=COLUMNS)
    with store.reading(path):
        table = pandas.read_csv(path, keep_default_na=False, na_values={"fitness": [""]})[COLUMNS]
        return table.assign(errors=[tuple(map(float, text.split())) for text in table["errors"]])


def write(table: pandas.DataFrame, folder) -> None:
    """Keep what `read` gives, in the order of `KEY`; errors with six significant digits."""
    table = table.sort_values(KEY)
    errors = [" ".join(f"{error:.6g}" for error in each) for each in table["errors"]]
    files.write_text(path_of(folder), table.assign(errors=errors).to_csv(index=False))


def announced(p: Parameters) -> list[ec.Cell]:
    """The searches whose leaders are to be measured, after a word on how long searches and measurements will take.

    There are none if no seed was asked for, or with `p.plan`.
    """
    cells = p.cells()
    waiting = [cell for cell in cells if searched(cell, p.results_dir) is None]
    if waiting or not cells:
        planning.announced(p, waiting)
    if cells:
        trainings, hours = expected(cells, p)
        print(f"Trainings to measure: {trainings}, expected {planning.hours(hours)} on this machine.")
    return [] if p.plan else cells


def expected(cells: Iterable[ec.Cell], p: Parameters) -> tuple[int, float]:
    """(trainings that are not measured yet, the hours that they are expected to take here), for `p.starts` other starts."""
    count, hours, done = 0, 0.0, {} if p.force else _by_key(read(store.results_dir(p.results_dir)))
    for block, group in _blocks(cells):
        ranks = [(TASK_LOSS, 0)]
        for cell in group:
            run, most = searched(cell, p.results_dir), ec.Config.for_cell(cell).leaders
            ranks += [(cell.method, rank) for rank in range(min(len(run.leaders) if run else most, p.leaders or most))]
        there = [
            len(done[key]["errors"]) for rank in ranks if (key := (*block[:-1], rank[0], block[-1], rank[1])) in done
        ]
        missing = (1 + p.starts) * len(ranks) - sum(min(n, 1 + p.starts) for n in there)
        tuned = ec.Cell(*block[:2], "tuned", block[-1], *block[2:4])  # whose search is nothing but fitness evaluations
        evaluations = ec.METHODS["tuned"].work(ec.Config.for_cell(tuned)).evaluated
        count += missing
        hours += missing * ec.estimate([tuned], p.data_dir, p.device)[0].search / evaluations if missing else 0.0
    return count, hours


def compute(
    cells: Iterable[ec.Cell],
    starts: int,
    leaders: int | None = None,
    results_dir=None,
    data_dir=None,
    device: str = "auto",
    force: bool = False,
    say: Callable[[str], None] = print,
) -> pandas.DataFrame:
    """Judge the leaders of the searches of cells, and the task loss, from start 0 and from `starts` other starts.

    A search without a record is run. All losses of a task and seed are trained side by side, and after each start the file
    of `path_of` is written.

    Args:
        leaders: at most so many of each search, the best; None for all.
        force: measure anew what was measured; searches are not repeated.
        say: called with a line of text now and then.

    Returns:
        The rows of these searches and of the task loss, as `read` gives them.
    """
    folder, wanted = store.results_dir(results_dir), set()
    kept = _by_key(read(folder))
    for block, group in _blocks(cells):
        runs = [
            searched(cell, results_dir) or ec.run_cell(cell, results_dir, data_dir, device, progress=say)
            for cell in group
        ]
        with prepared(group[0], (data_dir, device), {}) as (problem, config):
            facts = machine.environment(problem.task.device)
            hardware = facts["hardware"].get("gpu", facts["hardware"]["cpu"])
            facts = {"hardware": hardware, "torch": facts["versions"]["torch"], "commit": facts["commit"]}
            facts |= {
                "steps": config.fitness_steps,
                "n": len(problem.task.validation[1]),
                "trivial": trivial(problem.task),
            }
            losses = {(*block, TASK_LOSS, 0): (task_loss(problem.task), math.nan)}
            for run in runs:
                best = enumerate(run.leaders[:leaders])
                losses |= {(*block, run.cell.method, rank): (leader.loss, leader.fitness) for rank, leader in best}
            rows, modules = {}, {}
            for (*names, seed, method, rank), (loss, fitness) in losses.items():
                key = (*names, method, seed, rank)
                row = dict(zip(KEY, key, strict=True)) | {"expression": str(loss), "weights": _weights(loss)}
                row |= {"fitness": fitness, "errors": (), "seconds": 0.0} | facts
                old = kept.get(key)
                same = (
                    old
                    and not force
                    and all(old[name] == row[name] for name in ("expression", "weights", "steps", "n"))
                )
                rows[key], modules[key] = old if same else row, loss.to(problem.task.device)
            for start in range(1 + starts):
                todo, began = [key for key, row in rows.items() if len(row["errors"]) == start], time.perf_counter()
                trial = ec.Trial("fitness", config.fitness_steps, (0,)).of_start(start)
                outcomes = (
                    ec.run_trial([modules[key] for key in todo], problem, config, block[-1], trial) if todo else []
                )
                spent = (time.perf_counter() - began) / max(1, len(todo))
                for key, (outcome,) in zip(todo, outcomes, strict=True):
                    rows[key]["errors"] += (outcome.errors["validation"],)
                    rows[key]["seconds"] = round(rows[key]["seconds"] + spent, 3)
                kept |= rows
                if todo:
                    write(pandas.DataFrame(list(kept.values()), columns=COLUMNS), folder)
                if start % SAID_EVERY == 0 or start == starts:
                    say(
                        f"{', '.join(map(str, block[:-1]))}, seed {block[-1]}: {len(rows)} losses, start {start} of {starts}"
                    )
            wanted |= set(rows)
    table = read(folder)
    return table.loc[[key in wanted for key in table[KEY].itertuples(index=False, name=None)]].reset_index(drop=True)


def _by_key(table: pandas.DataFrame) -> dict[tuple, dict]:
    return {tuple(row[name] for name in KEY): row for row in table.to_dict("records")}


def _blocks(cells: Iterable[ec.Cell]):
    """((data set, model, budget, protocol, seed), its cells), whose losses see the same starts."""
    block = lambda cell: (*(getattr(cell, name) for name in TASK), cell.seed)  # noqa: E731
    return [(key, list(group)) for key, group in itertools.groupby(sorted(set(cells), key=block), block)]


def _weights(loss: nn.Module) -> str:
    """The weights of a loss with nine significant digits, from which float32 is read back exactly."""
    return " ".join(f"{w:.9g}" for p in loss.parameters() for w in p.detach().reshape(-1).tolist())


def loss_of(row) -> nn.Module:
    """The loss of a row of `read`, on the CPU."""
    classification = ec.DATASETS[row.dataset].classification
    if row.method == TASK_LOSS:
        return ec.CrossEntropy() if classification else ec.SquaredError()
    protocol, weights = ec.Protocol.parse(row.protocol), [float(w) for w in row.weights.split()]
    return ec.MetaLoss(
        row.expression, weights, classification, protocol["non_negative"] == "on", protocol["protection"]
    )


def trajectories(
    rows: pandas.DataFrame, starts: Iterable[int], results_dir=None, data_dir=None, device: str = "auto"
) -> pandas.DataFrame:
    """Validation error against step of the losses of some rows of one task and seed, from some starts; kept in a file.

    A training goes on to `LONGER` times the steps of a fitness evaluation, which its first part is.
    """
    folder, found = store.results_dir(results_dir), []
    if rows.empty:
        return pandas.DataFrame(columns=STEP_COLUMNS)
    first = rows.iloc[0]
    cell = ec.Cell(first.dataset, first.model, TASK_LOSS, int(first.seed), first.budget, first.protocol)
    with prepared(cell, (data_dir, device), {}) as (problem, config):
        steps = config.fitness_steps * LONGER
        looks = tuple(sorted({max(1, round(steps * k / LOOKS)) for k in range(1, LOOKS + 1)} | {config.fitness_steps}))
        losses = [loss_of(row).to(problem.task.device) for row in rows.itertuples()]
        for start in starts:
            trial = ec.Trial("fitness", steps, (0,), curve=looks).of_start(start)
            for row, (outcome,) in zip(
                rows.to_dict("records"), ec.run_trial(losses, problem, config, cell.seed, trial), strict=True
            ):
                named = {name: row[name] for name in KEY} | {"start": start}
                ends = [*outcome.curve, (steps, outcome.errors)]
                found += [named | {"step": step, "error": errors["validation"]} for step, errors in ends]
    made = pandas.DataFrame(found, columns=STEP_COLUMNS)
    table = pandas.concat([kept, made]) if len(kept := read_trajectories(folder)) else made
    table = table.drop_duplicates([*KEY, "start", "step"], keep="last", ignore_index=True)
    files.write_text(path_of(folder, "trajectories"), table.to_csv(index=False, float_format="%.6g"))
    return made


def read_trajectories(folder) -> pandas.DataFrame:
    """The trajectories below a folder of results; an empty table if there are none."""
    path = path_of(folder, "trajectories")
    if not path.exists():
        return pandas.DataFrame(columns=STEP_COLUMNS)
    with store.reading(path):
        return pandas.read_csv(path)[STEP_COLUMNS]
