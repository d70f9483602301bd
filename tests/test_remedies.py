"""What holds from fresh starts: early stopping, fitness over several starts, known losses, equivalence, contests, `early`."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from test_stacked import CONFIG, chain, image_task, losses

import evomal_core as ec
from evomal_core import files
from evomal_core.experiments import store
from evomal_core.losses.known import CLASSIFICATION, REGRESSION, known_losses
from evomal_core.remedies import early, halving
from evomal_core.search import filters, genetic
from evomal_core.search.state import Leader, SearchState
from evomal_core.training import Trial, fitness, run_trial, trial

SMOKE = ec.Cell("digits", "logistic", "evomal", 0, "smoke+test_steps=40+fitness_steps=10", "robust")
HERE = {"device": "cpu", "progress": None}
FOUR = Trial("test", 80, parts=("validation", "test"))


def changed(**values) -> ec.Config:
    return dataclasses.replace(CONFIG, **values)


@pytest.fixture
def problem():
    return image_task(), chain()


# --- the step chosen by validation ---


def test_early_stopping_takes_the_errors_behind_the_best_validation_step(problem):
    steps = tuple(trial.early_stops(80))
    assert len(steps) == trial.LOOKS and steps[-1] == 80
    looked = run_trial(losses(3), problem, CONFIG, 1, dataclasses.replace(FOUR, curve=steps))
    stopped = run_trial(losses(3), problem, CONFIG, 1, dataclasses.replace(FOUR, stop="validation", keep_models=True))
    for (long,), (short,) in zip(looked, stopped, strict=True):
        every = dict(long.curve) | {80: long.errors}
        best = min(every, key=lambda step: (every[step]["validation"], step))
        assert short.step == best and short.errors == every[best]
        assert trial.evaluate(short.model, problem[0], "test") == pytest.approx(short.errors["test"])
    assert len({outcome.step for (outcome,) in stopped}) > 1 or stopped[0][0].step < 80


def test_a_training_that_diverges_after_its_best_step_counts_with_that_step(problem):
    config = changed(base_learning_rate=1e4)
    diverging = ec.MetaLoss("square(square(sub(y, f)))", None, False)
    task = ec.Task("ten", *[(torch.randn(60, 3), torch.randn(60, 1) * 100)] * 3, classification=False)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    end, stop = (
        run_trial([diverging], (task, model), config, 0, dataclasses.replace(FOUR, stop=s, curve=(0, 1)))[0][0]
        for s in ("end", "validation")
    )
    assert end.diverged
    assert stop.diverged or stop.step < 80


def test_a_stop_that_is_unknown_and_a_checkpoint_with_models_are_refused(problem, tmp_path):
    with pytest.raises(ValueError, match=r"Trial\.stop"):
        run_trial(losses(1), problem, CONFIG, 0, dataclasses.replace(FOUR, stop="early"))
    kept = dataclasses.replace(FOUR, stop="validation", keep_models=True)
    with pytest.raises(ValueError, match="1, end"):
        run_trial(losses(1), problem, CONFIG, 0, kept, tmp_path / "trial.safetensors")


def test_early_stopping_goes_on_from_a_checkpoint(problem, tmp_path, monkeypatch):
    stopping = dataclasses.replace(FOUR, stop="validation")
    whole = run_trial(losses(2), problem, CONFIG, 1, stopping)
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)
    write, path = trial.Checkpoint._save, tmp_path / "trial.safetensors"

    def killed_at_50(self, tensors, current, step):
        write(self, tensors, current, step)
        if step >= 50:
            raise KeyboardInterrupt

    monkeypatch.setattr(trial.Checkpoint, "_save", killed_at_50)
    with pytest.raises(KeyboardInterrupt):
        run_trial(losses(2), problem, CONFIG, 1, stopping, path)
    monkeypatch.setattr(trial.Checkpoint, "_save", write)
    again = run_trial(losses(2), problem, CONFIG, 1, stopping, path)
    assert [(o.errors, o.step, o.curve) for (o,) in again] == [(o.errors, o.step, o.curve) for (o,) in whole]


# --- fitness over several starts ---


@pytest.mark.parametrize(("over", "of"), [("mean", np.mean), ("worst", max)])
def test_fitness_over_starts(problem, over, of):
    config = changed(fitness_starts=3, fitness_over=over)
    alone = run_trial(losses(3), problem, CONFIG, 2, Trial("fitness", CONFIG.fitness_steps, (0,), starts=3))
    want = [of([outcome.errors["validation"] for outcome in of_loss]) for of_loss in alone]
    assert fitness(losses(3), [problem], config, 2) == pytest.approx(want)


def test_racing_spares_the_further_starts_of_a_candidate_behind_the_bar(problem):
    first = fitness(losses(3), [problem], CONFIG, 2)
    bar = min(first)
    raced = fitness(losses(3), [problem], changed(fitness_starts=3, racing=True), 2, bar=bar)
    full = fitness(losses(3), [problem], changed(fitness_starts=3), 2)
    assert max(first) > bar
    assert raced == pytest.approx([one if one > bar else mean for one, mean in zip(first, full, strict=True)])


def test_each_generation_has_a_start_of_its_own(problem):
    config = changed(fitness_start="generation")
    values = [fitness(losses(2), [problem], config, 2, generation) for generation in (0, 1, 1)]
    assert values[0] != values[1] == values[2] and values[0] != fitness(losses(2), [problem], CONFIG, 2)


def test_elites_are_measured_again_in_each_generation(problem):
    config = changed(fitness_start="generation", population=4, generations=3, rejection_steps=20, meta_steps=1)
    state = genetic.GeneticState()
    populations = []
    result = ec.search(
        [problem], config, 0, state=state, on_generation=lambda s: populations.append(list(s.population))
    )
    elites = [(g, i) for g, population in enumerate(populations) for i in population if i.outcome == "elite"]
    assert elites
    for generation, elite in elites:
        loss = ec.MetaLoss(elite.expression, torch.tensor(elite.weights, dtype=torch.float64), True)
        assert fitness([loss], [problem], config, 0, generation) == [elite.fitness]
    best = min(populations[-1], key=lambda individual: individual.fitness)
    assert (str(result.loss), result.leaders[0].fitness) == (best.expression, best.fitness)


# --- known losses in generation 0 ---


def test_known_losses_are_what_they_are_called():
    y, f = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.1], [0.5]])
    want = {
        "squared error": torch.nn.functional.mse_loss(f, y),
        "absolute error": torch.nn.functional.l1_loss(f, y),
        "pseudo-Huber": (1 + (f - y) ** 2).sqrt().mean(),
        "Cauchy": (1 + (f - y) ** 2).log().mean(),
    }
    for name, value in want.items():
        assert float(ec.MetaLoss(REGRESSION[name])(f, y)) == pytest.approx(float(value), rel=1e-5)
    small, large = (
        float(ec.MetaLoss(REGRESSION["like log-cosh"])(torch.tensor([[x]]), torch.zeros(1, 1))) for x in (1e-2, 20.0)
    )
    assert small == pytest.approx(1e-4, rel=1e-3) and large == pytest.approx(20, rel=1e-3)
    z, c = torch.randn(6, 4), torch.randint(4, (6,))
    p = z.softmax(-1)[range(6), c]
    learned = {name: float(ec.MetaLoss(text, None, True)(z, c)) for name, text in CLASSIFICATION.items()}
    assert learned["cross-entropy"] == pytest.approx(float(torch.nn.functional.cross_entropy(z, c)), rel=1e-5)
    assert learned["focal"] == pytest.approx(float(((1 - p) ** 2 * -p.log()).mean()), rel=1e-5)


def test_generation_0_begins_with_known_losses(problem):
    config = changed(initial_losses="known", population=8)
    known = known_losses(True, config)
    first = genetic.ask(genetic.GeneticState(), config, 0, known=known)
    plain = genetic.ask(genetic.GeneticState(), config, 0)
    assert first[: len(known)] == known and first[len(known) :] == plain[len(known) :] and len(first) == 8
    assert known_losses(True, CONFIG) == []
    assert known_losses(False, changed(initial_losses="known", operators=("add", "sub", "square"))) == [
        "square(sub(y, f))"
    ]
    state = genetic.GeneticState()
    ec.search([problem], changed(initial_losses="known", population=8, generations=1, meta_steps=1), 0, state=state)
    assert set(known) <= set(state.memory.archive)


# --- gradient equivalence within a tolerance ---


def test_neighbours_finds_exactly_what_a_scan_finds():
    draw = np.random.default_rng(0)
    base = draw.lognormal(size=(40, 12))
    base[:, 0] = 0.0
    keys = [" ".join(f"{v:.6e}" for v in row * (1 + draw.uniform(-0.012, 0.012, 12))) for row in base.repeat(8, 0)]
    found = filters.Neighbours((), 0.01)
    for key in keys:
        norms = np.array(key.split(), float)
        logs = np.log(np.maximum(norms, 1e-30))
        near = [o for _, o in found.sorted if np.abs(found.logarithms[o] - logs).max() <= math.log1p(0.01)]
        before = len(found.sorted)
        assert found.find_or_add(key) in (near or [key])
        assert len(found.sorted) == before + (not near)
    assert 40 < len(found.sorted) < len(keys)


def test_within_finds_equivalents_that_rounding_misses(problem):
    settings = {"population": 6, "generations": 4, "meta_steps": 1, "rejection_steps": 20}
    rows = {}
    for reading, tolerance in (("rounded", 0.01), ("within", 0.01), ("within", 10.0)):
        config = changed(**settings, equivalence=reading, equivalence_tolerance=tolerance)
        state = ec.search([problem], config, 0).state
        rows[reading, tolerance] = sum(row["equivalent"] for row in state.history)
    assert rows["within", 10.0] > 0 and rows["within", 10.0] >= rows["within", 0.01]


# --- the contest ---


def regression():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=draw)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(200, 1, generator=draw)
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 120), (120, 160), (160, 200))]
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    return ec.training.Problem.of((ec.Task("line", *parts, classification=False), model), ec.Config())


CONTEST = ec.Config(fitness_steps=20, test_steps=80, batch_size=16)


def leaders(*texts) -> list[Leader]:
    return [Leader(ec.MetaLoss(text), float(k)) for k, text in enumerate(texts)]


def test_a_contest_halves_and_the_task_loss_is_in_the_last_round():
    contest = halving.Contest()
    some = leaders("square(sub(y, f))", "mul(-1, square(sub(y, f)))", *["abs(sub(y, f))"] * 20)
    winner = halving.hold(contest, some, regression(), CONTEST, 0)
    assert [len(of_round) for of_round in contest.results] == [16, 8, 4 + 2]
    assert [{len(e) for e in r.values()} for r in contest.results][2] == {2}
    last = {name: np.mean(errors) for name, errors in contest.results[-1].items()}
    assert last[winner.name] == min(last.values()) and {halving.TASK_LOSS, halving.TUNED} < set(last)
    assert "leader 1" not in contest.results[1], "a loss that drives away from the target does not survive"


def test_a_loss_that_diverges_gets_no_further_start_and_the_task_loss_wins():
    contest = halving.Contest()
    explode = [Leader(ec.MetaLoss("square(square(sub(y, f)))"), 0.0, 1e9)]
    winner = halving.hold(contest, explode, regression(), CONTEST, 0)
    assert winner.name in (halving.TASK_LOSS, halving.TUNED)
    assert contest.results[0]["leader 0"] == [math.inf] and "leader 0" not in contest.results[1]


def test_a_contest_goes_on_behind_its_last_round():
    whole, some = halving.Contest(), leaders("abs(sub(y, f))", "square(sub(y, f))", "sqrt(add(1, square(sub(y, f))))")
    winner = halving.hold(whole, some, regression(), CONTEST, 0)
    for done in range(4):
        part = halving.Contest(dict(whole.rates), json.loads(json.dumps(whole.results[:done])), 1.0)
        seen: list[int] = []
        again = halving.hold(part, some, regression(), CONTEST, 0, lambda c, seen=seen: seen.append(len(c.results)))
        assert again.name == winner.name and part.results == whole.results
        assert seen == list(range(done + 1, 4))


def test_parts_dealt_out_anew_hold_the_same_instances():
    task = regression().task
    first, again, other = (halving.resplit(task, 0, start, 2) for start in (0, 0, 1))
    rows = lambda *parts: {tuple(row) for x, y in parts for row in torch.cat([x, y], 1).tolist()}  # noqa: E731
    assert rows(first.train, first.validation) == rows(task.train, task.validation) and len(rows(first.train)) == 120
    assert not rows(first.train) & rows(first.validation) and rows(first.validation) == rows(again.validation)
    assert rows(first.validation) != rows(task.validation) and rows(first.validation) != rows(other.validation)
    assert first.test is task.test


def test_a_contest_with_parts_dealt_out_anew_judges_all_by_the_same_and_leaves_the_problem_as_it_is(monkeypatch):
    problem, some = regression(), leaders("abs(sub(y, f))", "square(sub(y, f))", "square(sub(y, f))")
    task, seen = problem.task, []
    run = halving.run_trial
    monkeypatch.setattr(halving, "run_trial", lambda losses, p, *rest: seen.append(p.task) or run(losses, p, *rest))
    contest = halving.Contest()
    halving.hold(contest, some, problem, dataclasses.replace(CONTEST, selection="resplit"), 0)
    assert problem.task is task and task not in seen
    assert len({id(part) for part in seen}) == 3 + 2 + 2, "one for each start of a round, whatever the learning rates"
    assert contest.results[0]["leader 1"] == contest.results[0]["leader 2"]
    plain = halving.Contest()
    halving.hold(plain, some, problem, CONTEST, 0)
    assert plain.rates == contest.rates and plain.results[0] != contest.results[0]


def test_a_model_of_ones_own_keeps_its_validation_data():
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    with pytest.raises(ValueError, match="must be halving or fitness, got resplit"):
        ec.search_loss(torch.nn.Linear(3, 1), (x, y), (x, y), "regression", protocol="paper+selection=resplit")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    return folder, ec.run_cell(SMOKE, results_dir=folder, **HERE)


def test_a_contest_needs_no_new_search_and_is_held_once(held, monkeypatch):
    folder, run = held
    assert run.data["selection"] and run.seconds["selection"] > 0
    assert (run.path / "contests" / "halving+test_steps=40.json").exists()
    assert run.cell.search.protocol == "paper"
    monkeypatch.setattr(halving, "hold", None)
    again = ec.run_cell(dataclasses.replace(SMOKE, seed=1, source="digits/logistic/0"), results_dir=folder, **HERE)
    assert again.data["selection"] == run.data["selection"] and again.data["loss"] == run.data["loss"]
    runs, damaged = store.read_runs(folder)
    assert len(runs) == 2 and not damaged


def test_contests_of_both_kinds_stand_side_by_side(held):
    folder, run = held
    cell = dataclasses.replace(SMOKE, protocol="paper+selection=resplit")
    other = ec.run_cell(cell, results_dir=folder, **HERE)
    assert (other.path, other.status) == (run.path, "complete") and other.data["selection"]
    names = [file.name for file in sorted((run.path / "contests").glob("*.json"))]
    assert names == ["halving+test_steps=40.json", "resplit+test_steps=40.json"]
    (hours,) = ec.estimate([cell])
    assert hours.test > 0 and not store.read_runs(folder)[1]


def changed_contests(data: dict) -> dict[str, dict]:
    """What a contest of three rounds cannot be -> the record that says so."""
    contest, winner = data["contest"], data["winner"]
    first, last = contest["results"][0], contest["results"][-1]
    loser = next(name for name in last if name != winner["name"])
    rounds = lambda *results: data | {"contest": contest | {"results": list(results)}}  # noqa: E731
    return {
        "results are text": data | {"contest": contest | {"results": "none"}},
        "an error is text": rounds(first | {"leader 0": ["x"] * 3}, *contest["results"][1:]),
        "an error too few": rounds(first | {"leader 0": first["leader 0"][:1]}, *contest["results"][1:]),
        "errors behind a failure": rounds(first | {"leader 0": [None, 1.0, 1.0]}, *contest["results"][1:]),
        "a stranger takes part": rounds(first | {"leader 99": first["leader 0"]}, *contest["results"][1:]),
        "a contestant is missing": rounds({}, *contest["results"][1:]),
        "a round too many": rounds(*contest["results"], last),
        "a round too few": rounds(*contest["results"][:-1]),
        "another winner": data | {"winner": winner | {"name": loser}},
        "another rate": data | {"winner": winner | {"learning_rate": 0.123}},
        "another loss": data | {"winner": winner | {"loss": {"schema": 1, "kind": "squared_error"}}},
        "a rate below zero": data | {"contest": contest | {"rates": {"task loss": None, "task loss, tuned": -1.0}}},
        "no rates": data | {"contest": contest | {"rates": {}}},
        "no seconds": data | {"contest": {name: contest[name] for name in ("rates", "results")}},
        "another cell's": data | {"cell": data["cell"] | {"seed": 5}},
    }


def a_search_with_a_contest(run: ec.Run, folder) -> tuple:
    """(where the contest of a copy of this search is looked for, what the run's own contest holds)"""
    path = store.folder_of(SMOKE, folder)
    (path / "contests").mkdir(parents=True)
    (path / "record.json").write_bytes((run.path / "record.json").read_bytes())
    file = path / "contests" / "halving+test_steps=40.json"
    return file, json.loads((run.path / "contests" / file.name).read_text())


def test_a_contest_that_cannot_be_is_refused_even_with_its_digest(held, tmp_path):
    file, contest = a_search_with_a_contest(held[1], tmp_path)
    for wrong, data in changed_contests(contest).items():
        for content in (data, files.sealed({name: value for name, value in data.items() if name != "digest"})):
            text = json.dumps(content)
            file.write_text(text)
            with pytest.raises(ec.RecordError, match=re.escape(str(file))):
                print(wrong, ec.run_cell(SMOKE, results_dir=tmp_path, **HERE))
            assert file.read_text() == text, "nothing is lost"


def test_an_interrupted_contest_is_held_to_its_digest_and_goes_on(held, tmp_path):
    run = held[1]
    file, data = a_search_with_a_contest(run, tmp_path)
    del data["digest"]
    file.write_text(json.dumps(data))  # the first finished ones have no digest
    assert ec.run_cell(SMOKE, results_dir=tmp_path, **HERE).data["selection"] == run.data["selection"]
    half = data | {"winner": None, "contest": data["contest"] | {"results": data["contest"]["results"][:1]}}
    file.write_text(json.dumps(half))
    (file.parents[1] / "tests" / f"{SMOKE.test}.json").unlink()
    with pytest.raises(ec.RecordError, match="digest"):
        ec.run_cell(SMOKE, results_dir=tmp_path, **HERE)
    file.write_text(json.dumps(files.sealed(half)))
    left = file.with_name(f".{file.name}.{'0' * 32}")  # of a process that was killed while it wrote
    left.write_text("{")
    again = ec.run_cell(SMOKE, results_dir=tmp_path, **HERE)
    assert again.data["loss"] == run.data["loss"] and again.test_metric == run.test_metric
    assert not left.exists()
    whole = json.loads(file.read_text())
    assert [entry["round"] for entry in whole["provenance"]] == [0] and whole["provenance"] == data["provenance"]
    assert whole["contest"]["results"] == data["contest"]["results"] and whole["winner"] == data["winner"]


# --- the control `early` ---


def test_early_has_no_more_steps_than_evomals_search():
    for budget in ("smoke", "quick", "paper"):
        config = ec.Config.for_cell(ec.Cell("diabetes", "mlp", "early", 0, budget))
        work = ec.METHODS["evomal"].work(config)
        steps = work.evaluated * config.fitness_steps + work.optimised * config.meta_steps
        assert early.trainings(config) * config.test_steps <= max(steps, config.test_steps)
    assert early.trainings(config) == 19


def test_early_chooses_rate_and_step_by_validation_and_goes_on_where_it_was():
    config = dataclasses.replace(CONTEST, population=20, generations=20, meta_steps=20)
    states = []
    result = ec.search([regression()], config, 0, "early", on_generation=lambda state: states.append(state.to_json()))
    assert early.trainings(config) == 19 and len(states) == 2
    final = [one for one in result.state.tried if len(one.curves) == 3]
    assert len(final) == 3 and len(result.state.tried) == 13
    best = min(final, key=lambda one: one.fitness)
    assert (result.learning_rate, result.steps) == (best.learning_rate, best.steps)
    means = np.mean(best.curves, axis=0)
    assert best.fitness == pytest.approx(means.min()) and trial.early_stops(80)[means.argmin()] == best.steps
    for state in states:
        again = ec.search(
            [regression()], config, 0, "early", state=SearchState.from_json(json.loads(json.dumps(state)))
        )
        assert (again.learning_rate, again.steps, again.state.tried) == (
            best.learning_rate,
            best.steps,
            result.state.tried,
        )


def test_a_test_of_early_has_the_steps_that_were_chosen(tmp_path):
    cell = ec.Cell("digits", "logistic", "early", 0, "smoke")
    run = ec.run_cell(cell, results_dir=tmp_path, **HERE)
    search = json.loads((run.path / "record.json").read_text())
    assert 0 < search["steps"] <= 20 and run.data["steps"] == search["steps"]
    assert run.data["learning_rate"] == search["learning_rate"]
