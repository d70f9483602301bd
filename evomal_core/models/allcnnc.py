"""All-CNN-C (Springenberg et al. 2015) with BatchNorm (section IV-B)."""

from torch import nn

from evomal_core.models.initialisation import kaiming_normal

# (channels, kernel, stride); 0 channels: the number of outputs
LAYERS = (
    *((96, 3, 1), (96, 3, 1), (96, 3, 2)),
    *((192, 3, 1), (192, 3, 1), (192, 3, 2)),
    *((192, 3, 1), (192, 1, 1), (0, 1, 1)),
)


def allcnnc(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Nine times convolution (with bias) → BatchNorm → ReLU, the last without ReLU [R]; Dropout 0.5 after the third and
    the sixth; global average pooling. 1,372,254 parameters with 10 outputs, 1,389,804 with 100, on colour images.
    """
    if len(input_shape) != 3:
        raise ValueError(f"allcnnc expects inputs of shape (channels, height, width), got {tuple(input_shape)}")
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for i, (width, kernel, stride) in enumerate(LAYERS, start=1):
        width = width or outputs
        layers += [nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()] if i < len(LAYERS) else []
        layers += [nn.Dropout(0.5)] if i in (3, 6) else []
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.initialisation = kaiming_normal
    return model
