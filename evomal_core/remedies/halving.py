"""`selection=halving`: the leaders of a search and the task loss meet in a contest over fresh starts.

The loss of best fitness was judged from one start, whose batches and initial weights may have favoured it. Here the leaders
are trained from starts that no search has seen, by successive halving: many for few steps, few in full. The task loss, at its
own learning rate and at the one of best fitness, is in the last round, so that a loss that wins is better than both by
validation. Only validation errors count, and a training that diverged is the worst.

The search has chosen among hundreds of losses by the same validation part, which a small part does not survive: with
`selection=resplit` each start has training and validation part redrawn from both, the same for all contestants.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from .. import streams
from ..checks import MAYBE, NUMBER, check, check_fields
from ..config import Config
from ..losses.handcrafted import CrossEntropy, SquaredError, task_loss
from ..search import tuned
from ..search.state import Leader
from ..tasks import Task
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

    @classmethod
    def from_json(cls, data: dict, names: Sequence[str], config: Config) -> "Contest":
        """The contest whose fields these are, in which null is a training that diverged.

        Args:
            names: of the leaders that take part, the best first.

        Raises:
            ValueError: no contest among these leaders under these settings can have this state.
        """
        check_fields("the contest", data, {"rates": (dict,), "results": (list,), "seconds": NUMBER})
        rates, plan = data["rates"], rounds(config)
        check_fields("rates of the contest", rates, {}, MAYBE)
        check(list(rates) in ([], [TASK_LOSS], [TASK_LOSS, TUNED]), "names in rates", f"{TASK_LOSS}, {TUNED}", [*rates])
        good = rates.get(TASK_LOSS) is None and (rates.get(TUNED, 1) or 0) > 0 and (rates or not data["results"])
        check(good, "rates of the contest", "none of the task loss, and a positive number once it is tuned", rates)
        check(len(data["results"]) <= len(plan), "rounds of the contest", f"at most {len(plan)}", len(data["results"]))
        found, waiting = cls(rates, [], data["seconds"]), list(names)
        for number, (each, of_round) in enumerate(zip(plan, data["results"], strict=False)):
            here = waiting[: each.most] + (list(rates) if number == len(plan) - 1 else [])
            check_fields(f"results of the contest, round {number}", of_round, dict.fromkeys(here, (list,)), (list,))
            check(sorted(of_round) == sorted(here), f"names of round {number}", here, list(of_round))
            for name, errors in of_round.items():
                whole = len(errors) == each.starts or (0 < len(errors) < each.starts and errors[-1] is None)
                good = whole and None not in errors[:-1] and all(type(error) in MAYBE for error in errors)
                check(good, f"errors of {name} in round {number}", f"{each.starts} numbers, or null at last", errors)
            found.results.append({name: [math.inf if e is None else e for e in of_round[name]] for name in here})
            waiting = survivors(waiting[: each.most], found.results[-1])
        return found

    @property
    def winner(self) -> str:
        """The name of lowest mean validation error in the last round; ties go to the task loss."""
        last = self.results[-1]
        return min([*self.rates, *last], key=lambda name: statistics.fmean(last[name]))


def survivors(names: Sequence[str], results: dict[str, list[float]]) -> list[str]:
    """Those of no failed training in a round, the lowest mean error first."""
    means = {name: statistics.fmean(results[name]) for name in names}
    return [name for name in sorted(names, key=lambda name: means[name]) if math.isfinite(means[name])]


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
    entered = {name: Contestant(name, task, rate) for name, rate in contest.rates.items()}
    entered |= {n: Contestant(n, leader.loss, leader.learning_rate) for n, leader in entrants(leaders).items()}
    waiting, plan = list(entrants(leaders)), rounds(config)
    for number, each in enumerate(plan):
        waiting = waiting[: each.most]
        if number == len(contest.results):
            here = [entered[n] for n in [*waiting, *(contest.rates if number == len(plan) - 1 else ())]]
            contest.results.append(_measured(here, problem, config, seed, number, each))
            contest.seconds = time.perf_counter() - start
            on_round(contest)
        waiting = survivors(waiting, contest.results[number])
    return entered[contest.winner]


def entrants(leaders: Sequence[Leader]) -> dict[str, Leader]:
    """name -> leader, of the leaders that take part: all but a task loss that is a leader itself."""
    usual = CrossEntropy, SquaredError
    return {f"leader {k}": leader for k, leader in enumerate(leaders) if not isinstance(leader.loss, usual)}


def _measured(here: list[Contestant], problem, config: Config, seed: int, number: int, each: Round):
    """Validation errors of contestants in a round: all of one learning rate side by side, all from the same starts."""
    errors: dict[str, list[float]] = {contestant.name: [] for contestant in here}
    for start in range(each.starts):
        there = copy.copy(problem)
        if config.selection == "resplit":
            there.task = resplit(problem.task, seed, start, number)
        for rate in dict.fromkeys(contestant.learning_rate for contestant in here):
            some = [contestant for contestant in here if contestant.learning_rate == rate]
            some = [c for c in some if not errors[c.name] or math.isfinite(errors[c.name][-1])]
            milestones = config.test_milestones if each.steps == config.test_steps else ()
            trial = Trial("selection", each.steps, (0, start, number), rate, milestones)
            outcomes = run_trial([c.loss for c in some], there, config, seed, trial)
            for contestant, (outcome,) in zip(some, outcomes, strict=True):
                errors[contestant.name].append(outcome.errors["validation"])
    return errors


def resplit(task: Task, seed: int, *index: int) -> Task:
    """The task with training and validation part of the same sizes dealt out anew from both; the test part stays."""
    x, y = (torch.cat(pair) for pair in zip(task.train, task.validation, strict=True))
    order = torch.randperm(len(y), generator=streams.torch_generator(seed, "selection-split", *index)).to(y.device)
    train, validation = ((x[rows], y[rows]) for rows in order.split([len(task.train[1]), len(task.validation[1])]))
    return replace(task, train=train, validation=validation)
