"""A sign of life of long computations, for progress bars and time limits: `beat` is called every so many steps."""

import contextlib
from collections.abc import Callable, Iterator

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Tell whoever listens that the computation goes on; an exception of theirs ends it."""
    for listener in tuple(_listeners):
        listener()


@contextlib.contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
    """Within this block `listener` is called at every beat of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
