"""Many cells at once: whole cells in parallel, never parts of one, over any `concurrent.futures.Executor`."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait

import pandas

from ..config import Config
from ..tasks import DataUnavailable
from . import store
from .cell import Cell, find_run, progress_line, run_cell

POLL_SECONDS = 1.0
MAIN_GUARD = '(Workers import the calling script: a script, unlike a notebook, needs `if __name__ == "__main__":`.)'


def run_grid(
    cells: Sequence[Cell],
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
        and a `reason`.
    """
    say = progress or (lambda line: None)
    cells = [cell.with_overrides(overrides) for cell in cells]
    done: dict[Cell, store.Run] = {}
    waiting: list[Cell] = []
    for cell in dict.fromkeys(cells):
        try:
            run = None if force else find_run(cell, results_dir)
        except store.RecordError as error:
            run = store.Run(cell, "failed", reason=str(error))
        if run is None:
            waiting.append(cell)
        else:
            done[cell] = run
    arguments = {"results_dir": results_dir, "force": force, **same}
    workers = min(workers or os.cpu_count() or 1, len(waiting))
    if executor is None and workers <= 1:
        for cell in waiting:
            done[cell] = _attempt(cell, say, **arguments)
            say(_line(done[cell]))
    elif executor is None:
        context = multiprocessing.get_context("spawn")  # forked children inherit threads in an unknown state
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            done |= _collect(pool, waiting, say, arguments)
    else:
        done |= _collect(executor, waiting, say, arguments)
    return [done[cell] for cell in cells]


def _attempt(cell: Cell, progress=None, **arguments) -> store.Run:
    """`run_cell`, with what went wrong as a run's status."""
    try:
        return run_cell(cell, progress=progress, **arguments)
    except DataUnavailable as error:
        return store.Run(cell, "unavailable", reason=str(error))
    except Exception as error:
        return store.Run(cell, "failed", reason=f"{type(error).__name__}: {error}")


def _collect(executor: Executor, cells: Sequence[Cell], say, arguments) -> dict[Cell, store.Run]:
    """Submit cells, and report from the files they write while they run: any executor that shares them will do."""
    futures = {executor.submit(_attempt, cell, **arguments): cell for cell in cells}
    done: dict[Cell, store.Run] = {}
    watch = {cell: _Watch(cell, arguments["results_dir"]) for cell in cells}
    open_futures = set(futures)
    try:
        while open_futures:
            finished, open_futures = wait(open_futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in open_futures:
                for line in watch[futures[future]].news():
                    say(line)
            for future in finished:
                cell = futures[future]
                try:
                    done[cell] = future.result()
                except Exception as error:  # a worker that died
                    reason = f"{type(error).__name__}: {error} {MAIN_GUARD}"
                    done[cell] = store.Run(cell, "failed", reason=reason)
                say(_line(done[cell]))
    except BaseException:
        for future in open_futures:
            future.cancel()
        raise
    return done


class _Watch:
    """Reads a running cell's history for new generations."""

    def __init__(self, cell: Cell, results_dir):
        self.cell, self.path = cell, store.folder_of(cell, results_dir) / "history.csv"
        self.generations = Config.for_cell(cell).generations
        self.started, self.rows, self.seen = time.time(), None, None

    def news(self) -> list[str]:
        try:
            modified = self.path.stat().st_mtime
            if modified == self.seen or modified < self.started:
                return []
            rows = pandas.read_csv(self.path).to_dict("records")
        except (OSError, ValueError):
            return []
        self.seen = modified
        first = self.rows if self.rows is not None else max(0, len(rows) - 1)
        self.rows = len(rows)
        lines = []
        for row in rows[first:]:
            spent = sum(r["seconds_optimise"] + r["seconds_filter"] + r["seconds_fitness"] for r in rows)
            left = spent / len(rows) * (self.generations - len(rows))
            lines.append(f"{self.cell}: {progress_line(row, self.generations, left)}")
        return lines


def _line(run: store.Run) -> str:
    if run.status == "complete":
        return f"{run.cell}: {run.data['metric']} {run.test_metric:.4f} on the test part, {run.seconds['total']:.0f} s"
    return f"{run.cell}: {run.status}, {run.reason}"
