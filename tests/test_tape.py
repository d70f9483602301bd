"""The tape's derivatives against autograd's double backward through an independent evaluation of the tree."""

import numpy as np
import pytest
import torch
from test_losses import PROTECTIONS, class_data, data, evaluate, random_losses
from torch import nn
from torch.nn import functional

from evomal_core import CrossEntropy, MetaLoss, SquaredError
from evomal_core.fast.derivatives import Derivatives, LossInputs
from evomal_core.losses import expression

KINDS = ("regression", "classification")


def cotangent(loss, elements):
    """(L, dL/dz) of one loss."""
    found = Derivatives([loss], elements)
    return found.values()[0], found.v[0]


def mixed_derivative(loss, elements, u):
    return Derivatives([loss], elements, order=2).mixed(u[None])[0]


def batch(kind: str, seed: int, dtype=torch.float64):
    return class_data(seed, 5, 4, dtype) if kind == "classification" else data(seed, 5, dtype)


def reference(loss: MetaLoss, z, target, u):
    """(L, dL/dz, d<dL/dz, u>/dphi) by autograd, twice, through the reference evaluator of the tree."""
    z, phi = z.clone().requires_grad_(), loss.weights.detach().clone().requires_grad_()
    y, f = target, z
    if loss.classification:
        y, f = functional.one_hot(target, z.shape[1]).to(z.dtype), torch.softmax(z, 1)
    value = evaluate(str(loss), y, f, phi, loss.protection, torch)
    if loss.non_negative:
        value = -functional.logsigmoid(-value)
    value = value.sum() / len(z)
    (v,) = torch.autograd.grad(value, z, create_graph=True, allow_unused=True)
    v = torch.zeros_like(z) if v is None else v
    mixed = torch.zeros_like(phi)
    if v.requires_grad:
        (g,) = torch.autograd.grad((v * u).sum(), phi, allow_unused=True)
        mixed = mixed if g is None else g
    return value.detach(), v.detach(), mixed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("non_negative", [False, True])
def test_random_trees_in_float64(kind, protection, non_negative):
    options = dict(classification=kind == "classification", protection=protection, non_negative=non_negative)
    compared = 0
    for k, loss in enumerate(random_losses(100, 100, **options)):
        z, target = batch(kind, k)
        u = torch.randn(z.shape, generator=torch.Generator().manual_seed(k), dtype=z.dtype)
        value, v, mixed = reference(loss, z, target, u)
        elements = LossInputs(z, target)
        got_value, got_v = cotangent(loss, elements)
        (got_mixed,) = mixed_derivative(loss, elements, u)
        torch.testing.assert_close(got_value, value, rtol=1e-10, atol=1e-12, msg=str(loss))
        assert got_v.shape == z.shape
        for got, want in ((got_v, v), (got_mixed, mixed)):
            atol = 1e-12 + 1e-9 * float(want.abs().max())
            torch.testing.assert_close(got, want, rtol=1e-9, atol=atol, msg=lambda m, loss=loss: f"{loss}: {m}")
        compared += bool(mixed.abs().max() > 0)
    assert compared > 60  # a comparison of zeros shows nothing


@pytest.mark.parametrize("kind", KINDS)
def test_random_trees_in_float32(kind):
    for k, loss in enumerate(random_losses(100, 200, torch.float32, classification=kind == "classification")):
        z, target = batch(kind, k, torch.float32)
        u = torch.randn(z.shape, generator=torch.Generator().manual_seed(k))
        _, v, mixed = reference(loss, z, target, u)
        elements = LossInputs(z, target)
        got_v = cotangent(loss, elements)[1]
        (got_mixed,) = mixed_derivative(loss, elements, u)
        assert got_v.dtype == got_mixed.dtype == torch.float32
        for got, want in ((got_v, v), (got_mixed, mixed)):
            assert (got - want).abs().max() <= 2e-4 * want.abs().max() + 1e-5, str(loss)


@pytest.mark.parametrize("kind", KINDS)
def test_larger_trees(kind):
    """Height 6 to 8: long products of partial derivatives; only finite references say anything."""
    compared = 0
    for k, tree in enumerate(expression.grow(300, (6, 8), 25)):
        weights = torch.tensor(np.random.default_rng(k).normal(1, 0.1, len(tree) - 1))
        loss = MetaLoss(tree, weights, kind == "classification")
        z, target = batch(kind, k)
        u = torch.randn(z.shape, generator=torch.Generator().manual_seed(k), dtype=z.dtype)
        _, v, mixed = reference(loss, z, target, u)
        if not (v.isfinite().all() and mixed.isfinite().all()):
            continue
        elements = LossInputs(z, target)
        scale = max(float(mixed.abs().max()), float(v.abs().max()))
        torch.testing.assert_close(cotangent(loss, elements)[1], v, rtol=1e-7, atol=1e-9 * scale)
        torch.testing.assert_close(mixed_derivative(loss, elements, u)[0], mixed, rtol=1e-7, atol=1e-9 * scale)
        compared += 1
    assert compared >= 15


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protection", PROTECTIONS)
def test_torch_as_the_array_library_gives_what_numpy_does(kind, protection):
    """What a GPU runs, on a CPU."""
    losses = random_losses(60, 500, classification=kind == "classification", protection=protection, non_negative=True)
    losses += random_losses(60, 500, classification=kind == "classification", protection=protection)
    z, target = batch(kind, 0)
    u = torch.randn((len(losses), *z.shape), generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    found = []
    for library in (np, torch):
        elements = LossInputs(z, target)
        elements.xp = library
        derivatives = Derivatives(losses, elements, order=2)
        found.append((derivatives.values(), derivatives.v, torch.cat([g for (g,) in derivatives.mixed(u)])))
    for of_numpy, of_torch in zip(*found, strict=True):
        torch.testing.assert_close(of_torch, of_numpy, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("library", [np, torch])
def test_infinities_that_tie_are_split_as_by_autograd(library, dtype):
    """A finite loss of infinite parts keeps a gradient, under every array library."""
    large = torch.full((3, 1), torch.finfo(dtype).max ** 0.75, dtype=dtype)  # its square is infinite
    for text in ("tanh(max(square(y), square(f)))", "tanh(min(square(f), square(y)))", "max(mul(f, 1), y)"):
        z = large.clone().requires_grad_()
        loss = MetaLoss(text).to(dtype)
        want = loss(z, large)
        elements = LossInputs(z, large)
        elements.xp = library
        found = Derivatives([loss], elements)
        assert found.tapes[0].values[found.tapes[0].program.derivative].dtype == elements.f.dtype
        torch.testing.assert_close(found.values()[0], want.detach())
        torch.testing.assert_close(found.v[0], torch.autograd.grad(want, z)[0], equal_nan=True)


def test_by_hand():
    """M = w0 (w1 y − w2 f)²-like: square(sub(y, f)) with weights (a, b, c) is (a (b y − c f))²."""
    a, b, c = 2.0, 3.0, 5.0
    loss = MetaLoss("square(sub(y, f))", torch.tensor([a, b, c], dtype=torch.float64))
    f, y = data(3)
    u = torch.ones_like(f)
    r = b * y - c * f
    torch.testing.assert_close(cotangent(loss, LossInputs(f, y))[1], -2 * a * a * c * r / 6)
    # d/da, d/db, d/dc of sum_b −2 a² c (b y − c f) / 6
    want = torch.stack([(-4 * a * c * r).mean(), (-2 * a * a * c * y).mean(), (-2 * a * a * (r - c * f)).mean()])
    torch.testing.assert_close(mixed_derivative(loss, LossInputs(f, y), u)[0], want)


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_kinks_have_the_conventional_gradients(protection):
    zero = torch.zeros(1, 1, dtype=torch.float64)
    for text, want in [
        ("add(abs(f), y)", 0.0),
        ("add(sign(f), y)", 0.0),
        ("add(log(f), y)", 0.0),
        ("add(sqrt(f), y)", 0.0),
        ("min(f, y)", 0.5),
        ("max(y, f)", 0.5),
        ("min(f, add(f, y))", 1.0),
        ("max(f, add(y, 1))", 0.0),
        ("max(f, add(y, -1))", 1.0),
    ]:
        loss = MetaLoss(text, protection=protection).double()
        assert cotangent(loss, LossInputs(zero, zero))[1].item() == want, text


def test_a_loss_without_gradient_in_the_prediction():
    f, y = data(4)
    loss = MetaLoss("add(sign(f), square(y))").double()
    elements = LossInputs(f, y)
    assert torch.equal(cotangent(loss, elements)[1], torch.zeros_like(f))
    assert torch.equal(mixed_derivative(loss, elements, f)[0], torch.zeros(4, dtype=torch.float64))


def test_nothing_is_written_into_the_batch_or_the_loss():
    for loss in random_losses(30, 400):
        f, y = data(5)
        kept = f.clone(), y.clone(), loss.weights.detach().clone()
        u = torch.ones_like(f)
        mixed_derivative(loss, LossInputs(f, y), u)
        for now, before in zip((f, y, loss.weights), kept, strict=True):
            assert torch.equal(now, before)
        assert torch.equal(u, torch.ones_like(f))
        assert loss.weights.grad is None


def test_overflow_is_not_hidden():
    loss = MetaLoss("square(square(square(square(sub(y, f)))))")
    f, y = torch.full((2, 1), 1e10), torch.zeros(2, 1)
    value, v = cotangent(loss, LossInputs(f, y))
    assert not value.isfinite()
    assert not v.isfinite().all()


# Losses without a tape


class Scaled(nn.Module):
    """a · mean((z − y)²) + b, with closed derivatives; b has no part in dL/dz."""

    def __init__(self, a: float):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, prediction, target):
        return self.a * (prediction - target).square().mean() + self.b.sum()


def test_any_module_goes_by_autograd():
    z, y = data(6)
    u = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    loss, elements = Scaled(0.7), LossInputs(z, y)
    value, v = cotangent(loss, elements)
    assert not value.requires_grad
    assert value.item() == pytest.approx(0.7 * float(((z - y) ** 2).mean()) + 3, rel=1e-12)
    torch.testing.assert_close(v, 2 * 0.7 * (z - y) / 6)
    a, b = mixed_derivative(loss, elements, u)
    torch.testing.assert_close(a, (2 * (z - y) * u).mean())
    assert torch.equal(b, torch.zeros(3, dtype=torch.float64))
    assert loss.a.grad is None


def test_a_module_whose_gradient_does_not_depend_on_its_parameters():
    class Linear(Scaled):
        def forward(self, prediction, target):
            return (prediction * target).mean() + self.a

    z, y = data(6)
    got = mixed_derivative(Linear(2.0), LossInputs(z, y), z)
    assert [float(g.abs().sum()) for g in got] == [0.0, 0.0]


@pytest.mark.parametrize("loss_type", [nn.MSELoss, SquaredError])
def test_closed_form_of_squared_error(loss_type):
    z, y = data(7, 9)
    leaf = z.clone().requires_grad_()
    want = ((leaf - y) ** 2).sum() / 9
    value, v = cotangent(loss_type(), LossInputs(z, y))
    torch.testing.assert_close(value, want.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(v, torch.autograd.grad(want, leaf)[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss_type", [nn.CrossEntropyLoss, CrossEntropy])
def test_closed_form_of_cross_entropy(loss_type):
    z, labels = class_data(7, 9)
    leaf = z.clone().requires_grad_()
    want = -torch.log_softmax(leaf, 1)[torch.arange(9), labels].mean()
    value, v = cotangent(loss_type(), LossInputs(z, labels))
    torch.testing.assert_close(value, want.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(v, torch.autograd.grad(want, leaf)[0], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(ignore_index=1),
        MetaLoss("square(sub(y, f))", classification=True, reduction="sum").double(),
    ],
    ids=["smoothing", "weight", "sum", "ignore", "sum of a learned one"],
)
def test_options_are_not_taken_for_the_closed_form(loss):
    z, labels = class_data(8, 9)
    leaf = z.clone().requires_grad_()
    want = loss(leaf, labels)
    value, v = cotangent(loss, LossInputs(z, labels))
    torch.testing.assert_close(value, want.detach())
    torch.testing.assert_close(v, torch.autograd.grad(want, leaf)[0])


def test_sum_of_squares_is_not_taken_for_the_mean():
    z, y = data(8)
    torch.testing.assert_close(cotangent(nn.MSELoss(reduction="sum"), LossInputs(z, y))[1], 2 * (z - y))
