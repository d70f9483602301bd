"""What a user sees of a running call, and what ends it: a progress bar, a time limit, callbacks."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..search import SearchState


class Enough(Exception):
    """The search is to end with what it has; the text says why."""


@dataclass(frozen=True)
class Progress:
    """What a callback gets after each generation.

    Attributes:
        generation, generations: how many are done, and how many there are to be.
        best, baseline: fitness of the best loss so far and of the task loss, validation error after `fitness_steps` steps.
        seconds: since the call began.
        state: the search's state, not to be changed.
    """

    generation: int
    generations: int
    best: float
    baseline: float
    seconds: float
    state: SearchState


class Watch:
    """Bar, time limit and callbacks of one call.

    Args:
        shown: whether there is a bar.
        timeout: seconds, or None.
        callbacks: called with `Progress`; the search ends where one gives True.
    """

    def __init__(self, shown: bool, timeout: float | None, callbacks: Sequence[Callable]):
        self.shown, self.timeout, self.callbacks = shown, timeout, tuple(callbacks)
        self.start, self.baseline, self.best = time.perf_counter(), math.nan, math.inf
        self.bar, self.done, self.all = None, 0, 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def begin(self, beats: int, done: int, generations: int) -> None:
        """Show the bar."""
        self.done, self.all = done, generations
        if self.shown:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=beats, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}", leave=False)

    def phase(self, name: str) -> None:
        """Say what is being done."""
        if self.bar is not None:
            shown = f"generation {min(self.done + 1, self.all)}/{self.all}" if name == "search" else name
            self.bar.set_description(shown)

    def beat(self) -> None:
        """A sign of life; ends the computation where the time is up."""
        self.quiet_beat()
        if self.timeout is not None and self.seconds > self.timeout:
            raise Enough(f"the time limit of {self.timeout:g} s")

    def quiet_beat(self) -> None:
        """A sign of life of what is to be finished."""
        if self.bar is not None and self.bar.n < self.bar.total - 1:
            self.bar.update(1)

    def generation(self, state: SearchState, generations: int) -> None:
        """A generation is done."""
        self.done, self.best = state.generation, state.best_fitness
        if self.bar is not None:
            self.bar.set_postfix_str(f"best {self.best:.4g}, baseline {self.baseline:.4g}")
            self.phase("search")
        told = Progress(state.generation, generations, self.best, self.baseline, self.seconds, state)
        for callback in self.callbacks:
            if callback(told):
                raise Enough(f"{getattr(callback, '__name__', 'a callback')} asked for it")

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.n = self.bar.total
            self.bar.close()
            self.bar = None
