"""AlexNet (Krizhevsky et al. 2012) with the convolutions for small images (section IV-B)."""

from torch import nn

from .blocks import check_images
from .initialisation import chain, kaiming_normal


def alexnet(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, channels, height, width) -> z (B, outputs).

    Five 3×3 convolutions with ReLU, the first with stride 2; 2×2 maximum pooling after the first, second and fifth; three
    Linear 1024–4096–4096–outputs, without Dropout [R]. 23,272,266 parameters with 10 outputs, 23,640,996 with 100, on
    colour images. torchvision's alexnet cannot take 32×32 images: its 11×11 convolution of stride 4 and three poolings
    leave nothing of them.

    Pooling rounds up and the features are averaged to 2×2, which changes nothing on 32×32 images, where they are 2×2.
    """
    check_images("alexnet", input_shape)
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for i, width in enumerate((64, 192, 384, 256, 256), start=1):
        layers += [nn.Conv2d(channels, width, 3, stride=2 if i == 1 else 1, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)] if i in (1, 2, 5) else []
        channels = width
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]  # (B, 1024)
    for before, after in ((1024, 4096), (4096, 4096)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return chain(kaiming_normal, *layers, nn.Linear(4096, outputs))
