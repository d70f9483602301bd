"""Base training (Algorithm 2) against a plain torch loop, and the chains that it takes a faster way for."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import train
from test_losses import random_losses
from torch import nn

from evomal_core import Config, MetaLoss, Task, streams
from evomal_core.fast.chain import Chain
from evomal_core.models import initialise
from evomal_core.models.random_layers import seeded
from evomal_core.training import evaluate, fitness, trial


def made_task(classification: bool = False, n: int = 40, scale: float = 1.0) -> Task:
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        x = torch.tensor(rng.normal(size=(n, 4)))
        z = (x @ torch.tensor([[1.0], [-2.0], [0.5], [0.3]]).double()) + 0.1 * torch.tensor(rng.normal(size=(n, 1)))
        parts.append((x, (z[:, 0] > 0).long() + (z[:, 0] > 1).long() if classification else scale * z))
    return Task("made", *parts, classification, 3 if classification else 1)


def chain(outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, outputs)
    ).double()


def conv(outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(12, outputs),
    ).double()


MODELS = {"chain": chain, "conv": conv}
CONFIG = Config(dtype="float64", batch_size=16, base_learning_rate=0.05, fitness_steps=13)
LOSSES = {
    False: ["square(sub(y, f))", "abs(sub(y, f))", "tanh(square(sub(f, y)))"],
    True: ["square(sub(y, f))", "mul(y, sub(y, log(f)))", "max(aq(y, f), sqrt(f))"],
}


def by_hand(loss, task, model, c: Config, seed, purpose, steps, index=(), milestones=()):
    """An ordinary loop over ordinary torch; the loss is called, its gradient comes of autograd."""
    model = copy.deepcopy(model).train()
    frozen = [(p, p.detach().clone()) for p in model.parameters() if not p.requires_grad]
    initialise(model, streams.torch_generator(seed, f"{purpose}-init", *index))
    for p, value in frozen:  # these stay as the caller has them
        p.data = value
    sgd = torch.optim.SGD(
        model.parameters(),
        lr=c.base_learning_rate,
        momentum=c.base_momentum,
        nesterov=c.base_nesterov,
        weight_decay=c.base_weight_decay,
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, list(milestones), gamma=0.1)
    x, y = task.train
    for t in range(steps):
        generator = streams.numpy_generator(seed, f"{purpose}-batch", *index, t)
        rows = generator.choice(len(x), c.batch_size, replace=False) if len(x) > c.batch_size else np.arange(len(x))
        with seeded(streams.integer(seed, f"{purpose}-layers", *index, t), x.device):
            z = model(x[rows])
        sgd.zero_grad()
        loss(z, y[rows]).backward()
        sgd.step()
        schedule.step()
    return model


def assert_equal_states(got: nn.Module, want: nn.Module, tolerance: float = 1e-9) -> None:
    for (name, a), b in zip(got.state_dict().items(), want.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("purpose", ["fitness", "test"])
def test_training_equals_a_loop_by_hand(name, classification, purpose):
    task, index = made_task(classification), (2,) if purpose == "fitness" else ()
    model = MODELS[name](task.outputs)
    losses = [MetaLoss(t, classification=classification).double() for t in LOSSES[classification]]
    losses.append(nn.CrossEntropyLoss() if classification else nn.MSELoss())
    trained = train(losses, (task, model), CONFIG, 7, purpose, 12, index)
    for loss, got in zip(losses, trained, strict=True):
        assert not got.training
        assert_equal_states(got, by_hand(loss, task, model, CONFIG, 7, purpose, 12, index))


@pytest.mark.parametrize(
    "changes",
    [
        dict(base_momentum=0.0, base_nesterov=False, base_weight_decay=0.0),
        dict(base_momentum=0.5, base_nesterov=False, base_weight_decay=0.1),
        dict(batch_size=64),  # larger than the training part
    ],
    ids=["plain", "momentum and decay", "whole part"],
)
def test_the_base_optimiser_is_as_configured(changes):
    task, model, c = made_task(), chain(), dataclasses.replace(CONFIG, **changes)
    loss = MetaLoss("square(sub(y, f))").double()
    (got,) = train([loss], (task, model), c, 1, "test", 11)
    assert_equal_states(got, by_hand(loss, task, model, c, 1, "test", 11))


@pytest.mark.parametrize("milestones", [(4,), (10, 12), (0, 19)])
def test_milestones_cut_the_learning_rate(milestones):
    task, model = made_task(), chain()
    loss = MetaLoss("square(sub(y, f))").double()
    (got,) = train([loss], (task, model), CONFIG, 1, "test", 20, milestones=milestones)
    want = by_hand(loss, task, model, CONFIG, 1, "test", 20, milestones=[m for m in milestones if m])
    if 0 in milestones:  # the scheduler by hand steps after a step
        c = dataclasses.replace(CONFIG, base_learning_rate=CONFIG.base_learning_rate * 0.1)
        want = by_hand(loss, task, model, c, 1, "test", 20, milestones=[m for m in milestones if m])
    assert_equal_states(got, want)
    (without,) = train([loss], (task, model), CONFIG, 1, "test", 20)
    assert not torch.allclose(next(got.parameters()), next(without.parameters()))


@pytest.mark.parametrize("name", MODELS)
def test_lockstep_equals_one_by_one(name):
    task, model = made_task(), MODELS[name]()
    losses = random_losses(6, 30)
    together = train(losses, (task, model), CONFIG, 3, "fitness", 23, (0,))
    for loss, got in zip(losses, together, strict=True):
        (alone,) = train([loss], (task, MODELS[name]()), CONFIG, 3, "fitness", 23, (0,))
        assert_equal_states(got, alone, 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_copies_under_vmap_equal_one_by_one(name):
    task, model = made_task(), MODELS[name]()
    losses = random_losses(5, 30)
    c = dataclasses.replace(CONFIG, copies=2)
    plain, stacked = (train(losses, (task, model), k, 3, "fitness", 13, (0,), milestones=(5,)) for k in (CONFIG, c))
    for a, b in zip(plain, stacked, strict=True):
        assert_equal_states(a, b, 1e-8)


def test_streams_depend_on_seed_index_and_purpose():
    task, model = made_task(), chain()
    loss = MetaLoss("square(sub(y, f))").double()
    variants = [(1, "fitness", (0,)), (2, "fitness", (0,)), (1, "fitness", (1,)), (1, "test", ())]
    seen = [
        torch.cat([p.detach().flatten() for p in train([loss], (task, model), CONFIG, s, p, 3, i)[0].parameters()])
        for s, p, i in [*variants, variants[0]]
    ]
    assert torch.equal(seen[0], seen[-1])
    assert len({tuple(v.tolist()) for v in seen}) == 4


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_size_of_a_chunk_does_not_matter(chunk, monkeypatch):
    task, model, losses = made_task(), conv(), [MetaLoss(t).double() for t in LOSSES[False]]
    want = train(losses, (task, model), CONFIG, 0, "test", 13, milestones=(8,))
    monkeypatch.setattr(trial, "CHUNK", chunk)
    for a, b in zip(train(losses, (task, model), CONFIG, 0, "test", 13, milestones=(8,)), want, strict=True):
        assert_equal_states(a, b, 0)


# Divergence

OVERFLOWING = "square(" * 8 + "sub(y, f)" + ")" * 8


@pytest.mark.parametrize("name", MODELS)
def test_a_diverging_loss_gives_none_and_harms_no_other(name):
    task, model = made_task(scale=1e30), MODELS[name]()
    good = MetaLoss("tanh(square(sub(y, f)))").double()
    losses = [MetaLoss(OVERFLOWING).double(), good]
    for copies in (0, 2):
        c = dataclasses.replace(CONFIG, copies=copies)
        failed, trained = train(losses, (task, model), c, 0, "fitness", 25, (0,))
        assert failed is None
        assert_equal_states(trained, train([good], (task, model), CONFIG, 0, "fitness", 25, (0,))[0])
        values = fitness(losses, [(task, model)], c, 0)
        assert values[0] == math.inf
        assert math.isfinite(values[1])
    assert evaluate(None, task, "validation") == math.inf


def test_a_loss_that_diverges_late_is_found():
    """sum of squares times a rate beyond stability: finite for some steps, then not."""
    task, model = made_task(), chain()
    c = dataclasses.replace(CONFIG, base_learning_rate=1e6, fitness_steps=60)
    loss = MetaLoss("square(square(sub(y, f)))").double()
    assert train([loss], (task, model), c, 0, "fitness", 1, (0,))[0] is not None
    assert train([loss], (task, model), c, 0, "fitness", 60, (0,)) == [None]
    assert fitness([loss], [(task, model)], c, 0) == [math.inf]


@pytest.mark.parametrize("name", MODELS)
def test_scoring_a_diverged_session_stops_before_the_update(name):
    """The released code's switch: the loss of step 3 is not finite, so the weights after two steps are scored."""
    task, model = made_task(), MODELS[name]()

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, prediction, target):
            self.calls += 1
            return (prediction - target).square().mean() * (math.inf if self.calls > 2 else 1)

    c = dataclasses.replace(CONFIG, score_non_finite=True)
    loss = Breaks()
    (got,) = train([loss], (task, model), c, 0, "fitness", 30, (0,))
    assert loss.calls == 3
    want = by_hand(nn.MSELoss(), task, model, c, 0, "fitness", 2, (0,))
    for a, b in zip(got.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert math.isfinite(evaluate(got, task, "validation"))
    assert train([Breaks()], (task, model), CONFIG, 0, "fitness", 30, (0,)) == [None]


def test_a_finite_session_is_scored_alike_under_both_switches():
    task, model, losses = made_task(), chain(), [MetaLoss(t).double() for t in LOSSES[False]]
    c = dataclasses.replace(CONFIG, score_non_finite=True)
    assert fitness(losses, [(task, model)], c, 0) == fitness(losses, [(task, model)], CONFIG, 0)


# Evaluation and fitness


@pytest.mark.parametrize("classification", [False, True])
def test_evaluation_is_in_evaluation_mode(classification):
    task = made_task(classification)
    (model,) = train([task.task_loss], (task, conv(task.outputs)), CONFIG, 0, "test", 5)
    reference = copy.deepcopy(model).eval()
    for part in ("train", "validation", "test"):
        x, y = getattr(task, part)
        with torch.no_grad():
            z = reference(x).numpy()
        want = (z.argmax(1) != y.numpy()).mean() if classification else ((z - y.numpy()) ** 2).mean()
        model.train()
        assert evaluate(model, task, part) == pytest.approx(want, rel=1e-12)
    assert_equal_states(model, reference, 0)  # the running statistics did not move


def test_evaluation_in_pieces(monkeypatch):
    task = made_task()
    (model,) = train([task.task_loss], (task, chain()), CONFIG, 0, "test", 5)
    want = evaluate(model, task, "test")
    monkeypatch.setattr("evomal_core.tasks.task.EVALUATION_BATCH", 7)
    assert evaluate(model, task, "test") == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_with_broken_weights_is_the_worst_case(value):
    for classification in (False, True):
        task = made_task(classification)
        model = chain(task.outputs)
        with torch.no_grad():
            model[-1].bias.fill_(value)
        assert evaluate(model, task, "validation") == math.inf


def test_fitness_is_the_mean_over_the_tasks():
    problems = [(made_task(), chain()), (made_task(scale=2.0), conv())]
    losses = [MetaLoss(t).double() for t in LOSSES[False]]
    got = fitness(losses, problems, CONFIG, 4)
    for loss, value in zip(losses, got, strict=True):
        metrics = []
        for i, (task, model) in enumerate(problems):
            trained = by_hand(loss, task, model, CONFIG, 4, "fitness", CONFIG.fitness_steps, (i,)).eval()
            x, y = task.validation
            metrics.append(float(((trained(x) - y) ** 2).mean()))
        assert value == pytest.approx(sum(metrics) / 2, rel=1e-9)


def test_training_helps():
    task = made_task()
    long = dataclasses.replace(CONFIG, fitness_steps=200)
    assert fitness([nn.MSELoss()], [(task, chain())], long, 0)[0] < 0.1 * float(task.validation[1].var())


# Chains


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 1)),
        chain(),
    ],
)
def test_chains_are_recognised(model):
    found = Chain.of(model)
    assert found is not None
    assert list(found.layers) == [m for m in model if isinstance(m, nn.Linear)]


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Linear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 1))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def hooked_outside() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 1))
    model.register_forward_hook(lambda module, args, output: 2 * output)
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    return model


def twice() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 1))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    model[2].weight = model[0].weight
    return model


REFUSED = {
    "single layer": nn.Linear(4, 1),
    "empty": nn.Sequential(),
    "no layer": nn.Sequential(nn.ReLU()),
    "activation first": nn.Sequential(nn.ReLU(), nn.Linear(4, 1)),
    "activation last": nn.Sequential(nn.Linear(4, 1), nn.ReLU()),
    "two activations": nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Tanh(), nn.Linear(3, 1)),
    "other activation": nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 1)),
    "dropout": nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1)),
    "normalisation": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
    "flatten inside": nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 1)),
    "nested": nn.Sequential(nn.Sequential(nn.Linear(4, 1))),
    "own forward": Doubled(nn.Linear(4, 1)),
    "own layer": nn.Sequential(Linear(4, 1)),
    "hook": hooked(),
    "hook on the model": hooked_outside(),
    "frozen": frozen(),
    "parametrised": nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 1))),
    "shared layer": twice(),
    "tied weights": tied(),
}


@pytest.mark.parametrize("model", REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_chain_is_refused(model):
    assert Chain.of(model) is None


# What is refused is trained all the same, by autograd
@pytest.mark.parametrize(
    "name", ["dropout", "own forward", "hook", "hook on the model", "frozen", "shared layer", "tied weights"]
)
def test_what_is_no_chain_is_trained_by_autograd(name):
    task, model = made_task(), copy.deepcopy(REFUSED[name]).double()
    loss = MetaLoss("square(sub(y, f))").double()
    (got,) = train([loss], (task, model), CONFIG, 1, "test", 6)
    assert_equal_states(got, by_hand(loss, task, model, CONFIG, 1, "test", 6))


def test_chain_forward_and_backward_equal_autograd():
    model = chain(3)
    x = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = model(x)
    z.backward(v)
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    found = Chain.of(model)
    inputs, got = found.forward(x)
    torch.testing.assert_close(got, z.detach())
    for _ in range(2):  # gradients are written, not added
        found.backward(v, inputs)
        for p, w in zip(model.parameters(), want, strict=True):
            torch.testing.assert_close(p.grad, w, rtol=1e-12, atol=1e-13)
