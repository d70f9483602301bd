"""LeNet-5 (LeCun et al. 1998) with tanh and average pooling (section IV-B)."""

from torch import nn

from .blocks import check_images
from .initialisation import chain, xavier_uniform


def lenet5(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    The convolutions are not padded. 44,426 parameters with 10 outputs on grey 28×28 images, 62,006 on colour 32×32
    ones. torchvision has no such model.
    """
    check_images("lenet5", input_shape, least=16)
    channels, *sides = input_shape
    h, w = (((side - 4) // 2 - 4) // 2 for side in sides)  # 4 of 28, 5 of 32
    return chain(
        xavier_uniform,
        *(nn.Conv2d(channels, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),  # (B, 6, 12, 12) of a 28×28 image
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),  # (B, 16, h, w)
        *(nn.Flatten(), nn.Linear(16 * h * w, 120), nn.Tanh()),  # (B, 120)
        *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, outputs)),
    )
