"""ResNet-18 (He et al. 2016) with the stem for small images (section IV-B)."""

from torch import nn

from .blocks import BasicBlock, check_images, convolve, head
from .initialisation import chain, kaiming_normal


def resnet18(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Stem 3×3 without pooling. 11,173,962 parameters with 10 outputs, 11,220,132 with 100, on colour images. torchvision's
    resnet18 is made for images of 224 pixels: its 7×7 stem and pooling would leave 1×1 features of a 32×32 image.
    """
    check_images("resnet18", input_shape)
    layers: list[nn.Module] = [convolve(input_shape[0], 64, 3), nn.ReLU()]
    for channels, width, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
    return chain(kaiming_normal, *layers, *head(512, outputs))
