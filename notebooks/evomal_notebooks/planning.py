"""Before a notebook computes: what is missing, how long that will take on this machine, and the command for elsewhere."""

import os
from collections.abc import Iterable

import pandas

import evomal_core as ec
from evomal_core.experiments.store import RecordError, Run

from . import report
from .parameters import Parameters


def compute(p: Parameters, cells: Iterable[ec.Cell] | None = None) -> list[Run]:
    """Run the cells that a notebook was asked for, and say beforehand how long this machine is expected to take.

    Args:
        p: the notebook's parameters. With `p.plan` the hours are shown, and nothing is computed.
        cells: default `p.cells()`.

    Returns:
        What `ec.run_grid` returns; nothing if no seed was asked for, or with `p.plan`.
    """
    cells = announced(p, p.cells() if cells is None else cells)
    if not cells:
        return []
    done = ec.run_grid(cells, **p.run_arguments)
    print(f"Runs done or found: {len(done)}")
    return done


def announced(p: Parameters, cells: Iterable[ec.Cell]) -> list[ec.Cell]:
    """The cells to compute, after a word on how many of them have a record and how long the others are expected to take.

    There are none if no seed was asked for, or with `p.plan`.
    """
    cells = list(dict.fromkeys(cells))
    if not cells:
        print("No seed was asked for, so what follows shows the existing records.")
        return []
    waiting = missing(cells, p)
    print(f"Runs asked for: {len(cells)}; of these {len(cells) - len(waiting)} have a record already.")
    if waiting:
        table = plan(waiting, p)
        print(display_plan(table).to_string())
        print(total(table, 1 if p.cluster else p.workers))
    if p.plan:
        print("Nothing was computed, because plan is True.")
        return []
    return cells


def missing(cells: Iterable[ec.Cell], p: Parameters) -> list[ec.Cell]:
    """The cells without a finished record in the reader's folder; all of them if records are to be replaced."""

    def there(cell: ec.Cell) -> bool:
        try:
            return ec.find_run(cell, p.results_dir) is not None
        except RecordError:
            return False

    return [cell for cell in cells if p.force or not there(cell)]


def plan(cells: Iterable[ec.Cell], p: Parameters) -> pandas.DataFrame:
    """Expected hours of cells on this machine: a row for each search or test, in which a search counts once.

    Returns:
        Columns dataset, model, method, seed, budget, protocol, source, search, test (hours).
    """
    cells = list(cells)
    rows, known = [], set()
    for cell, hours in zip(cells, ec.estimate(cells, p.data_dir, p.device), strict=True):
        again = cell.search in known  # the same search, tested once more
        known.add(cell.search)
        names = {name: getattr(cell, name) for name in (*report.KEYS, "seed", "source")}
        rows.append(names | {"search": 0.0 if again else hours.search, "test": hours.test})
    return pandas.DataFrame(rows)


def display_plan(table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of `plan` summed over seeds, for reading: how many runs, and the hours of search and of test."""
    names = [*report.KEYS, *(["source"] if table["source"].notna().any() else [])]
    groups = table.fillna({"source": "–"}).groupby(names, sort=False)
    shown = groups[["search", "test"]].sum().map(hours)
    shown.insert(0, "runs", groups.size())
    return shown


def total(table: pandas.DataFrame, workers: int | None = None) -> str:
    """One sentence: the expected hours of a plan, on one core and with so many workers."""
    spent, of = table["search"].sum() + table["test"].sum(), min(workers or os.cpu_count() or 1, len(table))
    at_once = f", about {hours(spent / of)} with {of} runs at once" if of > 1 else ""
    return f"Expected on this machine: {hours(spent)} in all{at_once}. Most estimates are good to a factor of 1.5."


def hours(value: float) -> str:
    """A time in words: seconds, minutes or hours."""
    if value < 1 / 60:
        return f"{value * 3600:.0f} s"
    return f"{value * 60:.0f} min" if value < 1.5 else f"{value:.1f} h" if value < 100 else f"{value:,.0f} h"
