"""One cell of a table, run and kept: `Cell` names it, `run_cell` makes its record."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas
import torch

from .. import files, training
from ..config import DATASETS, MODELS, Config, Protocol, check_choice, parse_override
from ..models import build_model
from ..search import METHODS, search
from ..search.genetic import SearchState
from ..tasks import load_task
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
            what holds anyway are dropped, the others sorted.
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
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number, 0 or more; got {self.seed!r}")
        object.__setattr__(self, "protocol", str(Protocol.parse(self.protocol)))
        changed = dataclasses.asdict(Config.for_cell(self))  # raises for an unknown budget or override
        object.__setattr__(self, "budget", str(self.budget).split("+")[0])
        plain = dataclasses.asdict(Config.for_cell(self))
        differing = [f"{name}={_text(changed[name])}" for name in sorted(plain) if changed[name] != plain[name]]
        object.__setattr__(self, "budget", "+".join([self.budget, *differing]))

    def with_overrides(self, overrides: dict | None) -> "Cell":
        """The same cell with counts or settings changed, which stand in its budget's name."""
        if not overrides:
            return self
        for name, value in overrides.items():
            parse_override(name, value)
        return dataclasses.replace(
            self, budget="+".join([self.budget, *(f"{n}={_text(v)}" for n, v in overrides.items())])
        )

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
    if difference := store.same_identity(run.data, cell, Config.for_cell(cell)):
        raise store.RecordError(
            f"{folder} holds the record of another run ({difference}); it is not overwritten: use another results_dir, "
            "or force=True to replace it"
        )
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
        force: replace a record (also a damaged one, or one of another configuration) with a new run from the start.
        engine: of the meta-gradient; threads: of the CPU, by default 1, or all cores for a large model; copies: K of
            population batching, by default 1 on a CPU. None changes results in exact arithmetic, and all are recorded.
        progress: called with one line of text a generation.

    Raises:
        tasks.DataUnavailable: the data set is neither on disk nor to be downloaded.
        store.RecordError: as `find_run`.
    """
    cell = cell.with_overrides(overrides)
    if not force and (run := find_run(cell, results_dir)):
        return run
    config = Config.for_cell(cell)
    task = load_task(cell.dataset, cell.protocol, data_dir, device, config.dtype)
    model = build_model(cell.model, task)
    if threads is None:
        threads = (os.cpu_count() or 1) if sum(p.numel() for p in model.parameters()) > LARGE_MODEL else 1
    config = dataclasses.replace(config, engine=engine, threads=threads, copies=copies)
    config = dataclasses.replace(config, copies=training.copies(config, model))
    folder = store.folder_of(cell, results_dir)
    if force:
        for name in ("record.json", "checkpoint.json", "loss.json", "history.csv"):
            (folder / name).unlink(missing_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _Runner(cell, config, task, model, folder, progress or (lambda line: None)).run()
    finally:
        torch.set_num_threads(before)


class _Runner:
    """A cell on its way to a record."""

    def __init__(self, cell, config, task, model, folder, progress):
        self.cell, self.config, self.folder, self.progress = cell, config, folder, progress
        self.problem = (task, model)
        self.started = time.time()
        self.environment = store.environment(task.device)
        self.checkpoint = {"schema": store.SCHEMA, **store.identity(cell, config), "seconds": 0.0, "resumed": 0}

    def run(self) -> store.Run:
        start = time.perf_counter()
        state = self._resume()
        loss, state = search(
            [self.problem], self.config, self.cell.seed, self.cell.method, state, self._keep(start, state)
        )
        searched = self.checkpoint["seconds"] + time.perf_counter() - start
        status, reason, metrics = "no_loss", "every candidate was rejected or not finite", {}
        if loss is not None:
            status, reason, metrics = self._meta_test(loss, state)
        phases = {f"{p}": sum(r[f"seconds_{p}"] for r in state.history) for p in ("optimise", "filter", "fitness")}
        total = self.checkpoint["seconds"] + time.perf_counter() - start
        seconds = {**phases, "search": searched, "test": total - searched, "total": total}
        record = {
            "schema": store.SCHEMA,
            "cell": dataclasses.asdict(self.cell),
            "config": dataclasses.asdict(self.config),
            "status": status,
            "reason": reason,
            "metric": self.problem[0].metric_name,
            "test_metric": metrics.get("test"),
            "validation_metric": metrics.get("validation"),
            "train_metric": metrics.get("train"),
            "fitness": state.best.fitness if state.best else None,
            "learning_rate": self._learning_rate(state),
            "loss": None if loss is None else {"schema": 1, **loss.to_json()},
            "history": state.history,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "resumed": self.checkpoint["resumed"],
            "engine": training.choose(self.config.engine, self.problem[1], self.config),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            **self.environment,
        }
        self._write_history(state)
        if loss is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            loss.save(self.folder / "loss.json")
        files.write_json(self.folder / "record.json", record)
        (self.folder / "checkpoint.json").unlink(missing_ok=True)
        return store.read_run(self.folder, Cell)

    def _resume(self) -> SearchState:
        """The state a killed run left, or a new one."""
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return SearchState()
        kept = store.read_json(path)
        if difference := store.same_identity(kept, self.cell, self.config):
            raise store.RecordError(f"{path} is of another run ({difference}); use another results_dir or force=True")
        self.checkpoint |= {"seconds": kept["seconds"], "resumed": kept["resumed"] + 1}
        self.progress(f"{self.cell}: goes on from generation {kept['state']['generation']}")
        return SearchState.from_json(kept["state"])

    def _keep(self, start: float, state: SearchState):
        """What is done after every generation: checkpoint, history, one line of progress."""
        first, before = state.generation, self.checkpoint["seconds"]

        def on_generation(state: SearchState) -> None:
            seconds = time.perf_counter() - start
            kept = self.checkpoint | {"seconds": before + seconds, "state": state.to_json()}
            files.write_json(self.folder / "checkpoint.json", kept)
            self._write_history(state)
            left = seconds / (state.generation - first) * (self.config.generations - state.generation)
            self.progress(f"{self.cell}: {progress_line(state.history[-1], self.config.generations, left)}")

        return on_generation

    def _write_history(self, state: SearchState) -> None:
        if state.history:
            files.write_text(self.folder / "history.csv", pandas.DataFrame(state.history).to_csv(index=False))

    def _learning_rate(self, state: SearchState) -> float:
        """Of meta-testing: the base learning rate, or the one that the control `tuned` chose."""
        return state.best.weights[0] if self.cell.method == "tuned" and state.best else self.config.base_learning_rate

    def _meta_test(self, loss, state: SearchState):
        """(status, reason, metrics by part) of training in full under the loss (eq. 3)."""
        config = dataclasses.replace(self.config, base_learning_rate=self._learning_rate(state))
        (model,) = training.train(
            [loss], self.problem, config, self.cell.seed, "test", config.test_steps, milestones=config.test_milestones
        )
        metrics = {part: training.evaluate(model, self.problem[0], part) for part in ("train", "validation", "test")}
        if not all(math.isfinite(value) for value in metrics.values()):
            return "diverged", "meta-testing met a loss or an output that is not finite", {}
        return "complete", None, metrics


def progress_line(row: dict, generations: int, seconds_left: float | None = None) -> str:
    """One generation in one line: best and median fitness, evaluated candidates, time left."""

    def number(value):
        return "none" if value is None or not math.isfinite(value) else f"{value:.4f}"

    left = "" if seconds_left is None else f", {seconds_left / 60:.1f} min left"
    return (
        f"generation {int(row['generation']) + 1}/{generations}, best {number(row['best_so_far'])}, "
        f"median {number(row['median'])}, evaluated {int(row['evaluated'])}{left}"
    )
