"""Many cells at once: whole cells in parallel, never parts of one, over any `concurrent.futures.Executor`."""

import inspect
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pandas

from ..checks import check
from ..registry import METHODS
from ..tasks import DataUnavailable
from . import store
from .cell import Cell
from .run import find_run, progress_line, run_cell

POLL_SECONDS = 1.0
SPAWN = multiprocessing.get_context("spawn")  # forked children inherit threads in an unknown state
MAIN_GUARD = '(Workers import the calling script: a script, unlike a notebook, needs `if __name__ == "__main__":`.)'


def run_grid(
    cells: Iterable[Cell],
    executor: Executor | None = None,
    results_dir=None,
    workers: int | None = None,
    overrides: dict | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = print,
    **same,
) -> list[store.Run]:
    """Run cells, those that have a record excepted; a cell that cannot be run does not keep the others from it.

    Args:
        executor: any `concurrent.futures.Executor`, for example a Dask client's `get_executor()`, whose workers see
            `results_dir`; None starts `workers` local processes (by default one a core, at most one a cell).
        progress: called with one line a generation and one a finished cell; None for silence.
        same: further arguments of `run_cell`, the same for all cells.

    Local processes are spawned and import the calling script, which so needs `if __name__ == "__main__":`; a notebook
    does not, and neither does `workers=1`, which runs the cells in this process.

    Returns:
        Runs in the order of `cells`. One that failed has status "unavailable" (its data set cannot be had) or "failed",
        and a `reason`. If a local worker is killed, the cells that it takes along are run again, each in a process of its
        own, from where they were.
    """
    say, cells = progress or (lambda line: None), list(cells)
    for cell in cells:
        check(isinstance(cell, Cell), "cells", "a list of Cells, like [Cell('diabetes', 'mlp', 'evomal')]", repr(cell))
        inspect.signature(run_cell).bind(cell, **same)  # raises TypeError for an argument that it does not take
    cells = [cell.with_overrides(overrides) for cell in cells]
    found = {} if force else {cell: _attempt(cell, find_run, cell, results_dir) for cell in cells}
    done = {cell: run for cell, run in found.items() if run}
    waiting = [cell for cell in dict.fromkeys(cells) if cell not in done]
    arguments = {"results_dir": results_dir, "force": force, **same}
    workers = min(workers or os.cpu_count() or 1, len(waiting))
    if executor is None and workers <= 1:
        for cell in waiting:
            done[cell] = _attempt(cell, run_cell, cell, progress=say, **arguments)
            say(_line(done[cell]))
    elif executor is None:
        started = SPAWN.Event()
        with _pool(workers, started) as pool:
            done |= _collect(pool, waiting, say, arguments)
        broken = [cell for cell in waiting if BrokenProcessPool.__name__ in (done[cell].reason or "")]
        for cell in broken if started.is_set() else ():  # one worker was killed, and took the others' cells along
            say(f"{cell}: again, in a process of its own, because a worker was killed")
            with _pool(1, started) as pool:
                done |= _collect(pool, [cell], say, arguments)
        if broken and not started.is_set():
            done |= {cell: replace(done[cell], reason=f"{done[cell].reason} {MAIN_GUARD}") for cell in broken}
    else:
        done |= _collect(executor, waiting, say, arguments)
    return [done[cell] for cell in cells]


def _attempt(cell: Cell, call: Callable[..., store.Run | None], *arguments, **named) -> store.Run | None:
    """What a call returns, or the run whose status says what went wrong with it."""
    try:
        return call(*arguments, **named)
    except DataUnavailable as error:
        return store.Run(cell, "unavailable", reason=str(error))
    except Exception as error:
        return store.Run(cell, "failed", reason=f"{type(error).__name__}: {error}")


def _pool(workers: int, started) -> ProcessPoolExecutor:
    """Local workers, which set the event `started` once they have imported the calling script."""
    return ProcessPoolExecutor(workers, mp_context=SPAWN, initializer=_begin, initargs=(started,))


def _begin(started) -> None:
    """Begin in a worker, which ends with its parent: no computation outlives the kernel that asked for it."""
    started.set()
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _collect(executor: Executor, cells: Sequence[Cell], say, arguments) -> dict[Cell, store.Run]:
    """Submit cells, and report from the files they write while they run: any executor that shares them will do."""
    searches = [cell for cell in cells if METHODS[cell.method].generations]
    histories = {cell: store.folder_of(cell, arguments["results_dir"]) / "history.csv" for cell in searches}
    known = {cell: len(_rows(path)) for cell, path in histories.items()}  # generations of which there was a line
    futures = {executor.submit(_attempt, cell, run_cell, cell, **arguments): cell for cell in cells}
    done: dict[Cell, store.Run] = {}
    running = set(futures)
    try:
        while running:
            finished, running = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for cell in (futures[future] for future in finished | running if futures[future] in histories):
                rows = _rows(histories[cell])
                for n in range(known[cell], len(rows)):
                    say(progress_line(cell, rows[: n + 1]))
                known[cell] = len(rows)  # fewer than before if the run began anew
            for future in finished:
                cell = futures[future]
                done[cell] = _attempt(cell, future.result)
                say(_line(done[cell]))
    finally:
        for future in running:
            future.cancel()
    return done


def _rows(path: Path) -> list[dict]:
    """The history of a run so far; nothing while there is no whole file."""
    try:
        return pandas.read_csv(path).to_dict("records")
    except (OSError, ValueError):
        return []


def _line(run: store.Run) -> str:
    if run.status == "complete":
        return f"{run.cell}: {run.data['metric']} {run.test_metric:.4f} on the test part, {run.seconds['total']:.0f} s"
    return f"{run.cell}: {run.status}, {run.reason}"
