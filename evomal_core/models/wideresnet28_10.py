"""Wide ResNet 28-10 (Zagoruyko and Komodakis 2016) (section IV-B)."""

from torch import nn

from .blocks import activation, basic, check_images, head, plain
from .initialisation import chain, fan_out_normal, xavier_uniform


def wideresnet28_10(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Stem 3×3 of 16 channels; three times four pre-activation blocks of 160, 320 and 640 channels, without Dropout [R];
    BatchNorm → ReLU; one Linear. 36,479,194 parameters with 10 outputs, 36,536,884 with 100, on colour images.
    torchvision's wide_resnet50_2 is another network, of wide bottlenecks for images of 224 pixels.
    """
    check_images("wideresnet28_10", input_shape)
    layers: list[nn.Module] = [plain(input_shape[0], 16, 3)]
    for channels, width, stride in ((16, 160, 1), (160, 320, 2), (320, 640, 2)):
        layers += [basic(channels, width, stride), *(basic(width, width, 1) for _ in range(3))]
    return chain(fan_out_normal(linear=xavier_uniform), *layers, activation(640), *head(640, outputs))
