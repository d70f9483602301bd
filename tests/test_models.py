"""The base models: sizes, shapes, and weights that depend on nothing but their generator."""

import copy
import math

import pytest
import torch
from torch import nn

from evomal_core.models import build_model, initialise
from evomal_core.registry import MODELS
from evomal_core.tasks import Task

SMALL = ("mlp", "logistic", "lenet5", "allcnnc", "resnet18")  # test_image_models.py has the others


def make_task(input_shape=(10,), outputs=1, dtype=torch.float32, n=4) -> Task:
    torch.manual_seed(0)
    x = torch.randn(n, *input_shape, dtype=dtype)
    y = torch.arange(n) % outputs if outputs > 1 else torch.randn(n, 1, dtype=dtype)
    return Task("made", (x, y), (x, y), (x, y), classification=outputs > 1, outputs=outputs)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("name", "input_shape", "outputs", "parameters"),
    [
        ("logistic", (1, 28, 28), 10, 7_850),
        ("mlp", (10,), 1, 10 * 1000 + 1000 * 1000 + 1000 + 2001),
        ("mlp", (1, 28, 28), 10, 784 * 1000 + 1000 * 1000 + 10_000 + 2010),
        ("lenet5", (1, 28, 28), 10, 44_426),
        ("allcnnc", (3, 32, 32), 10, 1_372_254),
        ("allcnnc", (3, 32, 32), 100, 1_389_804),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("resnet18", (3, 32, 32), 100, 11_220_132),
    ],
)
def test_parameter_counts_and_output_shape(name, input_shape, outputs, parameters):
    task = make_task(input_shape, outputs)
    model = build_model(name, task)
    assert sum(p.numel() for p in model.parameters()) == parameters
    z = model(task.train[0])
    assert z.shape == (4, outputs)
    assert torch.isfinite(z).all()


@pytest.mark.parametrize("name", ["mlp", "logistic"])
@pytest.mark.parametrize("input_shape", [(10,), (1, 8, 8)])
def test_mlp_and_logistic_are_plain_chains(name, input_shape):
    model = build_model(name, make_task(input_shape, 10))
    assert type(model) is nn.Sequential
    expected = [nn.Flatten] if len(input_shape) > 1 else []
    expected += [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear] if name == "mlp" else [nn.Linear]
    assert [type(m) for m in model] == expected


def test_allcnnc_layout():
    model = build_model("allcnnc", make_task((3, 32, 32), 10))
    kinds = [type(m).__name__ for m in model]
    convolutions = [m for m in model if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [96, 96, 96, 192, 192, 192, 192, 192, 10]
    assert [m.stride[0] for m in convolutions] == [1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert [m.kernel_size[0] for m in convolutions] == [3, 3, 3, 3, 3, 3, 3, 1, 1]
    assert kinds.count("BatchNorm2d") == 9
    assert kinds.count("ReLU") == 8
    assert kinds[-4:] == ["Conv2d", "BatchNorm2d", "AdaptiveAvgPool2d", "Flatten"]
    before = [sum(k == "Conv2d" for k in kinds[:i]) for i, k in enumerate(kinds) if k == "Dropout"]
    assert before == [3, 6]
    assert model[:-2](torch.zeros(2, 3, 32, 32)).shape == (2, 10, 8, 8)


def test_no_model_changes_its_input_in_place():
    for name in SMALL:
        task = make_task((1, 28, 28), 10)
        model = build_model(name, task)
        assert not any(getattr(m, "inplace", False) for m in model.modules()), name
        before = task.train[0].clone()
        model(task.train[0])
        assert torch.equal(before, task.train[0]), name


@pytest.mark.parametrize("name", [n for n in SMALL if n != "resnet18"])  # which has allcnnc's layers
def test_forward_mode_matches_finite_differences(name):
    task = make_task((1, 28, 28), 10, dtype=torch.float64)
    model = build_model(name, task).eval()
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    tangent = {k: torch.randn(p.shape, dtype=p.dtype, generator=generator(1)) for k, p in parameters.items()}
    buffers = dict(model.named_buffers())

    def forward(p):
        return torch.func.functional_call(model, (p, buffers), (task.train[0],))

    _, out = torch.func.jvp(forward, (parameters,), (tangent,))
    h = 1e-7
    plus, minus = ({k: p + s * h * tangent[k] for k, p in parameters.items()} for s in (1, -1))
    numeric = (forward(plus) - forward(minus)) / (2 * h)
    assert (out - numeric).norm() < 1e-3 * numeric.norm()  # a ReLU may switch within h


@pytest.mark.parametrize("name", SMALL)
def test_initialise_depends_on_its_generator_alone(name):
    task = make_task((1, 28, 28), 10)
    one, other = build_model(name, task), build_model(name, task)
    assert torch.equal(weights(one), weights(other))
    initialise(one, generator(1))
    assert not torch.equal(weights(one), weights(other))
    torch.manual_seed(5)  # the global generator is without effect, and unaffected
    before = torch.get_rng_state()
    other(task.train[0])  # nor does it matter what the model went through (unless it draws Dropout)
    torch.set_rng_state(before)
    initialise(other, generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    initialise(other, generator(2))
    assert not torch.equal(weights(one), weights(other))


def test_build_model_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    task = make_task()
    torch.set_rng_state(before)
    build_model("mlp", task)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_moves_on():
    model, draws = build_model("logistic", make_task()), generator(1)
    initialise(model, draws)
    first = weights(model).clone()
    initialise(model, draws)
    assert not torch.equal(weights(model), first)


def test_initialise_is_in_place_and_keeps_what_points_at_it():
    model = build_model("mlp", make_task())
    before = list(model.parameters())
    initialise(model, generator(1))
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


@pytest.mark.parametrize("name", ["allcnnc", "resnet18"])
def test_initialise_resets_buffers(name):
    model = build_model(name, make_task((3, 16, 16), 10))
    fresh = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.randn(4, 3, 16, 16))
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 1
    with torch.no_grad():
        norm.weight.fill_(3)
        norm.bias.fill_(3)
    initialise(model, generator(1))
    for key, value in model.named_buffers():
        assert torch.equal(value, fresh[key]), key
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


@pytest.mark.parametrize(("name", "input_shape"), [("mlp", (13,)), ("logistic", (1, 28, 28)), ("lenet5", (1, 28, 28))])
def test_xavier_uniform(name, input_shape):
    model = build_model(name, make_task(input_shape, 10))
    initialise(model, generator(4))
    for layer in model:
        if hasattr(layer, "weight"):
            reference = torch.empty_like(layer.weight)
            nn.init.xavier_uniform_(reference)
            bound = math.sqrt(3) * reference.std().item()  # of a uniform distribution, estimated
            assert layer.weight.abs().max() <= 1.1 * bound
            n = layer.weight.numel()
            if n > 1000:
                assert layer.weight.std().item() == pytest.approx(reference.std().item(), rel=4 / math.sqrt(n))
                assert layer.weight.abs().max() > 0.98 * bound
            assert (layer.bias == 0).all()


@pytest.mark.parametrize("name", ["allcnnc", "resnet18"])
def test_kaiming_normal(name):
    model = build_model(name, make_task((3, 16, 16), 10))
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            reference = torch.empty_like(layer.weight)
            nn.init.kaiming_normal_(reference)
            n = layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(reference.std().item(), rel=8 / math.sqrt(n))
            assert abs(layer.weight.mean().item()) < 5 * reference.std().item() / math.sqrt(n)
            assert layer.bias is None or (layer.bias == 0).all()


def test_draws_do_not_depend_on_the_memory_layout():
    task = make_task((3, 16, 16), 10)
    plain, last = build_model("allcnnc", task), build_model("allcnnc", task).to(memory_format=torch.channels_last)
    initialise(plain, generator(1))
    initialise(last, generator(1))
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_do_not_depend_on_the_device():
    task = make_task((1, 28, 28), 10)
    for make in (*(lambda n=n: build_model(n, task) for n in MODELS), lambda: nn.Sequential(nn.Linear(3, 4))):
        on_cpu, on_gpu = make(), make().cuda()
        initialise(on_cpu, generator(1))
        before = torch.cuda.get_rng_state()
        initialise(on_gpu, generator(1))
        assert torch.equal(before, torch.cuda.get_rng_state())
        for a, b in zip(on_cpu.state_dict().values(), on_gpu.state_dict().values(), strict=True):
            assert b.device.type == "cuda"
            assert torch.equal(a, b.cpu())


def test_a_module_without_a_rule_uses_reset_parameters():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
            self.attention = nn.MultiheadAttention(8, 2)
            self.scale = nn.Parameter(torch.ones(8))

        def reset_parameters(self):
            nn.init.normal_(self.scale)

    model = Own()
    model.body(torch.randn(5, 3))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    initialise(model, generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    assert (first["body.1.running_mean"] == 0).all()
    initialise(model, generator(2))
    for key in ("body.0.weight", "body.0.bias", "attention.in_proj_weight", "attention.out_proj.weight", "scale"):
        assert not torch.equal(model.state_dict()[key], first[key]), key
    initialise(model, generator(1))
    for key, value in model.state_dict().items():
        assert torch.equal(value, first[key]), key


def test_a_rule_of_ones_own():
    class Own(nn.Linear):
        @staticmethod
        def initialisation(model, draws):
            model.weight.normal_(generator=draws)

    model = Own(3, 4)
    initialise(model, generator(1))
    assert torch.equal(model.weight, torch.randn(4, 3, generator=generator(1)))
    copied = copy.deepcopy(build_model("mlp", make_task()))
    initialise(copied, generator(1))  # a copy keeps its rule
    assert (copied[0].bias == 0).all()


def test_a_weight_that_no_rule_reaches_is_an_error():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

    with pytest.raises(ValueError, match=r"Sequential.1 has weights of its own.*Own a method reset_parameters"):
        initialise(nn.Sequential(nn.Linear(2, 8), Own()), generator(1))


def test_dtype_of_the_task():
    model = build_model("mlp", make_task(dtype=torch.float64))
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_errors():
    task = make_task()
    with pytest.raises(ValueError, match=r"model must be one of .*Did you mean 'lenet5'"):
        build_model("lenet", task)
    for name in set(MODELS) - {"mlp", "logistic"}:
        with pytest.raises(
            ValueError, match=rf"{name} expects inputs of shape \(channels, height, width\)[^,]*, got \(10,\)"
        ):
            build_model(name, task)
