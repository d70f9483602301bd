"""Search once, test many: `run_cell` makes the record of a search, and a record of each test of its loss."""

import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas

from .. import files, streams
from ..checks import NUMBER, check, check_choice, check_fields
from ..config import NOT_IDENTITY, Config
from ..losses import loss_from_json
from ..losses.elementwise import in_file
from ..machine import environment, since, threads
from ..models import build_model
from ..registry import METHODS
from ..search import SearchState, search
from ..search.state import PHASES, claim, origin_of
from ..tasks import load_task
from ..tasks.task import PARTS
from ..training import Outcome, Problem, Trial, choose, run_trial
from ..training.acceleration import accelerated, enabled
from . import contests, store
from .cell import Cell

Say = Callable[[str], None]


def find_run(cell: Cell, results_dir=None) -> store.Run | None:
    """The finished record of a cell, its search and its test; None where one is missing.

    Raises:
        store.RecordError: the folder holds a damaged record, or one of another configuration.
    """
    folder = store.search_folder(cell, results_dir)
    found = store.read_search(folder, cell)
    if found is None:
        return None
    test = store.read_test(folder, found, cell)
    untested = found["status"] == "no_loss" and not cell.selected
    return store.Run.of(cell, folder, found, test) if test or untested else None


def run_cell(
    cell: Cell,
    results_dir=None,
    data_dir=None,
    device: str = "auto",
    overrides: dict | None = None,
    force: bool | str = False,
    engine: str = "auto",
    threads: int | None = None,
    copies: int = 0,
    channels_last: bool = False,
    progress: Say | None = None,
) -> store.Run:
    """Run one cell, or return its record if it has one.

    A search that has a record is not repeated for another test of its loss. A killed search goes on from its last
    generation, a killed test from its last checkpoint. Cells in threads of one process take turns. Of two processes that want
    the same search or the same test, one makes it, and the other waits for its record and says so.

    Args:
        results_dir, data_dir: default `results/runs/` (or EVOMAL_RESULTS) and `data/` (or EVOMAL_DATA).
        overrides: settings of `Config` to change, for example {"generations": 10}; they stand in the record's path.
        force: make a new search and test from the start, whose records replace the old ones (also damaged ones, or ones of
            another configuration) when they are complete; "resume" goes on with one that was killed.
        engine: the meta-gradient's; threads: the CPU's, by default 1, or all cores for a large model; copies: K of
            stacking, by default 1 on a CPU; channels_last: memory format of convolutions in base training. None changes
            results in exact arithmetic, and all are recorded.
        progress: called with one line of text a generation. An exception in it ends nothing: it is a warning, once.

    Raises:
        tasks.DataUnavailable: the data set is not on disk, and its download failed.
        store.RecordError: as `find_run`; or a checkpoint is damaged or of another run, or results cannot be written.
    """
    check(isinstance(cell, Cell), "cell", "a Cell, like Cell('diabetes', 'mlp', 'evomal')", repr(cell))
    check_choice("force", force, (False, True, "resume"))
    cell = cell.with_overrides(overrides)
    if not force and (run := find_run(cell, results_dir)):
        _tidy(run.path, cell)
        return run
    numerics = {"engine": engine, "copies": copies, "channels_last": channels_last}
    numerics |= {"threads": threads} if threads else {}
    say, where = harmless(progress), (data_dir, device)
    folder, made, test = store.search_folder(cell, results_dir), None, None
    waiting = lambda: say(f"{cell}: another process or thread works on it; waiting")  # noqa: E731
    with ExitStack() as searching:
        if force or store.read_search(folder, cell) is None:
            searching.enter_context(files.locked(folder / ".lock", waiting))
            for name in ("record.json", "loss.json", "history.csv", "checkpoint.json"):
                files.remove_leftovers(folder / name)
        old = (folder / "record.json").exists()
        found = None if force else store.read_search(folder, cell)
        if force is True:
            (folder / "checkpoint.json").unlink(missing_ok=True)
        if found is None:
            with streams.computing(), prepared(cell.search, where, numerics) as (problem, config):
                made = found = _search(cell.search, problem, config, folder, say)
            if not old:
                store.write_search(folder, made)
        if not (made and old):
            searching.close()  # other tests of the same search need not wait for this one
        if found["loss"] is not None or cell.selected:
            taken = found
            if cell.selected:
                prepare = partial(prepared, where=where, numerics=numerics)
                with streams.computing():
                    taken = contests.selected(cell, found, folder, prepare, _contest_head, force is True, say)
            checkpoint = store.trial_checkpoint(folder, cell)
            with files.locked(checkpoint.with_suffix(".lock"), waiting):
                for path in (checkpoint, store.test_path(folder, cell)):
                    files.remove_leftovers(path)
                if force is True:
                    checkpoint.unlink(missing_ok=True)
                if not force:
                    test = store.read_test(folder, found, cell)  # another process may have made it by now
                if test is None:
                    with streams.computing(), prepared(cell, where, numerics) as (problem, config):
                        test = _test(cell, problem, config, taken, folder) | {"search": store.named(cell, found)}
                    if made and old:
                        store.replace_search(folder, made)
                    store.write_test(folder, cell, test)
        elif made and old:
            store.replace_search(folder, made)
    _tidy(folder, cell)
    return find_run(cell, results_dir)


class _Busy(Exception):
    """Another process works there."""


def _tidy(folder: Path, cell: Cell) -> None:
    """Remove checkpoints that have become records, and those that a process left when it was killed before it could.

    Those of a process that searches or tests anew stay, and so do those in a folder that cannot be written.
    """

    def busy() -> None:
        raise _Busy

    trial = store.trial_checkpoint(folder, cell)
    for left, lock in ((folder / "checkpoint.json", folder / ".lock"), (trial, trial.with_suffix(".lock"))):
        if left.exists():
            with suppress(_Busy, OSError, files.RecordError), files.locked(lock, busy):
                left.unlink(missing_ok=True)


def harmless(progress: Say | None) -> Say:
    """`progress` as a function that ends no run: its first exception is a warning, and it is not called again."""

    def say(line: str) -> None:
        nonlocal progress
        try:
            if progress:
                progress(line)
        except Exception as error:
            progress = None
            warnings.warn(f"progress raised {error!r} and is not called any more", stacklevel=2)

    return say


@contextmanager
def prepared(cell: Cell, where, numerics: dict, task=None):
    """(problem, configuration) of a cell, with the number of threads set as it is to be computed with.

    Args:
        where: (data_dir, device).
        numerics: fields of `Config` that do not change results in exact arithmetic, where they are not to be chosen.
        task: the data; loaded if left out.
    """
    config, (data_dir, device) = Config.for_cell(cell), where
    task = task or load_task(cell.dataset, cell.protocol, data_dir, device, config.dtype)
    config = replace(config, **numerics)
    problem = Problem(task, build_model(cell.model, task, cell.protocol), config)
    with threads(problem.model, numerics.get("threads")) as count:
        config = replace(config, threads=count)
        stacked = accelerated("copies")
        yield problem, replace(config, copies=stacked(config, problem) if stacked else 1)


def _search(cell: Cell, problem: Problem, config: Config, folder: Path, say: Say) -> dict:
    """The record of a search, which goes on from where a killed one was; a checkpoint after every generation.

    Its provenance lists what it was computed with, and from which generation on: one entry, unless a resumed search met
    another engine, number of threads, machine or code.
    """
    facts, started = environment(problem.task.device), time.gmtime()
    engine = choose(config.engine, problem.model, config)
    now = _numerics(config) | {"engine": engine} | facts
    state, resumed, spent, provenance = METHODS[cell.method].state(), 0, 0.0, []
    if (checkpoint := folder / "checkpoint.json").exists():
        with store.reading(checkpoint):
            kept = files.unsealed(files.read_json(checkpoint, store.SCHEMA))
            check_fields("the checkpoint", kept, {"resumed": (int,), "seconds": NUMBER})
            store.check_identity(checkpoint, kept, cell, config)
            state, resumed, spent = SearchState.from_json(kept["state"]), kept["resumed"] + 1, kept["seconds"]
            claim(state, cell.method, cell.seed, origin_of([problem], config))
            state.check(config)
            provenance = kept.get("provenance", [])
        say(f"{cell}: goes on from generation {state.generation}")
    with store.reading(checkpoint):
        provenance = since(provenance, {"generation": state.generation}, now)
    start = time.perf_counter() - spent

    def on_generation(state: SearchState) -> None:
        progress = {"seconds": time.perf_counter() - start, "resumed": resumed, "state": state.to_json()}
        progress["provenance"] = provenance
        kept = json.loads(json.dumps({"schema": store.SCHEMA, **store.identity(cell, config), **progress}))
        files.write_json(checkpoint, files.sealed(kept))
        if not (folder / "record.json").exists():  # whose history stays beside it until it is replaced
            store.write_history(folder, state.history)
        say(progress_line(cell, state.history))

    result = search([problem], config, cell.seed, cell.method, state, on_generation)
    seconds = {phase: sum(row[f"seconds_{phase}"] for row in result.state.history) for phase in PHASES}
    seconds["search"] = time.perf_counter() - start
    leaders = [
        {"fitness": leader.fitness, "learning_rate": leader.learning_rate, "loss": leader.loss.to_json()}
        for leader in result.leaders
    ]
    status, reason, loss = "no_loss", "every candidate was rejected or not finite", None
    if result.loss is not None:
        status, reason, loss = "complete", None, in_file(result.loss)
    record = _head(cell, problem, config, started) | {"status": status, "reason": reason, "loss": loss}
    record |= {"fitness": leaders[0]["fitness"] if leaders else None, "learning_rate": result.learning_rate}
    record |= {"steps": result.steps}
    record |= {"leaders": leaders, "history": result.state.history, "resumed": resumed, "plain": not enabled()}
    record |= {"seconds": {name: round(value, 3) for name, value in seconds.items()}}
    return record | {"engine": engine, "provenance": provenance, **facts}


def _numerics(config: Config) -> dict:
    """The settings that change results by rounding alone, as an entry of a provenance names them."""
    return {name: value for name, value in asdict(config).items() if name in NOT_IDENTITY} | {"plain": not enabled()}


def _head(cell: Cell, problem: Problem, config: Config, started: time.struct_time) -> dict:
    """What the records of a search and of a test begin with."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", started)
    settings = {"cell": asdict(cell), "config": asdict(config), "metric": problem.task.metric_name}
    return {"schema": store.SCHEMA, "started": when, **settings}


def _contest_head(cell: Cell, problem: Problem, config: Config) -> dict:
    facts = environment(problem.task.device)
    return _head(cell, problem, config, time.gmtime()) | facts | {"provenance": [_numerics(config) | facts]}


def _test(cell: Cell, problem: Problem, config: Config, taken: dict, folder: Path) -> dict:
    """The record of a test of a loss: the base model trained in full (eq. 3).

    Args:
        taken: the record of its search, or what `contests.selected` gives.
    """
    facts, started, start = environment(problem.task.device), time.gmtime(), time.perf_counter()
    loss = loss_from_json(taken["loss"]).to(device=problem.task.device)
    rate = config.test_learning_rate or taken["learning_rate"] or config.base_learning_rate
    parts, steps = PARTS[1:] if problem.task.augmented else PARTS, taken.get("steps") or config.test_steps
    trial = trial_of_test(config, learning_rate=rate, parts=parts, steps=steps)
    provenance = [_numerics(config) | facts]
    kept = store.trial_checkpoint(folder, cell)
    ((outcome,),) = run_trial([loss], problem, config, cell.seed, trial, kept, provenance)
    status, reason, errors = "complete", None, outcome.errors
    if outcome.diverged:
        status, reason, errors = "diverged", "meta-testing met a loss or an output that is not finite", {}
    record = _head(cell, problem, config, started) | {"status": status, "reason": reason}
    record |= {f"{part}_metric": errors.get(part) for part in PARTS}
    record |= {
        "start": config.test_start,
        "steps": trial.steps,
        "milestones": trial.milestones,
        "stopped": outcome.step,
    }
    record |= {name: taken[name] for name in ("selection", "loss") if "selection" in taken}
    seconds = taken["seconds"] if "selection" in taken else {}
    seconds = seconds | {"test": round(time.perf_counter() - start, 3)}
    return record | {"learning_rate": rate, "seconds": seconds, "provenance": provenance, **facts}


def trial_of_test(config: Config, **changes) -> Trial:
    """Meta-testing as a trial; from the start "search" it begins as the fitness evaluation of the first task did."""
    purpose, index = {"fresh": ("test", ()), "search": ("fitness", (0,))}[config.test_start]
    trial = Trial(purpose, config.test_steps, index, None, config.test_milestones, PARTS, stop=config.test_stop)
    return replace(trial, **changes)


def test_loss(
    loss,
    task,
    model,
    config: Config,
    seed: int = 0,
    start: str = "fresh",
    steps: int | None = None,
    learning_rate: float | None = None,
    keep_model: bool = False,
) -> store.Test:
    """Train a base model under a loss in full, and judge it on the test part: one trial (eq. 3).

    Args:
        loss: any module called as `loss(prediction, target)`.
        model: a base model for the task; it is copied, and its weights are drawn afresh.
        start: "fresh", initial weights and batches of their own; "search", those of the search's fitness evaluation.
        steps, learning_rate: default as in `config`.
        keep_model: whether the trained model is returned.

    Returns:
        `.error` on the test part (inf if the training diverged), `.status` "complete" or "diverged", `.model`, `.errors`.
    """
    changes = {"test_start": start} | ({} if steps is None else {"test_steps": steps})
    config = replace(config, **changes)
    rate = learning_rate or config.test_learning_rate or config.base_learning_rate
    trial = trial_of_test(config, learning_rate=rate, keep_models=keep_model)
    outcome: Outcome = run_trial([loss], (task, model), config, seed, trial)[0][0]
    status = "diverged" if outcome.diverged else "complete"
    error = math.inf if outcome.diverged else outcome.errors["test"]
    return store.Test(error, status, outcome.errors, outcome.model)


test_loss.__test__ = False  # pytest takes it for a test


def progress_line(cell: Cell, history: list[dict]) -> str:
    """The last generation in one line: best and median fitness, evaluated candidates, time left at the pace so far."""
    generations = METHODS[cell.method].generations(Config.for_cell(cell.search))
    try:
        row = history[-1]
        best, median = ("none" if pandas.isna(row[k]) else f"{row[k]:.4f}" for k in ("best_so_far", "median"))
        spent = sum(row[f"seconds_{phase}"] for row in history for phase in PHASES)
        left = f"{spent / len(history) * (generations - len(history)) / 60:.1f} min left"
        numbers = f"best {best}, median {median}, evaluated {row['evaluated']}, {left}"
    except (LookupError, TypeError, ValueError):  # a history.csv that this version did not write
        numbers = "whose row cannot be read"
    return f"{cell.search}: generation {len(history)}/{generations}, {numbers}"
