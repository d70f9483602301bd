"""A generation, stage by stage (section III-E): archive, loss optimisation, rejection, gradient equivalence, fitness.

Each stage takes the list of candidates that reached it and runs them in lockstep, so that what they share is computed once.
"""

import contextlib
import heapq
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from .. import streams
from ..config import Config
from ..losses import expression
from ..losses.meta_network import MetaLoss
from ..training import unroll
from ..training.fitness import fitness
from ..training.problem import Problem
from . import filters
from .state import PHASES, Individual, evaluated


@dataclass
class Memory:
    """What a run remembers of its candidates."""

    archive: dict[str, Individual] = field(default_factory=dict)  # expression -> first result
    gradients: dict[str, float] = field(default_factory=dict)  # key of gradient equivalence -> evaluated fitness


@dataclass
class Evaluator:
    """Evaluates populations of one run.

    Args:
        problems: the meta-training set; the first task's training part serves the filters.
        learn_weights: False leaves out loss optimisation, all weights 1 (GP-LFL).
    """

    problems: Sequence[Problem]
    config: Config
    seed: int
    learn_weights: bool = True

    def __post_init__(self):
        expression.check_operators(self.config.operators)
        self.problems = [Problem.of(problem, self.config) for problem in self.problems]
        self.probe = filters.Probe.of(self.problems[0], self.config, self.seed)

    def compile(self, tree: str, weights) -> MetaLoss:
        """The loss of an expression under this run's settings."""
        task, config = self.problems[0].task, self.config
        dtype = getattr(torch, config.dtype)
        weights = torch.as_tensor(weights, dtype=dtype)
        return MetaLoss(tree, weights, task.classification, config.non_negative, config.protection).to(task.device)

    def evaluate(
        self, population: Sequence[str | Individual], memory: Memory, generation: int
    ) -> tuple[list[Individual], list[str], dict[str, float]]:
        """Give every member its fitness: expressions are evaluated, individuals (elites, copies) keep what they have.

        The first of equal candidates is evaluated, and the others take its result, as from the archive.

        Returns:
            (individuals in the order of `population`; how each came by its fitness, of `OUTCOMES`; seconds by phase).
            `memory` is updated.
        """
        seconds = dict.fromkeys(PHASES, 0.0)
        new: dict[str, int] = {}  # expression -> position of its first candidate
        for position, member in enumerate(population):
            if isinstance(member, str) and member not in memory.archive:
                new.setdefault(member, position)
        if self.config.fitness_start == "generation":
            population = self._measured_again(population, memory, generation, seconds)
        results = self._evaluate_new(new, memory, generation, seconds)
        individuals, outcomes = [], []
        for position, member in enumerate(population):
            individual = member if isinstance(member, Individual) else results.get(member) or memory.archive[member]
            first = individual is member or new.get(member) == position
            individuals.append(individual)
            outcomes.append(individual.outcome if first else "symbolic")
        for tree, individual in results.items():
            if self.config.archive_rejected or individual.outcome in ("evaluated", "equivalent"):
                memory.archive[tree] = individual
        return individuals, outcomes, seconds

    def _measured_again(self, population, memory: Memory, generation: int, seconds) -> list[str | Individual]:
        """The population, in which the elites have the fitness that they have from this generation's starts."""
        elites = [member for member in population if isinstance(member, Individual) and member.outcome == "elite"]
        with _timed(seconds, "fitness"):
            losses = [self.compile(elite.expression, elite.weights) for elite in elites]
            values = fitness(losses, self.problems, self.config, self.seed, generation)
        anew = {elite: replace(elite, fitness=value) for elite, value in zip(elites, values, strict=True)}
        memory.archive |= {e.expression: replace(e, outcome=evaluated(e.fitness)) for e in anew.values()}
        return [anew.get(member, member) for member in population]

    def _bar(self, memory: Memory) -> float:
        """The fitness below which a candidate is one of the leaders so far; inf while there are fewer."""
        best = heapq.nsmallest(self.config.leaders, (i.fitness for i in memory.archive.values()))
        return best[-1] if len(best) == self.config.leaders else math.inf

    def _evaluate_new(self, new: dict[str, int], memory: Memory, generation: int, seconds) -> dict[str, Individual]:
        config = self.config
        losses = {tree: self.compile(tree, self._initial_weights(tree, generation, p)) for tree, p in new.items()}
        waiting = dict(losses)  # candidates that no stage has settled yet
        settled: dict[str, tuple[float, str]] = {}  # candidate -> (fitness, outcome)

        def settle(tree: str, *result) -> None:
            settled[tree] = result
            del waiting[tree]

        with _timed(seconds, "optimise"):
            if self.learn_weights:
                finite = unroll.optimise_losses(list(waiting.values()), self.problems, config, self.seed)
                for tree in [tree for tree, ok in zip(waiting, finite, strict=True) if not ok]:
                    settle(tree, math.inf, "non_finite")

        representatives: dict[str, str] = {}  # gradient key -> candidate of this generation that stands for it
        within = config.equivalence == "within"
        seen = filters.Neighbours(memory.gradients if within else (), config.equivalence_tolerance)
        equivalents: dict[str, str] = {}  # candidate -> its gradient key, where another stands for it
        with _timed(seconds, "filter"):
            gains = filters.improvement(list(waiting.values()), self.probe, config)
            for tree, gain in zip(list(waiting), gains, strict=True):
                if not (gain > 0 or (config.score_non_finite and math.isnan(gain))):
                    settle(tree, math.inf, "rejected")
            for tree in list(waiting) if config.gradient_equivalence else ():
                key = filters.gradient_key(
                    losses[tree], self.probe, filters.EXACT if within else config.equivalence_digits
                )
                key = seen.find_or_add(key) if within and key else key
                if key in memory.gradients or key in representatives:
                    equivalents[tree] = key
                    del waiting[tree]
                elif key is not None:
                    representatives[key] = tree

        with _timed(seconds, "fitness"):
            bar = self._bar(memory) if config.racing else math.inf
            values = fitness(list(waiting.values()), self.problems, config, self.seed, generation, bar)
            for tree, value in zip(list(waiting), values, strict=True):
                settle(tree, value, evaluated(value))
        memory.gradients |= {key: settled[tree][0] for key, tree in representatives.items()}
        settled |= {tree: (memory.gradients[key], "equivalent") for tree, key in equivalents.items()}
        return {tree: Individual(tree, tuple(losses[tree].weights.tolist()), *settled[tree]) for tree in losses}

    def _initial_weights(self, tree: str, generation: int, position: int) -> torch.Tensor:
        """phi from N(1, weight_std), one stream a candidate; all 1 without loss optimisation."""
        n = len(expression.parse(tree)) - 1
        if not self.learn_weights:
            return torch.ones(n)
        draw = torch.randn(n, generator=streams.torch_generator(self.seed, "phi", generation, position))
        return 1 + self.config.weight_std * draw


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the seconds of a block to `seconds[phase]`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[phase] += time.perf_counter() - start
