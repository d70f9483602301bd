"""SqueezeNet with simple bypass (Iandola et al. 2016), with BatchNorm, for small images (section IV-B)."""

from torch import nn

from .blocks import Residual, Side, check_images, convolve
from .initialisation import chain, xavier_uniform

FIRES = ((128, 16), (128, 16), (256, 32), (256, 32), (384, 48), (384, 48), (512, 64), (512, 64))  # (width, squeezed)


def unit(channels: int, width: int, kernel: int) -> nn.Sequential:
    """Convolution with bias → BatchNorm → ReLU: (B, channels, h, w) -> (B, width, h, w)."""
    return nn.Sequential(convolve(channels, width, kernel, bias=True), nn.ReLU())


def fire(channels: int, width: int, squeezed: int) -> nn.Sequential:
    """(B, channels, h, w) -> (B, width, h, w): squeeze by 1×1, then expand by 1×1 and by 3×3 to half the width each."""
    expand = Side(unit(squeezed, width // 2, 1), unit(squeezed, width // 2, 3))
    return nn.Sequential(unit(channels, squeezed, 1), expand)


def squeezenet(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Stem 3×3 of 96 channels; fire modules 2 to 9, with a shortcut around 3, 5, 7 and 9; 2×2 maximum pooling behind stem,
    fire 4 and fire 8; a 1×1 convolution to the outputs and global average pooling. 734,986 parameters with 10 outputs,
    781,156 with 100, on colour images. torchvision's squeezenet has neither BatchNorm nor shortcuts, and a stem of stride 2.
    """
    check_images("squeezenet", input_shape, least=8)
    layers: list[nn.Module] = [unit(input_shape[0], 96, 3), nn.MaxPool2d(2)]
    channels = 96
    for i, (width, squeezed) in enumerate(FIRES, start=2):
        module = fire(channels, width, squeezed)
        layers += [Residual(module) if channels == width else module]
        layers += [nn.MaxPool2d(2)] if i in (4, 8) else []
        channels = width
    return chain(xavier_uniform, *layers, nn.Conv2d(channels, outputs, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
