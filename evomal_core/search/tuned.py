"""The control `tuned`, which the paper lacks: is a learned loss more than a learning rate?"""

import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..config import Config
from ..losses.handcrafted import task_loss
from ..training.fitness import fitness
from .state import Leader, Rate, Result, SearchState, evaluated, tell

LEARNING_RATES = np.logspace(-3, 0, 25)


def rates(config: Config, optimiser=None) -> list[float]:
    """The rates that are tried: 25 from 0.001 to 1, or as many around the rate of an optimiser of one's own."""
    around = config.base_learning_rate * np.logspace(-1.5, 1.5, len(LEARNING_RATES))
    return (around if optimiser else LEARNING_RATES).tolist()


@dataclass
class TunedState(SearchState):
    """`tried` are all rates."""

    tried: list[Rate] = field(default_factory=list)
    candidate: ClassVar[type] = Rate
    lists: ClassVar[dict[str, type]] = {"tried": Rate}


def search(problems, config, seed, state: TunedState, on_generation) -> Result:
    """The task loss, with the learning rate of the best fitness; no loss if all diverged."""
    loss, start = task_loss(problems[0].task), time.perf_counter()
    if not state.tried:
        for rate in rates(config, problems[0].optimiser):
            (value,) = fitness([loss], problems, config, seed, learning_rate=rate)
            state.tried.append(Rate(rate, value, evaluated(value)))
        seconds = {"fitness": time.perf_counter() - start}
        tell(state, state.tried, [rate.outcome for rate in state.tried], seconds, config)
    best = sorted((r for r in state.tried if r.outcome == "evaluated"), key=lambda rate: rate.fitness)[: config.leaders]
    leaders = tuple(Leader(loss, rate.fitness, rate.learning_rate) for rate in best)
    return Result(loss if best else None, state.best.learning_rate if best else None, leaders, state)
