"""Meta-gradients against finite differences of an ordinary training loop, engines against each other, Algorithm 1 by hand."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from test_losses import PROTECTIONS, random_losses
from torch import nn
from torch.nn import functional

from evomal_core import Config, MetaLoss, Task, meta_gradient, streams
from evomal_core.models import initialise
from evomal_core.models.random_layers import seeded
from evomal_core.training import choose, optimise_losses

SETTINGS = {
    "plain": dict(base_momentum=0.0, base_nesterov=False, base_weight_decay=0.0),
    "momentum": dict(base_momentum=0.9, base_nesterov=False, base_weight_decay=0.0),
    "nesterov": dict(base_momentum=0.9, base_nesterov=True, base_weight_decay=0.0),
    "decay": dict(base_momentum=0.0, base_nesterov=False, base_weight_decay=0.05),
    "everything": dict(base_momentum=0.8, base_nesterov=True, base_weight_decay=0.05),
}
SMOOTH = {  # no kink where the tests evaluate them
    False: "add(square(sub(y, f)), mul(tanh(f), aq(y, f)))",
    True: "add(square(sub(y, f)), mul(f, log(add(f, square(y)))))",
}


def config(setting: str = "everything", **changes) -> Config:
    return Config(dtype="float64", base_learning_rate=0.1, **SETTINGS[setting], **changes)


class Residual(nn.Module):
    """No nn.Sequential."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x):
        return self.second(x + torch.tanh(self.first(x)))


def conv(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(12, outputs),
    )


MODELS = {
    "chain": lambda c: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, c)),
    "linear": lambda c: nn.Sequential(nn.Flatten(), nn.Linear(4, c)),
    "no bias": lambda c: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, c, bias=False)),
    "relu": lambda c: nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, c)),
    "residual": Residual,
    "conv": conv,
}
CHAINS = ("chain", "linear", "no bias", "relu")


def build(name: str, outputs: int, dtype=torch.float64, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name](outputs).to(dtype)


def batch(classification: bool, seed: int, n: int = 7, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(n, 4)), dtype=dtype)
    if classification:
        return x, torch.tensor(rng.integers(3, size=n))
    return x, torch.tensor(rng.normal(size=(n, 1)), dtype=dtype)


def problem(classification: bool, name: str = "chain", dtype=torch.float64):
    """(model, task loss, number of outputs)."""
    outputs = 3 if classification else 1
    return build(name, outputs, dtype), nn.CrossEntropyLoss() if classification else nn.MSELoss()


def layer_seeds(seed: int, steps: int) -> list[int]:
    """Dropout draws of inner step s, and of the validation batch, come of these seeds."""
    return [streams.integer(seed, "meta-layers", 0, 0, s) for s in (*range(steps), -1)]


def trained_loss(loss, model, train, validation, task_loss, c: Config, seed: int) -> float:
    """The task loss after an ordinary torch loop."""
    model = copy.deepcopy(model)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=c.base_learning_rate,
        momentum=c.base_momentum,
        nesterov=c.base_nesterov,
        weight_decay=c.base_weight_decay,
    )
    seeds = layer_seeds(seed, len(train))
    for (x, y), s in zip(train, seeds, strict=False):
        optimiser.zero_grad()
        with seeded(s, x.device):
            loss(model(x), y).backward()
        optimiser.step()
    with seeded(seeds[-1], train[0][0].device), torch.no_grad():
        return task_loss(model(validation[0]), validation[1]).item()


def differences(loss, *arguments, h: float = 1e-5) -> list[torch.Tensor]:
    """Central differences of `trained_loss` in every parameter of the loss."""
    loss = copy.deepcopy(loss)
    result = []
    for p in loss.parameters():
        flat = p.data.view(-1)
        slope = torch.zeros_like(flat)
        for i in range(len(flat)):
            kept, ends = flat[i].item(), []
            for sign in (1, -1):
                flat[i] = kept + sign * h
                ends.append(trained_loss(loss, *arguments))
            flat[i] = kept
            slope[i] = (ends[0] - ends[1]) / (2 * h)
        result.append(slope.view_as(p))
    return result


def assert_relative(got, want, tolerance: float, message: str = "") -> None:
    """Relative to the largest component of the gradient, which must not vanish."""
    assert len(got) == len(want)
    scale = max(float(w.abs().max()) for w in want)
    assert scale > 0, message
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert float((g - w).abs().max()) <= tolerance * scale, f"{message}: {g} instead of {w}"


# Against finite differences


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["chain", "linear", "no bias", "residual", "conv"])
def test_one_inner_step_equals_finite_differences(name, setting, classification):
    model, task_loss = problem(classification, name)
    loss = MetaLoss(SMOOTH[classification], classification=classification).double()
    train, validation = batch(classification, 1), batch(classification, 2, 9)
    c = config(setting)
    want = differences(loss, model, [train], validation, task_loss, c, 5)
    for engine in ("jvp", "higher", *(["gram"] if name in CHAINS else [])):
        got = meta_gradient(loss, model, train, validation, task_loss, c, engine, seed=5)
        assert_relative(got, want, 1e-4, engine)


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["chain", "conv"])
@pytest.mark.parametrize("several", [False, True])
def test_three_inner_steps_equal_finite_differences(name, setting, classification, several):
    model, task_loss = problem(classification, name)
    loss = MetaLoss(SMOOTH[classification], classification=classification).double()
    batches = [batch(classification, s) for s in (1, 3, 4)] if several else [batch(classification, 1)] * 3
    validation, c = batch(classification, 2, 9), config(setting, inner_steps=3)
    want = differences(loss, model, batches, validation, task_loss, c, 5)
    for engine in ("jvp", "higher"):
        train = batches if several else batches[0]
        got = meta_gradient(loss, model, train, validation, task_loss, c, engine, seed=5)
        assert_relative(got, want, 1e-4, engine)


@pytest.mark.parametrize("engine", ["jvp", "higher", "gram"])
@pytest.mark.parametrize("protection", PROTECTIONS)
def test_non_negative_losses_too(engine, protection):
    model, task_loss = problem(False)
    loss = MetaLoss(SMOOTH[False], non_negative=True, protection=protection).double()
    train, validation, c = batch(False, 1), batch(False, 2), config()
    want = differences(loss, model, [train], validation, task_loss, c, 0)
    assert_relative(meta_gradient(loss, model, train, validation, task_loss, c, engine), want, 1e-4)


class Network(nn.Module):
    """A user's own loss: an MLP on (f, y), and a parameter that has no part in it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Softplus())
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, prediction, target):
        y = target if target.is_floating_point() else functional.one_hot(target, 3).to(prediction.dtype)
        return self.body(torch.stack([prediction, y], -1)).mean()


@pytest.mark.parametrize("engine", ["jvp", "higher", "gram"])
@pytest.mark.parametrize("classification", [False, True])
def test_any_module_is_a_loss(engine, classification):
    model, task_loss = problem(classification)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss = Network().double()
    train, validation, c = batch(classification, 1), batch(classification, 2), config()
    want = differences(loss, model, [train], validation, task_loss, c, 0)
    got = meta_gradient(loss, model, train, validation, task_loss, c, engine)
    assert [g.shape for g in got] == [p.shape for p in loss.parameters()]
    assert_relative(got, want, 1e-4)
    assert got[0].abs().max() == 0  # `unused`, the first of its parameters


def test_any_module_over_three_steps():
    model, task_loss = problem(False, "residual")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loss = Network().double()
    train, validation, c = batch(False, 1), batch(False, 2), config(inner_steps=3)
    want = differences(loss, model, [train] * 3, validation, task_loss, c, 0)
    for engine in ("jvp", "higher"):
        assert_relative(meta_gradient(loss, model, train, validation, task_loss, c, engine), want, 1e-4, engine)


# Engines against each other


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("name", ["relu", "linear"])
def test_engines_agree_on_random_trees(name, classification):
    model, task_loss = problem(classification, name)
    train, validation, c = batch(classification, 1), batch(classification, 2, 9), config()
    compared = 0
    for protection in PROTECTIONS:
        for loss in random_losses(20, 500, classification=classification, protection=protection):
            arguments = (loss, model, train, validation, task_loss, c)
            (want,) = meta_gradient(*arguments, engine="higher")
            for engine in ("jvp", "gram"):
                (got,) = meta_gradient(*arguments, engine=engine)
                atol = 1e-8 * float(want.abs().max()) + 1e-12
                torch.testing.assert_close(got, want, rtol=1e-8, atol=atol, msg=lambda m, s=f"{engine}, {loss}": s + m)
            compared += bool(want.abs().max() > 1e-6)
    assert compared > 20


@pytest.mark.parametrize("name", ["relu", "conv"])
@pytest.mark.parametrize("mode", [True, False])
def test_jvp_and_higher_agree_over_three_steps_on_random_trees(name, mode):
    model, task_loss = problem(False, name)
    model.train(mode)
    train, validation, c = [batch(False, s) for s in (1, 3, 4)], batch(False, 2), config(inner_steps=3)
    c = dataclasses.replace(c, base_learning_rate=0.01)
    compared = 0
    for loss in random_losses(12, 600):
        got, want = (
            meta_gradient(loss, model, train, validation, task_loss, c, engine, seed=2)[0]
            for engine in ("jvp", "higher")
        )
        atol = 1e-8 * float(want.abs().max()) + 1e-12
        torch.testing.assert_close(got, want, rtol=1e-8, atol=atol, msg=lambda m, loss=loss: f"{loss}: {m}")
        compared += bool(want.abs().max() > 1e-6)
    assert compared >= 6


@pytest.mark.parametrize("classification", [False, True])
def test_float32_is_near_float64_and_the_engines_near_one_another(classification):
    for text in (SMOOTH[classification], "square(sub(y, f))", "tanh(square(sub(f, y)))"):
        found = {}
        for dtype, engine in itertools.product((torch.float32, torch.float64), ("jvp", "gram", "higher")):
            model, task_loss = problem(classification, "chain", torch.float32)
            loss = MetaLoss(text, classification=classification).to(dtype)
            data = [
                tuple(t.to(dtype) if t.is_floating_point() else t for t in batch(classification, s, 9, torch.float32))
                for s in (1, 2)
            ]
            (g,) = meta_gradient(loss, model.to(dtype), *data, task_loss, config(), engine)
            assert g.dtype == dtype
            found[dtype, engine] = g.double()
        for engine in ("jvp", "gram", "higher"):
            assert_relative([found[torch.float32, engine]], [found[torch.float64, engine]], 1e-4, text)
            assert_relative([found[torch.float32, engine]], [found[torch.float32, "higher"]], 1e-4, text)


def test_dropout_draws_depend_on_the_seed_alone():
    model, task_loss = problem(False, "conv")
    loss = MetaLoss(SMOOTH[False]).double()
    arguments = (loss, model, batch(False, 1), batch(False, 2), task_loss, config())
    first = meta_gradient(*arguments, seed=1)[0]
    torch.rand(3)
    assert torch.equal(meta_gradient(*arguments, seed=1)[0], first)
    assert not torch.equal(meta_gradient(*arguments, seed=2)[0], first)
    torch.manual_seed(8)
    unseeded = meta_gradient(*arguments)[0]
    torch.manual_seed(8)
    assert torch.equal(meta_gradient(*arguments)[0], unseeded)
    before = torch.get_rng_state()
    meta_gradient(*arguments, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


# What is promised about the arguments


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("engine", ["jvp", "higher", "gram"])
@pytest.mark.parametrize("steps", [1, 2])
def test_model_and_loss_stay_as_they_are(engine, mode, steps):
    if engine == "gram" and steps > 1:
        pytest.skip("gram takes one inner step")
    model, task_loss = problem(False, "chain" if engine == "gram" else "conv")
    model.train(mode)
    loss = MetaLoss(SMOOTH[False]).double()
    kept = copy.deepcopy(model.state_dict())
    weights = loss.weights.detach().clone()
    meta_gradient(loss, model, batch(False, 1), batch(False, 2), task_loss, config(inner_steps=steps), engine)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    assert all(m.training is mode for m in model.modules())
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in model.parameters())
    assert torch.equal(loss.weights, weights)
    assert loss.weights.grad is None


def test_evaluation_mode_is_used():
    model, task_loss = problem(False, "conv")
    model.eval()
    loss = MetaLoss(SMOOTH[False]).double()
    train, validation, c = batch(False, 1), batch(False, 2), config()
    want = differences(loss, model, [train], validation, task_loss, c, 0)
    for engine in ("jvp", "higher"):
        assert_relative(meta_gradient(loss, model, train, validation, task_loss, c, engine), want, 1e-4)


def test_frozen_weights_do_not_move():
    model, task_loss = problem(False)
    model[0].requires_grad_(False)
    loss = MetaLoss(SMOOTH[False]).double()
    train, validation, c = batch(False, 1), batch(False, 2), config()
    want = differences(loss, model, [train], validation, task_loss, c, 0)
    assert choose("auto", model, c) == "jvp"
    for engine in ("auto", "higher"):
        assert_relative(meta_gradient(loss, model, train, validation, task_loss, c, engine), want, 1e-4)


def test_shared_layers_count_twice():
    model, task_loss = problem(False)
    shared = nn.Linear(4, 4).double()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        shared.reset_parameters()
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 1).double())
    loss = MetaLoss(SMOOTH[False]).double()
    train, validation, c = batch(False, 1), batch(False, 2), config()
    want = differences(loss, model, [train], validation, task_loss, c, 0)
    assert_relative(meta_gradient(loss, model, train, validation, task_loss, c, "auto"), want, 1e-4)


def test_weights_without_part_in_the_output():
    class Spare(Residual):
        def __init__(self, outputs):
            super().__init__(outputs)
            self.head = nn.Linear(4, 2)

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Spare(1).double()
    loss = MetaLoss(SMOOTH[False]).double()
    for steps in (1, 2):
        train, validation, c = batch(False, 1), batch(False, 2), config(inner_steps=steps)
        want = differences(loss, model, [train] * steps, validation, nn.MSELoss(), c, 0)
        assert_relative(meta_gradient(loss, model, train, validation, nn.MSELoss(), c, "auto"), want, 1e-4)


def test_dropout_outside_a_dropout_layer():
    class Functional(Residual):
        def forward(self, x):
            return self.second(functional.dropout(torch.tanh(self.first(x)), 0.5, self.training))

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Functional(1).double()
    loss = MetaLoss(SMOOTH[False]).double()
    train, validation, c = batch(False, 1), batch(False, 2), config()
    want = differences(loss, model, [train], validation, nn.MSELoss(), c, 4)
    assert_relative(meta_gradient(loss, model, train, validation, nn.MSELoss(), c, "jvp", seed=4), want, 1e-4)


@pytest.mark.parametrize("engine", ["auto", "jvp", "gram", "higher"])
def test_a_loss_of_the_other_kind_is_refused(engine):
    """Called, it would raise: the engines must not read class indices as something else."""
    model, task_loss = problem(True)
    with pytest.raises(ValueError):
        meta_gradient(
            MetaLoss("square(sub(y, f))").double(), model, batch(True, 1), batch(True, 2), task_loss, config(), engine
        )


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_wrong_number_of_batches(count):
    model, task_loss = problem(False)
    loss = MetaLoss(SMOOTH[False]).double()
    with pytest.raises(ValueError, match=f"list of 3.*got {count}"):
        meta_gradient(loss, model, [batch(False, 1)] * count, batch(False, 2), task_loss, config(inner_steps=3))


def test_choice_of_engine():
    chain, other = build("chain", 1), build("residual", 1)
    assert choose("auto", chain, config()) == "gram"
    assert choose("auto", build("linear", 3), config()) == "gram"
    assert choose("auto", chain, config(inner_steps=2)) == "jvp"
    assert choose("auto", other, config()) == "jvp"
    assert choose("auto", build("conv", 1), config()) == "jvp"
    for engine in ("jvp", "higher"):
        assert choose(engine, chain, config()) == engine
    with pytest.raises(ValueError, match=r"gram.*inner_steps is 2"):
        choose("gram", chain, config(inner_steps=2))
    with pytest.raises(ValueError, match=r"gram.*not an nn\.Sequential"):
        choose("gram", other, config())
    with pytest.raises(ValueError, match="'higher'"):
        choose("highr", chain, config())
    loss = MetaLoss("square(sub(y, f))").double()
    with pytest.raises(ValueError, match="gram"):
        meta_gradient(loss, other, batch(False, 1), batch(False, 2), nn.MSELoss(), config(), "gram")
    auto, gram = (
        meta_gradient(loss, chain, batch(False, 1), batch(False, 2), nn.MSELoss(), config(), e)[0]
        for e in ("auto", "gram")
    )
    assert torch.equal(auto, gram)


# Algorithm 1


def task(classification: bool, seed: int, n: int = 30) -> Task:
    return Task(
        "made", *(batch(classification, 10 * seed + k, n) for k in range(3)), classification, 3 if classification else 1
    )


def drawn(part, c: Config, seed: int, purpose: str, *index):
    """A uniform batch without replacement from the stream of its name."""
    rows = streams.numpy_generator(seed, purpose, *index).choice(len(part[0]), c.batch_size, replace=False)
    return part[0][rows], part[1][rows]


def by_hand(loss, problems, c: Config, seed: int) -> torch.Tensor:
    """Algorithm 1 with torch's Adam and the reference engine; the losses' gradients averaged over the tasks."""
    adam = torch.optim.Adam(loss.parameters(), lr=c.meta_learning_rate)
    for t in range(c.meta_steps):
        total = 0
        for i, (made, model) in enumerate(problems):
            initialise(model, streams.torch_generator(seed, "meta-init", i, t))
            train = [drawn(made.train, c, seed, "meta-train", i, t, s) for s in range(c.inner_steps)]
            validation = drawn(made.validation, c, seed, "meta-validation", i, t)
            total = total + meta_gradient(loss, model, train, validation, made.task_loss, c, "higher")[0]
        loss.weights.grad = total / len(problems)
        adam.step()
    return loss.weights.detach()


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_optimisation_equals_a_loop_by_hand(classification, steps):
    c = config(meta_steps=4, inner_steps=steps, batch_size=8, meta_learning_rate=0.05)
    names = ("chain", "residual")
    problems = [(task(classification, k), problem(classification, n)[0]) for k, n in enumerate(names)]
    losses = [*random_losses(3, 700, classification=classification)]
    losses.append(MetaLoss(SMOOTH[classification], classification=classification).double())
    want = [by_hand(copy.deepcopy(loss), problems, c, 3) for loss in losses]
    assert optimise_losses(losses, problems, c, 3) == [True] * 4
    for loss, w in zip(losses, want, strict=True):
        torch.testing.assert_close(
            loss.weights.detach(), w, rtol=1e-8, atol=1e-8, msg=lambda m, s=str(loss): f"{s}: {m}"
        )
    assert (losses[-1].weights - 1).abs().max() > 0.05


def test_optimisation_lowers_the_task_loss():
    c = config("plain", meta_steps=60, batch_size=16, meta_learning_rate=0.02)
    made, model = task(False, 0), problem(False)[0]
    loss = MetaLoss("square(sub(y, mul(f, abs(y))))").double()

    def task_loss(phi) -> float:
        values = []
        for t in range(20):
            initialise(model, streams.torch_generator(99, "meta-init", 0, t))
            batches = (
                drawn(made.train, c, 99, "meta-train", 0, t, 0),
                drawn(made.validation, c, 99, "meta-validation", 0, t),
            )
            values.append(trained_loss(phi, model, [batches[0]], batches[1], nn.MSELoss(), c, 0))
        return sum(values) / 20

    before = task_loss(loss)
    optimise_losses([loss], [(made, model)], c, 0)
    assert task_loss(loss) < before - 1e-3


@pytest.mark.parametrize("name", ["chain", "conv"])
def test_lockstep_equals_one_by_one(name):
    c = config(meta_steps=3, batch_size=8)
    made = task(False, 1)
    losses = random_losses(5, 800)
    alone = copy.deepcopy(losses)
    optimise_losses(losses, [(made, build(name, 1))], c, 2)
    for loss in alone:
        optimise_losses([loss], [(made, build(name, 1, seed=9))], c, 2)
    for a, b in zip(losses, alone, strict=True):
        torch.testing.assert_close(a.weights, b.weights, rtol=1e-12, atol=1e-12)
    assert len({loss.weights.data_ptr() for loss in losses}) == 5  # no longer views of one tensor
    assert all(loss.weights.untyped_storage().nbytes() == loss.weights.nbytes for loss in losses)


@pytest.mark.parametrize("name", ["chain", "conv", "residual"])
def test_copies_under_vmap_equal_one_by_one(name):
    made, results = task(False, 1), []
    for copies in (1, 3):
        losses = random_losses(5, 800)
        c = config(meta_steps=3, batch_size=8, engine="jvp", copies=copies)
        assert optimise_losses(losses, [(made, build(name, 1))], c, 2) == [True] * 5
        results.append(losses)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.weights, b.weights, rtol=1e-9, atol=1e-9, msg=lambda m, s=str(a): f"{s}: {m}")


def test_losses_that_go_non_finite_are_reported_and_harm_no_other():
    made = task(False, 1)
    made = Task("large", *((x, 1e5 * y) for x, y in (made.train, made.validation, made.test)), False)
    made = made.to(dtype=torch.float32)
    c = config(meta_steps=30, batch_size=8)
    overflowing = "square(" * 7 + "sub(y, f)" + ")" * 7

    def fresh():
        return [MetaLoss(t) for t in ("tanh(sub(y, f))", overflowing, "aq(sub(y, f), mul(y, f))")]

    losses, others = fresh(), fresh()[::2]
    problems = [(made, build("chain", 1, torch.float32))]
    assert optimise_losses(losses, problems, c, 0) == [True, False, True]
    assert not losses[1].weights.isfinite().all()
    optimise_losses(others, problems, c, 0)
    assert torch.equal(losses[0].weights, others[0].weights)
    assert torch.equal(losses[2].weights, others[1].weights)
    assert optimise_losses([fresh()[1]], problems, c, 0) == [False]
    assert optimise_losses([], problems, c, 0) == []


def test_one_loss_twice_in_a_lockstep():
    (loss,) = random_losses(1, 900)
    made = task(False, 0)
    model = nn.Sequential(nn.Linear(made.input_shape[0], 4), nn.GELU(), nn.Linear(4, 1)).double()
    problems = [(made, model)]
    assert optimise_losses([loss, loss], problems, config(meta_steps=2), 0) == [True, True]


@pytest.mark.parametrize("engine", ["jvp", "gram", "higher"])
def test_a_target_that_would_broadcast_and_a_loss_without_parameters_are_refused(engine):
    model, (x, y) = build("chain", 1), task(False, 0).train
    with pytest.raises(ValueError, match=r"target must be \(B,\) of class indices or \(B, C\) of values, got \(\d+,\)"):
        meta_gradient(MetaLoss("sub(y, f)").double(), model, (x, y), (x, y[:, 0]), nn.MSELoss(), config(), engine)
    for x_wrong, y_wrong in (
        (x, y[:1]),
        (x, y.expand(-1, 2)),
        (x[:1], y),
    ):  # of a validation batch, of a training batch
        for batches in (((x, y), (x_wrong, y_wrong)), ((x_wrong, y_wrong), (x, y))):
            with pytest.raises(ValueError, match=r"shape|\(B, C\) and \(B,\) of classes or \(B, C\) of values"):
                meta_gradient(MetaLoss("sub(y, f)").double(), model, *batches, nn.MSELoss(), config(), engine)
    with pytest.raises(ValueError, match="with parameters, got MSELoss"):
        meta_gradient(nn.MSELoss(), model, (x, y), (x, y), nn.MSELoss(), config(), engine)


@pytest.mark.parametrize("engine", ["jvp", "gram", "higher"])
def test_a_task_loss_may_be_a_plain_function(engine):
    model, (x, y) = build("chain", 1), task(False, 0).train
    loss, given = MetaLoss("sub(y, f)").double(), ((x, y), (x, y))
    (found,) = meta_gradient(loss, model, *given, nn.functional.mse_loss, config(), engine)
    (expected,) = meta_gradient(loss, model, *given, nn.MSELoss(), config(), engine)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_no_meta_steps_change_nothing():
    (loss,) = random_losses(1, 900)
    before = loss.weights.detach().clone()
    assert optimise_losses([loss], [(task(False, 0), build("chain", 1))], config(meta_steps=0), 0) == [True]
    assert torch.equal(loss.weights, before)
