"""Private functions of PyTorch stand in one file, each with a fallback of public ones that gives the same."""

import re
from pathlib import Path

import pytest
import torch

import evomal_core
from evomal_core.fast import private

DRAW = torch.Generator().manual_seed(0)


def numbers(*shape, dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fallbacks_are_their_functions(dtype):
    m, z = numbers(3, 4, 5, dtype=dtype), numbers(3, 4, 5, dtype=dtype)
    p = torch.softmax(z, -2)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-7)  # noqa: E731
    close(private.softmax_backward(m, p), private.softmax_backward_fallback(m, p))
    want = torch.func.vjp(lambda x: torch.softmax(x, -2), z)[1](m)[0]
    close(private.softmax_backward(m, p), want)
    for name, function in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        a = function(z)
        for form in (getattr(private, f"{name}_backward"), getattr(private, f"{name}_backward_fallback")):
            close(form(m, a), torch.func.vjp(function, z)[1](m)[0])
    for form in (private.gate_relu, private.gate_relu_fallback):
        signal = m.clone()
        assert form(signal, torch.relu(z)) is signal
        close(signal, m * (z > 0))
    pairs = [[numbers(4, 2, dtype=dtype) for _ in range(3)] for _ in range(2)]
    for form in (private.add_scaled, private.add_scaled_fallback):
        for got, a, b in zip(form(*pairs, 0.3), *pairs, strict=True):
            close(got, a + 0.3 * b)


@pytest.mark.parametrize("settings", [(0.9, True), (0.9, False), (0.0, False)], ids=["nesterov", "momentum", "plain"])
@pytest.mark.parametrize("form", ["fused_sgd", "fused_sgd_fallback"])
def test_both_steps_of_sgd_are_pytorchs(settings, form):
    momentum, nesterov = settings
    rule = {"lr": 0.1, "weight_decay": 0.01, "momentum": momentum, "nesterov": nesterov}
    weights = [numbers(3, 2, dtype=torch.float64), numbers(4, dtype=torch.float64)]
    twins = [w.clone().requires_grad_() for w in weights]
    momenta, optimiser = [torch.zeros_like(w) for w in weights] if momentum else [], torch.optim.SGD(twins, **rule)
    for _ in range(3):
        gradients = [numbers(*w.shape, dtype=torch.float64) for w in weights]
        for twin, g in zip(twins, gradients, strict=True):
            twin.grad = g.clone()
        optimiser.step()
        getattr(private, form)(weights, gradients, momenta, **rule)
    for w, twin in zip(weights, twins, strict=True):
        torch.testing.assert_close(w, twin.detach(), rtol=1e-12, atol=1e-14)


def test_no_other_file_uses_a_private_function():
    pattern = re.compile(r"torch\._[a-z]|torch\.ops|\baten\.|\._conv_forward|\._parameters|\._buffers|\._modules")
    folder = Path(evomal_core.__file__).parent
    users = {str(p.relative_to(folder)) for p in folder.rglob("*.py") if pattern.search(p.read_text(encoding="utf-8"))}
    assert users == {"fast/private.py"}
