"""TaylorGLO (section IV-A): CMA-ES, from DEAP, over a Taylor loss's parameters; fitness as in Algorithm 2, no filters."""

import math
import time

import numpy as np
from deap import cma

from .. import streams
from ..config import Config
from ..losses.taylor import PARAMETERS, TaylorLoss
from ..training import base
from .evaluate import Evaluator, Individual
from .genetic import SearchState, tell

SIGMA = 1.2  # initial step size [R]; the search starts at 0


class _Point(list):
    """A point of the search, as DEAP's strategy sorts it: by `fitness`, the larger the better."""

    fitness: float


def _strategy(state: SearchState, config: Config) -> cma.Strategy:
    """The strategy as `state` holds it, or a new one."""
    kept = state.strategy or {"centroid": [0.0] * PARAMETERS, "sigma": SIGMA}
    options = {"lambda_": config.population} | ({"cmatrix": np.array(kept["C"])} if "C" in kept else {})
    strategy = cma.Strategy(kept["centroid"], kept["sigma"], **options)
    for name in ("pc", "ps"):
        if name in kept:
            setattr(strategy, name, np.array(kept[name]))
    strategy.update_count = kept.get("update_count", 0)
    return strategy


def step(state: SearchState, evaluator: Evaluator) -> None:
    """One generation of CMA-ES: ask, evaluate, tell."""
    config, task = evaluator.config, evaluator.problems[0][0]
    strategy = _strategy(state, config)
    with streams.global_generators(streams.integer(evaluator.seed, "cma-es", state.generation)):
        points = strategy.generate(_Point)
    start = time.perf_counter()
    losses = [taylor(point, config, task) for point in points]
    values = base.fitness(losses, evaluator.problems, config, evaluator.seed)
    seconds = {"fitness": time.perf_counter() - start}
    individuals = []
    for point, value in zip(points, values, strict=True):
        point.fitness = -value
        outcome = "evaluated" if math.isfinite(value) else "non_finite"
        individuals.append(Individual("taylor", tuple(map(float, point)), value, outcome))
    strategy.update(points)
    state.strategy = {name: getattr(strategy, name).tolist() for name in ("centroid", "C", "pc", "ps")}
    state.strategy |= {"sigma": float(strategy.sigma), "update_count": strategy.update_count}
    tell(state, individuals, [i.outcome for i in individuals], seconds, config)


def taylor(point, config: Config, task) -> TaylorLoss:
    """The Taylor loss of a point under a run's settings."""
    return TaylorLoss(
        np.asarray(point, dtype=config.dtype),
        classification=task.classification,
        non_negative=config.non_negative,
        roles=config.taylor_roles,
        last_term=config.taylor_last_term,
    ).to(task.device)
