"""A loss for a model and data of one's own: twenty set-ups, each of which ends in a loss, and what is refused."""

import copy
import math
import warnings
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import evomal_core as ec
from evomal_core import Config, machine
from evomal_core.own import optimisers
from evomal_core.own.adapt import Shapes
from evomal_core.own.data import read
from evomal_core.own.setup import settle

TINY = "smoke+generations=1+rejection_steps=5+test_steps=6+fitness_steps=3"
N = 48


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape):
    return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(1))


def halves(x, y):
    """(train, validation) of instances; x may be a tuple or a dict."""

    def cut(t, rows):
        return (
            {k: v[rows] for k, v in t.items()}
            if isinstance(t, dict)
            else (tuple(v[rows] for v in t) if isinstance(t, tuple) else t[rows])
        )

    return tuple((cut(x, rows), y[rows]) for rows in (slice(0, 32), slice(32, N)))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM, outputs=1):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 4), kind(4, 5, batch_first=True)
        self.out = nn.Linear(5, outputs)

    def forward(self, x):
        return self.out(self.layer(self.embedding(x))[0][:, -1])


class Padded(nn.Module):
    """The mean of the tokens that are no padding, or a tag for each token."""

    def __init__(self, tags: bool):
        super().__init__()
        self.embedding, self.tags = nn.Embedding(9, 4, padding_idx=0), tags
        self.layer = nn.LSTM(4, 5, batch_first=True) if tags else nn.Linear(4, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        if self.tags:
            return self.out(self.layer(self.embedding(x))[0])  # (B, T, 3)
        there = (x != 0).sum(1, keepdim=True).clamp_min(1)
        return self.out(torch.tanh(self.layer(self.embedding(x).sum(1) / there)))


class Within(nn.Module):
    """A model with float32 weights and outputs of another type."""

    def __init__(self, dtype, autocast=False):
        super().__init__()
        self.inner, self.dtype, self.autocast = nn.Linear(4, 3), dtype, autocast

    def forward(self, x):
        with torch.autocast("cpu", self.dtype, self.autocast):
            return self.inner(x).to(self.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.full((1, 6, 8), 0.1))  # a weight that no rule draws
        self.embedding = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.layer(self.embedding(x) + self.place).mean(1))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left, right):
        return (self.a(left) * self.b(right)).sum(1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = self.one  # shared
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.two(torch.tanh(self.one(x))))


def frozen():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    return model


def normalised(kind):
    return nn.Sequential(kind(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))


X, CLASSES, VALUES = drawn(N, 4), torch.arange(N) % 3, drawn(N, 1, seed=2)
IMAGES, MASKS = drawn(N, 2, 4, 4), (drawn(N, 4, 4, seed=3) > 0).long()
MASKED = MASKS.masked_fill(drawn(N, 4, 4, seed=4) > 1, 255)
PADDED = tokens(N, 6).clamp_min(1) * (torch.arange(6) < 1 + torch.arange(N)[:, None] % 6)  # 0 behind the end
TAGS = (PADDED % 3).masked_fill(PADDED == 0, -100)
HALF, BRAIN = torch.float16, torch.bfloat16
mlp, wide = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), nn.Linear(4, 1)


def macro_error(outputs, targets):
    """1 - the mean recall of the classes."""
    assert outputs.shape == (*targets.shape, 3)
    right = outputs.argmax(1) == targets
    return 1 - torch.stack([right[targets == c].float().mean() for c in range(3)]).nan_to_num().mean()


# name -> (model, data, task, options)
SETUPS = {
    "tensors": (mlp, halves(X, CLASSES), "multiclass", {}),
    "arrays of float64 and int32": (mlp, halves(X.double().numpy(), CLASSES.int().numpy()), "multiclass", {}),
    "DataFrames": (
        mlp,
        tuple((pandas.DataFrame(x.numpy()), pandas.Series(y.numpy())) for x, y in halves(X, CLASSES)),
        "multiclass",
        {"metric": macro_error},
    ),
    "DataLoaders": (
        mlp,
        tuple(DataLoader(TensorDataset(*part), batch_size=8, shuffle=True) for part in halves(X, CLASSES)),
        "multiclass",
        {},
    ),
    "regression, y (N,) and outputs (B, 1)": (wide, halves(X, VALUES[:, 0]), "regression", {}),
    "regression of several outputs": (nn.Linear(4, 3), halves(X, drawn(N, 3)), "regression", {}),
    "regression, outputs (B,), two inputs": (Two(), halves((X[:, :3], X[:, 2:]), VALUES), "regression", {}),
    "inputs by name": (Two(), halves({"left": X[:, :3], "right": X[:, 2:]}, VALUES), "regression", {}),
    "binary, bool, LSTM, AdamW": (
        Recurrent(),
        halves(tokens(N, 5), VALUES[:, 0] > 0),
        "binary",
        {"optimizer": lambda p: torch.optim.AdamW(p, 1e-2), "schedule": lambda step: 1 / (1 + step)},
    ),
    "GRU, Adam": (
        Recurrent(nn.GRU, 3),
        halves(tokens(N, 5), CLASSES),
        "multiclass",
        {"optimizer": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.1)},
    ),
    "attention with a weight of its own, RMSprop": (
        Attention(),
        halves(tokens(N, 6), CLASSES),
        "multiclass",
        {"optimizer": lambda p: torch.optim.RMSprop(p, 1e-2)},
    ),
    "segmentation": (nn.Conv2d(2, 3, 1), halves(IMAGES, MASKS), "multiclass", {}),
    "segmentation with ignored pixels": (
        nn.Conv2d(2, 3, 1),
        halves(IMAGES, MASKED),
        "multiclass",
        {"ignore_index": 255},
    ),
    "ignored as the task loss says, and weighted": (
        nn.Conv2d(2, 3, 1),
        halves(IMAGES, MASKED),
        "multiclass",
        {"task_loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), ignore_index=255)},
    ),
    "classes in the last dimension": (
        nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 9)),
        halves(tokens(N, 6), tokens(N, 6)),
        "multiclass",
        {},
    ),
    "padded tokens, their mean": (Padded(tags=False), halves(PADDED, CLASSES), "multiclass", {}),
    "a tag for each token, padding ignored": (
        Padded(tags=True),
        halves(PADDED, TAGS),
        "multiclass",
        {"ignore_index": -100},
    ),
    "float16 inputs": (mlp, halves(X.half(), CLASSES), "multiclass", {}),
    "bfloat16 values": (wide, halves(X.bfloat16(), VALUES.bfloat16()), "regression", {}),
    "float16 outputs": (Within(HALF), halves(X, CLASSES), "multiclass", {}),
    "autocast inside": (Within(BRAIN, autocast=True), halves(X, CLASSES), "multiclass", {}),
    "float16 weights of classes": (
        mlp,
        halves(X, CLASSES),
        "multiclass",
        {"task_loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=HALF))},
    ),
    "several labels, one logit each": (nn.Linear(4, 5), halves(X, drawn(N, 5) > 0), "binary", {}),
    "an autoencoder": (
        nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4)),
        tuple(TensorDataset(part[0]) for part in halves(X, CLASSES)),
        "regression",
        {"target": lambda batch: batch[0]},
    ),
    "weight normalisation": (normalised(parametrizations.weight_norm), halves(X, CLASSES), "multiclass", {}),
    "spectral normalisation": (normalised(parametrizations.spectral_norm), halves(X, CLASSES), "multiclass", {}),
    "shared layers": (Tied(), halves(X, CLASSES), "multiclass", {}),
    "frozen layers": (frozen(), halves(X, CLASSES), "multiclass", {}),
    "fine-tuning": (mlp, halves(X, CLASSES), "multiclass", {"init": "keep"}),
    "a function that makes the model": (lambda: nn.Linear(4, 3), halves(X, CLASSES), "multiclass", {}),
    "forward of one's own": (
        nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 3)}),
        halves(X, CLASSES),
        "multiclass",
        {"forward": lambda model, x: model["head"](torch.tanh(model["body"](x)))},
    ),
}


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.filterwarnings("ignore:no learned loss", "ignore:.*weight_norm.*:FutureWarning")
def test_a_set_up_ends_in_a_loss_that_trains_the_users_model(name):
    model, (train, validation), task, options = SETUPS[name]
    before = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else None
    draws = torch.get_rng_state()
    found = ec.search_loss(model, train, validation, task, budget=TINY, progress=False, starts=2, **options)
    assert torch.equal(draws, torch.get_rng_state())  # nothing of the user's is touched
    if before is not None:
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [row.name for row in found.rows][-2:] and math.isfinite(found.trivial)
    assert all(len(row.errors) == 2 for row in found.rows)
    user = copy.deepcopy(model) if isinstance(model, nn.Module) else model()
    data = read(train, "train", options.get("target"))
    x, y = data.x, data.y
    x = x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
    forward = options.get("forward") or (
        lambda m, x: m(**x) if isinstance(x, dict) else m(*x) if isinstance(x, tuple) else m(x)
    )
    outputs = forward(user, x)
    y = y.to(outputs.dtype) if task != "multiclass" else y.long()
    y = y.reshape(outputs.shape) if task != "multiclass" else y
    for loss in (found.loss, *(leader.loss for leader in found.leaders[:2])):
        assert not any(p.requires_grad for p in loss.parameters())
        try:
            value = loss(outputs, y)
        except (ValueError, RuntimeError):
            last = name in ("classes in the last dimension", "a tag for each token, padding ignored")
            assert last and loss is found.loss  # PyTorch's takes them second
            continue
        assert value.ndim == 0
        user.zero_grad()
        value.backward(retain_graph=True)
        assert any(p.grad is not None for p in user.parameters())
    assert found.verdict.capitalize()[:20].lower() in str(found).lower()
    assert "trivial predictor" in str(found) and len(found.table()) == len(found.rows) + 1


REFUSED = {
    "text": (mlp, ((X, ["a"] * N), (X, CLASSES)), "multiclass", "train y must be numbers"),
    "a NaN": (mlp, halves(X / 0, CLASSES), "multiclass", "train x must be finite"),
    "lengths": (mlp, ((X, CLASSES[:-1]), (X, CLASSES)), "multiclass", "of one length"),
    "no pair": (mlp, (X, (X, CLASSES)), "multiclass", "train must be a Dataset"),
    "classes that the model lacks": (
        mlp,
        halves(X, CLASSES + 1),
        "multiclass",
        "class indices from 0 to 2, got 1 to 3",
    ),
    "one-hot targets": (mlp, halves(X, nn.functional.one_hot(CLASSES)), "multiclass", "class indices"),
    "values for classes": (mlp, halves(X, VALUES[:, 0]), "multiclass", "numbers that are not whole"),
    "other inputs": (mlp, halves(drawn(N, 5), CLASSES), "multiclass", "cannot be run on x"),
    "unscaled values": (wide, halves(X, 1e5 + 1e4 * VALUES), "regression", "standardised: pass"),
    "one value": (wide, halves(X, VALUES * 0), "regression", "different from one another"),
    "shapes of values": (wide, halves(X, drawn(N, 2)), "regression", "of the outputs' shape"),
    "a task's name": (mlp, halves(X, CLASSES), "multi-class", "Did you mean 'multiclass'"),
    "half precision": (copy.deepcopy(mlp).half(), halves(X, CLASSES), "multiclass", "autocast"),
    "brain floats": (copy.deepcopy(mlp).bfloat16(), halves(X.bfloat16(), CLASSES), "multiclass", "autocast"),
    "half of the model": (
        nn.Sequential(nn.Linear(4, 6).half(), nn.Linear(6, 3)),
        halves(X, CLASSES),
        "multiclass",
        "weights must be of one type",
    ),
    "values too large for float16": (wide, halves(X, (1e5 * VALUES).half()), "regression", "train y must be finite"),
    "lazy layers": (nn.LazyLinear(3), halves(X, CLASSES), "multiclass", "run the model once"),
    "no weights": (nn.Flatten(), halves(drawn(N, 3), CLASSES), "multiclass", "weights"),
    "several outputs": (nn.LSTM(4, 3), halves(X, CLASSES), "multiclass", "forward=lambda"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_named_before_anything_is_computed(name):
    model, (train, validation), task, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ec.search_loss(model, train, validation, task, budget=TINY, progress=False)


def test_options_that_make_no_sense_are_refused():
    data = halves(X, CLASSES)
    for options, message in (
        ({"init": "old"}, "init must be one of"),
        ({"optimizer": torch.optim.SGD(mlp.parameters(), 0.1)}, "a function of weights"),
        ({"optimizer": lambda p: None}, "a torch.optim.Optimizer"),
        ({"metric": lambda outputs, targets: "good"}, "the metric must take"),
        ({"budget": "big"}, "budget must be one of"),
        ({"timeout": -1}, "timeout must be positive"),
        ({"operators": ("add", "divide")}, "divide"),
        ({"starts": 0}, "starts must be"),
        ({"threads": 0}, "threads must be"),
        ({"device": "cudda"}, "device"),
    ):
        with pytest.raises(ValueError, match=message):
            ec.search_loss(mlp, *data, "multiclass", **({"budget": TINY, "progress": False} | options))


OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, eps=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1, eps=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.1, eps=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, eps=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1, eps=0.01),
    "groups": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.2}, {"params": p[1:]}], 0.1, eps=0.01),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_meta_gradient_through_a_step_is_that_of_finite_differences(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    own = optimisers.Optimiser(OPTIMISERS[name], schedule=lambda step: 0.5)
    assert own.exact == ("written out" if name in ("SGD", "SGD, momentum", "Adam", "AdamW", "groups") else "autograd")
    config = Config(base_learning_rate=own.rate, dtype="float64")
    x, y = drawn(6, 4).double(), torch.arange(6) % 3
    loss = ec.losses.MetaLoss("mul(-1, mul(y, log(f)))", torch.full((5,), 1.1).double(), classification=True)

    def value(weights):
        twin = copy.deepcopy(model)
        stepper = own.session(twin.parameters(), config)
        with torch.no_grad():
            loss.weights.copy_(weights)
        loss(twin(x), y).backward()
        stepper.step()
        return float(nn.functional.cross_entropy(twin(x), y).detach())

    (got,) = ec.meta_gradient(loss, model, (x, y), (x, y), nn.CrossEntropyLoss(), config, optimiser=own)
    at, h = loss.weights.detach().clone(), 1e-5
    for k in range(5):
        unit = torch.zeros(5).double().index_fill_(0, torch.tensor([k]), h)
        difference = (value(at + unit) - value(at - unit)) / (2 * h)
        assert float(got[k]) == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_an_optimiser_that_autograd_cannot_pass_takes_a_step_of_sgd_instead_and_says_so():
    class Signed(torch.optim.Optimizer):
        def __init__(self, weights):
            super().__init__(weights, {"lr": 0.01})

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for w in group["params"]:
                    w.sub_(group["lr"] * w.grad.sign())

    with pytest.warns(UserWarning):
        found = ec.search_loss(mlp, *halves(X, CLASSES), "multiclass", budget=TINY, progress=False, optimizer=Signed)
    assert any("Signed: the meta-gradient goes through a step of SGD" in note for note in found.notes)


def test_a_training_follows_the_schedule_and_the_rates_of_its_groups():
    own = optimisers.Optimiser(OPTIMISERS["groups"], schedule=lambda step: 1.0 if step == 0 else 0.0)
    weights = [torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    stepper = own.session(weights, Config(base_learning_rate=2 * own.rate))
    for w in weights:
        w.grad = torch.ones(2)
    stepper.step()
    after = [w.detach().clone() for w in weights]
    assert float(1 - after[0][0]) == pytest.approx(2 * float(1 - after[1][0]), rel=0.1)  # twice the rate
    stepper.step()
    assert all(torch.equal(w.detach(), b) for w, b in zip(weights, after, strict=True))


def test_padding_stays_zero_and_changes_no_meta_gradient():
    parts = {name: read(part, name) for name, part in zip(("train", "validation"), halves(PADDED, TAGS), strict=True)}
    model, config = Padded(tags=True).double(), Config(dtype="float64", batch_size=8, base_learning_rate=0.5)
    own = settle(
        model, parts, "multiclass", config, metric=None, task_loss=None, optimiser=None, keep=False, forward=None,
        ignore_index=-100, device=torch.device("cpu"),
    )  # fmt: skip
    task, base = own.problem.task, own.problem.model
    base.initialisation(base, torch.Generator().manual_seed(1))
    assert not base.inner.embedding.weight[0].any() and base.inner.embedding.weight[1].all()
    ((rows, y), (other, z)), usual = (task.train, task.validation), nn.CrossEntropyLoss()
    loss = ec.losses.MetaLoss("mul(-1, mul(y, log(f)))", torch.full((5,), 1.1).double(), classification=True)
    batches = (rows, task.targets(y)), (other, task.targets(z))

    def value(weights):
        twin = copy.deepcopy(base)
        sgd = torch.optim.SGD(twin.parameters(), **config.sgd)
        with torch.no_grad():
            loss.weights.copy_(weights)
        loss(twin(rows), batches[0][1]).backward()
        sgd.step()
        assert not twin.inner.embedding.weight[0].any()
        return float(usual(twin(other), batches[1][1]).detach())

    for engine in ("auto", "higher"):
        (got,) = ec.meta_gradient(loss, base, *batches, usual, replace(config, engine=engine))
        at, h = loss.weights.detach().clone(), 1e-5
        for k in range(5):
            unit = torch.zeros(5).double().index_fill_(0, torch.tensor([k]), h)
            assert float(got[k]) == pytest.approx((value(at + unit) - value(at - unit)) / (2 * h), rel=1e-5, abs=1e-9)
        value(at)


def test_shapes_go_there_and_back():
    for task, classes, target, outputs, last in (
        ("multiclass", 3, (), (5, 3), False),
        ("multiclass", 3, (4, 2), (5, 3, 4, 2), False),
        ("multiclass", 3, (4,), (5, 4, 3), True),
        ("binary", 2, (2,), (5, 2), False),
        ("regression", 1, (3, 2), (5, 3, 2), False),
    ):
        shapes, z = Shapes(task, classes, target, last), drawn(*outputs)
        y = drawn(5, *target) if task == "regression" else (drawn(5, *target) > 0).long()
        inner, flat = shapes.outputs(z, y), shapes.targets(y)
        assert len(inner) == len(flat) == 5 * math.prod(target)
        back, again = shapes.restored(inner, flat)
        assert torch.equal(back, z) and torch.equal(again.to(y.dtype), y)


def test_a_callback_a_time_limit_and_an_interrupt_end_a_search_with_the_best_so_far(tmp_path):
    data, told = halves(X, CLASSES), []
    budget = "smoke+generations=4+test_steps=6+population=8+rejection_steps=20"

    def second(progress):
        told.append(progress)
        return progress.generation == 2

    with pytest.warns(UserWarning):
        found = ec.search_loss(mlp, *data, "multiclass", budget=budget, progress=False, callbacks=[second])
    assert [p.generation for p in told] == [1, 2] and found.stopped == "second asked for it" and found.rows
    assert told[-1].generations == 4 and math.isfinite(told[-1].baseline)
    with pytest.warns(UserWarning):
        found = ec.search_loss(mlp, *data, "multiclass", budget=budget, progress=False, timeout=1e-3)
    assert "time limit" in found.stopped and found.state.generation == 0 and found.loss is not None

    def interrupt(progress):
        raise KeyboardInterrupt

    file = tmp_path / "search.json"
    with pytest.warns(UserWarning, match="not compared"):
        found = ec.search_loss(
            mlp, *data, "multiclass", budget=budget, progress=False, callbacks=[interrupt], checkpoint=file
        )
    assert found.stopped == "interrupted" and found.state.generation == 1 and found.beats_baseline is None
    with pytest.warns(UserWarning):
        resumed = ec.search_loss(mlp, *data, "multiclass", budget=budget, progress=False, checkpoint=file)
        whole = ec.search_loss(mlp, *data, "multiclass", budget=budget, progress=False)
    assert resumed.rows == whole.rows and [str(l.loss) for l in resumed.leaders] == [str(l.loss) for l in whole.leaders]
    with pytest.raises(ec.RecordError, match=r"search\.json"):
        ec.search_loss(mlp, *data, "multiclass", budget=budget, progress=False, checkpoint=file, seed=1)


def test_threads_are_those_of_the_models_size_and_are_put_back(monkeypatch):
    many, seen = torch.get_num_threads() + 1, []

    def look(progress):
        seen.append(torch.get_num_threads())

    def fail(progress):
        raise ZeroDivisionError

    def called(**options):
        return ec.search_loss(mlp, *halves(X, CLASSES), "multiclass", budget=TINY, progress=False, **options)

    torch.set_num_threads(many)
    try:
        with pytest.warns(UserWarning, match="no learned loss"):
            called(callbacks=[look])
            called(callbacks=[look], threads=3)
            monkeypatch.setattr(machine, "LARGE_MODEL", 10)
            monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
            called(callbacks=[look])
        assert seen == [1, 3, 4] and torch.get_num_threads() == many
        with pytest.raises(ZeroDivisionError):
            called(callbacks=[fail])
        assert torch.get_num_threads() == many
    finally:
        torch.set_num_threads(many - 1)


def test_a_stream_of_batches_is_read_once():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, CLASSES, strict=True))

    data = read(Stream(), "train")
    assert torch.equal(data.x, X) and torch.equal(data.y, CLASSES)
    assert torch.equal(read(([[1.0], [2.0]], np.float32([1, 2])), "train").y, torch.tensor([1.0, 2.0]))


def test_a_figure_shows_every_start():
    with pytest.warns(UserWarning):
        found = ec.search_loss(mlp, *halves(X, CLASSES), "multiclass", budget=TINY, progress=False)
    left, right = found.plot().axes
    assert [label.get_text() for label in left.get_yticklabels()] == [row.name for row in reversed(found.rows)]
    assert right.get_xlabel() == "generation"


@pytest.mark.parametrize(("wild", "metric", "noted"), [(100.0, None, True), (1.0, None, False), (100.0, "own", False)])
def test_a_validation_target_that_rules_all_others_is_noted(wild, metric, noted):
    def absolute(outputs, targets):
        return (outputs - targets).abs().mean()

    x, y = drawn(N, 4), drawn(N, 1, seed=1)
    y[40] = wild  # of the validation part
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = {"metric": absolute} if metric else {}
        found = ec.search_loss(model, *halves(x, y), "regression", budget=TINY, progress=False, starts=1, **chosen)
    told = [note for note in found.notes if note.startswith("one of 16 validation targets makes ")]
    assert len(told) == noted and ("chooses the loss" in str(found)) == noted
