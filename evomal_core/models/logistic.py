"""Logistic regression: one Linear (section IV-B). With a single output it is linear regression."""

from torch import nn

from .mlp import mlp


def logistic(input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """x (B, *input_shape) -> z (B, outputs). Images are flattened first."""
    return mlp(input_shape, outputs, hidden=())
