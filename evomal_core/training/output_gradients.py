"""The gradients of losses on the outputs of a base model, without the base model."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..losses.elementwise import check_target
from .acceleration import accelerated


def output_gradients(target: torch.Tensor) -> Callable[[Sequence[nn.Module], torch.Tensor], torch.Tensor]:
    """A function (losses, outputs) -> dL_k/dz (K, B, C), for outputs (B, C), or (K, B, C) with one for each loss.

    Args:
        target: class indices (B,), or values (B, C); the same at every call.
    """
    form = accelerated("output_gradients")
    return form(target) if form else lambda losses, outputs: _by_autograd(losses, outputs, target)


def _by_autograd(losses, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    check_target(outputs, target)
    each = outputs if outputs.ndim > 2 else outputs.expand(len(losses), *outputs.shape)
    results = []
    with torch.enable_grad():
        for loss, z in zip(losses, each, strict=True):
            z = z.detach().requires_grad_()
            results.append(torch.autograd.grad(loss(z, target), z)[0])
    return torch.stack(results)
