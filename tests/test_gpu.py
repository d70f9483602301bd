"""What only a GPU can show; skipped without one."""

import dataclasses

import pytest
import torch
from torch import nn

import evomal_core as ec
from evomal_core.losses import expression
from evomal_core.training import fitness, optimise_losses, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CONFIG = ec.Config(dtype="float64", batch_size=16, fitness_steps=20, meta_steps=5, base_learning_rate=0.05)


def problem(device, channels=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, channels, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (90,), generator=generator)
    task = ec.Task("t", (x[:50], y[:50]), (x[50:70], y[50:70]), (x[70:], y[70:]), True, 4).to(device)
    layers = [nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)]
    return task, nn.Sequential(*layers).double().to(device)


def losses(device, n=5):
    trees = [expression.grow(seed, (2, 4))[0] for seed in range(n)]
    return [ec.MetaLoss(tree, classification=True).double().to(device) for tree in trees]


@pytest.mark.parametrize("settings", [{"copies": 1}, {"copies": 5}])
def test_a_gpu_agrees_with_the_cpu(settings):
    config = dataclasses.replace(CONFIG, **settings)
    expected = fitness(losses("cpu"), [problem("cpu")], dataclasses.replace(CONFIG, copies=1), 0)
    assert fitness(losses("cuda"), [problem("cuda")], config, 0) == pytest.approx(
        expected, abs=0.051
    )  # one image of 20
    on_cpu = train(losses("cpu"), problem("cpu"), dataclasses.replace(CONFIG, copies=1), 0, "fitness", 20, (0,), (10,))
    on_gpu = train(losses("cuda"), problem("cuda"), config, 0, "fitness", 20, (0,), (10,))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q.cpu(), rtol=1e-6, atol=1e-8)


def test_loss_weights_agree():
    expected, found = losses("cpu"), losses("cuda")
    optimise_losses(expected, [problem("cpu")], CONFIG, 0)
    optimise_losses(found, [problem("cuda")], dataclasses.replace(CONFIG, copies=5), 0)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a.weights, b.weights.cpu(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ec.METHODS)
def test_every_method_runs(method, tmp_path):
    run = ec.run_cell(ec.Cell("diabetes", "mlp", method, 0, "smoke"), results_dir=tmp_path, device="cuda")
    assert run.status in ("complete", "diverged", "no_loss") and "gpu" in run.data["hardware"]
