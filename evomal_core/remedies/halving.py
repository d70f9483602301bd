"""`selection=halving`: the leaders of a search and the task loss meet in a contest over fresh starts.

The loss of best fitness was judged from one start, whose batches and initial weights may have favoured it. Here the leaders
are trained from starts that no search has seen, by successive halving: many for few steps, few in full. The task loss, at its
own learning rate and at the one of best fitness, is in the last round, so that a loss that wins is better than both by
validation. Only validation errors count, and a training that diverged is the worst.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from ..config import Config
from ..losses.handcrafted import task_loss
from ..search import tuned
from ..search.state import Leader
from ..training.trial import Trial, run_trial

TASK_LOSS, TUNED = "task loss", "task loss, tuned"


@dataclass(frozen=True)
class Round:
    """One round: at most `most` contestants, each trained from `starts` fresh starts for `steps` steps."""

    most: int
    starts: int
    steps: int


def rounds(config: Config) -> tuple[Round, Round, Round]:
    """The rounds of a contest: S_testing steps, a quarter of the full length, the full length."""
    full = config.test_steps
    return Round(16, 3, min(config.fitness_steps, full)), Round(8, 2, max(1, full // 4)), Round(4, 2, full)


@dataclass(frozen=True)
class Contestant:
    """A loss, its learning rate (None: the configuration's), and what it is called: "leader 0", or the task loss."""

    name: str
    loss: nn.Module
    learning_rate: float | None = None


@dataclass
class Contest:
    """What was measured so far.

    Attributes:
        rates: name of a task loss -> its learning rate.
        results: for each round that is done, name -> the validation errors from its starts.
        seconds: spent so far.
    """

    rates: dict[str, float | None] = field(default_factory=dict)
    results: list[dict[str, list[float]]] = field(default_factory=list)
    seconds: float = 0.0


def hold(
    contest: Contest,
    leaders: Sequence[Leader],
    problem,
    config: Config,
    seed: int,
    on_round: Callable[[Contest], None] = lambda contest: None,
) -> Contestant:
    """Hold a contest, or go on with it, and return the winner.

    Args:
        contest: takes what is measured; one that was interrupted goes on behind its last round.
        leaders: of a search, the best first.
        problem: the task and base model of the search.
        on_round: called after each round, to keep the contest.

    Returns:
        The contestant of lowest mean validation error in the last round; ties go to the task loss. The task loss if all
        diverged.
    """
    start = time.perf_counter() - contest.seconds
    task = task_loss(problem.task)
    if not contest.rates:
        best = tuned.search([problem], config, seed, tuned.TunedState(), lambda state: None).learning_rate
        contest.rates = {TASK_LOSS: None} | ({TUNED: best} if best else {})
    own = [Contestant(name, task, rate) for name, rate in contest.rates.items()]
    waiting = [Contestant(f"leader {k}", leader.loss, leader.learning_rate) for k, leader in enumerate(leaders)]
    waiting = [contestant for contestant in waiting if not isinstance(contestant.loss, type(task))]
    plan = rounds(config)
    for number, each in enumerate(plan):
        here = waiting[: each.most] + (own if number == len(plan) - 1 else [])
        if number == len(contest.results):
            contest.results.append(_measured(here, problem, config, seed, number, each))
            contest.seconds = time.perf_counter() - start
            on_round(contest)
        means = {name: statistics.fmean(errors) for name, errors in contest.results[number].items()}
        waiting = [c for c in sorted(waiting[: each.most], key=lambda c: means[c.name]) if math.isfinite(means[c.name])]
    return min([*own, *waiting], key=lambda contestant: means[contestant.name])


def _measured(here: list[Contestant], problem, config: Config, seed: int, number: int, each: Round):
    """Validation errors of contestants in a round: all of one learning rate side by side, all from the same starts."""
    errors: dict[str, list[float]] = {contestant.name: [] for contestant in here}
    for start in range(each.starts):
        for rate in dict.fromkeys(contestant.learning_rate for contestant in here):
            some = [contestant for contestant in here if contestant.learning_rate == rate]
            some = [c for c in some if not errors[c.name] or math.isfinite(errors[c.name][-1])]
            milestones = config.test_milestones if each.steps == config.test_steps else ()
            trial = Trial("selection", each.steps, (0, start, number), rate, milestones)
            outcomes = run_trial([c.loss for c in some], problem, config, seed, trial)
            for contestant, (outcome,) in zip(some, outcomes, strict=True):
                errors[contestant.name].append(outcome.errors["validation"])
    return errors
