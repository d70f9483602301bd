"""VGG-16 (Simonyan and Zisserman 2015) with BatchNorm and one Linear (section IV-B)."""

import itertools

from torch import nn

from .blocks import check_images, convolve, head
from .initialisation import chain, kaiming_normal

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # 2×2 maximum pooling behind each


def vgg16(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Thirteen times 3×3 convolution (with bias) → BatchNorm → ReLU, and one Linear. 14,728,266 parameters with 10 outputs,
    14,774,436 with 100, on colour images. torchvision's vgg16_bn is not used: its classifier for images of 224 pixels has
    two further Linear of 4096, with 120 million parameters.

    Pooling rounds up and the features are averaged, which changes nothing on 32×32 images, where they are 1×1.
    """
    check_images("vgg16", input_shape)
    channels = itertools.pairwise((input_shape[0], *itertools.chain(*STAGES)))
    layers: list[nn.Module] = []
    for stage in STAGES:
        for before, after in itertools.islice(channels, len(stage)):
            layers += [convolve(before, after, 3, bias=True), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
    return chain(kaiming_normal, *layers, *head(512, outputs))
