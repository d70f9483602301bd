"""TaylorGLO (section IV-A): CMA-ES, from DEAP, over a Taylor loss's parameters; fitness as in Algorithm 2, no filters."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from deap import cma
from torch import nn

from .. import streams
from ..checks import NUMBER, check, check_fields
from ..config import Config
from ..losses.taylor import PARAMETERS, TaylorLoss
from ..training.fitness import fitness
from ..training.problem import Problem
from .state import Leader, Point, Result, SearchState, evaluated, tell

SIGMA = 1.2  # initial step size [R]; the search starts at 0


@dataclass
class CmaState(SearchState):
    """`strategy` is what DEAP's strategy goes on from, `leaders` are the best points so far."""

    strategy: dict | None = None
    leaders: list[Point] = field(default_factory=list)
    lists: ClassVar[dict[str, type]] = {"leaders": Point}

    def check(self, config: Config) -> None:
        super().check(config)
        check_strategy(self, PARAMETERS if self.generation else None, config)


class _Point(list):
    """A point of the search, as DEAP's strategy sorts it: by `fitness`, the larger the better."""

    fitness: float


def check_strategy(state, n: int | None, config: Config, begin: int = 0) -> None:
    """Raise ValueError unless a state holds what `step` keeps in `n` dimensions since generation `begin`; None: nothing."""
    kept, size = state.strategy, min(config.leaders, state.counted("evaluated", rows=slice(begin, None)))
    check(len(state.leaders) == size, "leaders of the state", f"{size} points", len(state.leaders))
    if n is None or kept is None:
        return check(
            kept is None and n is None, "strategy of the state", "there behind the first generation alone", kept
        )
    check_fields("the strategy", kept, {"sigma": NUMBER, "update_count": (int,)})
    for name, shape in {"centroid": (n,), "pc": (n,), "ps": (n,), "C": (n, n)}.items():
        array = np.array(kept[name], float)
        check(
            array.shape == shape and np.isfinite(array).all(), f"{name} of the strategy", f"{shape} numbers", kept[name]
        )


def _strategy(kept: dict, population: int) -> cma.Strategy:
    """The strategy as a state holds it; only centroid and sigma of a new one are there."""
    options = {"lambda_": population} | ({"cmatrix": np.array(kept["C"])} if "C" in kept else {})
    strategy = cma.Strategy(kept["centroid"], kept["sigma"], **options)
    for name in ("pc", "ps"):
        if name in kept:
            setattr(strategy, name, np.array(kept[name]))
    strategy.update_count = kept.get("update_count", 0)
    return strategy


def step(
    state: CmaState,
    begin: dict,
    make: Callable[[Sequence[float]], nn.Module],
    problems: Sequence[Problem],
    config: Config,
    seed: int,
) -> tuple[list[Point], dict[str, float]]:
    """One generation of CMA-ES: ask, evaluate, tell the strategy.

    Args:
        begin: centroid and sigma of a new strategy.
        make: the loss of a point.

    Returns:
        (evaluated points, seconds by phase); `state.strategy` and `state.leaders` are updated.
    """
    strategy = _strategy(state.strategy or begin, config.population)
    with streams.global_generators(streams.integer(seed, "cma-es", state.generation)):
        asked = strategy.generate(_Point)
    start = time.perf_counter()
    values = fitness([make(point) for point in asked], problems, config, seed)
    seconds = {"fitness": time.perf_counter() - start}
    for point, value in zip(asked, values, strict=True):
        point.fitness = -value
    points = [Point(tuple(map(float, p)), v, evaluated(v)) for p, v in zip(asked, values, strict=True)]
    strategy.update(asked)
    state.strategy = {name: getattr(strategy, name).tolist() for name in ("centroid", "C", "pc", "ps")}
    state.strategy |= {"sigma": float(strategy.sigma), "update_count": strategy.update_count}
    finite = [point for point in points if point.outcome == "evaluated"]
    state.leaders = sorted([*state.leaders, *finite], key=lambda point: point.fitness)[: config.leaders]
    return points, seconds


def search(problems, config, seed, state: CmaState, on_generation) -> Result:
    """The Taylor loss of the best point; no loss if all diverged."""
    if config.population < 2:
        raise ValueError(f"Config.population of CMA-ES must be at least 2, got {config.population}")
    task = problems[0].task
    begin = {"centroid": [0.0] * PARAMETERS, "sigma": SIGMA}
    while state.generation < config.generations:
        make = lambda point: taylor(point, config, task)  # noqa: E731
        points, seconds = step(state, begin, make, problems, config, seed)
        tell(state, points, [point.outcome for point in points], seconds, config)
        on_generation(state)
    leaders = tuple(Leader(taylor(point.weights, config, task), point.fitness) for point in state.leaders)
    best = taylor(state.best.weights, config, task) if state.best else None
    return Result(best, None, leaders, state)


def taylor(point, config: Config, task) -> TaylorLoss:
    """The Taylor loss of a point under a search's settings."""
    options = {"classification": task.classification, "non_negative": config.non_negative}
    options |= {"roles": config.taylor_roles, "last_term": config.taylor_last_term}
    return TaylorLoss(np.asarray(point, dtype=config.dtype), **options).to(task.device)
