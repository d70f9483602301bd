"""The genetic search: what is evaluated and what is looked up, who survives, what each switch of the protocol changes."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from evomal_core import Config, SquaredError, Task, search
from evomal_core.losses import expression
from evomal_core.search import evaluate as stages
from evomal_core.search import filters
from evomal_core.search.evaluate import Evaluator, Memory
from evomal_core.search.genetic import GeneticState, ask, select
from evomal_core.search.state import OUTCOMES, Individual, SearchState, tell
from evomal_core.tasks.task import PARTS
from evomal_core.training import fitness

CONFIG = Config(
    dtype="float64",
    population=8,
    generations=5,
    meta_steps=2,
    rejection_steps=15,
    fitness_steps=8,
    batch_size=12,
    base_learning_rate=0.05,
)
SEED = 1  # with which the small search of these tests finds something in every generation
GOOD, SAME_GRADIENT, BAD, FLAT = (
    "square(sub(y, f))",
    "add(square(sub(y, f)), 1)",
    "mul(-1, square(sub(y, f)))",
    "add(square(y), sign(f))",
)
OTHER = "abs(sub(y, tanh(f)))"
OVERFLOWING = "square(" * 9 + "mul(add(1, 1), sub(y, add(f, add(1, 1))))" + ")" * 9


def problem(scale: float = 1.0, n: int = 30):
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        x = torch.tensor(rng.normal(size=(n, 3)))
        parts.append((x, scale * (x.sum(1, keepdim=True) + 0.1 * torch.tensor(rng.normal(size=(n, 1))))))
    return Task("made", *parts, False), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def evaluator(learn_weights: bool = True, scale: float = 1.0, seed: int = 0, **changes) -> Evaluator:
    return Evaluator([problem(scale)], dataclasses.replace(CONFIG, **changes), seed, learn_weights)


@pytest.fixture
def work(monkeypatch):
    """Which losses were optimised, filtered and trained, by phase."""
    done = {"optimise": [], "filter": [], "fitness": []}

    def watched(phase, function):
        def wrapper(losses, *arguments, **options):
            done[phase] += [str(loss) for loss in losses]
            return function(losses, *arguments, **options)

        return wrapper

    monkeypatch.setattr(stages.unroll, "optimise_losses", watched("optimise", stages.unroll.optimise_losses))
    monkeypatch.setattr(stages.filters, "improvement", watched("filter", filters.improvement))
    monkeypatch.setattr(stages, "fitness", watched("fitness", fitness))
    return done


def individual(tree: str, fitness: float, outcome: str = "evaluated") -> Individual:
    return Individual(tree, (1.0,) * (len(expression.parse(tree)) - 1), fitness, outcome)


def outcomes(individuals) -> list[str]:
    return [i.outcome for i in individuals]


# One generation


def test_each_outcome_is_counted(work):
    memory = Memory()
    population = [GOOD, BAD, OTHER, FLAT, SAME_GRADIENT, GOOD, individual(OTHER, 0.25, "elite")]
    individuals, counts, seconds = evaluator(False).evaluate(population, memory, 0)
    assert outcomes(individuals) == [
        "evaluated",
        "rejected",
        "evaluated",
        "rejected",
        "equivalent",
        "evaluated",
        "elite",
    ]
    want = dict(evaluated=2, rejected=2, equivalent=1, symbolic=1, elite=1, non_finite=0)
    assert {outcome: counts.count(outcome) for outcome in OUTCOMES} == want
    assert len(counts) == len(population)
    assert work == {"optimise": [], "filter": [GOOD, BAD, OTHER, FLAT, SAME_GRADIENT], "fitness": [GOOD, OTHER]}
    assert individuals[5] is individuals[0]
    assert individuals[4].fitness == individuals[0].fitness
    assert individuals[6].fitness == 0.25
    assert [individuals[k].fitness for k in (1, 3)] == [math.inf] * 2
    assert set(seconds) == {"optimise", "filter", "fitness"}
    assert all(s >= 0 for s in seconds.values())


def test_fitness_is_that_of_the_loss_alone():
    got = evaluator().evaluate([GOOD, OTHER], Memory(), 0)[0]
    for i in got:
        loss = evaluator().compile(i.expression, i.weights)
        assert i.fitness == fitness([loss], [problem()], CONFIG, 0)[0]


def test_equal_candidates_of_a_generation_are_evaluated_once(work):
    individuals, counts, *_ = evaluator().evaluate([BAD, GOOD, GOOD, BAD, GOOD], Memory(), 0)
    assert work == {"optimise": [BAD, GOOD], "filter": [BAD, GOOD], "fitness": [GOOD]}
    assert individuals[1] is individuals[2] is individuals[4]
    assert individuals[0] is individuals[3]
    assert Counter(counts) == Counter(evaluated=1, rejected=1, symbolic=3, elite=0, equivalent=0, non_finite=0)


def test_the_archive_spares_everything_and_gives_fitness_weights_and_outcome(work):
    memory, e = Memory(), evaluator()
    first = e.evaluate([GOOD, BAD], memory, 0)[0]
    assert set(memory.archive) == {GOOD, BAD}
    for phase in work.values():
        phase.clear()
    second, counts, *_ = e.evaluate([BAD, OTHER, GOOD], memory, 1)
    assert work == {"optimise": [OTHER], "filter": [OTHER], "fitness": [OTHER]}
    assert second[2] == first[0]
    assert second[0] == first[1]
    assert Counter(counts) == Counter(symbolic=2, evaluated=1, rejected=0, elite=0, equivalent=0, non_finite=0)


def test_archive_of_the_released_code_holds_only_what_was_evaluated(work):
    memory, e = Memory(), evaluator(archive_rejected=False)
    e.evaluate([GOOD, BAD, SAME_GRADIENT], memory, 0)
    assert BAD not in memory.archive
    assert GOOD in memory.archive
    counts = e.evaluate([BAD, GOOD], memory, 1)[1]
    assert counts.count("rejected") == counts.count("symbolic") == 1
    assert work["optimise"].count(BAD) == 2
    assert work["optimise"].count(GOOD) == 1


def test_weights_depend_on_generation_and_position_alone():
    runs = {
        "first": evaluator().evaluate([GOOD, OTHER], Memory(), 0)[0],
        "alone": evaluator().evaluate([GOOD], Memory(), 0)[0],
        "moved": evaluator().evaluate([OTHER, GOOD], Memory(), 0)[0][::-1],
        "later": evaluator().evaluate([GOOD], Memory(), 1)[0],
        "seed": evaluator(seed=1).evaluate([GOOD], Memory(), 0)[0],
    }
    weights = {name: found[0].weights for name, found in runs.items()}
    assert weights["first"] == weights["alone"]
    assert len({weights[n] for n in ("first", "moved", "later", "seed")}) == 4


def test_initial_weights_are_normal_around_one():
    e = evaluator(meta_steps=0, weight_std=1e-3)
    drawn = torch.cat([e._initial_weights(GOOD, g, p) for g in range(20) for p in range(20)]).double()
    assert drawn.numel() == 1200
    assert abs(float(drawn.mean()) - 1) < 1.5e-4
    assert float(drawn.std()) == pytest.approx(1e-3, rel=0.1)


def test_gp_lfl_keeps_all_weights_at_one(work):
    individuals = evaluator(False).evaluate([GOOD, OTHER, BAD], Memory(), 3)[0]
    assert all(set(i.weights) == {1.0} for i in individuals)
    assert work["optimise"] == []
    learned = evaluator().evaluate([GOOD], Memory(), 3)[0][0]
    assert 1.0 not in learned.weights


def test_equivalence_takes_the_fitness_over_and_keeps_the_weights(work):
    memory, e = Memory(), evaluator(weight_std=1e-6, meta_learning_rate=1e-7)
    (first,) = e.evaluate([GOOD], memory, 0)[0]
    twin, counts, *_ = e.evaluate([SAME_GRADIENT], memory, 1)
    assert counts.count("equivalent") == 1
    assert twin[0].fitness == first.fitness
    assert twin[0].outcome == "equivalent"
    assert len(twin[0].weights) == 5
    assert work["fitness"] == [GOOD]
    assert work["optimise"] == [GOOD, SAME_GRADIENT]
    # it is in the archive, but is nobody's representative
    assert memory.archive[SAME_GRADIENT] == twin[0]
    assert list(memory.gradients.values()) == [first.fitness]


def test_gradient_equivalence_switched_off(work):
    individuals, counts, *_ = evaluator(False, gradient_equivalence=False).evaluate([GOOD, SAME_GRADIENT], Memory(), 0)
    assert work["fitness"] == [GOOD, SAME_GRADIENT]
    assert counts.count("equivalent") == 0
    assert individuals[0].fitness == pytest.approx(individuals[1].fitness, rel=1e-9)


def test_a_rejected_loss_represents_nobody(work):
    """-(y - f)² has the norms of (y - f)², is rejected, and must not lend its fitness."""
    memory, e = Memory(), evaluator(False)
    e.evaluate([BAD], memory, 0)
    assert memory.gradients == {}
    assert e.evaluate([GOOD], memory, 1)[0][0].outcome == "evaluated"
    assert work["fitness"] == [GOOD]


def test_losses_that_are_not_finite_are_the_worst_case_and_counted():
    memory = Memory()
    individuals, counts, *_ = evaluator().evaluate([OVERFLOWING, GOOD], memory, 0)
    assert outcomes(individuals) == ["non_finite", "evaluated"]
    assert individuals[0].fitness == math.inf
    assert counts.count("non_finite") == 1
    assert math.isfinite(individuals[1].fitness)


def test_a_session_that_diverges_is_the_worst_case_and_counted(monkeypatch):
    monkeypatch.setattr(stages, "fitness", lambda losses, *rest: [math.inf if str(x) == OTHER else 0.5 for x in losses])
    individuals, counts, *_ = evaluator(False).evaluate([OTHER, GOOD], Memory(), 0)
    assert outcomes(individuals) == ["non_finite", "evaluated"]
    assert counts.count("non_finite") == counts.count("evaluated") == 1


def test_a_gain_that_is_not_a_number(monkeypatch):
    """The released code lets it pass the rejection protocol."""
    monkeypatch.setattr(stages.filters, "improvement", lambda losses, *rest: [math.nan] * len(losses))
    assert outcomes(evaluator(False).evaluate([GOOD], Memory(), 0)[0]) == ["rejected"]
    scored = evaluator(False, score_non_finite=True).evaluate([GOOD], Memory(), 0)[0]
    assert outcomes(scored) == ["evaluated"]
    assert math.isfinite(scored[0].fitness)


@pytest.mark.parametrize(("gain", "outcome"), [(0.0, "rejected"), (-1.0, "rejected"), (1e-9, "evaluated")])
def test_the_gain_must_be_positive(monkeypatch, gain, outcome):
    monkeypatch.setattr(stages.filters, "improvement", lambda losses, *rest: [gain] * len(losses))
    assert outcomes(evaluator(False).evaluate([GOOD], Memory(), 0)[0]) == [outcome]


def test_non_negative_and_protection_reach_the_losses():
    loss = evaluator(non_negative=True, protection="clamp").compile(GOOD, [1.0, 1.0, 1.0])
    assert loss.non_negative
    assert loss.protection == "clamp"
    assert loss.weights.dtype == torch.float64
    assert not evaluator().compile(GOOD, [1.0, 1.0, 1.0]).non_negative


# The next population


def population(n: int = 8) -> list[Individual]:
    trees = expression.grow(5, (2, 4), n)
    return [
        individual(str(t), f) for t, f in zip(trees, [0.5, 0.2, math.inf, 0.9, 0.2, 0.7, math.inf, 0.8], strict=True)
    ]


def offspring(seed: int = 0, people=None, **changes):
    state = GeneticState(generation=1, population=people or population())
    return ask(state, dataclasses.replace(CONFIG, **changes), seed)


def test_the_first_population_is_random_and_corrected():
    first = ask(GeneticState(), dataclasses.replace(CONFIG, population=60), 0)
    assert all(isinstance(m, str) for m in first)
    assert all("y" in m and "f" in m for m in first)
    heights = [expression.parse(m).height for m in first]
    assert 2 <= min(heights)
    assert max(heights) <= 5
    assert first == ask(GeneticState(), dataclasses.replace(CONFIG, population=60), 0)
    assert first != ask(GeneticState(), dataclasses.replace(CONFIG, population=60), 1)


def test_random_search_draws_fresh_trees_every_generation():
    state = GeneticState(generation=1, population=population())
    fresh = ask(state, CONFIG, 0, fresh=True)
    assert all(isinstance(m, str) for m in fresh)
    assert not {i.expression for i in state.population} & set(fresh)
    assert fresh != ask(GeneticState(generation=2, population=population()), CONFIG, 0, fresh=True)


def test_the_best_survive_with_fitness_and_weights():
    people = [dataclasses.replace(i, weights=tuple(w + k for w in i.weights)) for k, i in enumerate(population())]
    for seed in range(5):
        elite = offspring(seed, people)[0]
        assert elite == dataclasses.replace(people[1], outcome="elite")  # 0.2, the earlier of two
    two = offspring(0, people, elitism_rate=0.25)[:2]
    assert two == [dataclasses.replace(people[k], outcome="elite") for k in (1, 4)]
    assert sum(isinstance(m, Individual) and m.outcome == "elite" for m in offspring(0, people)) == 1


@pytest.mark.parametrize(("n", "elites"), [(25, 1), (8, 1), (50, 2), (100, 5)])
def test_number_of_elites(n, elites):
    people = [individual(str(t), k / n) for k, t in enumerate(expression.grow(0, (2, 3), n))]
    got = offspring(0, people, population=n)
    assert sum(isinstance(m, Individual) and m.outcome == "elite" for m in got) == elites
    assert len(got) == n


def test_without_elitism_five_per_cent_are_reproduced():
    people = [individual(str(t), k / 100) for k, t in enumerate(expression.grow(0, (2, 3), 100))]
    copied = []
    for seed in range(10):
        got = offspring(seed, people, population=100, elitism=False)
        assert not any(isinstance(m, Individual) and m.outcome == "elite" for m in got)
        copied.append(sum(isinstance(m, Individual) for m in got))
    assert 0.02 < sum(copied) / 1000 < 0.09  # 5 %, sigma 0.7 %
    # with elitism there is no reproduction: what is copied is an elite
    got = offspring(0, people, population=100)
    assert [m.outcome for m in got if isinstance(m, Individual)] == ["elite"] * 5


def test_rates_of_crossover_and_mutation(monkeypatch):
    calls = Counter()
    for name in ("cross", "mutate"):
        function = getattr(expression, name)
        monkeypatch.setattr(
            expression, name, lambda *a, name=name, function=function: calls.update([name]) or function(*a)
        )
    people = [individual(str(t), k / 100) for k, t in enumerate(expression.grow(0, (2, 3), 100))]
    for seed in range(10):
        offspring(seed, people, population=100)
    assert sum(calls.values()) == 950
    assert calls["cross"] / 950 == pytest.approx(0.70 / 0.95, abs=0.05)
    calls.clear()
    offspring(0, people, mutation_rate=0.0, population=100)
    assert set(calls) == {"cross"}


def test_offspring_hold_y_and_f_and_keep_the_height():
    people, highest = population(), 0
    tall = expression.grow(3, (9, 10), 8)
    people = [individual(str(t), k / 8) for k, t in enumerate(tall)]
    assert max(t.height for t in tall) > 9
    for limit in (10, 6):
        for seed in range(12):
            for member in offspring(seed, people, max_height=limit, population=20):
                if isinstance(member, str):
                    tree = expression.parse(member)
                    assert tree.height <= limit
                    assert {"y", "f"} <= {expression.node_name(n) for n in tree}
                    highest = max(highest, tree.height)
                else:  # too high: a copy of its parent with the parent's entry
                    assert dataclasses.replace(member, outcome="evaluated") in people
    assert highest > 6


def test_a_copy_for_a_tree_that_is_too_high_counts_as_symbolic():
    tall = expression.grow(3, (9, 10), 8)
    people = [individual(str(t), k / 8) for k, t in enumerate(tall)]
    copies = [m for s in range(10) for m in offspring(s, people, max_height=8) if isinstance(m, Individual)]
    assert {m.outcome for m in copies} == {"elite", "symbolic"}


def test_tournament_prefers_the_fitter():
    people = population()
    expected = {False: [], True: []}
    from evomal_core import streams

    with streams.global_generators(0):
        for double in expected:
            c = dataclasses.replace(CONFIG, double_tournament=double)
            expected[double] = [select(people, c).fitness for _ in range(2_000)]
    ranks = sorted({i.fitness for i in people})
    for drawn in expected.values():
        frequency = Counter(drawn)
        shares = [frequency[r] / 2_000 for r in ranks]
        # size 4 of 8, with replacement: the two best (0.2) are in with 1 - (6/8)^4, only the two worst with (2/8)^4
        assert shares[0] == pytest.approx(1 - 0.75**4, abs=0.04)
        assert shares[-1] == pytest.approx(0.25**4, abs=0.01)
    with streams.global_generators(0):
        ones = [select(people, dataclasses.replace(CONFIG, tournament_size=1)).fitness for _ in range(2_000)]
    assert Counter(ones)[0.5] / 2_000 == pytest.approx(1 / 8, abs=0.03)


def test_double_tournament_is_deap_s():
    """Size stage with parsimony size 1 is without effect on the odds, but draws other random numbers."""
    runs = [offspring(0, double_tournament=double) for double in (False, True)]
    assert runs[0] != runs[1]


# Telling


def told(fitnesses, computed=None, state=None, **changes) -> GeneticState:
    state = state or GeneticState()
    trees = expression.grow(1, (2, 4), len(fitnesses))
    people = [individual(str(t), f) for t, f in zip(trees, fitnesses, strict=True)]
    outcomes = ["evaluated" if computed is None or k in computed else "symbolic" for k in range(len(people))]
    tell(state, people, outcomes, {}, dataclasses.replace(CONFIG, **changes))
    state.population = people
    return state


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_is_not_finite_never_becomes_the_best(bad, position):
    values = [0.5, 0.7]
    values.insert(position, bad)
    state = told(values)
    assert state.best_fitness == 0.5
    assert state.best.fitness == 0.5
    row = state.history[0]
    assert (row["best_so_far"], row["best"], row["median"]) == (0.5, 0.5, 0.6)
    assert told([bad] * 3).best is None
    row = told([bad] * 3).history[0]
    assert row["best_so_far"] is row["best"] is row["median"] is None
    again = told([bad] * 2 + [0.6], state=state)  # a worse generation
    assert again.best_fitness == 0.5
    assert again.history[1]["best"] == 0.6
    assert again.generation == 2


def test_ties_go_to_the_earliest():
    state = told([0.5, 0.3, 0.3])
    assert state.best is state.population[1]


def test_the_stale_variable_of_the_released_code():
    """Best-so-far is compared with an individual's fitness, but stores the last one computed for anybody."""
    values = [0.9, 0.4, 0.6]
    assert told(values, computed={0, 2}).best_fitness == 0.4
    stale = told(values, computed={0, 2}, stale_best=True)  # position 1 is a copy: 0.9 was computed last
    assert stale.best_fitness == 0.9 or stale.best is stale.population[2]
    assert stale.best is stale.population[2]  # 0.6 < 0.9
    assert stale.best_fitness == 0.6
    assert told([0.9, 0.4], computed={0}, stale_best=True).best_fitness == 0.9
    assert told([0.9, 0.4], computed={0}, stale_best=True).best.fitness == 0.4
    assert told(values, stale_best=True).best_fitness == 0.4  # all computed: no difference


# The whole search


@pytest.fixture(scope="module")
def finished():
    states = []
    result = search([problem()], CONFIG, SEED, on_generation=lambda s: states.append(json.dumps(s.to_json())))
    return result.loss, result.state, states


def without_seconds(history) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history]


def test_history_has_a_row_a_generation_that_adds_up(finished):
    _, state, _ = finished
    assert state.generation == len(state.history) == 5
    for k, row in enumerate(state.history):
        assert row["generation"] == k
        assert sum(row[o] for o in OUTCOMES) == 8
        assert row["elite"] == (k > 0)


def test_the_best_is_never_lost(finished):
    loss, state, snapshots = finished
    best = [row["best_so_far"] for row in state.history]
    assert all(b is not None for b in best)
    assert best == sorted(best, reverse=True)
    assert best[0] > best[-1]  # it did improve
    for text, row in zip(snapshots, state.history, strict=True):
        fitnesses = [i["fitness"] for i in json.loads(text)["population"] if i["fitness"] is not None]
        assert min(fitnesses) == row["best"] == row["best_so_far"]
    assert best[-1] == state.best.fitness == min(i.fitness for i in state.memory.archive.values())
    assert str(loss) == state.best.expression
    assert tuple(loss.weights.tolist()) == state.best.weights


def test_the_best_fitness_can_be_computed_again(finished):
    loss, state, _ = finished
    assert fitness([loss], [problem()], CONFIG, SEED) == [state.best.fitness]


def test_without_elitism_the_best_can_be_lost():
    lost = 0
    for seed in range(4):
        state = search([problem()], dataclasses.replace(CONFIG, elitism=False), seed, "gp-lfl").state
        rows = state.history
        assert all(row["elite"] == 0 for row in rows)
        best = [row["best_so_far"] for row in rows if row["best_so_far"] is not None]
        assert best == sorted(best, reverse=True)
        lost += any(row["best"] is None or row["best"] > row["best_so_far"] for row in rows)
    assert lost


def test_same_seed_same_history_and_another_seed_another(finished):
    _, state, _ = finished
    again = search([problem()], CONFIG, SEED).state
    assert without_seconds(again.history) == without_seconds(state.history)
    assert again.population == state.population
    other = search([problem()], CONFIG, SEED + 1).state
    assert without_seconds(other.history) != without_seconds(state.history)


def test_global_generators_do_not_matter_and_are_left_alone(finished):
    import random

    made = problem()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 (DEAP's generator)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    again = search([made], CONFIG, SEED).state
    assert again.population == finished[1].population
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("stop", [1, 3])
def test_a_state_from_json_goes_on_as_if_never_stopped(finished, stop):
    _, state, snapshots = finished
    kept = SearchState.from_json(json.loads(snapshots[stop - 1]))
    assert kept.generation == stop
    result = search([problem()], CONFIG, SEED, state=kept)
    loss, resumed = result.loss, result.state
    assert without_seconds(resumed.history) == without_seconds(state.history)
    assert resumed.population == state.population
    assert resumed.best == state.best
    assert resumed.memory == state.memory
    assert str(loss) == str(finished[0])


def test_json_round_trip(finished):
    state = finished[1]
    text = json.dumps(state.to_json(), allow_nan=False)
    again = SearchState.from_json(json.loads(text))
    assert again == state
    assert json.dumps(again.to_json()) == text
    empty = GeneticState(method="gp-lfl")
    assert SearchState.from_json(json.loads(json.dumps(empty.to_json(), allow_nan=False))) == empty


def test_json_of_what_is_not_finite():
    broken = Individual(GOOD, (math.nan, math.inf, 1.0), math.inf, "non_finite")
    state = GeneticState(1, method="evomal", population=[broken], memory=Memory({GOOD: broken}, {"key": math.inf}))
    again = SearchState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    assert again.population[0].fitness == math.inf
    assert not any(map(math.isfinite, again.population[0].weights[:2]))
    assert again.best is None
    assert again.best_fitness == math.inf
    assert again.memory.gradients == {"key": math.inf}


@pytest.mark.parametrize("method", ["gp-lfl", "random"])
def test_other_methods(method):
    result = search([problem()], CONFIG, SEED, method)
    loss, state = result.loss, result.state
    everyone = list(state.memory.archive.values())
    unit = [set(i.weights) == {1.0} for i in everyone]
    assert all(unit) if method == "gp-lfl" else not any(unit)
    if method == "random":
        assert all(row["elite"] == 0 for row in state.history)
        fresh = [ask(GeneticState(generation=g), CONFIG, SEED, fresh=True) for g in range(5)]
        assert {i.expression for i in everyone} == {t for trees in fresh for t in trees}
    assert state.best is not None
    assert loss is not None


def test_methods_share_the_first_population():
    first = [
        [i.expression for i in search([problem()], dataclasses.replace(CONFIG, generations=1), 3, m).state.population]
        for m in ("evomal", "gp-lfl", "random")
    ]
    assert first[0] == first[1] == first[2]


def test_a_search_without_success():
    """No steps of the rejection protocol: nothing is gained, everybody is rejected."""
    result = search([problem()], dataclasses.replace(CONFIG, rejection_steps=0, generations=2), 0)
    loss, state = result.loss, result.state
    assert loss is None
    assert state.best is None
    assert all(row["evaluated"] == 0 and row["best_so_far"] is None for row in state.history)
    assert len(state.history) == 2


def test_a_search_among_broken_losses_goes_on():
    """Targets of 1e30: most candidates overflow, and the search ends with a finite best or none."""
    result = search([problem(1e30)], dataclasses.replace(CONFIG, generations=3), 0)
    loss, state = result.loss, result.state
    counted = sum(row["non_finite"] + row["rejected"] for row in state.history)
    assert counted > 0
    assert len(state.history) == 3
    assert (loss is None) == (state.best is None)
    json.dumps(state.to_json(), allow_nan=False)


def test_several_tasks_are_averaged():
    problems = [problem(), problem(2.0)]
    (found,) = Evaluator(problems, CONFIG, 0, False).evaluate([GOOD], Memory(), 0)[0]
    alone = [fitness([nn.MSELoss()], [p], CONFIG, 0)[0] for p in problems]
    assert alone[0] != alone[1]
    both = fitness([nn.MSELoss()], problems, CONFIG, 0)[0]
    assert found.fitness == pytest.approx(both, rel=1e-9)
    assert both != pytest.approx(alone[0], rel=1e-3)


@pytest.mark.parametrize("method", ["baseline", "tuned"])
def test_the_task_s_own_loss_is_the_one_that_is_returned(method):
    task, model = problem()
    config = dataclasses.replace(CONFIG, fitness_steps=1)
    assert type(search([(task, model)], config, SEED, method).loss) is SquaredError
    own = nn.L1Loss()
    assert search([(dataclasses.replace(task, task_loss=own), model)], config, SEED, method).loss is own
    halved = nn.MSELoss(reduction="sum")
    assert search([(dataclasses.replace(task, task_loss=halved), model)], config, SEED, method).loss is halved


def test_what_a_search_cannot_work_with_is_named_before_it_begins():
    task, model = problem()
    classes = dataclasses.replace(
        task, **{p: (getattr(task, p)[0], torch.arange(30) % 2) for p in PARTS}, classification=True, outputs=2
    )
    two = nn.Linear(3, 2).double()
    frozen = nn.Linear(3, 1).double().requires_grad_(False)
    state = search([(task, model)], dataclasses.replace(CONFIG, generations=1), SEED, "gp-lfl").state
    for problems, changes, message in (
        ([(task, model), (classes, two)], {}, "problems must be all classification or none"),
        ([(task, nn.Flatten())], {}, "made: the model must be one with parameters to train"),
        ([(task, frozen)], {}, "made: the model must be one with parameters to train"),
        ([(task, model)], {"config": {"generations": 1}}, "config must be a Config, got dict"),
        ([(task, model)], {"config": Config(population=1), "method": "taylorglo"}, "population of CMA-ES"),
        ([(task, model)], {"state": state}, f"one of evomal, seed {SEED}, got gp-lfl, seed {SEED}"),
        ([(task, model)], {"state": state, "method": "gp-lfl", "seed": 5}, "one of gp-lfl, seed 5, got gp-lfl"),
    ):
        with pytest.raises(ValueError, match=message):
            search(problems, **{"config": CONFIG, "seed": SEED} | changes)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="evomal"):
        search([problem()], CONFIG, SEED, "evoml")


def test_problems_in_the_wrong_order_are_named():
    task, model = problem()
    with pytest.raises(ValueError, match=r"pairs \[\(Task, model\), ...\], got \[\('Sequential', 'Task'\)\]"):
        search([(model, task)], CONFIG)
