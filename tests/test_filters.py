"""The rejection protocol and gradient equivalence, against loops by hand."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_losses import random_losses
from torch import nn

from evomal_core import Config, MetaLoss, Task, streams
from evomal_core.models import initialise
from evomal_core.models.random_layers import seeded
from evomal_core.search.filters import Probe, gradient_key, improvement

CONFIG = Config(dtype="float64", rejection_steps=30, base_learning_rate=0.05, rejection_batch=20)


def made_task(classification: bool = False, n: int = 30) -> Task:
    rng = np.random.default_rng(1)
    parts = []
    for _ in range(3):
        x = torch.tensor(rng.normal(size=(n, 4)))
        y = torch.tensor(rng.integers(3, size=n)) if classification else torch.tensor(rng.normal(size=(n, 1)))
        parts.append((x, y))
    return Task("made", *parts, classification, 3 if classification else 1)


def network(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, outputs)).double()


def probe(classification: bool = False, c: Config = CONFIG, seed: int = 0) -> Probe:
    task = made_task(classification)
    return Probe.of((task, network(task.outputs)), c, seed)


def learned(text: str, classification: bool = False, **options) -> MetaLoss:
    return MetaLoss(text, classification=classification, **options).double()


def by_hand(loss, p: Probe, c: Config) -> float:
    """Eq. 10 with one tensor, torch's Adam, and the loss called as a module."""
    outputs = p.prediction.clone().requires_grad_()
    adam = torch.optim.Adam([outputs], lr=c.base_learning_rate)
    for _ in range(c.rejection_steps):
        adam.zero_grad()
        loss(outputs, p.target).backward()
        adam.step()
    z, z_new, y = p.prediction.numpy(), outputs.detach().numpy(), p.target.numpy()
    if not np.isfinite(z_new).all():
        return math.nan
    if y.ndim == 1:
        return float((z.argmax(1) != y).sum() - (z_new.argmax(1) != y).sum())
    return float(((z - y) ** 2).sum() - ((z_new - y) ** 2).sum())


def test_probe_is_the_first_instances_through_a_fresh_network_in_training_mode():
    task, c = made_task(), dataclasses.replace(CONFIG, rejection_batch=20)
    model, twin = network(1), network(1)
    got = Probe.of((task, model.eval()), c, 5)
    initialise(twin, streams.torch_generator(5, "filter"))
    with seeded(streams.integer(5, "filter", 0), torch.device("cpu")), torch.no_grad():
        want = twin.train()(task.train[0][:20])
    assert torch.equal(got.prediction, want)
    assert torch.equal(got.target, task.train[1][:20])
    assert not got.prediction.requires_grad
    again = Probe.of((task, network(1)), c, 5)
    assert torch.equal(again.prediction, got.prediction)
    assert not torch.equal(Probe.of((task, network(1)), c, 6).prediction, got.prediction)


def test_probe_of_a_small_training_part():
    task = made_task(n=12)
    assert len(Probe.of((task, network(1)), dataclasses.replace(CONFIG, rejection_batch=100), 0).prediction) == 12


@pytest.mark.parametrize("classification", [False, True])
def test_improvement_equals_a_loop_a_loss(classification):
    p = probe(classification)
    losses = random_losses(25, 40, classification=classification)
    got = improvement(losses, p, CONFIG)
    want = [by_hand(loss, p, CONFIG) for loss in losses]
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
    assert sum(g > 0 for g in want) >= 3
    assert sum(g < 0 for g in want) >= 3


def test_improvement_of_a_module_without_tape():
    p = probe()
    losses = [nn.SmoothL1Loss(), nn.MSELoss(), learned("square(sub(y, f))")]
    np.testing.assert_allclose(improvement(losses, p, CONFIG), [by_hand(loss, p, CONFIG) for loss in losses], rtol=1e-9)


@pytest.mark.parametrize("classification", [False, True])
def test_good_losses_pass_and_bad_ones_do_not(classification):
    p, c = probe(classification), dataclasses.replace(CONFIG, rejection_steps=100)
    texts = {
        "square(sub(y, f))": 1,
        "mul(-1, square(sub(y, f)))": -1,
        "add(square(y), sign(f))": 0,  # no gradient: nothing moves
        "add(y, sub(f, f))": 0,
    }
    gains = improvement([learned(t, classification) for t in texts], p, c)
    assert [np.sign(g) for g in gains] == list(texts.values())


def test_without_steps_nothing_is_gained():
    c = dataclasses.replace(CONFIG, rejection_steps=0)
    assert improvement([learned("square(sub(y, f))")], probe(), c) == [0.0]
    assert improvement([], probe(), c) == []


def test_a_loss_that_breaks_is_nan_and_harms_no_other():
    task = made_task()
    large = Task("large", *((x, 1e40 * y) for x, y in (task.train, task.validation, task.test)), False)
    p = Probe.of((large, network(1)), CONFIG, 0)
    broken, good = learned("square(" * 8 + "sub(y, f)" + ")" * 8), learned("abs(sub(y, f))")
    gains = improvement([broken, good], p, CONFIG)
    assert math.isnan(gains[0])
    assert math.isfinite(gains[1])
    assert gains[1] == improvement([good], p, CONFIG)[0]
    assert gradient_key(broken, p, 2) is None
    assert gradient_key(good, p, 2) is not None


def test_the_probe_is_not_changed():
    p = probe()
    before = p.prediction.clone(), p.target.clone()
    improvement([learned("square(sub(y, f))")], p, CONFIG)
    gradient_key(learned("square(sub(y, f))"), p, 2)
    assert torch.equal(p.prediction, before[0])
    assert torch.equal(p.target, before[1])


# Gradient equivalence


def norms(loss, p: Probe) -> list[float]:
    """Eq. 12, instance by instance, each alone in its batch."""
    result = []
    for b in range(len(p.prediction)):
        z = p.prediction[b : b + 1].clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(z, p.target[b : b + 1]), z)
        result.append(float(g.norm()))
    return result


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("digits", [1, 2, 4])
def test_key_holds_every_instance_s_norm_in_significant_digits(classification, digits):
    p = probe(classification)
    for loss in random_losses(15, 50, classification=classification):
        key = gradient_key(loss, p, digits)
        want = norms(loss, p)
        scale = max(want)
        values = [float(v) for v in key.split()]
        assert len(values) == 20
        for got, exact in zip(values, want, strict=True):
            if exact < 1e-12 * scale or exact == 0:  # zero but for rounding
                assert got <= 1e-11 * scale
                continue
            step = 10.0 ** (math.floor(math.log10(exact)) - digits + 1)
            assert abs(got - exact) <= 0.5001 * step
            assert float(f"{got:.{digits - 1}e}") == got


@pytest.mark.parametrize("classification", [False, True])
def test_losses_of_equal_gradient_have_equal_keys(classification):
    p = probe(classification)

    def key(text, **options):
        return gradient_key(learned(text, classification, **options), p, 2)

    same = key("square(sub(y, f))")
    assert key("add(square(sub(y, f)), 1)") == same
    assert key("square(sub(f, y))") == same
    assert key("sub(square(sub(y, f)), tanh(y))") == same
    assert key("mul(-1, square(sub(y, f)))") == same  # norms do not see the sign; the rejection protocol does
    assert key("square(sub(y, f))", weights=[1.0, 1.0, 1.0 + 1e-6]) == same
    others = [
        "abs(sub(y, f))",
        "add(square(sub(y, f)), square(sub(y, f)))",
        "tanh(square(sub(y, f)))",
        "square(sub(y, tanh(f)))",
        "mul(y, square(f))",
    ]
    keys = [key(t) for t in others]
    assert same not in keys
    assert len(set(keys)) == len(keys)


def test_two_significant_digits_by_hand():
    """dM/df of mul(f, y) is y: its size is the label."""
    y = torch.tensor([[1.0], [-1.04], [1.06], [123.0], [0.00987], [0.0]], dtype=torch.float64)
    p = Probe(torch.ones_like(y), y, None)
    assert gradient_key(learned("mul(f, y)"), p, 2) == "1.0e+00 1.0e+00 1.1e+00 1.2e+02 9.9e-03 0.0e+00"
    assert gradient_key(learned("mul(f, y)"), p, 3) == "1.00e+00 1.04e+00 1.06e+00 1.23e+02 9.87e-03 0.00e+00"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_key_needs_finite_norms(value):
    y = torch.tensor([[1.0], [value]], dtype=torch.float64)
    assert gradient_key(learned("mul(f, y)"), Probe(torch.ones_like(y), y, None), 2) is None
