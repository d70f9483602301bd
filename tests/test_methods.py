"""The rivals and controls: TaylorGLO, ML3, the tuned learning rate (search/, losses/taylor.py, losses/neural.py)."""

import dataclasses
import math

import numpy as np
import pytest
import sympy
import torch
from torch import nn

import evomal_core as ec
from evomal_core.config import Config, Protocol
from evomal_core.fast.derivatives import Derivatives, LossInputs
from evomal_core.losses import load_loss
from evomal_core.losses.neural import NeuralLoss
from evomal_core.losses.taylor import TaylorLoss
from evomal_core.search import SearchState, cma_es, search
from evomal_core.search.tuned import LEARNING_RATES
from evomal_core.tasks import Task

CONFIG = Config(population=5, generations=3, meta_steps=5, fitness_steps=10, rejection_steps=5, batch_size=16)


def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    task = Task("t", (x[:30], y[:30]), (x[30:45], y[30:45]), (x[45:], y[45:]), False)
    return task, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def draws(n=6, c=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, generator=generator).double(), torch.randn(n, c, generator=generator).double()


def test_squared_error_is_a_taylor_loss_up_to_a_constant():
    z, y = draws()
    z.requires_grad_()
    taylor = TaylorLoss([0, 0, 0, 2, 0, -2, 0, 0]).double()
    (a,) = torch.autograd.grad(taylor(z, y), z)
    (b,) = torch.autograd.grad(nn.functional.mse_loss(z, y), z)
    torch.testing.assert_close(a, b)


def test_exchanged_roles_cannot_express_squared_error():
    z, y = draws()
    taylor = TaylorLoss(torch.randn(8).double(), roles="exchanged")
    f = z.requires_grad_()
    (g,) = torch.autograd.grad(taylor.elementwise(y, f).sum(), f, create_graph=True)
    t = taylor.weights.detach()
    taylor_quadratic = TaylorLoss(torch.cat([t[:7], torch.zeros(1).double()]), roles="exchanged")
    (h,) = torch.autograd.grad(taylor_quadratic.elementwise(y, f).sum(), f)
    assert not torch.allclose(g, h)  # t7 alone brings the prediction into the gradient
    moved = torch.autograd.grad(taylor_quadratic.elementwise(y, f + 1).sum(), f)[0]
    torch.testing.assert_close(h, moved)


@pytest.mark.parametrize("roles", ["prediction", "exchanged"])
@pytest.mark.parametrize("last_term", ["t1", "t0"])
@pytest.mark.parametrize("classification", [False, True])
def test_taylor_closed_form_equals_autograd(roles, last_term, classification):
    z, y = draws(7, 3 if classification else 1)
    target = torch.randint(3, (7,)) if classification else y
    loss = TaylorLoss(
        torch.linspace(-1, 1.5, 8).double(), classification=classification, roles=roles, last_term=last_term
    )
    found = Derivatives([loss], LossInputs(z, target))
    zz = z.clone().requires_grad_()
    expected = loss(zz, target)
    torch.testing.assert_close(found.values()[0], expected.detach())
    torch.testing.assert_close(found.v[0], torch.autograd.grad(expected, zz)[0])


def test_taylor_formula():
    t = np.linspace(-1, 1.5, 8)
    y, f = 0.7, -0.4
    a, b = f - t[1], y - t[0]
    expected = t[2] * a + t[3] * a**2 / 2 + t[4] * a**3 / 6 + t[5] * b * a + t[6] * b * a**2 / 2 + t[7] * b**2 * a / 2
    loss = TaylorLoss(torch.tensor(t))
    assert float(loss(torch.tensor([[f]]).double(), torch.tensor([[y]]).double())) == pytest.approx(expected)
    ys, fs = sympy.symbols("y f", real=True)
    assert float(loss.to_sympy().subs({ys: y, fs: f})) == pytest.approx(expected)
    assert loss.to_latex()


@pytest.mark.parametrize("loss", [TaylorLoss(torch.randn(8)), NeuralLoss.fresh(torch.Generator().manual_seed(2))])
def test_save_and_load(loss, tmp_path):
    loss.save(tmp_path / "loss.json")
    again = load_loss(tmp_path / "loss.json")
    assert type(again) is type(loss) and torch.equal(again.weights, loss.weights)
    z, y = torch.randn(5, 1), torch.randn(5, 1)
    assert torch.equal(again(z, y), loss(z, y))


def test_neural_loss_is_the_network():
    loss = NeuralLoss.fresh(torch.Generator().manual_seed(0))
    network = nn.Sequential(
        nn.Linear(2, 50, bias=False),
        nn.ReLU(),
        nn.Linear(50, 50, bias=False),
        nn.ReLU(),
        nn.Linear(50, 1, bias=False),
        nn.Softplus(),
    )
    layers = loss.weights.detach().split((100, 2500, 50))
    for module, part in zip((network[0], network[2], network[4]), layers, strict=True):
        module.weight.data = part.view(module.weight.shape)
    z, y = torch.randn(6, 1), torch.randn(6, 1)
    torch.testing.assert_close(loss(z, y), network(torch.cat([z, y], 1)).mean())
    assert loss.weights.numel() == 2650
    assert layers[1].std() == pytest.approx(math.sqrt(2 / 50), rel=0.05)


def test_ml3_optimises_its_weights():
    result = search([problem()], CONFIG, 0, "ml3")
    loss, state = result.loss, result.state
    assert isinstance(loss, NeuralLoss) and state.history[0]["seconds_optimise"] > 0
    start = NeuralLoss.fresh(ec.streams.torch_generator(0, "phi"))
    assert 0 < float((loss.weights - start.weights).abs().max()) <= 5.1e-3  # five Adam steps of 1e-3


def test_cma_es_finds_a_better_loss_and_goes_on_where_it_was():
    config = dataclasses.replace(CONFIG, population=10, generations=8)
    whole = search([problem()], config, 0, "taylorglo").state
    kept = {}

    def keep(state):
        if state.generation == 3:
            kept.update(state.to_json())

    search([problem()], config, 0, "taylorglo", on_generation=keep)
    result = search([problem()], config, 0, "taylorglo", SearchState.from_json(kept))
    loss, resumed = result.loss, result.state

    def results(state):
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in state.history]

    assert results(resumed) == results(whole) and resumed.best == whole.best
    assert whole.history[-1]["best_so_far"] < whole.history[0]["best_so_far"]
    assert isinstance(loss, TaylorLoss)
    fitnesses = [leader.fitness for leader in result.leaders]
    assert fitnesses == sorted(fitnesses) and len(fitnesses) == 25 and fitnesses[0] == whole.best.fitness
    assert result.leaders[0].weights == pytest.approx(whole.best.weights)


BEGIN = {"centroid": [0.0] * 8, "sigma": cma_es.SIGMA}


def test_taylorglo_starts_at_zero_with_sigma():
    config = dataclasses.replace(CONFIG, population=400, fitness_steps=1)
    state = cma_es.CmaState()
    asked, _ = cma_es.step(state, BEGIN, lambda p: cma_es.taylor(p, config, problem()[0]), [problem()], config, 0)
    points = np.array([point.weights for point in asked])
    assert points.mean() == pytest.approx(0, abs=0.1) and points.std() == pytest.approx(1.2, rel=0.05)


def test_tuned_takes_the_rate_of_the_best_fitness():
    result = search([problem()], CONFIG, 0, "tuned")
    assert len(LEARNING_RATES) == 25 and LEARNING_RATES[0] == pytest.approx(1e-3) and LEARNING_RATES[-1] == 1
    values = {}
    for rate in LEARNING_RATES.tolist():
        config = dataclasses.replace(CONFIG, base_learning_rate=rate)
        (values[rate],) = ec.training.fitness([nn.MSELoss()], [problem()], config, 0)
    assert result.learning_rate == min(values, key=values.get) == result.leaders[0].learning_rate
    assert [leader.fitness for leader in result.leaders] == sorted(v for v in values.values() if math.isfinite(v))


def test_taylor_switches_reach_the_loss():
    cell = ec.Cell("diabetes", "mlp", "taylorglo", 0, "smoke", "paper+taylor_roles=exchanged+taylor_term=t0")
    loss = cma_es.taylor([0.0] * 8, Config.for_cell(cell), problem()[0])
    assert (loss.roles, loss.last_term) == ("exchanged", "t0")
    assert str(Protocol.parse("released")) == "released" and Protocol.parse("released")["taylor_roles"] == "exchanged"


@pytest.mark.parametrize("method", ["ml3", "taylorglo", "tuned"])
def test_methods_are_cells_like_the_others(method, tmp_path):
    cell = ec.Cell("diabetes", "mlp", method, 0, "smoke")
    run = ec.run_cell(cell, results_dir=tmp_path)
    assert run.status in ("complete", "diverged") and run.loss is not None
    modified = (run.path / "record.json").stat().st_mtime_ns
    assert ec.run_cell(cell, results_dir=tmp_path).test_metric == run.test_metric
    assert (run.path / "record.json").stat().st_mtime_ns == modified
