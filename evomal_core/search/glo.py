"""GLO (Gonzalez & Miikkulainen 2020, the paper's [28]): GP over loss expressions, then CMA-ES on the best tree's weights.

The first stage is GP-LFL's search. The second tunes the edge weights of its best tree by DEAP's CMA-ES, from all 1 with
step size 0.5 [D]. The two stages together make at most population x generations fitness evaluations, as many as EvoMAL has
candidates. It departs from the publication in this: operators are the protected ones of Table I, coefficients stand on all
edges instead of on every node, and fitness, filters and base training are this paper's, so that only the search differs.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from ..checks import check
from ..config import Config
from ..losses import expression
from . import cma_es, genetic
from .evaluate import Evaluator
from .state import Individual, Leader, Point, Result, tell

SIGMA = 0.5  # initial step size [D]; the search starts at 1


@dataclass
class GloState(genetic.GeneticState):
    """The state of the GP, and behind its last generation that of CMA-ES on the tree `chosen`."""

    chosen: str = ""
    strategy: dict | None = None
    leaders: list = field(default_factory=list)
    lists: ClassVar[dict[str, type]] = {"population": Individual, "leaders": Point}

    def check(self, config: Config) -> None:
        super().check(config)
        tuning = self.generation > config.generations
        known = self.chosen in self.memory.archive and self.generation >= config.generations
        known = known or not (self.chosen or tuning)
        check(
            known,
            "chosen tree of the state",
            "one that was evaluated, behind the last generation of trees",
            self.chosen,
        )
        n = len(expression.parse(self.chosen)) - 1 if tuning else None
        cma_es.check_strategy(self, n, config, config.generations)


def most_generations(config: Config) -> int:
    """Generations of both stages, at most: the second has as many as the first, less what the first has evaluated."""
    return 2 * config.generations


def generations(state: GloState, config: Config) -> int:
    """Generations of both stages, once the first is over."""
    spent = sum(row["evaluated"] + row["non_finite"] for row in state.history[: config.generations])
    return config.generations + max(0, config.population * config.generations - spent) // config.population


def search(problems, config: Config, seed: int, state: GloState, on_generation: Callable) -> Result:
    """The best tree with the best coefficients; no loss if every tree failed."""
    if config.population < 2:
        raise ValueError(f"Config.population of CMA-ES must be at least 2, got {config.population}")
    evaluator = Evaluator(problems, config, seed, learn_weights=False)
    while state.generation < config.generations:
        genetic.step(state, evaluator)
        on_generation(state)
    if state.best is None:
        return Result(None, None, (), state)
    state.chosen = state.chosen or state.best.expression
    ones = [1.0] * (len(state.best) - 1)
    begin = {"centroid": ones, "sigma": SIGMA}
    while state.generation < generations(state, config):
        make = lambda point: evaluator.compile(state.chosen, point)  # noqa: E731
        points, seconds = cma_es.step(state, begin, make, problems, config, seed)
        found = [Individual(state.chosen, **asdict(point)) for point in points]
        tell(state, found, [individual.outcome for individual in found], seconds, config)
        on_generation(state)
    tuned = [Individual(state.chosen, **asdict(point)) for point in state.leaders]
    best = genetic.leading([*tuned, *genetic.evaluated_trees(state)], state.best, config)
    leaders = tuple(Leader(evaluator.compile(i.expression, i.weights), i.fitness) for i in best)
    return Result(evaluator.compile(state.best.expression, state.best.weights), None, leaders, state)
