"""Local worker processes as a `concurrent.futures.Executor`: one that is killed takes along its own call and no other."""

import multiprocessing
import os
import queue
import signal
import threading
from concurrent.futures import Executor, Future

SPAWN = multiprocessing.get_context("spawn")  # forked children inherit threads in an unknown state
MAIN_GUARD = 'workers import the calling script: a script, unlike a notebook, needs `if __name__ == "__main__":`'


class WorkerLost(RuntimeError):
    """The worker ended while it computed; what it computed can be begun again elsewhere."""


class NotStarted(RuntimeError):
    """A worker ended before it could take a call."""


class Processes(Executor):
    """So many spawned processes, each of which takes one call after another.

    A process that ends in a call is replaced by a fresh one, and the call's future raises `WorkerLost`. If the `with` block
    is left by an exception, Ctrl-C for example, all processes are killed at once. They also end with this process.
    """

    def __init__(self, workers: int):
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._running: list = []
        self._lock, self._ended = threading.Lock(), False
        first = [
            self._start() for _ in range(workers)
        ]  # here, as a script without its guard shall fail in its own thread
        self._threads = [threading.Thread(target=self._serve, args=pair, daemon=True) for pair in first]
        for thread in self._threads:
            thread.start()

    def submit(self, call, /, *arguments, **named) -> Future:
        future: Future = Future()
        self._calls.put((future, (call, arguments, named)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let all calls end, or with `cancel_futures` kill the processes and cancel what waits."""
        with self._lock:
            self._ended = cancel_futures
            for process in self._running if cancel_futures else ():
                process.kill()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def __exit__(self, kind, error, trace) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _serve(self, process, pipe) -> None:
        """Hand one call after another to a process of one's own, which a fresh one follows if it ends."""
        ready = False
        while item := self._calls.get():
            future, call = item
            if self._ended or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            try:
                if not process.is_alive():
                    (process, pipe), ready = self._start(), False
                ready = ready or pipe.recv()  # it says so when it has imported the calling script
                pipe.send(call)
                settle, value = pipe.recv()
                settle(future, value)
            except (EOFError, ConnectionError):
                process.join()
                ended = f"a worker ended with code {process.exitcode}"
                lost, unborn = WorkerLost(ended), NotStarted(f"{ended} before it began ({MAIN_GUARD})")
                future.set_exception(lost if ready else unborn)
            except Exception as error:  # it could not be started, or what it was sent or sent back is no pickle
                future.set_exception(error)
        pipe.close()  # upon which it ends
        process.join()

    def _start(self):
        """A process, and the pipe to it."""
        pipe, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_work, args=(theirs,), daemon=True)
        with self._lock:
            if self._ended:
                raise NotStarted("the pool of workers was closed")
            process.start()
            self._running.append(process)
        theirs.close()
        return process, pipe


def _work(pipe) -> None:
    """The main function of a worker, which ends with its parent: no computation outlives the kernel that asked for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to the parent too, which sees to the rest
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        pipe.send(True)
        while True:
            call, arguments, named = pipe.recv()
            try:
                answer = (Future.set_result, call(*arguments, **named))
            except Exception as error:
                answer = (Future.set_exception, error)
            pipe.send(answer)
    except (EOFError, ConnectionError):  # the pool ended
        return
