"""The image models: sizes, layouts against forwards written out by hand, initial weights, training, meta-gradients, vmap."""

import copy
import math
import pickle

import pytest
import torch
from test_convolutions import apart
from test_models import generator
from torch import nn
from torch.func import functional_call, jvp, vmap
from torch.nn import functional
from torchvision.models import vgg16_bn

from evomal_core import Config, MetaLoss, Task, meta_gradient
from evomal_core.models import build_model, initialise
from evomal_core.models.blocks import PadChannels, Residual
from evomal_core.models.random_layers import seeded
from evomal_core.registry import MODELS
from evomal_core.training import Problem
from evomal_core.training.acceleration import FORMS

# name -> (parameters with 10 outputs, with 100) on colour images of 32×32
COUNTS = {
    "alexnet": (23_272_266, 23_640_996),
    "vgg16": (14_728_266, 14_774_436),
    "allcnnc": (1_372_254, 1_389_804),
    "resnet18": (11_173_962, 11_220_132),
    "preresnet101": (42_501_194, 42_501_194 + 90 * 2049),
    "wideresnet28_10": (36_479_194, 36_536_884),
    "squeezenet": (734_986, 781_156),
    "pyramidnet110_48": (1_772_706, 1_778_556),
    "lenet5": (62_006, 62_006 + 90 * 85),
    "allcnnc released": (1_372_254, 1_389_804),
    "preresnet101 released": (41_350_730, 41_350_730 + 90 * 513),
    "pyramidnet110_48 released": (1_772_706, 1_772_706),  # with 10 outputs, whatever is asked
}
# name -> size of the images that the slow tests take: the two largest models would take a minute on 32×32
SIZES = {"alexnet": 32, "vgg16": 32, "squeezenet": 32, "pyramidnet110_48": 32, "lenet5": 32}
SIZES |= {"preresnet101": 16, "wideresnet28_10": 16, "allcnnc released": 32, "preresnet101 released": 16}
# Weights of convolutions and of Linear: "in" and "out" are N(0, 2 / fan), "xavier" is uniform.
RULES = {"alexnet": ("in", "in"), "vgg16": ("in", "in"), "squeezenet": ("xavier", "xavier")}
RULES |= {"pyramidnet110_48": ("out", "xavier"), "lenet5": ("xavier", "xavier"), "preresnet101": ("out", "in")}
RULES |= {"wideresnet28_10": ("out", "xavier"), "allcnnc": ("in", "in")}


def make(name: str, shape=(3, 32, 32), outputs: int = 10) -> nn.Module:
    """The model with weights of its constructor."""
    name, _, form = name.partition(" ")
    return MODELS[name](shape, outputs, **({"released": True} if form else {}))


def images(size: int, n: int = 2, dtype=torch.float64) -> Task:
    draw = generator(0)

    def part():
        return torch.randn(n, 3, size, size, generator=draw).to(dtype), torch.randint(10, (n,), generator=draw)

    return Task("made", part(), part(), part(), classification=True, outputs=10)


@pytest.fixture(scope="module", params=SIZES)
def problem(request) -> tuple[str, Task, nn.Module]:
    """(name, task of two images a part, model) in float64; no test may change the model."""
    task = images(SIZES[request.param])
    if request.param in MODELS:
        return request.param, task, build_model(request.param, task)
    model = make(request.param, task.input_shape).double()
    initialise(model, generator(0))
    return request.param, task, model


# --- sizes and layouts ---


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("outputs", [10, 100])
def test_parameter_counts(name, outputs):
    with torch.device("meta"):
        model = make(name, outputs=outputs)
        z = model(torch.empty(2, 3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name][outputs == 100]
    assert z.shape == (2, 10 if name == "pyramidnet110_48 released" else outputs)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 33, 33), (3, 48, 40), (3, 60, 60)])
def test_other_images(name, shape):
    with torch.device("meta"):
        assert make(name, shape)(torch.empty(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "shape", "sides"),
    [
        ("lenet5", (1, 15, 32), " with sides of at least 16"),
        ("squeezenet", (3, 32, 7), " with sides of at least 8"),
        ("allcnnc released", (3, 64, 64), " with sides of at least 21 and at most 60"),
        ("alexnet", (784,), ""),
    ],
)
def test_images_that_do_not_fit_are_named(name, shape, sides):
    expected = f"{name.split()[0]} expects inputs of shape (channels, height, width){sides}, got {shape}"
    with pytest.raises(ValueError) as error:
        make(name, shape)
    assert str(error.value) == expected


def test_lenet5_takes_the_smallest_and_odd_sides():
    for shape in ((1, 16, 16), (3, 29, 31)):
        assert make("lenet5", shape)(torch.zeros(2, *shape)).shape == (2, 10)


# Layers in a row: convolutions that do not stand in a shortcut, and Linear
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("alexnet", 8),
        ("vgg16", 13 + 1),
        ("preresnet101", 101),
        ("preresnet101 released", 67 + 1),
        ("wideresnet28_10", 28 - 2),  # three 1×1 convolutions of shortcuts are counted in the name, the Linear is not
        ("pyramidnet110_48", 110),
        ("squeezenet", 1 + 8 * 3 + 1),
    ],
)
def test_depth(name, layers):
    with torch.device("meta"):
        modules = make(name).named_modules()
    kinds = (nn.Conv2d, nn.Linear)
    assert sum(isinstance(m, kinds) and not key.endswith("shortcut") for key, m in modules) == layers


def test_pooling_leaves_what_the_averages_keep():
    x = torch.randn(2, 3, 32, 32)
    for name, features, behind in (("alexnet", (256, 2, 2), -7), ("vgg16", (512, 1, 1), -3)):
        model = make(name).eval()
        assert isinstance(model[behind], nn.AdaptiveAvgPool2d)
        before = model[:behind](x)
        assert before.shape == (2, *features)
        assert torch.equal(model[behind](before), before)


def test_vgg16_has_the_features_of_torchvision():
    model, theirs = make("vgg16").eval(), vgg16_bn().features.eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), model[:-3].state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model[:-3](x), theirs(x))


def test_alexnet_layout():
    kinds = "".join({"Conv2d": "C", "ReLU": "r", "MaxPool2d": "P"}.get(type(m).__name__, "-") for m in make("alexnet"))
    assert kinds.startswith("CrPCrPCrCrCrP-")
    convolutions = [m for m in make("alexnet") if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions] == [
        *((64, 3, 2), (192, 3, 1), (384, 3, 1), (256, 3, 1), (256, 3, 1))
    ]


def test_allcnnc_of_the_released_code():
    plain, released = make("allcnnc").eval(), make("allcnnc released").eval()
    kinds = [[type(m).__name__ for m in model] for model in (plain, released)]
    assert [k.count("ReLU") for k in kinds] == [8, 6]
    for k in kinds:
        before = [sum(kind == "Conv2d" for kind in k[:i]) for i, kind in enumerate(k) if kind == "Dropout"]
        assert before == [3, 6]
    assert [kinds[1][i - 1] for i, kind in enumerate(kinds[1]) if kind == "Dropout"] == ["BatchNorm2d"] * 2
    features = released[:-2](torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 10, 8, 8)
    torch.testing.assert_close(released[-2:](features), features[..., :6, :6].mean((2, 3)))


# --- forwards written out by hand, over the weights in their order ---


class ByHand:
    """Layers as functions; each takes the next of the model's weights. BatchNorm uses the batch's statistics."""

    def __init__(self, model: nn.Module):
        self.weights = iter(model.parameters())

    def conv(self, x, stride=1, bias=False):
        weight = next(self.weights)
        b = next(self.weights) if bias else None
        return functional.conv2d(x, weight, b, stride, padding=weight.shape[-1] // 2)

    def norm(self, x):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        weight, bias = next(self.weights)[:, None, None], next(self.weights)[:, None, None]
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def active(self, x):
        return torch.relu(self.norm(x))

    def linear(self, x):
        return x.mean((2, 3)) @ next(self.weights).T + next(self.weights)


def preactivated(hand: ByHand, x, stages, widen: bool):
    """He et al. 2016: in each stage the first block changes the shape by a 1×1 convolution of the activation."""
    for stage, (blocks, convolutions) in enumerate(stages):
        for i in range(blocks):
            stride = 2 if i == 0 and stage else 1
            a = h = hand.active(x)
            for j in range(convolutions):
                h = hand.active(h) if j else h
                h = hand.conv(h, stride if j == (1 if convolutions == 3 else 0) else 1)
            changes = i == 0 and (stage or widen)
            x = h + (hand.conv(a, stride) if changes else x)
    return x


def preresnet101(hand: ByHand, x):
    return hand.linear(preactivated(hand, hand.conv(x), [(n, 3) for n in (3, 4, 23, 3)], widen=True))


def preresnet101_released(hand: ByHand, x):
    return hand.linear(preactivated(hand, hand.conv(x), [(n, 2) for n in (3, 4, 23, 3)], widen=False))


def wideresnet28_10(hand: ByHand, x):
    return hand.linear(hand.active(preactivated(hand, hand.conv(x), [(4, 2)] * 3, widen=True)))


def squeezenet(hand: ByHand, x):
    def unit(x):
        return torch.relu(hand.norm(hand.conv(x, bias=True)))

    def fire(x):
        s = unit(x)
        return torch.cat([unit(s), unit(s)], 1)

    x = fire(functional.max_pool2d(unit(x), 2))  # fire 2
    x = x + fire(x)
    x = functional.max_pool2d(fire(x), 2)  # 4
    x = x + fire(x)
    x = fire(x)
    x = x + fire(x)
    x = functional.max_pool2d(fire(x), 2)  # 8
    x = x + fire(x)
    return hand.conv(x, bias=True).mean((2, 3))


def pyramidnet110_48(hand: ByHand, x):
    x = hand.norm(hand.conv(x))
    for i in range(54):
        stride = 2 if i in (18, 36) else 1
        h = hand.norm(hand.conv(hand.active(hand.conv(hand.norm(x), stride))))
        assert h.shape[1] == math.floor(16 + (i + 1) * 48 / 54 + 0.5)
        x = functional.avg_pool2d(x, 2) if stride == 2 else x
        x = torch.cat([x, torch.zeros(len(x), h.shape[1] - x.shape[1], *x.shape[2:], dtype=x.dtype)], 1) + h
    return hand.linear(hand.active(x))


BY_HAND = {f.__name__.replace("_released", " released"): f for f in (preresnet101, preresnet101_released)}
BY_HAND |= {f.__name__: f for f in (wideresnet28_10, squeezenet, pyramidnet110_48)}


@torch.no_grad()
def test_forward_is_the_one_by_hand(problem):
    name, task, model = problem
    if name not in BY_HAND:
        pytest.skip("a plain chain, whose layers are tested")
    hand = ByHand(model)
    expected = BY_HAND[name](hand, task.train[0])
    assert next(hand.weights, None) is None
    assert apart([copy.deepcopy(model).train()(task.train[0])], [expected]) < 1e-10


# --- pieces ---


def test_padded_shortcut_goes_through_transforms():
    block = Residual(nn.Conv2d(2, 5, 3, padding=1), nn.Sequential(nn.AvgPool2d(1), PadChannels(3))).double()
    x, t = torch.randn(2, 4, 2, 3, 3, dtype=torch.float64)
    padded = PadChannels(3)(x)
    assert torch.equal(padded[:, :2], x) and (padded[:, 2:] == 0).all() and padded.shape == (4, 5, 3, 3)
    assert torch.equal(jvp(PadChannels(3), (x,), (t,))[1], PadChannels(3)(t))
    assert torch.equal(PadChannels(0)(x), x)
    one_by_one = torch.stack([block(image[None]) for image in x])
    torch.testing.assert_close(vmap(lambda image: block(image[None]))(x), one_by_one)
    assert torch.autograd.gradcheck(block, x.clone().requires_grad_(), check_forward_ad=True)


# --- initial weights ---


def test_initial_weights_follow_their_rule(problem):
    name, _, model = problem
    rules = dict(zip((nn.Conv2d, nn.Linear), RULES[name.split()[0]], strict=True))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert layer.bias is None or (layer.bias == 0).all()
            weight, rule = layer.weight.detach(), rules[type(layer)]
            fan_in, fan_out = weight[0].numel(), weight[:, 0].numel()
            variance = 2 / {"in": fan_in, "out": fan_out, "xavier": fan_in + fan_out}[rule]
            n = weight.numel()
            assert weight.square().mean().item() == pytest.approx(variance, rel=8 * math.sqrt(2 / n))
            assert abs(weight.mean().item()) < 6 * math.sqrt(variance / n)
            largest = weight.abs().max().item() / math.sqrt(variance)
            assert largest <= math.sqrt(3) if rule == "xavier" else largest > math.sqrt(3)


@pytest.mark.parametrize("name", ["squeezenet", "pyramidnet110_48"])
def test_initialise_depends_on_its_generator_alone(name):
    task = images(16, dtype=torch.float32)
    one, other = build_model(name, task), build_model(name, task).to(memory_format=torch.channels_last)
    other(task.train[0])  # moves the running statistics
    other = pickle.loads(pickle.dumps(other))  # the rule goes with a copy
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for model in (one, other):
        initialise(model, generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


# --- training ---


def test_nothing_is_in_place_or_random(problem):
    name, task, model = problem
    assert not any(getattr(m, "inplace", False) for m in model.modules())
    made = Problem(task, model)
    assert made.draws == (name == "allcnnc released")
    before = task.train[0].clone()
    z = copy.deepcopy(model)(task.train[0])
    assert z.shape == (2, 10) and torch.isfinite(z).all()
    assert torch.equal(before, task.train[0])


def test_training_step_is_that_of_pytorch(problem):
    _, task, model = problem
    config = Config(batch_size=2, dtype="float64")
    loss = MetaLoss("square(sub(y, f))", None, classification=True).double()
    made = Problem(task, model)
    (session,) = FORMS["sessions"]([loss], made, config)
    plain = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(plain.parameters(), **config.sgd)
    session.step(task.train, 3 if made.draws else None)
    with seeded(3, task.device):
        loss(plain(task.train[0]), task.train[1]).backward()
    optimiser.step()
    # Squared norms, tensor by tensor: of the difference, and of what the step changed.
    difference = change = 0.0
    weights = (m.parameters() for m in (session.model, plain, model))
    for got, expected, start in zip(*weights, strict=True):
        difference += float((got - expected).detach().square().sum())
        change += float((expected - start).detach().square().sum())
    assert change > 0
    assert math.sqrt(difference / change) < 1e-12
    for got, expected in zip(session.model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_meta_gradient_is_that_of_higher(problem):
    _, task, model = problem
    loss = MetaLoss("square(sub(y, f))", None, classification=True).double()
    small = sum(p.numel() for p in model.parameters()) < 2_000_000
    config = Config(batch_size=2, dtype="float64", inner_steps=2 if small else 1)
    data = (model, task.train, task.validation, task.task_loss, config)
    got, expected = (meta_gradient(loss, *data, engine=engine, seed=1) for engine in ("jvp", "higher"))
    assert all(torch.isfinite(g).all() for g in expected)
    assert apart(got, expected) < 1e-8


def test_vmap_over_copies_is_one_by_one(problem):
    _, task, model = problem
    draws = generator(2)
    stacks = {
        key: torch.stack([p.detach(), p.detach() + 0.01 * torch.randn(p.shape, generator=draws)])
        for key, p in model.named_parameters()
    }
    buffers = {key: torch.stack([b, b]) for key, b in model.named_buffers()}
    runner = copy.deepcopy(model).train()
    for module in runner.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    single = [{key: t[k].clone() for key, t in (stacks | buffers).items()} for k in range(2)]
    with torch.no_grad():
        z = vmap(lambda w, b: functional_call(runner, (w, b), (task.train[0],)))(stacks, buffers)
        one_by_one = [functional_call(runner, state, (task.train[0],)) for state in single]
    assert apart(z, one_by_one) < 1e-10
    for key, b in buffers.items():
        torch.testing.assert_close(b, torch.stack([state[key] for state in single]), rtol=1e-9, atol=1e-12, msg=key)
