"""Records on disk: one folder a search, in it one file a test; never half written, never overwritten by another.

    <results_dir>/<dataset>/<model>/<method>/<budget>-<protocol>/seed<k>/
        record.json      of the search: cell, configuration, status, leaders, history, seconds, versions, hardware
        loss.json        the loss found
        history.csv      a row a generation
        tests/<name>.json  of a test of the loss: start, steps, learning rate, errors, status; it names the search
        contests/<name>.json  of a contest among the search's leaders (`selection=halving`), whose winner is tested
        checkpoint.json  while it searches: the state it goes on from; tests/.<name>.safetensors while it tests

A search's identity is its cell and every setting that changes its results in exact arithmetic: not engine, device or
threads, and nothing that concerns testing alone. Records of schema 1, in which a search and one test are one record, are
read as what they would be today; their numbers stay as they are.
"""

import contextlib
import json
import os
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas
import torch

from .. import files
from ..checks import check
from ..config import NOT_IDENTITY, TESTING, Config
from ..files import RecordError, reading
from ..losses import loss_from_json
from ..machine import ROOT
from ..search.state import Leader
from .cell import Cell
from .facts import METRICS, check_search, check_test

SCHEMA = 2


@dataclass(frozen=True)
class Test:
    """What one test of a loss gave: error on the test part, status, error of each part, the model if it was kept."""

    __test__ = False  # pytest takes it for a test
    error: float
    status: str
    errors: dict[str, float]
    model: torch.nn.Module | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Run:
    """The records of a cell, its search and its test, or of one that could not be made ("unavailable", "failed").

    Attributes:
        status: "complete", "diverged" (meta-testing did), "no_loss" (no candidate passed), "unavailable", "failed".
        test_metric: error on the test part, None unless complete.
        path: folder of the search.
        data: the search's record, with what the test's record adds.
        reason: why the status is not "complete".
    """

    cell: Cell
    status: str
    test_metric: float | None = None
    path: Path | None = None
    data: dict = field(default_factory=dict, repr=False)
    reason: str | None = None

    @classmethod
    def of(cls, cell, folder: Path, search: dict, test: dict | None) -> "Run":
        """The run of a search's record and a test's; without a test, of a search that found no loss."""
        test = test or {"status": search["status"], "reason": search["reason"], "seconds": {"test": 0.0}}
        seconds = search["seconds"] | test["seconds"]
        seconds.setdefault("total", round(sum(seconds.get(name, 0.0) for name in ("search", "selection", "test")), 3))
        data = search | dict.fromkeys(METRICS) | test
        of_test = {name: value for name, value in test.get("config", {}).items() if name in TESTING}
        data |= {"config": search["config"] | of_test, "seconds": seconds, "cell": asdict(cell)}
        of_search = ("started", "versions", "hardware", "commit", "sources", "portable", "provenance")
        data |= {name: search[name] for name in of_search if name in search}
        return cls(cell, test["status"], test.get("test_metric"), folder, data, test["reason"])

    @property
    def loss(self):
        """The loss found, as a module; None if there is none."""
        return loss_from_json(self.data["loss"]) if self.data.get("loss") else None

    @property
    def leaders(self) -> list[Leader]:
        """The best distinct candidates of the search, each with expression, weights, fitness; the best first."""
        return leaders_of(self.data)

    @property
    def tests(self) -> list[dict]:
        """All tests of this search that have a record: dataset, model, start, steps, learning_rate, error, status, name.

        A damaged one is left out, with a warning.
        """
        if self.path is None or not (self.path / "record.json").exists():
            return []
        search, damaged = read_record(self.path / "record.json"), []
        tests = [_summary_of(name, test) for name, test in all_tests(self.path, search, damaged).items()]
        for message in damaged:
            warnings.warn(message, stacklevel=2)
        return tests

    @property
    def history(self) -> pandas.DataFrame:
        """A row a generation: best so far, generation's best and median, counts, seconds."""
        return pandas.DataFrame(self.data.get("history", []))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by phase."""
        return self.data.get("seconds", {})


def leaders_of(search: dict) -> list[Leader]:
    """The leaders in the record of a search."""
    kept = search.get("leaders") or []
    return [Leader(loss_from_json(i["loss"]), i["fitness"], i["learning_rate"]) for i in kept]


def _summary_of(name: str, test: dict) -> dict:
    cell = {key: getattr(cell_of(test), key) for key in ("dataset", "model", "seed", "protocol")}
    of_test = {key: test[key] for key in ("start", "steps", "learning_rate", "status")}
    return cell | of_test | {"name": name, "error": test["test_metric"]}


def results_dir(folder=None) -> Path:
    """Where records go: the argument, else the environment variable EVOMAL_RESULTS, else `results/runs/`."""
    return Path(folder or os.environ.get("EVOMAL_RESULTS") or ROOT / "results" / "runs").expanduser()


def folder_of(cell, folder=None) -> Path:
    """The folder of a cell's search."""
    cell = cell.search
    settings = files.short(f"{cell.budget}-{cell.protocol}")
    parts = (cell.dataset, cell.model, cell.method, settings, f"seed{cell.seed}")
    return results_dir(folder).joinpath(*parts)


def search_folder(cell, folder=None) -> Path:
    """The folder of a cell's search, or where a record of schema 1 holds the same search under a name with test settings.

    Raises:
        RecordError: the results cannot be looked at.
    """
    own = folder_of(cell, folder)
    with reading(own):
        if not (own / "record.json").exists() and own.parent.parent.is_dir():
            others = sorted(path.parent for path in own.parent.parent.glob(f"*/{own.name}/record.json"))
            return next((other for other in others if _holds(other, cell)), own)
    return own


def _holds(folder: Path, cell) -> bool:
    """Is this the folder of a cell's search, if need be under a name with test settings, as schema 1 has them?"""
    own = folder_of(cell.search, folder.parents[4])
    budget, _, protocol = folder.parent.name.rpartition("-")
    if folder != own and (folder.parent.parent, folder.name) == (own.parent.parent, own.name):
        with contextlib.suppress(ValueError):  # a folder that is not named like a cell
            return replace(cell.search, budget=budget, protocol=protocol).search == cell.search
    return folder == own


def test_path(folder: Path, cell) -> Path:
    """The record of a cell's test, below the folder of its search."""
    return folder / "tests" / f"{files.short(cell.test)}.json"


def trial_checkpoint(folder: Path, cell) -> Path:
    """The file from which a killed test goes on."""
    return folder / "tests" / f".{files.short(cell.test)}.safetensors"


def identity(cell, config: Config) -> dict:
    """What makes a search this search, as JSON has it."""
    without = (*NOT_IDENTITY, *TESTING)
    settings = {name: value for name, value in asdict(config).items() if name not in without}
    return json.loads(json.dumps({"cell": asdict(cell.search), "config": settings}))


def check_identity(path: Path, recorded: dict, cell, config: Config) -> None:
    """Raise RecordError that says what differs, unless a record or checkpoint is of this search.

    A setting or a part of a cell's name that is absent from an old record counts as its default.
    """
    own = identity(cell, config)
    differing = _differing(own["config"], recorded["config"], (*NOT_IDENTITY, *TESTING))
    with reading(path):
        old = Cell(**recorded["cell"]).search
    _refuse(path, [f"cell {old} instead of {cell.search}"] if old != cell.search else differing)


def check_test_identity(path: Path, recorded: dict, cell, config: Config) -> None:
    """The same for the record of a test, all of whose settings count."""
    settings = json.loads(json.dumps(asdict(config)))
    differing = _differing(settings, recorded["config"], NOT_IDENTITY)
    with reading(path):
        old = cell_of(recorded)
    _refuse(path, [f"cell {old} instead of {cell}"] if old != cell else differing)


def cell_of(test: dict) -> Cell:
    """The cell of a test. Where it began counts, not what its protocol said of that when the record was made."""
    return Cell(**test["cell"]).with_overrides({"test_start": test.get("start", "fresh")})


def _differing(own: dict, recorded: dict, without: tuple[str, ...]) -> list[str]:
    old = json.loads(json.dumps(asdict(Config()))) | recorded
    known = [name for name in own if name not in without]
    differing = [f"{name} = {old[name]!r} instead of {own[name]!r}" for name in known if old[name] != own[name]]
    return differing + [f"unknown {name}" for name in recorded if name not in known and name not in without]


def _refuse(path: Path, differing: list[str]) -> None:
    if differing:
        advice = "it is not overwritten: use another results_dir, or force=True to replace it"
        raise RecordError(f"{path} is of another run ({', '.join(differing)}); {advice}")


def read_record(path: Path) -> dict:
    """The record of a search; one of schema 1 as it would be written today, with its test under "test".

    Raises:
        RecordError: it is damaged, or its loss is.
    """
    with reading(path):
        data = files.read_json(path, (1, SCHEMA))
        if data["schema"] == 1:
            check(
                (data["loss"] is None) == (data["status"] == "no_loss"), "loss", "there unless no_loss", data["status"]
            )
            data = from_schema_1(data)
            if data["test"]:
                check_test(data["test"])
        check_search(data)
    return data


def from_schema_1(data: dict) -> dict:
    """A record of schema 1, a search and one test in one, as schema 2 has them: the search, and in it `test`.

    No number changes. Schema 1 kept one leader, the loss, and tested from fresh initial weights.
    """
    cell, config, found = data["cell"], data["config"], data.get("loss")
    tuned, seconds = cell["method"] == "tuned", data["seconds"]
    search = {name: value for name, value in data.items() if name not in METRICS}
    used = data.get("learning_rate", config["base_learning_rate"])  # the first records of the schema lack it
    rate = used if tuned or not found else None
    leader = {"fitness": data["fitness"], "learning_rate": rate, "loss": found}
    search |= {
        "schema": SCHEMA,
        "status": "complete" if found else "no_loss",
        "reason": None if found else data["reason"],
        "learning_rate": rate,
        "leaders": [leader] if found else [],
        "seconds": {name: value for name, value in seconds.items() if name not in ("test", "total")},
        "plain": False,
    }
    test = {name: data.get(name) for name in ("started", "versions", "hardware", "commit")}
    test |= {name: data[name] for name in ("cell", "config", "status", "reason", "metric", *METRICS)}
    test |= {"schema": SCHEMA, "start": "fresh", "steps": config["test_steps"], "milestones": config["test_milestones"]}
    test |= {"learning_rate": used, "search": {"cell": cell, "loss": digest_of(found)}}
    test["seconds"] = {name: seconds[name] for name in ("test", "total")}
    return search | {"test": test if found else None}


def digest_of(loss: dict | None) -> str:
    """What names a loss: a digest of its JSON."""
    return files.digest({k: v for k, v in (loss or {}).items() if k not in ("schema", "version")})


def read_search(folder: Path, cell) -> dict | None:
    """The record of a cell's search; None if there is none. Raises RecordError if it is damaged or of another run."""
    if not _exists(path := folder / "record.json"):
        return None
    data = read_record(path)
    check_identity(path, data, cell, Config.for_cell(cell.search))
    return data


def _exists(path: Path) -> bool:
    with reading(path):  # a folder that may not be looked into raises PermissionError
        return path.exists()


def all_tests(folder: Path, search: dict, damaged: list[str] | None = None) -> dict[str, dict]:
    """name -> record of a test of this search; tests of a search that was replaced are left out.

    Args:
        damaged: takes messages about damaged records, which are left out; without it they raise RecordError.
    """
    tests = {"fresh": search["test"]} if search.get("test") else {}
    for path in sorted(folder.glob("tests/[!.]*.json")):
        try:
            data = _read_test_file(path, search)
        except RecordError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
            continue
        if data:
            tests[path.stem] = data
    return tests


def _read_test_file(path: Path, search: dict) -> dict | None:
    """The record of a test; None if there is none, or if it is of a search that was replaced."""
    if not _exists(path):
        return None
    with reading(path):
        data = files.read_json(path, SCHEMA)
        check_test(data)
        cell, of = cell_of(data), Cell(**data["search"]["cell"])  # raise for a name that is none
        check(test_path(path.parent.parent, cell) == path, "the file of this test", f"{cell.test}.json", path.name)
        known = Cell(**search["cell"]).search
        check(of.search == known, "the search of this test", known, of.search)
        return data if data["search"]["loss"] == digest_of(search["loss"]) else None


def read_test(folder: Path, search: dict, cell) -> dict | None:
    """The record of a cell's test; None if there is none. Raises RecordError if it is damaged or of another run."""
    config = Config.for_cell(cell)
    old = search.get("test")
    if old and not _differing(json.loads(json.dumps(asdict(config))), old["config"], NOT_IDENTITY):
        if cell_of(old) == cell:
            return old
    path = test_path(folder, cell)
    if data := _read_test_file(path, search):
        check_test_identity(path, data, cell, config)
    return data


def write_search(folder: Path, record: dict) -> None:
    """Write the record of a search, its history and its loss."""
    write_history(folder, record["history"])
    if record["loss"] is None:
        (folder / "loss.json").unlink(missing_ok=True)  # of the record that this one replaces
    else:
        files.write_json(folder / "loss.json", record["loss"])
    files.write_json(folder / "record.json", record)


def replace_search(folder: Path, record: dict) -> None:
    """Write the record of a search over that of another, whose tests go."""
    write_search(folder, record)
    for path in folder.glob("tests/*.json"):
        path.unlink()


def write_test(folder: Path, cell, record: dict) -> None:
    """Write the record of a test."""
    files.write_json(test_path(folder, cell), record)


def named(cell, search: dict) -> dict:
    """What names the search of a test or a contest in its record: the cell, and a digest of the loss."""
    return {"cell": asdict(cell.search), "loss": digest_of(search["loss"])}


def write_history(folder: Path, history: list[dict]) -> None:
    """Write history.csv, unless there is no generation."""
    if history:
        files.write_text(folder / "history.csv", pandas.DataFrame(history).to_csv(index=False))


def read_runs(folder) -> tuple[list[Run], list[str]]:
    """(a run for each test below a folder, and for each search without a loss; what was wrong with those left out)."""
    runs, damaged = [], []
    for path in sorted(Path(folder).expanduser().glob("*/*/*/*/seed*/record.json")):
        try:
            search = read_record(path)
            with reading(path):
                cell = Cell(**search["cell"])
                where = folder_of(cell, path.parents[5])
                check(_holds(path.parent, cell), "its place", f"{where}, that of {cell.search}", path.parent)
                check_identity(path, search, cell, Config.for_cell(cell.search))
                if search["loss"] is None:
                    runs.append(Run.of(cell, path.parent, search, None))
                for test in all_tests(path.parent, search, damaged).values():
                    runs.append(Run.of(cell_of(test), path.parent, search, test))
        except RecordError as error:
            damaged.append(str(error))
    return runs, damaged
