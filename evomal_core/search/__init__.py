"""What finds structure: the genetic search over loss expressions, its filters, its controls."""

from collections.abc import Callable, Sequence

from ..config import Config
from ..training.base import Problem
from .evaluate import Evaluator
from .genetic import SearchState, step

# method -> (does it optimise loss weights?, is every generation drawn afresh?)
GENETIC_METHODS = {"evomal": (True, False), "gp-lfl": (False, False), "random": (True, True)}


def search(
    problems: Sequence[Problem],
    config: Config,
    seed: int = 0,
    method: str = "evomal",
    state: SearchState | None = None,
    on_generation: Callable[[SearchState], None] | None = None,
    progress: Callable[[str, int], None] | None = None,
):
    """Search for a loss (Fig. 1): for your own model, `problems` is `[(task, model)]`.

    Args:
        problems: the meta-training set; each model is scratch, its weights are drawn afresh.
        method: "evomal", "gp-lfl" (without loss optimisation) or "random" (fresh random trees every generation).
        state: goes on from here, and is changed.
        on_generation: called with the state after each generation.

    Returns:
        (best loss, or None if every candidate failed; final `SearchState`).
    """
    learn_weights, fresh = GENETIC_METHODS[method]
    evaluator = Evaluator(problems, config, seed, learn_weights, progress)
    state = state or SearchState()
    while state.generation < config.generations:
        step(state, evaluator, fresh)
        if on_generation:
            on_generation(state)
    loss = state.best and evaluator.compile(state.best.expression, state.best.weights)
    return loss, state
