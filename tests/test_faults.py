"""Kinds of faults that are to stay away: memory order, random layers, shared layers, threads, states of another search."""

import copy
import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import train
from torch import nn
from torch.func import functional_call, jvp, vmap
from torch.nn import functional

import evomal_core as ec
from evomal_core.models.random_layers import seeded
from evomal_core.search import SearchState
from evomal_core.training import Problem, fitness

CONFIG = ec.Config(dtype="float64", batch_size=16, base_learning_rate=0.05, fitness_steps=12, meta_steps=4)
CPU = torch.device("cpu")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task_of(shape=(5,), outputs: int = 3, n: int = 40) -> ec.Task:
    x = torch.randn(n, *shape, generator=draw(), dtype=torch.float64)
    if outputs == 1:
        y = x.flatten(1)[:, :3].sum(1, keepdim=True)
        return ec.Task("made", (x, y), (x, y), (x, y), False)
    y = x.flatten(1)[:, :outputs].argmax(1)
    return ec.Task("made", (x, y), (x, y), (x, y), True, outputs)


def losses(n: int = 3, classification: bool = True) -> list[ec.MetaLoss]:
    trees = ("square(sub(y, f))", "mul(sub(f, y), tanh(sub(f, y)))", "sqrt(square(sub(add(y, y), f)))")
    return [ec.MetaLoss(tree, classification=classification).double() for tree in trees[:n]]


def by_hand(loss, task, model, steps: int, config=CONFIG) -> nn.Module:
    """An ordinary loop over PyTorch's optimiser, from row-major weights."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).train()
    for p in model.parameters():
        p.data = p.data.contiguous()
    ec.models.initialise(model, ec.streams.torch_generator(0, "test-init"))
    optimiser = torch.optim.SGD(model.parameters(), **config.sgd)
    x, y = task.train
    for t in range(steps):
        rows = ec.streams.numpy_generator(0, "test-batch", t).choice(len(x), config.batch_size, replace=False)
        optimiser.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimiser.step()
    return model


# --- memory order ---


def column_major(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        if p.ndim == 2:
            p.data = p.data.t().contiguous().t()
    return model


LINEAR = (lambda: nn.Sequential(nn.Linear(5, 3)), (5,))
MLP = (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), (5,))
GELU = (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)), (5,))
CONV = (
    lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(27, 3)),
    (2, 6, 6),
)
ORDERS = {
    "column-major": column_major,
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "deepcopy": lambda model: copy.deepcopy(column_major(model)),
    "to": lambda model: column_major(model.float()).to(torch.float64),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("copies", [0, 1, 2, 3])
@pytest.mark.parametrize("made", [LINEAR, MLP, GELU, CONV], ids=["linear", "mlp", "gelu", "conv"])
def test_a_gradient_meets_its_weight_whatever_their_strides(made, copies, order):
    build, shape = made
    task, config = task_of(shape), dataclasses.replace(CONFIG, copies=copies)
    model = ORDERS[order](build().double())
    trained = train(losses(), (task, model), config, 0, "test", 10)
    for loss, got in zip(losses(), trained, strict=True):
        want = by_hand(loss, task, model, 10)
        for a, b in zip(got.parameters(), want.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("engine", ["jvp", "gram", "higher"])
@pytest.mark.parametrize("copies", [1, 3])
def test_meta_gradients_do_not_depend_on_strides(engine, copies):
    task, config = task_of(), dataclasses.replace(CONFIG, copies=copies)
    model = MLP[0]().double()
    other = column_major(copy.deepcopy(model))
    rest = (task.train, task.validation, task.task_loss, config, engine)
    for loss in losses():
        (a,), (b,) = ec.meta_gradient(loss, model, *rest), ec.meta_gradient(loss, other, *rest)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
        assert a.abs().max() > 1e-6


# --- random layers ---


class Transposed(nn.Module):
    """Conv1d, then Dropout on transposed activations, then Linear."""

    def __init__(self):
        super().__init__()
        self.convolution, self.drop, self.linear = nn.Conv1d(2, 4, 3), nn.Dropout(0.4), nn.Linear(16, 3)

    def forward(self, x):
        return self.linear(self.drop(torch.tanh(self.convolution(x)).transpose(1, 2)).flatten(1))


class Attention(nn.Module):
    """A transformer layer over a sequence, and one Linear."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True, activation=torch.tanh)
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(self.layer(x).mean(1))


class SequenceFirst(nn.Module):
    """Instances stand second inside, as recurrent models have them."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(2, 5), nn.Linear(5, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.first(x.permute(2, 0, 1)))).mean(0))


class Functions(nn.Module):
    """Draws by functions and methods instead of layers, on strided tensors."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x.flatten(1))).t()
        h = functional.dropout(h, 0.3, self.training) + 0.1 * torch.rand_like(h)
        h = h * torch.bernoulli(torch.full_like(h, 0.7))
        return self.last(h.t()) + 0.1 * torch.randn_like(h.t()[:, :3])


RANDOM = {
    "transposed": (Transposed, (2, 6)),
    "attention": (Attention, (3, 4)),
    "sequence first": (SequenceFirst, (2, 6)),
    "functions": (Functions, (2, 6)),
}


def random_case(name: str):
    build, shape = RANDOM[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return task_of(shape), build().double().train()


def task_loss_after_one_step(loss, model, task, config, seed: int) -> float:
    model = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), **config.sgd)
    seeds = [ec.streams.integer(seed, "meta-layers", 0, 0, s) for s in (0, -1)]
    with seeded(seeds[0], CPU):
        loss(model(task.train[0]), task.train[1]).backward()
    optimiser.step()
    with torch.no_grad(), seeded(seeds[1], CPU):
        return task.task_loss(model(task.validation[0]), task.validation[1]).item()


@pytest.mark.parametrize("name", RANDOM)
def test_meta_gradients_of_random_layers_are_those_of_finite_differences(name):
    task, model = random_case(name)
    loss, h = losses()[1], 1e-5
    rest = (task.train, task.validation, task.task_loss, CONFIG)
    (got,) = ec.meta_gradient(loss, model, *rest, engine="jvp", seed=5)
    (plain,) = ec.meta_gradient(loss, model, *rest, engine="higher", seed=5)
    torch.testing.assert_close(got, plain, rtol=1e-8, atol=1e-11)
    for k in range(len(loss.weights)):
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(loss)
            moved.weights.data[k] += sign * h
            ends.append(task_loss_after_one_step(moved, model, task, CONFIG, 5))
        assert got[k].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", RANDOM)
def test_fitness_does_not_depend_on_copies(name):
    task, model = random_case(name)
    values = [fitness(losses(), [(task, model)], dataclasses.replace(CONFIG, copies=k), 0) for k in (1, 2, 3)]
    assert values[1] == pytest.approx(values[0], rel=1e-9) and values[2] == pytest.approx(values[0], rel=1e-9)


@pytest.mark.parametrize("name", RANDOM)
def test_one_seed_is_one_draw_in_forward_forward_mode_and_vmap(name):
    task, model = random_case(name)
    x, weights = task.train[0], {n: p.detach() for n, p in model.named_parameters()}

    def outputs(*arguments) -> torch.Tensor:
        with seeded(3, CPU):
            return functional_call(model, *arguments)

    plain = outputs(weights, (x,))
    with seeded(3, CPU):
        assert torch.equal(plain, model(x).detach())
    with seeded(4, CPU):
        assert not torch.allclose(plain, model(x))
    zeros = {n: torch.zeros_like(p) for n, p in weights.items()}
    torch.testing.assert_close(jvp(lambda w: outputs(w, (x,)), (weights,), (zeros,))[0], plain, rtol=1e-10, atol=1e-12)
    stacked = {n: torch.stack([p, p]) for n, p in weights.items()}
    for both in vmap(lambda w: outputs(w, (x,)), randomness="same")(stacked):
        torch.testing.assert_close(both, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.RReLU()]
)
def test_masks_follow_the_shape_and_not_the_strides(layer):
    x = torch.rand(6, 5, 4, generator=draw()) + 0.5
    strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(x, strided) and x.stride() != strided.stride()
    for sign in (1, -1):
        with seeded(1, CPU):
            a = layer(sign * x)
        with seeded(1, CPU):
            b = layer(sign * strided)
        assert torch.equal(a, b)
    assert not torch.equal(a, -x)


def test_what_is_dropped_in_place_is_dropped_in_place():
    for drop in (
        functional.dropout,
        functional.dropout2d,
        lambda x, p, training, inplace: torch.dropout_(x, p, training),
    ):
        x = torch.ones(3, 4, 5, 5)
        with seeded(2, CPU):
            y = drop(x, 0.5, True, True)
        assert y is x and set(x.unique().tolist()) == {0.0, 2.0}
    with seeded(2, CPU):
        a = torch.randint_like(torch.zeros(3, 4), 100)
    with seeded(2, CPU):
        assert torch.equal(a, torch.randint_like(torch.zeros(4, 3).t(), 100))


def test_the_global_functions_are_put_back_after_a_seeded_block():
    before = {name: getattr(functional, name) for name in ("dropout", "scaled_dot_product_attention", "rrelu")}
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(1, CPU):
        torch.rand(3)
        raise ZeroDivisionError
    assert all(getattr(functional, name) is function for name, function in before.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_whether_a_model_draws_is_found_out_by_running_it():
    class Depth(nn.Module):
        """Stochastic depth by Python's own generator."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, x):
            import random

            return self.linear(x) * (1 if random.random() < 0.9 or not self.training else 0)

    quiet = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.0)).double()
    assert Problem(task_of(), Depth().double()).draws
    assert not Problem(task_of(), quiet).draws
    quiet[1].p = 0.5
    assert Problem(task_of(), quiet).draws


# --- shared layers ---


def registered_twice() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 3)).double()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("build", [registered_twice, tied])
@pytest.mark.parametrize("engine", ["jvp", "auto", "higher"])
@pytest.mark.parametrize("steps", [1, 2])
def test_shared_weights_give_the_gradients_of_finite_differences(build, engine, steps):
    task, model, h = task_of((4,)), build(), 1e-5
    config = dataclasses.replace(CONFIG, inner_steps=steps)
    before = list(model.named_parameters(remove_duplicate=False))
    loss = losses()[1]
    (got,) = ec.meta_gradient(loss, model, task.train, task.validation, task.task_loss, config, engine)
    after = list(model.named_parameters(remove_duplicate=False))
    assert [name for name, _ in before] == [name for name, _ in after]
    for (_, a), (_, b) in zip(before, after, strict=True):
        assert a is b and isinstance(a, nn.Parameter) and a.requires_grad

    def after_training(loss) -> float:
        twin = copy.deepcopy(model)
        optimiser = torch.optim.SGD(twin.parameters(), **config.sgd)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(twin(task.train[0]), task.train[1]).backward()
            optimiser.step()
        return task.task_loss(twin(task.validation[0]), task.validation[1]).item()

    for k in range(len(loss.weights)):
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(loss)
            moved.weights.data[k] += sign * h
            ends.append(after_training(moved))
        assert got[k].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("build", [registered_twice, tied])
@pytest.mark.parametrize("copies", [1, 2])
def test_shared_weights_train_as_in_pytorch(build, copies):
    task, model = task_of((4,)), build()
    got = train(losses(), (task, model), dataclasses.replace(CONFIG, copies=copies), 0, "test", 8)
    for loss, trained in zip(losses(), got, strict=True):
        for a, b in zip(trained.parameters(), by_hand(loss, task, model, 8).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_model_is_left_as_it_was_when_its_forward_fails():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = registered_twice(), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("broken")
            return self.inner(x)

    task, model = task_of((4,)), Breaks()
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters(remove_duplicate=False)}
    with pytest.raises(RuntimeError, match="broken"):
        ec.meta_gradient(losses()[0], model, task.train, task.validation, task.task_loss, CONFIG, "jvp")
    for name, p in model.named_parameters(remove_duplicate=False):
        assert p is before[name][0] and torch.equal(p, before[name][1])


@pytest.mark.parametrize("method", ["ml3", "evomal"])
def test_searches_of_a_model_with_a_shared_layer(method):
    config = dataclasses.replace(CONFIG, population=4, generations=2, rejection_steps=20)
    task, model = task_of((4,)), registered_twice()
    found = ec.search([(task, model)], config, 0, method)
    with ec.plain():
        plain = ec.search([(task, model)], config, 0, method)
    assert found.loss is not None
    (a,), (b,) = found.loss.parameters(), plain.loss.parameters()
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


# --- threads ---


def test_searches_in_threads_give_what_each_gives_alone():
    config = dataclasses.replace(CONFIG, population=4, generations=2, rejection_steps=20)
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.3), nn.Linear(4, 3)).double()

    def search(seed: int):
        return [i.fitness for i in ec.search([(task_of(), model)], config, seed).state.population]

    alone = [search(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(4))) == alone


def test_a_grid_over_threads_gives_the_records_of_a_serial_one(tmp_path):
    cells = [ec.Cell("diabetes", "logistic", m, s, "smoke") for m in ("evomal", "taylorglo") for s in range(2)]
    serial = ec.run_grid(cells, results_dir=tmp_path / "serial", workers=1, progress=None, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        threads = ec.run_grid(cells, executor=pool, results_dir=tmp_path / "threads", progress=None, device="cpu")
    assert [run.status for run in threads] == [run.status for run in serial]
    for a, b in zip(serial, threads, strict=True):
        assert a.data["loss"] == b.data["loss"] and a.test_metric == b.test_metric


def test_meta_gradients_in_threads():
    task, model = task_of(), Transposed
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task, model = task_of((2, 6)), Transposed().double()
    rest = (task.train, task.validation, task.task_loss, CONFIG, "jvp")
    want = ec.meta_gradient(losses()[0], model, *rest, seed=1)[0]
    got: list = []
    threads = [
        threading.Thread(target=lambda: got.append(ec.meta_gradient(losses()[0], model, *rest, seed=1)[0]))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6 and all(torch.equal(g, want) for g in got)


# --- the state of another search ---


@pytest.mark.parametrize("method", ["evomal", "taylorglo", "glo", "tuned"])
def test_the_state_of_another_search_is_refused(method):
    config = dataclasses.replace(CONFIG, population=4, generations=2, rejection_steps=5, fitness_steps=3)
    task, model = task_of(), MLP[0]().double()
    state = ec.search([(task, model)], config, 0, method).state.to_json()

    def again(problem=(task, model), config=config, seed=0, method=method):
        return ec.search([problem], config, seed, method, SearchState.from_json(state))

    x, y = task.train
    changed = dataclasses.replace(task, train=(x + 1, y))
    for arguments, message in (
        (dict(problem=(changed, model)), "the data"),
        (dict(problem=(task, GELU[0]().double().append(nn.Linear(3, 3).double()))), "the model"),
        (dict(config=dataclasses.replace(config, base_learning_rate=0.1)), "base_learning_rate = 0.05 instead of 0.1"),
        (dict(seed=1), f"one of {method}, seed 1, got {method}, seed 0"),
        (dict(method="gp-lfl"), "gp-lfl"),
    ):
        with pytest.raises(ValueError, match=message):
            again(**arguments)
    same = again(config=dataclasses.replace(config, threads=2, test_steps=5))  # these are no part of a search
    assert same.state.best_fitness == pytest.approx(ec.search([(task, model)], config, 0, method).state.best_fitness)
    assert math.isfinite(same.state.best_fitness)


# --- iterables ---


def test_a_generator_of_cells_is_run(tmp_path):
    cells = [ec.Cell("diabetes", "logistic", "baseline", s, "smoke") for s in range(2)]
    runs = ec.run_grid((cell for cell in cells), results_dir=tmp_path, progress=None, workers=1)
    assert [run.cell for run in runs] == cells and all(run.test_metric > 0 for run in runs)


def test_a_generator_of_problems_is_searched():
    config = dataclasses.replace(CONFIG, population=4, generations=1, rejection_steps=5)
    pairs = [(task_of(), MLP[0]().double()) for _ in range(2)]
    assert ec.search((pair for pair in pairs), config, 0).state.generation == 1
