"""The generational search over loss expressions (section III-B2): EvoMAL, GP-LFL, and the control `random`.

Proposing is separate from evaluating: `ask` gives the next population, an `Evaluator` its fitness, `tell` takes it. The
whole state is one `SearchState`, which can be saved, compared, and goes on where it was.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import ClassVar

from deap import tools

from .. import files, streams
from ..checks import check
from ..config import Config
from ..losses import expression
from ..losses.known import known_losses
from .evaluate import Evaluator, Memory
from .state import Individual, Leader, Result, SearchState, candidate_from_json, number, tell


@dataclass
class GeneticState(SearchState):
    """The state of a genetic search: the last population, and what is remembered of all candidates."""

    population: list[Individual] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    candidate: ClassVar[type] = Individual
    lists: ClassVar[dict[str, type]] = {"population": Individual}

    def to_json(self) -> dict:
        data = asdict(self)
        memory = data.pop("memory")
        return files.strict(data | {"archive": list(memory["archive"].values()), "gradients": memory["gradients"]})

    def check(self, config: Config) -> None:
        super().check(config)
        size = config.population if self.generation else 0
        check(len(self.population) == size, "population of the state", f"{size} individuals", len(self.population))
        kept = ("evaluated", "equivalent", *(("rejected", "non_finite") if config.archive_rejected else ()))
        size, archive = self.counted(*kept, rows=slice(config.generations)), self.memory.archive
        check(len(archive) == size, "archive of the state", f"{size} individuals", len(archive))

    @classmethod
    def decoded(cls, data: dict) -> dict:
        archive = [candidate_from_json(Individual, i) for i in data["archive"]]
        gradients = {key: number(value) for key, value in data["gradients"].items()}
        return super().decoded(data) | {"memory": Memory({i.expression: i for i in archive}, gradients)}


def ask(
    state: GeneticState, config: Config, seed: int, fresh: bool = False, known: Sequence[str] = ()
) -> list[str | Individual]:
    """The next population: expressions to be evaluated, and individuals that keep their fitness and weights.

    Generation 0 is random (ramped half-and-half), led by `known` losses if there are any; with `fresh` every generation is
    random, which is the control `random`.
    Otherwise elites survive. One crossover or one mutation gives each other offspring, which is corrected to hold y and f
    and, if higher than `max_height`, replaced with a copy of its parent.
    """
    stream = streams.integer(seed, "genetic", state.generation)
    if fresh or not state.population:
        grown = expression.grow(stream, config.initial_height, config.population, config.operators)
        first = list(known)[: config.population]
        return first + list(map(str, grown))[len(first) :]
    with streams.global_generators(stream):
        return _offspring(state.population, config)


def _offspring(population: list[Individual], config: Config) -> list[str | Individual]:
    reproduction = 0.0 if config.elitism else config.elitism_rate  # [R]
    rates = (config.crossover_rate, config.mutation_rate, reproduction)
    offspring: list[str | Individual] = []
    if config.elitism:
        ranked = sorted(population, key=lambda individual: individual.fitness)  # stable: ties go to the earliest
        elites = ranked[: max(1, round(config.elitism_rate * config.population))]
        offspring += [replace(elite, outcome="elite") for elite in elites]
    while len(offspring) < config.population:
        parent = select(population, config)
        tree = expression.parse(parent.expression)
        (variation,) = random.choices(("crossover", "mutation", "reproduction"), rates)
        if variation == "crossover":
            tree = expression.cross(tree, expression.parse(select(population, config).expression))
        elif variation == "mutation":
            tree = expression.mutate(tree, config.mutation_height, config.operators)
        tree = expression.correct(tree, config.operators)
        large = tree.height > config.max_height or len(tree) > expression.MAX_NODES
        copied = variation == "reproduction" or large
        offspring.append(replace(parent, outcome="symbolic") if copied else str(tree))
    return offspring


def select(population: list[Individual], config: Config) -> Individual:
    """Tournament by fitness; under the released code's switch, by size and then fitness with parsimony size 1."""
    choose = tools.selTournament
    if config.double_tournament:
        choose = partial(tools.selDoubleTournament, parsimony_size=1, fitness_first=False)
    return choose(population, 1, config.tournament_size, fit_attr="merit")[0]


def step(state: GeneticState, evaluator: Evaluator, fresh: bool = False) -> None:
    """One generation: ask, evaluate, tell."""
    config = evaluator.config
    classification = evaluator.problems[0].task.classification
    known = () if state.population else known_losses(classification, config)
    population = ask(state, config, evaluator.seed, fresh, known)
    individuals, outcomes, seconds = evaluator.evaluate(population, state.memory, state.generation)
    tell(state, individuals, outcomes, seconds, config)
    state.population = individuals


def search(problems, config, seed, state, on_generation, learn_weights: bool = True, fresh: bool = False) -> Result:
    """EvoMAL (Fig. 1); GP-LFL without `learn_weights`; the control `random` with `fresh`. No loss if all failed."""
    evaluator = Evaluator(problems, config, seed, learn_weights)
    while state.generation < config.generations:
        step(state, evaluator, fresh)
        on_generation(state)
    return found(state, config, evaluator.compile)


def found(state: GeneticState, config: Config, compile: Callable) -> Result:
    """What a search has found so far: the best loss and the leaders.

    Args:
        compile: (expression, weights) -> loss.
    """
    if state.best is None:
        return Result(None, None, (), state)
    best = state.best
    if config.fitness_start == "generation":  # fitness of one generation is compared, the last
        best = min(state.population, key=lambda individual: individual.fitness)
    leaders = tuple(
        Leader(compile(i.expression, i.weights), i.fitness) for i in leading(evaluated_trees(state), best, config)
    )
    return Result(leaders[0].loss, None, leaders, state)


def evaluated_trees(state: GeneticState) -> list[Individual]:
    """All trees of the search whose fitness was computed; equivalent ones stand for none."""
    return [individual for individual in state.memory.archive.values() if individual.outcome == "evaluated"]


def leading(candidates: Iterable[Individual], best: Individual, config: Config) -> list[Individual]:
    """The best of distinct candidates, at most `config.leaders`: `best` first, then by fitness, ties to the earliest."""
    key = lambda individual: (individual.expression, individual.weights)  # noqa: E731
    others = {key(i): i for i in candidates if key(i) != key(best)}
    return [best, *sorted(others.values(), key=lambda individual: individual.fitness)][: config.leaders]
