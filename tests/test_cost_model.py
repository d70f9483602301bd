"""The cost model: its arithmetic, what it does without data, and that shares of candidates are those of the records."""

from dataclasses import replace

import pytest

import evomal_core as ec
from evomal_core import cost_model
from evomal_core.config import Config
from evomal_core.cost_model import Rates
from evomal_core.experiments import store
from evomal_core.machine import ROOT
from evomal_core.registry import DATASETS, METHODS
from evomal_core.remedies import early
from evomal_core.search.state import OUTCOMES
from evomal_core.tasks import DataUnavailable, sources

SIZES = {"train": 1_000, "validation": 100, "test": 10}
RATES = Rates(meta=1e-3, filter=1e-4, fitness=1e-2, test=1e-1, instance=1.0, sizes=SIZES)


@pytest.fixture
def fixed(monkeypatch):
    timed = []
    monkeypatch.setattr(cost_model, "timed", lambda problem, config, sizes: timed.append(config) or RATES)
    return timed


def test_hours_are_steps_times_their_seconds(fixed):
    cells = [ec.Cell("diabetes", "mlp", method, 0, "quick") for method in METHODS]
    hours = dict(zip(METHODS, ec.estimate(iter(cells)), strict=True))
    config = Config.for_cell(cells[0])
    assert (config.meta_steps, config.fitness_steps, config.rejection_steps) == (80, 100, 100)
    test = config.test_steps * 1e-1 + 1_110
    one = config.fitness_steps * 1e-2 + 100
    expected = {"baseline": 0, "ml3": 80 * 1e-3, "tuned": 25 * one, "taylorglo": 64 * one}
    expected |= {"random": 64 * 80e-3 + 64 * 100e-4 + 0.26 * 64 * one}
    expected |= {"evomal": 48 * 80e-3 + 48 * 100e-4 + 0.45 * 64 * one, "gp-lfl": 48 * 100e-4 + 0.27 * 64 * one}
    expected |= {"glo": 48 * 100e-4 + 64 * one}
    work = METHODS["early"].work(config)  # full trainings, counted in fitness evaluations
    assert work.evaluated * config.fitness_steps == early.trainings(config) * config.test_steps
    expected |= {"early": work.evaluated * one}
    for method, seconds in expected.items():
        assert hours[method] * 3600 == pytest.approx(seconds + test), method
    assert len(fixed) == 1, "a base model is timed once for all methods"


def test_a_source_is_searched_there_and_tested_here(fixed):
    here = ec.Cell("mnist", "logistic", "tuned", 0, "quick", source="digits/logistic")
    with sources.offline():
        (hours,) = ec.estimate([here])
    assert len({config.test_steps for config in fixed}) == 1
    assert hours.test == pytest.approx((2_000 * 1e-1 + 1_110) / 3600)
    assert hours == hours.search + hours.test and hours.search > 0


def test_contests_early_stopping_and_further_starts_count(fixed):
    plain, contest, stopping, starts = (
        ec.Cell("diabetes", "mlp", "taylorglo", 0, budget, protocol)
        for budget, protocol in (
            ("quick", "paper"),
            ("quick", "robust"),
            ("quick", "paper+test_stop=validation"),
            ("quick+fitness_starts=3", "paper"),
        )
    )
    hours = ec.estimate([plain, contest, stopping, starts])
    config = Config.for_cell(plain)
    rounds = 16 * 3 * config.fitness_steps + 8 * 2 * config.test_steps // 4 + 4 * 2 * config.test_steps
    assert (hours[1].test - hours[0].test) * 3600 == pytest.approx(rounds * 1e-2)
    assert (hours[2].test - hours[0].test) * 3600 == pytest.approx(39 * 1_110)
    assert hours[3].search == pytest.approx(3 * hours[0].search)


def test_fewer_instances_and_other_batches_count(fixed):
    cell = ec.Cell("diabetes", "mlp", "baseline", 0, "quick+evaluation_instances=5")
    assert ec.estimate([cell])[0] * 3600 == pytest.approx(200 + 15)
    ec.estimate([cell, ec.Cell("diabetes", "mlp", "baseline", 0, "quick+batch_size=16")])
    assert [config.batch_size for config in fixed] == [128, 128, 16]


def test_without_the_data_random_images_are_timed(monkeypatch, tmp_path):
    seen = []

    def timed(problem, config, sizes):
        seen.append((problem.task, sizes))
        return RATES

    monkeypatch.setattr(cost_model, "timed", timed)
    ec.estimate([ec.Cell("svhn", "squeezenet", "baseline", 0, "smoke")], data_dir=tmp_path)
    ((task, sizes),) = seen
    assert task.input_shape == (3, 32, 32) and task.outputs == 10 and task.augmented == ("train",)
    assert sizes == {"train": 0, "validation": 7_326, "test": 26_032}
    assert not list(tmp_path.iterdir()), "nothing is downloaded"
    monkeypatch.setitem(DATASETS, "svhn", replace(DATASETS["svhn"], shape=()))
    with pytest.raises(DataUnavailable):
        ec.estimate([ec.Cell("svhn", "squeezenet", "baseline", 0, "smoke")], data_dir=tmp_path)


def test_errors_name_what_was_expected(monkeypatch):
    with pytest.raises(ValueError, match="cells must be a list of Cells"):
        ec.estimate(["diabetes"])
    monkeypatch.setitem(METHODS, "tuned", replace(METHODS["tuned"], work=None))
    with pytest.raises(ValueError, match=r"Method.work of tuned must be a function"):
        ec.estimate([ec.Cell("diabetes", "mlp", "tuned")])


def test_real_timings_are_positive_and_grow_with_the_work():
    small, large = (ec.Cell("digits", "logistic", "evomal", 0, f"smoke+meta_steps={n}") for n in (1, 1_000_000))
    low, high = ec.estimate([small, large])
    assert 0 < low < high < 1e4


@pytest.mark.parametrize("name", DATASETS)
def test_the_facts_of_a_data_set_are_those_of_the_data(name):
    row = DATASETS[name]
    with sources.offline():
        try:
            task = ec.load_task(name)
        except DataUnavailable:
            pytest.skip("not on disk")
    if row.shape:
        sizes = tuple(len(getattr(task, part)[0]) for part in cost_model.PARTS)
        assert (task.input_shape, task.outputs, sizes) == (row.shape, row.outputs, row.instances)


def test_the_shares_of_candidates_are_those_of_the_committed_records():
    runs, _ = store.read_runs(ROOT / "results" / "reference")
    for method in ("evomal", "gp-lfl", "random"):
        shares = []
        for run in runs:
            if run.cell.method == method and run.cell.protocol == "paper" and len(run.history):
                counts = run.history[list(OUTCOMES)].sum()
                new = 1 - (counts["elite"] + counts["symbolic"]) / counts.sum()
                shares.append((new, counts["evaluated"] / counts.sum()))
        means = [sum(part) / len(shares) for part in zip(*shares, strict=True)]
        work = METHODS[method].work(Config(population=10, generations=10))
        assert work.filtered / 100 == pytest.approx(means[0], rel=0.1), method
        assert work.evaluated / 100 == pytest.approx(means[1], rel=0.35), method
