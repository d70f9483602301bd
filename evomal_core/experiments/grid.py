"""Many cells at once: whole cells in parallel, never parts of one, over processes, a Dask cluster or any executor."""

import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, wait
from pathlib import Path

import pandas

from ..checks import check
from ..registry import METHODS
from ..tasks import DataUnavailable
from ..workers import Processes, WorkerLost
from . import store
from .cell import Cell
from .run import find_run, harmless, progress_line, run_cell

POLL_SECONDS = 1.0
TRIES = 3  # starts of a cell; what has ended three workers will end a fourth


def run_grid(
    cells: Iterable[Cell],
    executor=None,
    results_dir=None,
    workers: int | None = None,
    overrides: dict | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = print,
    **same,
) -> list[store.Run]:
    """Run cells, those that have a record excepted; a cell that cannot be run does not keep the others from it.

    Args:
        executor: None starts `workers` local processes (by default one a core, at most one a cell). "local" or the address of
            a Dask scheduler, or a Dask client, gives each worker of that cluster, or each GPU, one cell at a time; see
            `evomal_core.cluster`. Any other `concurrent.futures.Executor` will do whose workers see `results_dir`.
        workers: with a cluster, at most so many cells at once.
        force: as for `run_cell`, for the first start of a cell.
        progress: called with one line a generation and one a finished cell; None for silence.
        same: further arguments of `run_cell`, the same for all cells.

    Local processes are spawned and import the calling script, which so needs `if __name__ == "__main__":`; a notebook
    does not, and neither does `workers=1`, which runs the cells in this process. Ctrl-C ends the workers at once; the next
    call goes on from what they had.

    Returns:
        Runs in the order of `cells`. One that failed has status "unavailable" (its data set cannot be had) or "failed",
        and a `reason`. A cell whose worker was lost begins again elsewhere, from where it was, three times at most.
    """
    say, cells = harmless(progress), list(cells)
    for cell in cells:
        check(isinstance(cell, Cell), "cells", "a list of Cells, like [Cell('diabetes', 'mlp', 'evomal')]", repr(cell))
        inspect.signature(run_cell).bind(cell, **same)  # raises TypeError for an argument that it does not take
    cells = [cell.with_overrides(overrides) for cell in cells]
    folder = store.results_dir(results_dir).absolute()  # a worker may stand elsewhere, and with another environment
    if named := same.get("data_dir") or os.environ.get("EVOMAL_DATA"):
        same["data_dir"] = str(Path(named).expanduser().absolute())
    found = {} if force else {cell: _attempt(cell, find_run, cell, folder) for cell in cells}
    done = {cell: run for cell, run in found.items() if run}
    waiting = [cell for cell in dict.fromkeys(cells) if cell not in done]
    arguments = {"results_dir": folder, "force": force, **same}
    if not waiting:
        return [done[cell] for cell in cells]
    if isinstance(executor, Executor) and not type(executor).__module__.startswith("distributed."):
        done |= _collect(executor, waiting, say, arguments)
    elif executor is not None:
        from ..cluster import connected  # Dask is an extra

        with connected(executor, folder, workers, same.get("device", "auto"), say) as cluster:
            done |= _collect(cluster, waiting, say, arguments)
    elif (workers := min(workers or os.cpu_count() or 1, len(waiting))) > 1:
        with Processes(workers) as pool:
            done |= _collect(pool, waiting, say, arguments)
    else:
        for cell in waiting:
            done[cell] = _attempt(cell, run_cell, cell, progress=say, **arguments)
            say(_line(done[cell]))
    return [done[cell] for cell in cells]


def _attempt(cell: Cell, call: Callable[..., store.Run | None], *arguments, **named) -> store.Run | None:
    """What a call returns, or the run whose status says what went wrong with it."""
    try:
        return call(*arguments, **named)
    except DataUnavailable as error:
        return store.Run(cell, "unavailable", reason=str(error))
    except CancelledError:
        return store.Run(cell, "failed", reason="CancelledError: the executor gave it up; its scheduler may have ended")
    except Exception as error:
        return store.Run(cell, "failed", reason=f"{type(error).__name__}: {error}")


def _collect(executor: Executor, cells: Sequence[Cell], say, arguments) -> dict[Cell, store.Run]:
    """Submit cells, and report from the files they write while they run: any executor whose files come here will do.

    Cells of one search come one after another, as the later ones need no search of their own. A cell whose worker was lost
    begins again, at most `TRIES` times in all, from where it was.
    """
    searches = [cell for cell in cells if METHODS[cell.method].generations]
    histories = {cell: store.folder_of(cell, arguments["results_dir"]) / "history.csv" for cell in searches}
    known = {cell: len(_rows(path)) for cell, path in histories.items()}  # generations of which there was a line
    done: dict[Cell, store.Run] = {}
    waiting, running, tries = list(cells), {}, Counter()
    step = getattr(executor, "step", lambda say: None)  # what a `cluster.Cluster` does now and then
    try:
        while waiting or running:
            for cell in list(waiting):
                if cell.search not in {other.search for other in running.values()}:
                    waiting.remove(cell)
                    tries[cell] += 1
                    again = {"force": "resume"} if arguments["force"] and tries[cell] > 1 else {}
                    try:
                        running[executor.submit(_attempt, cell, run_cell, cell, **arguments | again)] = cell
                    except RuntimeError as error:  # it was shut down
                        done[cell] = store.Run(cell, "failed", reason=f"{type(error).__name__}: {error}")
                        say(_line(done[cell]))
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            step(say)
            for cell in (cell for cell in running.values() if cell in histories):
                rows = _rows(histories[cell])
                for n in range(known[cell], len(rows)):
                    say(progress_line(cell, rows[: n + 1]))
                known[cell] = len(rows)  # fewer than before if the run began anew
            for future in finished:
                cell = running.pop(future)
                if not future.cancelled() and isinstance(future.exception(), WorkerLost) and tries[cell] < TRIES:
                    say(f"{cell}: goes on elsewhere, because its worker was lost")
                    waiting.append(cell)
                    continue
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
