"""All accelerations can be switched off together, and the method gives the same numbers either way."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from helpers import train
from test_stacked import CONFIG, chain, convolutional, image_task, losses

import evomal_core as ec
from evomal_core import fast
from evomal_core.search.filters import Probe, gradient_key, improvement
from evomal_core.training import Problem, choose, fitness, optimise_losses

SMALL = dataclasses.replace(
    CONFIG, population=5, generations=2, meta_steps=4, fitness_steps=8, rejection_steps=10, batch_size=16
)


def regression():
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x[:, :2].sum(1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    return ec.Task("sum", (x[:30], y[:30]), (x[30:45], y[30:45]), (x[45:], y[45:]), False), model


PROBLEMS = {
    "regression": regression,
    "chain": lambda: (image_task(), chain()),
    "convolutional": lambda: (image_task(), convolutional()),
}


def made(name: str):
    classification = name != "regression"
    trees = [str(loss.tree) for loss in losses(4)]
    return PROBLEMS[name](), [ec.MetaLoss(t, classification=classification).double() for t in trees]


@pytest.mark.parametrize("name", PROBLEMS)
def test_base_training_and_fitness(name):
    problem, found = made(name)
    quick = train(found, problem, SMALL, 0, "test", 9), fitness(found, [problem], SMALL, 0)
    with ec.plain():
        plain = train(found, problem, SMALL, 0, "test", 9), fitness(found, [problem], SMALL, 0)
    for a, b in zip(quick[0], plain[0], strict=True):
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)
    assert quick[1] == pytest.approx(plain[1], rel=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_loss_optimisation(name):
    problem, first = made(name)
    second = made(name)[1]
    assert optimise_losses(first, [problem], SMALL, 0) == [True] * 4
    with ec.plain():
        assert optimise_losses(second, [problem], SMALL, 0) == [True] * 4
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.weights, b.weights, rtol=1e-8, atol=1e-10)
    assert any(float((loss.weights - 1).abs().max()) > 1e-4 for loss in first)


@pytest.mark.parametrize("name", PROBLEMS)
def test_filters(name):
    problem, found = made(name)
    probe = Probe.of(problem, SMALL, 0)
    quick = improvement(found, probe, SMALL), [gradient_key(loss, probe, 4) for loss in found]
    with ec.plain():
        plain = improvement(found, probe, SMALL), [gradient_key(loss, probe, 4) for loss in found]
    assert quick[0] == pytest.approx(plain[0], rel=1e-7)
    assert quick[1] == plain[1]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", ec.METHODS)
def test_whole_searches(name, method):
    problem, _ = made(name)
    quick = ec.search([problem], SMALL, 1, method)
    with ec.plain():
        plain = ec.search([problem], SMALL, 1, method)
    assert (quick.loss is None) == (plain.loss is None)
    if quick.loss is not None:
        assert str(quick.loss) == str(plain.loss) or method == "taylorglo"
        for a, b in zip(quick.leaders, plain.leaders, strict=True):
            assert a.fitness == b.fitness if b.fitness is None else a.fitness == pytest.approx(b.fitness, rel=1e-7)
            assert a.weights == pytest.approx(b.weights, rel=1e-6, abs=1e-9)
    strip = lambda rows: [{k: v for k, v in r.items() if "seconds" not in k} for r in rows]  # noqa: E731
    for a, b in zip(strip(quick.state.history), strip(plain.state.history), strict=True):
        assert a.keys() == b.keys()
        assert [x for x in a.values() if x is not None] == pytest.approx(
            [x for x in b.values() if x is not None], rel=1e-6
        )


def test_everything_is_off_inside_and_on_again_behind():
    problem = Problem(*regression())
    config = dataclasses.replace(SMALL, copies=3)
    assert choose("auto", problem.model, config) == "gram" and fast.copies(config, problem) == 3
    with pytest.raises(ZeroDivisionError), ec.plain():
        with ec.plain():
            pass
        assert choose("auto", problem.model, config) == "higher" and fast.copies(config, problem) == 1
        raise ZeroDivisionError
    assert choose("auto", problem.model, config) == "gram"


def test_the_environment_variable_switches_them_off():
    code = "import evomal_core as ec; model = ec.build_model('mlp', ec.load_task('diabetes'));"
    code += "print(ec.training.choose('auto', model, ec.Config()))"
    for value, want in (("1", "higher"), ("0", "gram"), ("", "gram")):
        environment = {**os.environ, "EVOMAL_PLAIN": value}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip() == want


def test_a_record_says_whether_it_was_made_plainly(tmp_path):
    cell = ec.Cell("diabetes", "logistic", "evomal", 0, "smoke")
    with ec.plain():
        run = ec.run_cell(cell, results_dir=tmp_path, device="cpu")
    assert run.data["plain"] is True and run.data["engine"] == "higher"
    quick = ec.run_cell(cell, results_dir=tmp_path / "quick", device="cpu")
    assert quick.data["plain"] is False and quick.data["engine"] == "gram"
