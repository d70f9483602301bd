"""PyTorch's layers that take long on a CPU, computed otherwise there: the same numbers to rounding."""

import numpy as np
import torch
from torch import Tensor, nn

from . import private
from .chain import Chain, hooked


class _Tanh(torch.autograd.Function):
    """tanh by NumPy, whose vectorised kernel takes a tenth of `torch.tanh`'s time; transforms of `torch.func` go through."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        a = torch.empty_like(x)
        np.tanh(x.detach().numpy(), out=a.numpy())
        return a

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return private.tanh_backward(g, *ctx.saved_tensors)

    jvp = backward  # elementwise: the derivative is its own transpose

    @staticmethod
    def vmap(info, dims, x: Tensor) -> tuple[Tensor, int]:
        return _Tanh.apply(x), dims[0]


class Tanh(nn.Tanh):
    """`nn.Tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        fast = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        return _Tanh.apply(x) if fast else super().forward(x)


class HalvingPool(nn.AvgPool2d):
    """`nn.AvgPool2d(2)`: x (…, h, w) -> (…, h / 2, w / 2).

    On a CPU as the product of each two rows, end to end, with a (2 w, w / 2) matrix of 0 and ¼: a third of the time.
    """

    def __init__(self):
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        *_, h, w = x.shape
        if x.device.type != "cpu" or h % 2 or w % 2 or not x.is_contiguous():
            return super().forward(x)
        quarter = torch.eye(w // 2, dtype=x.dtype).repeat_interleave(2, 0).repeat(2, 1) / 4
        return (x.reshape(-1, 2 * w) @ quarter).view(*x.shape[:-2], h // 2, w // 2)


def faster(model: nn.Module) -> nn.Module:
    """The model itself, on a CPU with its `nn.Tanh` and halving `nn.AvgPool2d` replaced with the layers of this file.

    A chain of Linear layers stays as it is: its activations are computed with it.
    """
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    return model if Chain.of(model) or not on_cpu else _replaced(model, _FASTER)


def usual(model: nn.Module) -> nn.Module:
    """The model itself, with PyTorch's own layers again."""
    return _replaced(model, _USUAL)


def _halves(pool: nn.AvgPool2d) -> bool:
    """Does the pooling halve height and width, and nothing else?"""
    plain = not pool.padding and not pool.ceil_mode and pool.divisor_override is None
    return plain and pool.kernel_size in (2, (2, 2)) and pool.stride in (2, (2, 2))


_FASTER = {nn.Tanh: lambda old: Tanh(), nn.AvgPool2d: lambda old: HalvingPool() if _halves(old) else old}
_USUAL = {Tanh: lambda old: nn.Tanh(), HalvingPool: lambda old: nn.AvgPool2d(2)}


def _replaced(model: nn.Module, rules: dict) -> nn.Module:
    """Exchange layers of exactly these types, each for one new layer however often it is registered."""
    made: dict[nn.Module, nn.Module] = {}
    for name, old in list(model.named_modules(remove_duplicate=False)):
        if name and type(old) in rules and not hooked(old):
            made.setdefault(old, rules[type(old)](old).train(old.training))
            model.set_submodule(name, made[old])
    return model
