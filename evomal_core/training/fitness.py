"""Fitness of losses (Algorithm 2): partial training sessions, judged on the validation part."""

import math
import statistics
from collections.abc import Sequence

from torch import nn

from ..config import Config
from .trial import Trial, run_trial


def fitness(
    losses: Sequence[nn.Module],
    problems: Sequence,
    config: Config,
    seed: int,
    generation: int = 0,
    bar: float = math.inf,
    learning_rate: float | None = None,
) -> list[float]:
    """Algorithm 2: the mean over the tasks of the metric on the validation part after `fitness_steps` steps; inf is worst.

    Args:
        generation: from which the starts are drawn if `fitness_start` is "generation".
        bar: with `racing`, the fitness that a loss must reach from its first start to be given the others.
        learning_rate: the base optimiser's; None takes the configuration's.

    Returns:
        For each loss the mean over tasks and starts, or, over the starts, the worst.
    """
    over = max if config.fitness_over == "worst" else statistics.fmean
    totals = [0.0] * len(losses)
    for i, problem in enumerate(problems):
        index = (i,) if config.fitness_start == "same" else (i, 0, generation)
        trial = Trial("fitness", config.fitness_steps, index, learning_rate)
        errors: list[list[float]] = [[] for _ in losses]
        for start in range(config.fitness_starts):
            racing = [
                k for k, e in enumerate(errors) if not (e and (e[0] == math.inf or (config.racing and e[0] > bar)))
            ]
            outcomes = run_trial([losses[k] for k in racing], problem, config, seed, trial.of_start(start))
            for k, (outcome,) in zip(racing, outcomes, strict=True):
                errors[k].append(outcome.errors["validation"])
        totals = [total + over(e) for total, e in zip(totals, errors, strict=True)]
    return [total / len(problems) for total in totals]
