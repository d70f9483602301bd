"""Stacked copies equal one by one, to rounding, in float64 (fast/stacked.py)."""

import dataclasses

import pytest
import torch
from helpers import train
from torch import nn

from evomal_core import fast
from evomal_core.config import Config
from evomal_core.fast.jvp import jvp_engine
from evomal_core.losses import expression
from evomal_core.losses.meta_network import MetaLoss
from evomal_core.search import search
from evomal_core.tasks import Task
from evomal_core.training import Problem, fitness, optimise_losses

CONFIG = Config(dtype="float64", batch_size=16, fitness_steps=12, meta_steps=4, base_learning_rate=0.05)


def image_task(n=90):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (n,), generator=generator)
    return Task("t", (x[:50], y[:50]), (x[50:70], y[50:70]), (x[70:], y[70:]), True, 4)


def convolutional():
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(54, 4)).double()


def chain():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 4)).double()


def logistic():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double()


def losses(n=5):
    trees = [expression.grow(seed, (2, 4))[0] for seed in range(n)]
    return [MetaLoss(tree, classification=True).double() for tree in trees]


@pytest.mark.parametrize("model", [convolutional, chain])
@pytest.mark.parametrize("copies", [2, 5])
def test_stacked_training_equals_one_by_one(model, copies):
    problem = (image_task(), model())
    plain = train(losses(), problem, CONFIG, 0, "fitness", 12, (0,))
    stacked = train(losses(), problem, dataclasses.replace(CONFIG, copies=copies), 0, "fitness", 12, (0,))
    moved = 0.0
    for a, b in zip(plain, stacked, strict=True):
        for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=name)
        moved += float((next(a.parameters()) - next(plain[0].parameters())).detach().abs().sum())
    assert moved > 0  # the losses do differ


def test_frozen_weights_stay_where_they_are():
    model = chain()
    for p in model[1].parameters():
        p.requires_grad_(False)
    results = []
    for copies in (1, 2):
        found = train(losses(3), (image_task(), model), dataclasses.replace(CONFIG, copies=copies), 0, "test", 12)
        assert all(torch.equal(trained[1].weight, model[1].weight) for trained in found)
        results.append([trained[3].weight for trained in found])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("momentum", ["plain", "momentum", "nesterov"])
@pytest.mark.parametrize("classes", [4, None])
def test_a_single_layer_side_by_side_equals_one_by_one(classes, momentum, bias):
    task = image_task()
    if classes is None:  # regression
        parts = {n: (getattr(task, n)[0], getattr(task, n)[0].sum((1, 2, 3))[:, None] / 14) for n in ("train", "test")}
        task = Task("r", parts["train"], parts["test"], parts["test"], False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes or 1, bias=bias)).double()
    kinds = {"base_momentum": 0.0 if momentum == "plain" else 0.9, "base_nesterov": momentum == "nesterov"}
    config = dataclasses.replace(CONFIG, base_learning_rate=0.01, base_weight_decay=0.01, **kinds)
    trees = [MetaLoss(loss.tree, loss.weights, classification=classes is not None).double() for loss in losses(7)]
    plain = train(trees, (task, model), dataclasses.replace(config, copies=1), 0, "fitness", 12, (0,))
    stacked = train(trees, (task, model), config, 0, "fitness", 12, (0,))
    assert fast.copies(config, Problem(task, model)) > 1
    for a, b in zip(plain, stacked, strict=True):
        for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=name)
    assert not torch.allclose(plain[0][1].weight, plain[1][1].weight), "the losses do differ"


def test_stacked_batchnorm_statistics_are_each_copys_own():
    problem = (image_task(), convolutional())
    a, b = train(losses(2), problem, dataclasses.replace(CONFIG, copies=2), 0, "fitness", 12, (0,))
    assert not torch.equal(a[1].running_mean, b[1].running_mean)
    assert a[1].num_batches_tracked == b[1].num_batches_tracked == 12


def test_a_diverged_copy_harms_no_other():
    bad = MetaLoss("mul(square(square(square(f))), square(square(y)))", [50.0] * 7).double()
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = 3 * x.sum(1, keepdim=True)
    task = Task("t", (x, y), (x, y), (x, y), False)
    problem = (task, nn.Sequential(nn.Linear(3, 1)).double())
    good = [MetaLoss("square(sub(y, f))").double() for _ in range(2)]
    config = dataclasses.replace(CONFIG, copies=3, base_learning_rate=0.5, fitness_steps=30)
    together = fitness([good[0], bad, good[1]], [problem], config, 0)
    alone = fitness(good, [problem], dataclasses.replace(config, copies=1), 0)
    assert together[1] == float("inf")
    assert [together[0], together[2]] == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("model", [convolutional, chain])
@pytest.mark.parametrize("nesterov", [True, False])
def test_stacked_meta_gradients_equal_one_by_one(model, nesterov):
    task, base = image_task(), model().train()
    batch, validation = (task.train[0][:16], task.train[1][:16]), (task.validation[0][:9], task.validation[1][:9])
    config = dataclasses.replace(CONFIG, base_nesterov=nesterov, base_momentum=0.9 if nesterov else 0.0)
    arguments = (base, [batch], validation, nn.CrossEntropyLoss())
    buffers = [b.clone() for b in base.buffers()]
    plain = jvp_engine(losses(), *arguments, config, [1, 2])
    stacked = jvp_engine(losses(), *arguments, dataclasses.replace(config, copies=3), [1, 2])
    for (a,), (b,) in zip(plain, stacked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
    assert any(float(a.abs().max()) > 1e-6 for (a,) in plain)
    assert all(torch.equal(b, c) for b, c in zip(buffers, base.buffers(), strict=True))


def test_optimised_weights_agree():
    problem = (image_task(), convolutional())
    plain, stacked = losses(3), losses(3)
    assert optimise_losses(plain, [problem], CONFIG, 0) == [True] * 3
    assert optimise_losses(stacked, [problem], dataclasses.replace(CONFIG, copies=3), 0) == [True] * 3
    for a, b in zip(plain, stacked, strict=True):
        torch.testing.assert_close(a.weights, b.weights, rtol=1e-8, atol=1e-10)


def test_default_number_of_copies():
    problem = Problem(image_task(), chain())
    assert fast.copies(Config(), problem) == 1  # on a CPU
    assert fast.copies(Config(copies=7), problem) == 7


def test_memory_of_a_copy_grows_with_the_batch_and_not_with_the_data():
    small, large = (Problem(image_task(n), convolutional()) for n in (90, 900))
    assert small.bytes_of_a_copy(16) == large.bytes_of_a_copy(16)
    weights = sum(p.numel() for p in small.model.parameters())
    rows = small.bytes_of_a_copy(17) - small.bytes_of_a_copy(16)
    assert small.bytes_of_a_copy(16) > 3 * 8 * weights + 16 * rows > 0
    assert rows > 8 * (6 * 6 * 6 + 54)  # the outputs of the convolution, and what Flatten gives
    assert fast.copies(Config(), Problem(image_task(), logistic())) == 32


def plain_engine_search(engine, copies, model=chain):
    """A short search in float64 on a chain, under one engine and K."""
    config = Config(
        population=6,
        generations=3,
        meta_steps=6,
        fitness_steps=8,
        rejection_steps=10,
        batch_size=16,
        dtype="float64",
        engine=engine,
        copies=copies,
    )
    return search([(image_task(), model())], config, 3).state


@pytest.mark.parametrize(
    ("engine", "copies", "model"),
    [("gram", 1, chain), ("jvp", 3, chain), ("gram", 6, chain), ("gram", 0, logistic), ("jvp", 0, logistic)],
)
def test_the_same_seed_gives_the_same_search_under_every_engine(engine, copies, model):
    plain, fast = plain_engine_search("higher", 1, model), plain_engine_search(engine, copies, model)
    assert [i.expression for i in plain.population] == [i.expression for i in fast.population]
    assert list(plain.memory.archive) == list(fast.memory.archive)
    for a, b in zip(plain.memory.archive.values(), fast.memory.archive.values(), strict=True):
        assert a.outcome == b.outcome
        assert a.weights == pytest.approx(b.weights, rel=1e-7)
        assert a.fitness == pytest.approx(b.fitness, rel=1e-7)
    assert sum(row["evaluated"] for row in plain.history) > 1
