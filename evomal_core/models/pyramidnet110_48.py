"""PyramidNet of 110 layers, widened by 48 (Han et al. 2017) (section IV-B)."""

from torch import nn

from .blocks import PadChannels, Residual, activation, check_images, convolve, head, plain
from .initialisation import chain, fan_out_normal, xavier_uniform

DEPTH, ALPHA, STEM = 110, 48, 16
BLOCKS_A_STAGE = (DEPTH - 2) // 6  # 18, of two convolutions each, in three stages


def block(channels: int, width: int, stride: int) -> Residual:
    """(B, channels, h, w) -> (B, width, ⌈h / stride⌉, ⌈w / stride⌉).

    BatchNorm → 3×3 convolution → BatchNorm → ReLU → 3×3 convolution → BatchNorm. The shortcut is x with zeros in the
    further channels, averaged over 2×2 where the stride is 2.
    """
    body = nn.Sequential(
        *(nn.BatchNorm2d(channels), plain(channels, width, 3, stride)),
        *(activation(width), convolve(width, width, 3)),
    )
    pooling = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
    return Residual(body, nn.Sequential(*pooling, PadChannels(width - channels)))


def pyramidnet110_48(input_shape: tuple[int, ...], outputs: int, released: bool = False) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Stem 3×3 of 16 channels → BatchNorm; 54 basic blocks, whose width grows evenly from 16 to 64 in steps of 48 / 54,
    rounded; BatchNorm → ReLU; one Linear. 1,772,706 parameters with 10 outputs, 1,778,556 with 100, on colour images.
    torchvision has no such model.

    Args:
        released: the form of the released code, which has 10 outputs, whatever `outputs` says.
    """
    check_images("pyramidnet110_48", input_shape)
    channels, layers = STEM, [convolve(input_shape[0], STEM, 3)]
    for i in range(3 * BLOCKS_A_STAGE):
        width = round(STEM + (i + 1) * ALPHA / (3 * BLOCKS_A_STAGE))
        layers.append(block(channels, width, 2 if i in (BLOCKS_A_STAGE, 2 * BLOCKS_A_STAGE) else 1))
        channels = width
    layers += [activation(channels), *head(channels, 10 if released else outputs)]
    return chain(fan_out_normal(linear=xavier_uniform), *layers)
