"""ResNet-18 (He et al. 2016) with the stem for small images (section IV-B)."""

import torch
from torch import Tensor, nn

from .initialisation import chain, kaiming_normal


def convolve(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias → BatchNorm."""
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    """(B, channels, h, w) -> (B, width, h / stride, w / stride): ReLU(x + two 3×3 convolutions of x)."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(convolve(channels, width, 3, stride), nn.ReLU(), convolve(width, width, 3))
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else convolve(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Stem 3×3 without pooling. 11,173,962 parameters with 10 outputs, 11,220,132 with 100, on colour images.
    """
    if len(input_shape) != 3:
        raise ValueError(f"resnet18 expects inputs of shape (channels, height, width), got {tuple(input_shape)}")
    layers: list[nn.Module] = [convolve(input_shape[0], 64, 3), nn.ReLU()]
    for channels, width, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
    return chain(kaiming_normal, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, outputs))
