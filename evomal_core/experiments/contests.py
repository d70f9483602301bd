"""Records of contests (`selection=halving`): held once among the leaders of a search, whose loss of best fitness is replaced.

A contest is a file of its own, `contests/halving.json` beside the tests of a search. It is written after every round, and one
that was interrupted goes on behind the last round that is done.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from .. import files
from ..checks import check
from ..losses import loss_from_json
from ..losses.elementwise import SCHEMA as LOSS_SCHEMA
from ..remedies import halving
from . import store
from .cell import Cell


def selected(cell: Cell, found: dict, folder: Path, prepare: Callable, begin: Callable, force: bool, say) -> dict:
    """What a test takes instead of the record of its search: the loss that wins the contest, which is held if it was not.

    Args:
        found: the record of the search, in `folder`.
        prepare: cell -> context of (problem, configuration).
        begin: (cell, problem, configuration) -> what a record begins with.
        force: hold the contest anew.
        say: called with a line after each round.

    Returns:
        selection (the winner's name), loss, learning_rate, steps (None: the configuration's), seconds (of the selection).
    """
    home = replace(cell, dataset=cell.search.dataset, model=cell.search.model, seed=cell.search.seed, source=None)
    path = folder / "contests" / f"{home.selected}.json"
    waiting = lambda: say(f"{home}: another process or thread holds its contest; waiting")  # noqa: E731
    with files.locked(path.with_suffix(".lock"), waiting):
        record = None if force else _read(path, found)
        if record is None or not record["winner"]:
            record = _held(record, home, path, found, prepare, begin, say)
    winner, seconds = record["winner"], {"selection": round(record["contest"]["seconds"], 3)}
    of_winner = {"selection": winner["name"], "loss": winner["loss"], "learning_rate": winner["learning_rate"]}
    return of_winner | {"steps": None, "seconds": seconds}


def _held(record: dict | None, home: Cell, path: Path, found: dict, prepare, begin, say) -> dict:
    """The record of a contest, which goes on from `record`."""
    with prepare(home) as (problem, config):
        head = begin(home, problem, config) | {"search": store.named(home, found)}
        contest = halving.Contest(**record["contest"]) if record else halving.Contest()

        def on_round(contest: halving.Contest, winner: dict | None = None) -> None:
            files.write_json(path, files.strict(head | {"contest": asdict(contest), "winner": winner}))
            say(f"{home}: round {len(contest.results)} of the contest is done")

        won = halving.hold(contest, store.leaders_of(found), problem, config, home.seed, on_round)
        loss = {"schema": LOSS_SCHEMA, **won.loss.to_json()}
        on_round(contest, {"name": won.name, "learning_rate": won.learning_rate, "loss": loss})
    return _read(path, found)


def _read(path: Path, search: dict) -> dict | None:
    """The record of a contest, finished (it has a `winner`) or interrupted; None if there is none of this search.

    Raises:
        RecordError: it is damaged.
    """
    if not path.exists():
        return None
    with store.reading(path):
        data = files.read_json(path, store.SCHEMA)
        results = data["contest"]["results"]
        rows = isinstance(results, list) and all(isinstance(e, list) for of in results for e in of.values())
        check(rows, "results of the contest", "a list of rounds, each name with its errors", results)
        for of_round in results:
            for name, errors in of_round.items():
                of_round[name] = [math.inf if error is None else float(error) for error in errors]
        if data["winner"]:
            loss_from_json(data["winner"]["loss"])
        return data if data["search"]["loss"] == store.digest_of(search["loss"]) else None
