"""LeNet-5 (LeCun et al. 1998) with tanh and average pooling (section IV-B)."""

from torch import nn

from .initialisation import chain, xavier_uniform


def lenet5(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, 1, 28, 28) -> z (B, outputs). 44,426 parameters with 10 outputs."""
    if tuple(input_shape) != (1, 28, 28):
        raise ValueError(f"lenet5 expects inputs of shape (1, 28, 28), got {tuple(input_shape)}")
    return chain(
        xavier_uniform,
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),  # (B, 6, 12, 12)
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),  # (B, 16, 4, 4)
        *(nn.Flatten(), nn.Linear(256, 120), nn.Tanh()),  # (B, 120)
        *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, outputs)),
    )
