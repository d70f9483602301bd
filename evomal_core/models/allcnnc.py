"""All-CNN-C (Springenberg et al. 2015) with BatchNorm (section IV-B)."""

import itertools

from torch import nn

from .blocks import check_images
from .initialisation import chain, kaiming_normal

# The first eight of nine convolutions; the last has as many channels as there are outputs.
CHANNELS = (96, 96, 96, 192, 192, 192, 192, 192)
KERNELS = (3, 3, 3, 3, 3, 3, 3, 1, 1)
STRIDES = (1, 1, 2, 1, 1, 2, 1, 1, 1)


def allcnnc(input_shape: tuple[int, ...], outputs: int, released: bool = False) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Nine times convolution (with bias) → BatchNorm → ReLU, the last without ReLU [R]; Dropout 0.5 after the third and
    the sixth; global average pooling. 1,372,254 parameters with 10 outputs, 1,389,804 with 100, on colour images.
    torchvision has no such model.

    Args:
        released: the form of the released code, which has no ReLU after the third and the sixth convolution and pools
            over the top left 6×6 features alone, of 8×8 on a 32×32 image. The parameters are the same.
    """
    check_images("allcnnc", input_shape, *((21, 60) if released else ()))
    layers: list[nn.Module] = []
    channels = itertools.pairwise((input_shape[0], *CHANNELS, outputs))
    for i, ((before, after), kernel, stride) in enumerate(zip(channels, KERNELS, STRIDES, strict=True), start=1):
        layers += [nn.Conv2d(before, after, kernel, stride, padding=kernel // 2), nn.BatchNorm2d(after)]
        layers += [nn.ReLU()] if i < len(KERNELS) and not (released and i in (3, 6)) else []
        layers += [nn.Dropout(0.5)] if i in (3, 6) else []
    pooling = nn.AvgPool2d(6, stride=10) if released else nn.AdaptiveAvgPool2d(1)
    return chain(kaiming_normal, *layers, pooling, nn.Flatten())
