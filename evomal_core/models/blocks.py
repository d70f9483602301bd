"""Pieces that several architectures share."""

import math

import torch
from torch import Tensor, nn


def check_images(model: str, shape: tuple[int, ...], least: int = 1, most: float = math.inf) -> None:
    """Raise ValueError unless `shape` is (channels, height, width) with sides of `least` to `most` pixels."""
    if len(shape) != 3 or min(shape[1:]) < least or max(shape[1:]) > most:
        sides = f" with sides of at least {least}" * (least > 1) + f" and at most {most}" * (most < math.inf)
        raise ValueError(f"{model} expects inputs of shape (channels, height, width){sides}, got {tuple(shape)}")


def head(features: int, outputs: int) -> tuple[nn.Module, ...]:
    """Global average pooling and one Linear: (B, features, h, w) -> (B, outputs)."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, outputs)


def plain(channels: int, width: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Convolution: (B, channels, h, w) -> (B, width, ⌈h / stride⌉, ⌈w / stride⌉)."""
    return nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=bias)


def convolve(channels: int, width: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Sequential:
    """Convolution → BatchNorm: (B, channels, h, w) -> (B, width, ⌈h / stride⌉, ⌈w / stride⌉)."""
    return nn.Sequential(plain(channels, width, kernel, stride, bias), nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    """(B, channels, h, w) -> (B, width, ⌈h / stride⌉, ⌈w / stride⌉): ReLU(x + two 3×3 convolutions of x)."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(convolve(channels, width, 3, stride), nn.ReLU(), convolve(width, width, 3))
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else convolve(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class PreActivation(nn.Module):
    """(B, channels, h, w) -> (B, width, ⌈h / stride⌉, ⌈w / stride⌉): a residual block whose activation comes first.

    With a = ReLU(BatchNorm(x)) it is x + body(a), or, where the shape changes, a 1×1 convolution of a + body(a).
    """

    def __init__(self, channels: int, width: int, stride: int, body: nn.Module):
        super().__init__()
        self.activation, self.body = activation(channels), body
        same = stride == 1 and channels == width
        self.shortcut = None if same else plain(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = self.activation(x)
        return self.body(a) + (x if self.shortcut is None else self.shortcut(a))


def activation(channels: int) -> nn.Sequential:
    """BatchNorm → ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def basic(channels: int, width: int, stride: int) -> PreActivation:
    """Pre-activation block of two 3×3 convolutions."""
    body = nn.Sequential(plain(channels, width, 3, stride), activation(width), plain(width, width, 3))
    return PreActivation(channels, width, stride, body)


class Residual(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Side(nn.Module):
    """Two branches side by side: x (B, channels, h, w) -> their channels one behind another (B, a + b, h, w)."""

    def __init__(self, a: nn.Module, b: nn.Module):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], dim=1)


class PadChannels(nn.Module):
    """x (B, c, h, w) -> (B, c + extra, h, w) with zeros in the further channels."""

    def __init__(self, extra: int):
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.extra))
