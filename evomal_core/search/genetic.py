"""The generational search over loss expressions (section III-B2): EvoMAL, GP-LFL, and the control `random`.

Proposing is separate from evaluating: `ask` gives the next population, an `Evaluator` its fitness, `tell` takes it. The
whole state is one `SearchState`, which can be saved, compared, and goes on where it was.
"""

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from deap import tools

from .. import files, streams
from ..config import Config
from ..losses import expression
from .evaluate import Evaluator, Individual, Memory


@dataclass
class SearchState:
    """Everything a search needs to go on, after `generation` evaluated generations."""

    generation: int = 0
    population: list[Individual] = field(default_factory=list)
    best: Individual | None = None
    best_fitness: float = math.inf  # of `best`, except under the released code's stale variable
    memory: Memory = field(default_factory=Memory)
    history: list[dict] = field(default_factory=list)  # one row a generation
    strategy: dict | None = None  # of CMA-ES, for TaylorGLO

    def to_json(self) -> dict:
        """Strict JSON; a non-finite number is null."""
        return {
            "generation": self.generation,
            "population": [i.to_json() for i in self.population],
            "best": self.best and self.best.to_json(),
            "best_fitness": files.finite(self.best_fitness),
            "archive": [i.to_json() for i in self.memory.archive.values()],
            "gradients": {key: files.finite(value) for key, value in self.memory.gradients.items()},
            "history": list(self.history),
            "strategy": self.strategy,
        }

    @classmethod
    def from_json(cls, data: dict) -> "SearchState":
        archive = {i["expression"]: Individual.from_json(i) for i in data["archive"]}
        gradients = {key: math.inf if value is None else value for key, value in data["gradients"].items()}
        return cls(
            data["generation"],
            [Individual.from_json(i) for i in data["population"]],
            data["best"] and Individual.from_json(data["best"]),
            math.inf if data["best_fitness"] is None else data["best_fitness"],
            Memory(archive, gradients),
            data["history"],
            data.get("strategy"),
        )


def ask(state: SearchState, config: Config, seed: int, fresh: bool = False) -> list[str | Individual]:
    """The next population: expressions to be evaluated, and individuals that keep their fitness and weights.

    Generation 0 is random (ramped half-and-half); with `fresh` every generation is, which is the control `random`.
    Otherwise elites survive and each other offspring comes of one crossover or one mutation, is corrected to hold y and f,
    and, if higher than `max_height`, replaced with a copy of its parent.
    """
    stream = streams.integer(seed, "genetic", state.generation)
    if fresh or not state.population:
        return [str(tree) for tree in expression.grow(stream, config.initial_height, config.population)]
    with streams.global_generators(stream):
        return _offspring(state.population, config)


def _offspring(population: list[Individual], config: Config) -> list[str | Individual]:
    rates = [config.crossover_rate, config.mutation_rate]
    offspring: list[str | Individual] = []
    if config.elitism:
        ranked = sorted(population, key=lambda individual: individual.fitness)  # stable: ties go to the earliest
        elites = ranked[: max(1, round(config.elitism_rate * config.population))]
        offspring += [Individual(e.expression, e.weights, e.fitness, "elite") for e in elites]
        rates.append(0.0)
    else:
        rates.append(config.elitism_rate)  # [R]: plain reproduction
    while len(offspring) < config.population:
        parent = select(population, config)
        tree = expression.parse(parent.expression)
        (variation,) = random.choices(("crossover", "mutation", "reproduction"), rates)
        if variation == "crossover":
            tree = expression.cross(tree, expression.parse(select(population, config).expression))
        elif variation == "mutation":
            tree = expression.mutate(tree, config.mutation_height)
        tree = expression.correct(tree)
        too_high = tree.height > config.max_height
        if variation == "reproduction" or too_high:
            offspring.append(Individual(parent.expression, parent.weights, parent.fitness, "symbolic"))
        else:
            offspring.append(str(tree))
    return offspring


def select(population: list[Individual], config: Config) -> Individual:
    """Tournament by fitness; under the released code's switch, by size and then fitness with parsimony size 1."""
    if config.double_tournament:
        return tools.selDoubleTournament(
            population, 1, config.tournament_size, 1, fitness_first=False, fit_attr="merit"
        )[0]
    return tools.selTournament(population, 1, config.tournament_size, fit_attr="merit")[0]


def tell(
    state: SearchState,
    individuals: list[Individual],
    counts: Mapping[str, int],
    seconds: dict[str, float],
    computed: set[int],
    config: Config,
) -> None:
    """Take an evaluated population into the state, with its row of the history.

    Args:
        computed: positions whose fitness was computed in this generation (not copied or looked up).
    """
    latest = math.inf
    for position, individual in enumerate(individuals):
        if position in computed:
            latest = individual.fitness
        if individual.fitness < state.best_fitness:  # never true of NaN or inf
            state.best = individual
            state.best_fitness = latest if config.stale_best else individual.fitness
    finite = [i.fitness for i in individuals if math.isfinite(i.fitness)]
    state.history.append(
        {
            "generation": state.generation,
            "best_so_far": files.finite(state.best_fitness),
            "best": min(finite, default=None),
            "median": statistics.median(finite) if finite else None,
            "mean_size": statistics.fmean(map(len, individuals)),
            **counts,
            **{f"seconds_{phase}": round(value, 4) for phase, value in seconds.items()},
        }
    )
    state.population = individuals
    state.generation += 1


def step(state: SearchState, evaluator: Evaluator, fresh: bool = False) -> None:
    """One generation: ask, evaluate, tell."""
    population = ask(state, evaluator.config, evaluator.seed, fresh)
    individuals, counts, seconds, computed = evaluator.evaluate(population, state.memory, state.generation)
    tell(state, individuals, counts, seconds, computed, evaluator.config)
