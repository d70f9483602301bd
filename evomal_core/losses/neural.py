"""ML3's loss (Bechtle et al. 2021, as in section IV-A): a small network 2-50-50-1, ReLU, no biases, softplus output."""

import torch
from torch.nn import functional

from .elementwise import ElementwiseLoss

SHAPES = ((50, 2), (50, 50), (1, 50))  # of the layers' weights, (out, in)
SIZES = tuple(rows * columns for rows, columns in SHAPES)


class NeuralLoss(ElementwiseLoss):
    """A network applied to (f, y), in that order, element by element; its output is non-negative by softplus.

    Args:
        weights: (2650,), the layers' weights one after another; `fresh` draws them.
        classification, reduction: as in `ElementwiseLoss`.
    """

    kind = "neural"

    def __init__(self, weights, classification: bool = False, non_negative: bool = True, reduction: str = "mean"):
        super().__init__(weights, sum(SIZES), classification, non_negative, reduction)

    @classmethod
    def fresh(cls, generator: torch.Generator, **options) -> "NeuralLoss":
        """Kaiming normal weights [R]."""
        layers = [torch.randn(shape, generator=generator) * (2 / shape[1]) ** 0.5 for shape in SHAPES]
        return cls(torch.cat([layer.flatten() for layer in layers]), **options)

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        layers = [part.view(shape) for part, shape in zip(self.weights.split(SIZES), SHAPES, strict=True)]
        h = torch.stack([f, y], -1)  # (B, C, 2)
        h = torch.relu(functional.linear(h, layers[0]))
        h = torch.relu(functional.linear(h, layers[1]))
        value = functional.linear(h, layers[2]).squeeze(-1)  # (B, C)
        return functional.softplus(value) if self.non_negative else value

    def __str__(self) -> str:
        return "neural(2-50-50-1)"
