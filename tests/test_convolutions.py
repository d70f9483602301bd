"""What makes convolutional models fast gives the plain path's numbers: layers, the shared linearisation, the layout."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jvp, vmap

from evomal_core import Config, MetaLoss, Task
from evomal_core.fast.jvp import jvp_engine
from evomal_core.fast.layers import HalvingPool, Tanh, faster, usual
from evomal_core.fast.linearise import Linearisation
from evomal_core.models import build_model
from evomal_core.training import Problem, unroll
from evomal_core.training.acceleration import FORMS

LAYERS = {"tanh": (Tanh(), nn.Tanh()), "pool": (HalvingPool(), nn.AvgPool2d(2))}
TREES = ("square(sub(y, f))", "abs(tanh(mul(y, f)))", "sqrt(abs(add(add(f, y), -1)))")


def images(n: int, shape=(1, 28, 28), dtype=torch.float64) -> Task:
    draw = torch.Generator().manual_seed(0)

    def part():
        return torch.randn(n, *shape, generator=draw).to(dtype), torch.randint(10, (n,), generator=draw)

    return Task("made", part(), part(), part(), classification=True, outputs=10)


def losses(dtype=torch.float64) -> list[MetaLoss]:
    return [MetaLoss(tree, None, classification=True).to(dtype) for tree in TREES]


def apart(a, b) -> float:
    """Norm of the difference over the larger norm."""
    a, b = (torch.cat([t.detach().reshape(-1) for t in side]) for side in (a, b))
    return float((a - b).norm() / max(a.norm(), b.norm()))


# --- the layers ---


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 4, 2), (3, 5, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_layer_is_pytorchs_to_rounding(name, shape, dtype):
    fast, plain = LAYERS[name]
    x = (3 * torch.randn(shape)).to(dtype)
    before = x.clone()
    for layout in (x, x.transpose(-1, -2), x[..., ::2, :]):  # the last is not contiguous, and may have an odd side
        value, expected = fast(layout), plain(layout)
        assert value.shape == expected.shape and value.dtype == dtype
        torch.testing.assert_close(value, expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_differentiates_twice_and_forward(name):
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LAYERS[name][0], x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(LAYERS[name][0], x)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_goes_through_transforms(name):
    fast, plain = LAYERS[name]
    x, t = torch.randn(2, 5, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(vmap(fast, in_dims=1)(x), vmap(plain, in_dims=1)(x))
    along = [vmap(lambda d, layer=layer: jvp(layer, (x,), (d,))[1])(torch.stack([t, 2 * t])) for layer in (fast, plain)]
    torch.testing.assert_close(*along)
    curvature = [hessian(lambda z, layer=layer: layer(z).pow(3).sum())(x[:1]) for layer in (fast, plain)]
    torch.testing.assert_close(*curvature)


def test_tanh_of_extremes_and_scalars():
    x = torch.tensor([0.0, -0.0, 1e-30, 100.0, -100.0, torch.inf, -torch.inf, torch.nan])
    torch.testing.assert_close(Tanh()(x), torch.tanh(x), equal_nan=True)
    torch.testing.assert_close(Tanh()(torch.tensor(0.5)), torch.tanh(torch.tensor(0.5)))


def test_state_of_lenet5_is_that_of_the_usual_layers():
    plain = build_model("lenet5", images(4))
    model = faster(copy.deepcopy(plain))
    assert sum(isinstance(m, (Tanh, HalvingPool)) for m in model.modules()) == 6
    assert list(model.state_dict()) == list(plain.state_dict())
    again = usual(copy.deepcopy(model))
    assert [type(m) for m in again.modules()] == [type(m) for m in plain.modules()]


def test_layers_are_exchanged_wherever_they_stand():
    shared = nn.Tanh()
    hooked = nn.Tanh()
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    inner = nn.Sequential(shared, nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(2, 2))
    model = nn.Sequential(shared, nn.Conv2d(1, 1, 1), shared, inner, hooked, nn.AvgPool2d(3)).double()
    plain, x = copy.deepcopy(model), torch.randn(2, 1, 12, 12, dtype=torch.float64)
    fast = faster(model)
    assert fast[0] is fast[2] is fast[3][0] and isinstance(fast[0], Tanh)
    assert isinstance(fast[3][2], HalvingPool) and type(fast[3][1]) is type(fast[5]) is nn.AvgPool2d
    assert type(fast[4]) is nn.Tanh
    torch.testing.assert_close(fast(x), plain(x))


# --- the shared linearisation ---


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules).double()


CHAINS = {
    "lenet5": lambda: build_model("lenet5", images(1)),
    "strided": lambda: chain(nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    "padded": lambda: chain(nn.Conv2d(1, 4, 3, padding="same", dilation=2), nn.Sigmoid(), nn.Flatten()),
    "faster": lambda: faster(build_model("lenet5", images(1))),
    "linear": lambda: chain(nn.Identity(), nn.Flatten(), nn.Linear(784, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_linearisation_is_the_jvp(name):
    model, x = CHAINS[name](), images(6).train[0]
    weights = tuple(p.detach() for p in model.parameters())
    names = [name for name, _ in model.named_parameters()]
    product = Linearisation.of(model, x)
    for _ in range(2):  # the second finds what the first kept
        l = tuple(torch.randn_like(w) for w in weights)
        expected = jvp(lambda *w: functional_call(model, dict(zip(names, w, strict=True)), (x,)), weights, l)[1]
        assert apart([product(l)], [expected]) < 1e-12


def test_linearisation_is_refused_where_it_does_not_apply():
    x = torch.randn(2, 3, 8, 8)
    frozen, hooked, own = (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)) for _ in range(3))
    frozen[1].bias.requires_grad_(False)
    hooked[1].register_forward_hook(lambda module, x, z: 2 * z)
    own[1].__class__ = type("Own", (nn.Linear,), {"forward": lambda self, x: 2 * nn.Linear.forward(self, x)})
    shared = nn.Linear(192, 192)
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    circular = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, padding_mode="circular"), nn.Flatten())
    for model in (circular, frozen, hooked, own, norm, nn.Sequential(nn.Flatten(), shared, shared), nn.Linear(8, 2)):
        assert Linearisation.of(model, x) is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_lockstep_of_lenet5_is_higher_on_the_usual_layers(dtype, tolerance):
    task = images(8, dtype=dtype)
    model = build_model("lenet5", task)
    config = Config(batch_size=8, dtype=str(dtype).removeprefix("torch."))
    rest = ([task.train], task.validation, task.task_loss, config, [1, 2])
    together = jvp_engine(losses(dtype), faster(copy.deepcopy(model)), *rest)
    for loss, gradient in zip(losses(dtype), together, strict=True):
        (expected,) = unroll.higher_engine([loss], model, *rest)
        assert apart(gradient, expected) < tolerance
        (alone,) = jvp_engine([loss], model, *rest)
        assert apart(gradient, alone) < tolerance


# --- base training ---


@pytest.mark.parametrize(("name", "shape"), [("lenet5", (1, 28, 28)), ("resnet18", (3, 8, 8))])
def test_base_training_is_that_of_pytorch(name, shape):
    task = images(8, shape)
    model = build_model(name, task)
    config = dataclasses.replace(Config(batch_size=8, dtype="float64"), base_learning_rate=0.01)
    loss = losses()[0]
    problem = Problem(task, model)
    (session,) = FORMS["sessions"]([loss], problem, config)
    plain = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(
        plain.parameters(),
        lr=0.01,
        momentum=config.base_momentum,
        nesterov=config.base_nesterov,
        weight_decay=config.base_weight_decay,
    )
    for _ in range(3):
        session.step(task.train, None)
        optimiser.zero_grad()
        loss(plain(task.train[0]), task.train[1]).backward()
        optimiser.step()
    assert apart(session.model.state_dict().values(), plain.state_dict().values()) < 1e-9


def test_layout_is_a_setting_and_randomness_is_found_out():
    for name in ("lenet5", "resnet18", "allcnnc"):
        task = images(4, (1, 28, 28))
        model = build_model(name, task)
        problem = Problem(task, model)
        assert problem.layout is torch.contiguous_format, name
        assert problem.draws == (name == "allcnnc"), name
        assert Problem(task, model, Config(channels_last=True)).layout is torch.channels_last, name
