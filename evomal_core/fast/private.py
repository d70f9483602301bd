"""Functions of PyTorch that its public interface lacks, each with a public fallback for a release in which it is gone.

Nothing else in the package uses a private function. `tests/test_private.py` holds every fallback to its function.
"""

import torch
from torch import Tensor
from torch.optim.sgd import sgd

aten = torch.ops.aten


def softmax_backward_fallback(m: Tensor, p: Tensor) -> Tensor:
    """S m with S = diag(p) - p p^T, the softmax's Jacobian along dimension -2."""
    weighted = m * p
    return weighted - p * weighted.sum(-2, keepdim=True)


def gate_relu_fallback(signal: Tensor, a: Tensor) -> Tensor:
    """The signal where the output `a` of a ReLU is positive, else 0, in the memory of `signal`."""
    return signal.masked_fill_(a <= 0, 0)


def tanh_backward_fallback(signal: Tensor, a: Tensor) -> Tensor:
    """The signal times the derivative 1 - a^2 of tanh, from its output."""
    return signal * (1 - a * a)


def sigmoid_backward_fallback(signal: Tensor, a: Tensor) -> Tensor:
    """The signal times the derivative a (1 - a) of the logistic function, from its output."""
    return signal * (a * (1 - a))


def add_scaled_fallback(a, b, factor: float) -> tuple[Tensor, ...]:
    """a + factor b, tensor by tensor."""
    return tuple(x + factor * y for x, y in zip(a, b, strict=True))


def fused_sgd_fallback(weights, gradients, momenta, **settings) -> None:
    """One step of `torch.optim.SGD` in place; `momenta` begin at zero and are empty without momentum."""
    sgd(weights, gradients, momenta or [None] * len(weights), dampening=0.0, maximize=False, **settings)


def _softmax_backward(m: Tensor, p: Tensor) -> Tensor:
    return aten._softmax_backward_data(m, p, -2, m.dtype)


def _gate_relu(signal: Tensor, a: Tensor) -> Tensor:
    return aten.threshold_backward.grad_input(signal, a, 0, grad_input=signal)


def _add_scaled(a, b, factor: float) -> tuple[Tensor, ...]:
    return tuple(torch._foreach_add(a, b, alpha=factor))


def _fused_sgd(weights, gradients, momenta, **settings) -> None:
    # From zeros the first step's momentum is the gradient, as torch's is.
    torch._fused_sgd_(weights, gradients, momenta, dampening=0.0, maximize=False, is_first_step=False, **settings)


softmax_backward = _softmax_backward if hasattr(aten, "_softmax_backward_data") else softmax_backward_fallback
gate_relu = _gate_relu if hasattr(aten, "threshold_backward") else gate_relu_fallback
tanh_backward = aten.tanh_backward if hasattr(aten, "tanh_backward") else tanh_backward_fallback
sigmoid_backward = aten.sigmoid_backward if hasattr(aten, "sigmoid_backward") else sigmoid_backward_fallback
add_scaled = _add_scaled if hasattr(torch, "_foreach_add") else add_scaled_fallback
fused_sgd = _fused_sgd if hasattr(torch, "_fused_sgd_") else fused_sgd_fallback
