"""Grids over a Dask cluster: `run_grid(cells, executor="tcp://head:8786")`, or "local" for one on this machine.

    client ──cell, files so far──▶ worker      a worker process computes one cell at a time; of those that see the same
    client ◀──files as they change── worker    GPU, one computes. The client writes the files of workers that do not see
                                               its results_dir, so progress and checkpoints are here at all times.

Workers whose code is not this one's are refused. Each start of a cell is tied to one worker process: if that ends, the
scheduler cannot start the cell elsewhere with old files, but the grid does, with those that came.
"""

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import tempfile
import threading
import uuid
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path

from . import files, machine, portable
from .checks import check
from .experiments import store
from .training.acceleration import enabled
from .workers import WorkerLost

PROCESS = uuid.uuid4().hex  # names this process, which an address does not
SHIP_SECONDS = 1.0  # between two looks at what a cell has written
CARRIED = re.compile(r"(tests/)?[^/]*[^/.][^/]*\.(json|csv|safetensors)")  # the files of a search's folder that travel


class Stopped(BaseException):
    """Raised in a worker's computation that nobody waits for any more."""


@dataclass
class Worker:
    """A worker process that may compute cells."""

    process: str
    place: str  # what no two cells at once are computed on: a GPU, or the process itself
    shared: bool  # does it see the client's results_dir?


@dataclass
class Call:
    """A call that waits or is computed; `token` names its present start."""

    future: Future
    call: tuple
    token: str = ""
    address: str = ""
    remote: object = None


@contextlib.contextmanager
def connected(executor, results_dir: Path, most: int | None, device: str, say):
    """A `Cluster` for "local", an address, or a Dask client or its executor; what is started here is ended here."""
    try:
        from distributed import Client
    except ImportError:
        raise ImportError(f"executor {executor!r} needs Dask: pip install 'evomal-core[cluster]'") from None
    with contextlib.ExitStack() as stack:
        if isinstance(executor, str):
            if executor == "local":
                executor = stack.enter_context(local_cluster(most, device))
            try:
                executor = stack.enter_context(Client(executor, set_as_default=False))
            except (OSError, ValueError) as error:
                raise ConnectionError(f"executor must be 'local' or the address of a Dask scheduler; {error}") from None
        client = getattr(executor, "_client", executor)  # of `client.get_executor()`
        check(
            isinstance(client, Client), "executor", "an Executor, a Dask client, an address or 'local'", repr(executor)
        )
        say(f"Cluster of {client.scheduler.address}, dashboard at {client.dashboard_link}")
        with Cluster(client, results_dir, most, device) as cluster:
            yield cluster


def local_cluster(workers: int | None = None, device: str = "auto"):
    """A cluster on this machine: a worker a GPU, or a core if there is none or `device` is "cpu"."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = [] if device == "cpu" or portable.enabled() else visible_gpus()
    places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * (os.cpu_count() or 1)
    options = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False}
    each = {i: {"cls": Nanny, "options": options | {"env": env}} for i, env in enumerate(places[:workers])}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=each, scheduler=scheduler, silence_logs=40)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without PyTorch, which would take memory on each."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    uuids = re.findall(r"\(UUID: (GPU-[^)]+)\)", listed)
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return uuids
    chosen = [name.strip() for name in named.split(",") if name.strip()]
    return [uuids[int(n)] if n.isdecimal() and int(n) < len(uuids) else n for n in chosen]


def code() -> dict:
    """What a worker must have as its client has it, if records are to be the same."""
    version = machine.versions()["evomal-core"]
    return {"version": version, "sources": machine.SOURCES, "plain": not enabled(), "portable": portable.enabled()}


def introduce(marker: str) -> dict:
    """What a worker says about itself."""
    own = {"process": PROCESS, "host": socket.gethostname(), "gpus": visible_gpus()}
    return own | {"code": code(), "shared": Path(marker).exists(), "versions": machine.versions()}


class Cluster(Executor):
    """The workers of a Dask cluster as an executor of `run_grid`, which calls `step` again and again.

    Args:
        client: a `distributed.Client`.
        results_dir: where records go here.
        most: at most so many cells at once.
        device: as for `run_cell`; with "cpu", workers that share a GPU compute side by side.
        shared: whether workers see `results_dir`; None to look.
    """

    def __init__(self, client, results_dir: Path, most: int | None = None, device="auto", shared: bool | None = None):
        from distributed import Queue

        self.client, self.results_dir, self.most, self.device, self.shared = client, results_dir, most, device, shared
        self.workers: dict[str, Worker] = {}
        self.refused: dict[str, str] = {}
        self.waiting: list[Call] = []
        self.running: list[Call] = []
        self.name = f"evomal-{uuid.uuid4().hex}"
        self.queue = Queue(self.name, client=client)

    def submit(self, call, cell, /, *arguments, **named) -> Future:
        future: Future = Future()
        self.waiting.append(Call(future, (call, cell, arguments, named)))
        return future

    def step(self, say) -> None:
        """Take in what came, hand out what waits, and notice what was lost; `say` is told of workers."""
        if self.client.status not in ("running", "connecting"):
            return self._give_up(ConnectionError("the connection to the Dask scheduler was lost; it may have ended"))
        if self.client.status == "connecting":
            return None
        try:
            self._look_for_workers(say)
            self._receive()
            for call in list(self.running):
                self._look_after(call)
            busy = {self.workers[call.address].place for call in self.running}
            for address, worker in self.workers.items():
                if self.waiting and worker.place not in busy and len(self.running) < (self.most or len(self.workers)):
                    busy.add(worker.place)
                    self._start(self.waiting.pop(0), address, worker)
        except OSError:  # the connection broke meanwhile; the client says next time whether it is there again
            return None
        if self.waiting and not self.running and not self.workers and self.refused:
            self._give_up(RuntimeError(f"all workers are refused: {'; '.join(self.refused.values())}"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what runs; each worker stops its computation when it notices."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self.client.cancel([call.remote for call in self.running], force=True)
            self.queue.close()

    def _give_up(self, error: Exception) -> None:
        for call in self.waiting + self.running:
            call.future.set_exception(error)
        self.waiting, self.running = [], []

    def _look_for_workers(self, say) -> None:
        """Admit and refuse workers that came, and forget those that went."""
        here = set(self.client.nthreads())
        for address in set(self.workers) - here:
            say(f"Worker {address} is gone")
            del self.workers[address]
        self.refused = {address: reason for address, reason in self.refused.items() if address in here}
        if new := sorted(here - set(self.workers) - set(self.refused)):
            with self._marker() as marker:
                told = self.client.run(introduce, str(marker), workers=new, on_error="return")
            for address in new:
                self._meet(address, told.get(address), say)

    @contextlib.contextmanager
    def _marker(self):
        """A file that those see who see the results folder."""
        marker = self.results_dir / f".{self.name}"
        files.write_text(marker, "")
        try:
            yield marker
        finally:
            marker.unlink(missing_ok=True)

    def _meet(self, address: str, told, say) -> None:
        """Admit a worker, or refuse it."""
        if told is None or isinstance(told, OSError):
            return  # it did not answer, and is asked again if it is still there
        if not isinstance(told, dict):
            self.refused[address] = f"{address} cannot import this version of evomal_core ({told!r})"
        elif other := [
            f"{k} {told['code'].get(k)!r} instead of {v!r}" for k, v in code().items() if told["code"].get(k) != v
        ]:
            self.refused[address] = f"{address} has {', '.join(other)}"
        if address in self.refused:
            return say(f"Worker {self.refused[address]}: it is refused, as its records would not be the same")
        place = told["process"] if self.device == "cpu" or not told["gpus"] else f"{told['host']} {told['gpus'][0]}"
        shared = told["shared"] if self.shared is None else self.shared
        self.workers[address] = Worker(told["process"], place, shared)
        differing = {k: v for k, v in told["versions"].items() if v != machine.versions().get(k)}
        other = f", with {', '.join(f'{k} {v}' for k, v in differing.items())}" if differing else ""
        also = (
            f", which uses the first of its {len(told['gpus'])} GPUs" if len(told["gpus"]) > 1 and " " in place else ""
        )
        say(f"Worker {address} on {told['host']}{also}{'' if shared else ', which sends its files'}{other}")

    def _start(self, call: Call, address: str, worker: Worker) -> None:
        function, cell, arguments, named = call.call
        if not call.future.set_running_or_notify_cancel():
            return
        folder = store.search_folder(cell, self.results_dir)
        given = None
        if not worker.shared:
            sent = {name: (folder / name).read_bytes() for name in carried(folder)}
            given = (folder.relative_to(self.results_dir).as_posix(), sent)
            (given,) = self.client.scatter([given], workers=[address], hash=False)
        call.token, call.address = uuid.uuid4().hex, address
        key = f"{cell.dataset}-{cell.model}-{cell.method}-seed{cell.seed}-{call.token}"
        remote = (worker.process, self.name, call.token, given, function, cell, arguments, named)
        how = {"key": key, "workers": [address], "allow_other_workers": False, "retries": 0, "pure": False}
        call.remote = self.client.submit(compute, *remote, **how)
        self.running.append(call)

    def _receive(self) -> None:
        """Write the files that workers sent; those of a start that counts as lost are left out."""
        folders = {call.token: store.search_folder(call.call[1], self.results_dir) for call in self.running}
        for token, name, content in self.queue.get(batch=True):
            if token in folders and CARRIED.fullmatch(name):
                files.write_bytes(folders[token] / name, content)

    def _look_after(self, call: Call) -> None:
        """Settle a call that has ended or was lost."""
        worker = self.workers.get(call.address)
        if worker and not call.remote.done():
            return
        try:
            if worker is None:
                raise WorkerLost(f"the worker {call.address} ended")
            run, sent = call.remote.result(timeout=60)
            self._receive()  # what it sent last
        except Exception as error:
            call.remote.cancel()
            if type(error).__name__ in ("KilledWorker", "TimeoutError", "CancelledError", "FutureCancelledError"):
                error = WorkerLost(f"the worker {call.address} ended ({type(error).__name__})")
            if isinstance(error, WorkerLost):
                self.workers.pop(call.address, None)  # another process may have its address
            self.running.remove(call)
            return call.future.set_exception(error)
        self.running.remove(call)
        folder = store.search_folder(call.call[1], self.results_dir)
        for name in filter(CARRIED.fullmatch, sent):
            if sent[name] is None:
                (folder / name).unlink(missing_ok=True)
            else:
                files.write_bytes(folder / name, sent[name])
        call.future.set_result(replace(run, path=folder) if run.path else run)


def carried(folder: Path) -> dict[str, tuple]:
    """Name -> what changes with a file's content, of the files in a search's folder that travel; tests come last."""
    found = {}
    for path in [*sorted(folder.glob("*")), *sorted(folder.glob("tests/*"))]:
        if CARRIED.fullmatch(name := path.relative_to(folder).as_posix()):
            with contextlib.suppress(OSError):  # it was removed meanwhile
                facts = path.stat()
                found[name] = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
    return found


def compute(process: str, queue: str, token: str, given, function, cell, arguments, named):
    """A call on a worker: what it returns, and the files that the client lacks (None for one that is no more)."""
    from distributed import Queue, get_worker

    if process != PROCESS:
        raise WorkerLost("another process has the worker's address")
    worker, key = get_worker(), get_worker().get_current_task()
    sent = Queue(queue)
    with contextlib.ExitStack() as stack:
        folder, known = None, {}
        if given:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=worker.local_directory))
            folder = Path(scratch) / given[0]
            for name, content in given[1].items():
                files.write_bytes(folder / name, content)
            known = carried(folder)
            named = named | {"results_dir": scratch}
            if named.get("data_dir") and not Path(named["data_dir"]).expanduser().is_dir():
                named["data_dir"] = None  # the client's, where there is none here: the worker's own
        ended = threading.Event()
        ship = threading.Thread(
            target=_watch, args=(worker, key, ended, folder, known, sent, token, threading.get_ident())
        )
        ship.start()
        try:
            run = function(cell, *arguments, **named)
        finally:
            ended.set()
            ship.join()
        left = carried(folder) if folder else {}
        changed = {name: (folder / name).read_bytes() for name in left if known.get(name) != left[name]}
        return run, changed | dict.fromkeys(set(known) - set(left))


def _watch(worker, key: str, ended: threading.Event, folder, known: dict, sent, token: str, thread: int) -> None:
    """Send files as they change, and stop the computation of a thread when nobody waits for it any more."""
    while not ended.wait(SHIP_SECONDS):
        for name, stamp in carried(folder).items() if folder else ():
            if known.get(name) != stamp:
                with contextlib.suppress(FileNotFoundError):
                    sent.put((token, name, (folder / name).read_bytes()))
                    known[name] = stamp
        task = worker.state.tasks.get(key)
        if task is None or task.state in ("cancelled", "resumed"):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))
            return
