"""Pre-activation ResNet-101 (He et al. 2016, Identity mappings in deep residual networks) for small images (section IV-B)."""

from torch import nn

from .blocks import PreActivation, activation, basic, check_images, head, plain
from .initialisation import chain, fan_out_normal, kaiming_normal

STAGES = ((64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2))  # (width, blocks, stride of the first)


def bottleneck(channels: int, width: int, stride: int) -> PreActivation:
    """(B, channels, h, w) -> (B, width, ⌈h / stride⌉, ⌈w / stride⌉) through width / 4 channels."""
    inner = width // 4
    first, second = plain(channels, inner, 1), plain(inner, inner, 3, stride)
    body = nn.Sequential(first, activation(inner), second, activation(inner), plain(inner, width, 1))
    return PreActivation(channels, width, stride, body)


def preresnet101(input_shape: tuple[int, ...], outputs: int, released: bool = False) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Stem 3×3; 3, 4, 23 and 3 bottlenecks; no BatchNorm between the last block and the pooling [R]. 42,501,194 parameters
    with 10 outputs, 42,685,604 with 100, on colour images. torchvision's resnet101 is not used: it activates behind the
    sum, and its 7×7 stem and pooling would leave 1×1 features of a 32×32 image.

    Args:
        released: the form of the released code, with basic blocks in the place of bottlenecks, which makes 67 layers:
            41,350,730 parameters with 10 outputs, 41,396,900 with 100.
    """
    check_images("preresnet101", input_shape)
    block, factor = (basic, 1) if released else (bottleneck, 4)
    channels, layers = 64, [plain(input_shape[0], 64, 3)]
    for width, count, stride in STAGES:
        for i in range(count):
            layers.append(block(channels, factor * width, stride if i == 0 else 1))
            channels = factor * width
    return chain(fan_out_normal(linear=kaiming_normal), *layers, *head(channels, outputs))
