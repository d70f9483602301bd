"""The generational search over loss expressions (section III-B2): EvoMAL, GP-LFL, and the control `random`.

Proposing is separate from evaluating: `ask` gives the next population, an `Evaluator` its fitness, `tell` takes it. The
whole state is one `SearchState`, which can be saved, compared, and goes on where it was.
"""

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from deap import tools

from .. import files, streams
from ..config import Config
from ..losses import expression
from .evaluate import OUTCOMES, PHASES, Evaluator, Individual, Memory


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
    method: str = ""  # this and `seed`: of whose search it is; empty of none yet
    seed: int = 0

    def to_json(self) -> dict:
        """Strict JSON; a non-finite number is null."""
        data = asdict(self)
        memory = data.pop("memory")
        return files.strict(data | {"archive": list(memory["archive"].values()), "gradients": memory["gradients"]})

    @classmethod
    def from_json(cls, data: dict) -> "SearchState":
        archive = {i["expression"]: Individual.from_json(i) for i in data["archive"]}
        gradients = {key: math.inf if value is None else value for key, value in data["gradients"].items()}
        known = {n: data[n] for n in ("method", "seed", "generation", "history", "strategy") if n in data}
        known |= {
            "population": [Individual.from_json(i) for i in data["population"]],
            "best": data["best"] and Individual.from_json(data["best"]),
            "best_fitness": math.inf if data["best_fitness"] is None else data["best_fitness"],
            "memory": Memory(archive, gradients),
        }
        return cls(**known)


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
            tree = expression.mutate(tree, config.mutation_height)
        tree = expression.correct(tree)
        copied = variation == "reproduction" or tree.height > config.max_height
        offspring.append(replace(parent, outcome="symbolic") if copied else str(tree))
    return offspring


def select(population: list[Individual], config: Config) -> Individual:
    """Tournament by fitness; under the released code's switch, by size and then fitness with parsimony size 1."""
    choose = tools.selTournament
    if config.double_tournament:
        choose = partial(tools.selDoubleTournament, parsimony_size=1, fitness_first=False)
    return choose(population, 1, config.tournament_size, fit_attr="merit")[0]


def tell(
    state: SearchState, individuals: list[Individual], outcomes: list[str], seconds: Mapping[str, float], config: Config
) -> None:
    """Take an evaluated population into the state, with its row of the history; arguments as from `Evaluator.evaluate`."""
    latest = math.inf  # fitness that was computed, not copied or looked up
    for individual, outcome in zip(individuals, outcomes, strict=True):
        if outcome not in ("elite", "symbolic"):
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
            "mean_size": statistics.fmean(map(len, individuals)) if individuals else None,
            **{outcome: outcomes.count(outcome) for outcome in OUTCOMES},
            **{f"seconds_{phase}": round(seconds.get(phase, 0.0), 4) for phase in PHASES},
        }
    )
    state.population = individuals
    state.generation += 1


def step(state: SearchState, evaluator: Evaluator, fresh: bool = False) -> None:
    """One generation: ask, evaluate, tell."""
    population = ask(state, evaluator.config, evaluator.seed, fresh)
    tell(state, *evaluator.evaluate(population, state.memory, state.generation), evaluator.config)
