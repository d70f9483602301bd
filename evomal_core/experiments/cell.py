"""One cell of a table, run and kept: `Cell` names it, `run_cell` makes its record."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas
import torch

from .. import files, training
from ..config import DATASETS, MODELS, Config, Protocol, as_switch, check, check_choice, parse_override
from ..losses.elementwise import SCHEMA
from ..models import build_model
from ..search import METHODS, search
from ..search.evaluate import PHASES
from ..search.genetic import SearchState
from ..tasks import load_task
from ..tasks.task import PARTS
from ..training.base import Problem
from . import store

LARGE_MODEL = 5_000_000  # parameters from which a model is worth all cores


@dataclass(frozen=True, order=True)
class Cell:
    """One run of one cell of a table.

    Args:
        dataset, model, method: as in the tables; see `config.DATASETS`, `config.MODELS`, `METHODS`.
        seed: a whole number, 0 or more.
        budget: "smoke", "quick" or "paper", optionally with overrides: "quick+generations=10".
        protocol: "paper" or "released", optionally with switches: "paper+elitism=off".

    Raises:
        ValueError: an unknown name, with its near miss. Equal runs have equal names: switches and overrides that say
            what holds anyway are dropped, an override that is a switch becomes one, the others are sorted.
    """

    dataset: str
    model: str
    method: str
    seed: int = 0
    budget: str = "quick"
    protocol: str = "paper"

    def __post_init__(self):
        check_choice("data set", self.dataset, DATASETS)
        check_choice("model", self.model, MODELS)
        check_choice("method", self.method, METHODS)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be a whole number, 0 or more; got {self.seed!r}")
        object.__setattr__(self, "protocol", str(Protocol.parse(self.protocol)))
        changed = asdict(Config.for_cell(self))  # raises for an unknown budget or override
        object.__setattr__(self, "budget", str(self.budget).split("+")[0])
        plain = asdict(Config.for_cell(self))
        for name in sorted(name for name in plain if changed[name] != plain[name]):
            switch = as_switch(name, changed[name])
            part, change = ("protocol", switch) if switch else ("budget", f"{name}={_text(changed[name])}")
            object.__setattr__(self, part, f"{getattr(self, part)}+{change}")
        object.__setattr__(self, "protocol", str(Protocol.parse(self.protocol)))

    def with_overrides(self, overrides: dict | None) -> "Cell":
        """The same cell with counts or settings changed, which stand in its budget's or protocol's name."""
        changes = [f"{name}={_text(parse_override(name, value))}" for name, value in (overrides or {}).items()]
        return replace(self, budget="+".join([self.budget, *changes])) if changes else self

    def __str__(self) -> str:
        return f"{self.dataset}/{self.model}/{self.method} seed {self.seed} ({self.budget}, {self.protocol})"


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).replace("e+", "e")


def find_run(cell: Cell, results_dir=None) -> store.Run | None:
    """The finished record of a cell, or None.

    Raises:
        store.RecordError: the folder holds a damaged record, or one of another configuration.
    """
    folder = store.folder_of(cell, results_dir)
    if not (folder / "record.json").exists():
        return None
    run = store.read_run(folder, Cell)
    store.check_identity(folder / "record.json", run.data, cell, Config.for_cell(cell))
    return run


def run_cell(
    cell: Cell,
    results_dir=None,
    data_dir=None,
    device: str = "auto",
    overrides: dict | None = None,
    force: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    copies: int = 0,
    progress: Callable[[str], None] | None = None,
) -> store.Run:
    """Run one cell, or return its record if it has one; a killed run goes on from its last generation.

    Args:
        results_dir, data_dir: default `results/runs/` (or EVOMAL_RESULTS) and `data/` (or EVOMAL_DATA).
        overrides: settings of `Config` to change, for example {"generations": 10}; they stand in the record's path.
        force: make a new run from the start, whose record replaces the old one (also a damaged one, or one of another
            configuration) when it is complete.
        engine: of the meta-gradient; threads: of the CPU, by default 1, or all cores for a large model; copies: K of
            population batching, by default 1 on a CPU. None changes results in exact arithmetic, and all are recorded.
        progress: called with one line of text a generation.

    Raises:
        tasks.DataUnavailable: the data set is neither on disk nor to be downloaded.
        store.RecordError: as `find_run`.
    """
    check(isinstance(cell, Cell), "cell", "a Cell, like Cell('diabetes', 'mlp', 'evomal')", repr(cell))
    cell = cell.with_overrides(overrides)
    if not force and (run := find_run(cell, results_dir)):
        return run
    config = Config.for_cell(cell)
    task = load_task(cell.dataset, cell.protocol, data_dir, device, config.dtype)
    model = build_model(cell.model, task)
    if threads is None:
        threads = (os.cpu_count() or 1) if sum(p.numel() for p in model.parameters()) > LARGE_MODEL else 1
    config = replace(config, engine=engine, threads=threads, copies=copies)
    config = replace(config, copies=training.copies(config, model))
    folder = store.folder_of(cell, results_dir)
    if force:
        (folder / "checkpoint.json").unlink(missing_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _run(cell, config, (task, model), folder, progress or (lambda line: None))
    finally:
        torch.set_num_threads(before)


def _run(cell: Cell, config: Config, problem: Problem, folder: Path, say: Callable[[str], None]) -> store.Run:
    """Search from where a killed run was, meta-test, and write the record; a checkpoint after every generation."""
    task, model = problem
    environment, started = store.environment(task.device), time.gmtime()
    state, resumed, spent = SearchState(), 0, 0.0
    if (checkpoint := folder / "checkpoint.json").exists():
        with store.reading(checkpoint):
            kept = files.read_json(checkpoint, store.SCHEMA)
            store.check_identity(checkpoint, kept, cell, config)
            state, resumed, spent = SearchState.from_json(kept["state"]), kept["resumed"] + 1, kept["seconds"]
        say(f"{cell}: goes on from generation {state.generation}")
    start = time.perf_counter() - spent

    def on_generation(state: SearchState) -> None:
        progress = {"seconds": time.perf_counter() - start, "resumed": resumed, "state": state.to_json()}
        files.write_json(checkpoint, {"schema": store.SCHEMA, **store.identity(cell, config), **progress})
        _write_history(folder, state)
        say(progress_line(cell, state.history))

    loss, state = search([problem], config, cell.seed, cell.method, state, on_generation)
    searched = time.perf_counter() - start
    # The control `tuned` brings a learning rate of its own
    rate = state.best.weights[0] if cell.method == "tuned" and state.best else config.base_learning_rate
    status, reason, errors = _meta_test(loss, problem, replace(config, base_learning_rate=rate), cell.seed)
    seconds = {phase: sum(row[f"seconds_{phase}"] for row in state.history) for phase in PHASES}
    total = time.perf_counter() - start
    seconds |= {"search": searched, "test": total - searched, "total": total}
    _write_history(folder, state)
    if loss is None:
        (folder / "loss.json").unlink(missing_ok=True)  # of the record that this one replaces
    else:
        loss.save(folder / "loss.json")
    record = {
        "schema": store.SCHEMA,
        "cell": asdict(cell),
        "config": asdict(config),
        "status": status,
        "reason": reason,
        "metric": task.metric_name,
        **{f"{part}_metric": errors.get(part) for part in PARTS},
        "fitness": state.best.fitness if state.best else None,
        "learning_rate": rate,
        "loss": None if loss is None else {"schema": SCHEMA, **loss.to_json()},
        "history": state.history,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "resumed": resumed,
        "engine": training.choose(config.engine, model, config),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", started),
        **environment,
    }
    files.write_json(folder / "record.json", record)
    checkpoint.unlink(missing_ok=True)
    return store.read_run(folder, Cell)


def _write_history(folder: Path, state: SearchState) -> None:
    if state.history:
        files.write_text(folder / "history.csv", pandas.DataFrame(state.history).to_csv(index=False))


def _meta_test(loss, problem: Problem, config: Config, seed: int) -> tuple[str, str | None, dict[str, float]]:
    """(status, reason, error by part) of training in full under the loss (eq. 3)."""
    if loss is None:
        return "no_loss", "every candidate was rejected or not finite", {}
    steps, milestones = config.test_steps, config.test_milestones
    (model,) = training.train([loss], problem, config, seed, "test", steps, milestones=milestones)
    errors = {part: training.evaluate(model, problem[0], part) for part in PARTS}
    if not all(math.isfinite(error) for error in errors.values()):
        return "diverged", "meta-testing met a loss or an output that is not finite", {}
    return "complete", None, errors


def progress_line(cell: Cell, history: list[dict]) -> str:
    """The last generation in one line: best and median fitness, evaluated candidates, time left at the pace so far."""
    row, generations = history[-1], Config.for_cell(cell).generations
    best, median = ("none" if pandas.isna(row[k]) else f"{row[k]:.4f}" for k in ("best_so_far", "median"))
    spent = sum(row[f"seconds_{phase}"] for row in history for phase in PHASES)
    left = f"{spent / len(history) * (generations - len(history)) / 60:.1f} min left"
    numbers = f"best {best}, median {median}, evaluated {row['evaluated']}"
    return f"{cell}: generation {len(history)}/{generations}, {numbers}, {left}"
