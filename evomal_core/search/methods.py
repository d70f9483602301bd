"""The methods, a row each, and the one call that runs any of them (Fig. 1, section IV-A)."""

from collections.abc import Callable, Sequence
from functools import partial

from .. import streams
from ..checks import check, check_choice, native
from ..config import Config
from ..registry import METHODS, Work
from ..training.problem import problems_of
from . import baseline, cma_es, genetic, glo, ml3, tuned
from .state import Method, Result, SearchState, claim, origin_of


def _generations(config: Config) -> int:
    return config.generations


# The shares are those of the committed records (14 to 80 searches a method): 0.48 to 0.59 of EvoMAL's candidates are trained
# under at the full budget and 0.31 to 0.44 at `quick`, 0.20 to 0.42 of GP-LFL's, 0.22 to 0.28 of the fresh random trees.
genetic_method = partial(Method, state=genetic.GeneticState, generations=_generations)
ROWS = (
    Method("baseline", baseline.search, 7, work=lambda c: Work()),
    Method("tuned", tuned.search, 5, tuned.TunedState, work=lambda c: Work(evaluated=len(tuned.LEARNING_RATES))),
    Method("ml3", ml3.search, 6, work=lambda c: Work(optimised=1)),
    Method("taylorglo", cma_es.search, 4, cma_es.CmaState, _generations, Work.of_shares(0, 0, 1)),
    genetic_method("gp-lfl", partial(genetic.search, learn_weights=False), 1, work=Work.of_shares(0, 0.75, 0.27)),
    Method("glo", glo.search, 3, glo.GloState, glo.most_generations, Work.of_shares(0, 0.75, 1)),
    genetic_method("evomal", genetic.search, 0, work=Work.of_shares(0.75, 0.75, 0.45)),
    genetic_method("random", partial(genetic.search, fresh=True), 2, work=Work.of_shares(1, 1, 0.26)),
)
METHODS.update({row.name: row for row in ROWS})


def search(
    problems: Sequence,
    config: Config,
    seed: int = 0,
    method: str = "evomal",
    state: SearchState | None = None,
    on_generation: Callable[[SearchState], None] | None = None,
) -> Result:
    """Search for a loss: for your own model, `problems` is `[(task, model)]`.

    Args:
        problems: the meta-training set. The models are copied, and their weights are drawn afresh in the copies.
        method: a name of the registry. "evomal"; "gp-lfl" is the same without loss optimisation; "random" draws fresh trees
            every generation; "glo", "taylorglo", "ml3"; "tuned" is the task loss with a learning rate chosen by fitness;
            "baseline" the task loss.
        state: goes on from here, and is changed.
        on_generation: called with the state after each generation.

    Returns:
        Loss, learning rate, leaders and final state. Threads that search at the same time take turns.

    Raises:
        ValueError: problems that are no pairs, a model that does not go with its task, or a state of another search.
    """
    check_choice("method", method, METHODS)
    check(isinstance(config, Config), "config", "a Config", type(config).__name__)
    seed = native(seed)
    check(type(seed) is int and seed >= 0, "seed", "a whole number, 0 or more", repr(seed))
    row = METHODS[method]
    state = row.state() if state is None else state
    got = f"a {type(state).__name__} of {getattr(state, 'method', '') or 'no search'}"
    check(type(state) is row.state, "state", f"a {row.state.__name__} of {method}", got)
    with streams.computing():
        problems = problems_of(problems, config)
        claim(state, method, seed, origin_of(problems, config))
        state.check(config)
        return row.search(problems, config, seed, state, on_generation or (lambda state: None))
