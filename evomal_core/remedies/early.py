"""The control `early`, which the paper lacks: is a learned loss more than a learning rate and a stopping time?"""

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..config import Config
from ..losses.handcrafted import task_loss
from ..registry import METHODS, Work
from ..search.state import Leader, Method, Result, SearchState, evaluated, number, tell
from ..training.trial import Trial, early_stops, run_trial

RATES = np.logspace(-3, 0, 13).tolist()  # four a decade
FINAL_RATES, FINAL_STARTS = 3, 2  # the best rates, and the further starts that each of them gets


@dataclass(frozen=True)
class Stopped:
    """A learning rate and a number of steps for the task loss.

    Attributes:
        curves: for each start and task, the validation errors after the steps of `early_stops`.
    """

    learning_rate: float
    steps: int
    fitness: float
    outcome: str
    curves: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self):  # JSON has lists, and null where an error was not finite
        curves = tuple(tuple(map(number, curve)) for curve in self.curves)
        object.__setattr__(self, "curves", curves)

    def __len__(self) -> int:
        return 3


@dataclass
class EarlyState(SearchState):
    """`tried` are all rates of the first round; the second round replaces its own."""

    tried: list[Stopped] = field(default_factory=list)
    candidate: ClassVar[type] = Stopped
    lists: ClassVar[dict[str, type]] = {"tried": Stopped}


def trainings(config: Config) -> int:
    """How many full trainings there are, at no more steps than EvoMAL's search of the same configuration makes.

    A meta-gradient counts as one step, though it takes longer, and steps of the filters count as none.
    """
    work = METHODS["evomal"].work(config)
    steps = work.evaluated * config.fitness_steps + work.optimised * config.meta_steps
    return max(1, min(int(steps / config.test_steps), len(RATES) + FINAL_RATES * FINAL_STARTS))


def search(problems, config: Config, seed: int, state: EarlyState, on_generation) -> Result:
    """The task loss with the rate and the number of steps of lowest mean validation error over fresh starts.

    Each of `RATES` is trained in full from one start, those nearest to the configuration's first if not all can be; then
    the best of them from further starts. No loss if all diverged.
    """
    loss, n, start = task_loss(problems[0].task), trainings(config), time.perf_counter()
    nearest = sorted(RATES, key=lambda rate: abs(math.log(rate / config.base_learning_rate)))[:n]
    for rate in nearest[len(state.tried) :] if state.generation == 0 else ():
        state.tried.append(_stopped(rate, _curves(loss, problems, config, seed, rate, range(1)), config))
    if state.generation == 0:
        _told(state, state.tried, start, config)
        on_generation(state)
    if state.generation == 1:
        start, again = time.perf_counter(), (n - len(nearest)) // FINAL_STARTS
        best = sorted(state.tried, key=lambda stopped: stopped.fitness)[:again]
        final = []
        for stopped in best:
            more = _curves(loss, problems, config, seed, stopped.learning_rate, range(1, 1 + FINAL_STARTS))
            final.append(_stopped(stopped.learning_rate, (*stopped.curves, *more), config))
        state.tried = [*final, *(stopped for stopped in state.tried if stopped not in best)]
        if final:  # what was measured from more starts is what counts
            state.best, state.best_fitness = None, math.inf
        _told(state, final, start, config)
        on_generation(state)
    best = state.best
    leaders = (Leader(loss, best.fitness, best.learning_rate),) if best else ()
    return Result(loss if best else None, best and best.learning_rate, leaders, state, best and best.steps)


def _told(state: EarlyState, tried: list[Stopped], start: float, config: Config) -> None:
    tell(state, tried, [stopped.outcome for stopped in tried], {"fitness": time.perf_counter() - start}, config)


def _curves(loss, problems, config: Config, seed: int, rate: float, starts) -> tuple[tuple[float, ...], ...]:
    """Validation errors in the course of full trainings, a row for each start and task."""
    steps = early_stops(config.test_steps)
    rows = []
    for start in starts:
        for i, problem in enumerate(problems):
            trial = Trial("selection", config.test_steps, (i, start), rate, config.test_milestones, curve=tuple(steps))
            ((outcome,),) = run_trial([loss], problem, config, seed, trial)
            looks = dict(outcome.curve) | {config.test_steps: outcome.errors}
            rows.append(tuple(looks[step]["validation"] for step in steps))
    return tuple(rows)


def _stopped(rate: float, curves: tuple[tuple[float, ...], ...], config: Config) -> Stopped:
    means = [statistics.fmean(errors) for errors in zip(*curves, strict=True)]
    best = means.index(min(means))
    return Stopped(rate, early_stops(config.test_steps)[best], means[best], evaluated(means[best]), curves)


def _work(config: Config) -> Work:
    return Work(evaluated=trainings(config) * config.test_steps / config.fitness_steps)


METHODS["early"] = Method("early", search, 8, EarlyState, lambda config: 2, _work)
