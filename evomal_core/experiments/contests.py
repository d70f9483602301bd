"""Records of contests (`selection=halving`): held once among the leaders of a search, whose loss of best fitness is replaced.

A contest is a file of its own, `contests/halving.json` beside the tests of a search. It is written after every round, and one
that was interrupted goes on behind the last round that is done.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from .. import files
from ..checks import MAYBE, check, check_fields
from ..config import Config
from ..losses import loss_from_json
from ..losses.elementwise import SCHEMA as LOSS_SCHEMA
from ..losses.handcrafted import CrossEntropy, SquaredError
from ..machine import since
from ..registry import DATASETS
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
        files.remove_leftovers(path)
        record = None if force else _read(path, found, home)
        if record is None or not record["winner"]:
            record = _held(record, home, path, found, prepare, begin, say)
    winner, seconds = record["winner"], {"selection": round(record["contest"].seconds, 3)}
    of_winner = {"selection": winner["name"], "loss": winner["loss"], "learning_rate": winner["learning_rate"]}
    return of_winner | {"steps": None, "seconds": seconds}


def _held(record: dict | None, home: Cell, path: Path, found: dict, prepare, begin, say) -> dict:
    """The record of a contest, which goes on from `record`."""
    with prepare(home) as (problem, config):
        head = begin(home, problem, config) | {"search": store.named(home, found)}
        contest, before = (record["contest"], record.get("provenance", [])) if record else (halving.Contest(), [])
        with store.reading(path):
            head["provenance"] = since(before, {"round": len(contest.results)}, *head["provenance"])

        def on_round(contest: halving.Contest, winner: dict | None = None) -> None:
            kept = json.loads(json.dumps(files.strict(head | {"contest": asdict(contest), "winner": winner})))
            files.write_json(path, files.sealed(kept))
            say(f"{home}: round {len(contest.results)} of the contest is done")

        won = halving.hold(contest, store.leaders_of(found), problem, config, home.seed, on_round)
        loss = {"schema": LOSS_SCHEMA, **won.loss.to_json()}
        on_round(contest, {"name": won.name, "learning_rate": won.learning_rate, "loss": loss})
    return _read(path, found, home)


def _read(path: Path, search: dict, home: Cell) -> dict | None:
    """The record of a contest, finished (it has a `winner`) or interrupted; None if there is none of this search.

    Returns:
        the record, with the `halving.Contest` that it describes as `contest`.

    Raises:
        RecordError: it is damaged, or no contest of this search can have this record.
    """
    if not path.exists():
        return None
    with store.reading(path):
        data = files.read_json(path, store.SCHEMA)
        if "digest" in data or not data["winner"]:  # the first finished ones have none
            data = files.unsealed(data)
        cell, leaders = Cell(**data["cell"]), halving.entrants(store.leaders_of(search))
        check((cell.search, cell.selected) == (home.search, home.selected), "its cell", home, cell)
        if data["search"]["loss"] != store.digest_of(search["loss"]):
            return None
        contest = halving.Contest.from_json(data["contest"], list(leaders), Config.for_cell(home))
        if winner := data["winner"]:
            check_fields("the winner", winner, {"name": (str,), "learning_rate": MAYBE, "loss": (dict,)})
            check(len(contest.results) == len(halving.rounds(Config())), "rounds of a finished contest", "all", winner)
            name, usual = contest.winner, CrossEntropy() if DATASETS[home.dataset].classification else SquaredError()
            own = leaders.get(name) or halving.Contestant(name, usual, contest.rates.get(name))
            fits = [name, own.learning_rate, own.loss.to_json()]
            got = [winner["name"], winner["learning_rate"], loss_from_json(winner["loss"]).to_json()]
            check(got == fits, "the winner", fits, got)
        return data | {"contest": contest}
