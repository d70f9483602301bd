"""ML3's loss (Bechtle et al. 2021, as in section IV-A): a small network 2-50-50-1, ReLU, no biases, softplus output."""

import inspect

import torch

from .elementwise import ElementwiseLoss

SHAPES = ((50, 2), (50, 50), (1, 50))  # of the layers' weights, (out, in)
SIZES = tuple(rows * columns for rows, columns in SHAPES)


def network(y, f, first, second, third, non_negative):
    """The network on tensors of one shape, with its layers' weights (out, in)."""
    h = torch.stack([f, y], -1)  # (B, C, 2)
    h = torch.relu(torch.nn.functional.linear(h, first))
    h = torch.relu(torch.nn.functional.linear(h, second))
    value = torch.nn.functional.linear(h, third).squeeze(-1)  # (B, C)
    return torch.nn.functional.softplus(value) if non_negative else value


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
        parts = self.weights.to(f.dtype).split(SIZES)
        layers = [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]
        if torch.is_autocast_enabled(f.device.type):  # under which `linear` alone would be of half precision
            with torch.autocast(f.device.type, enabled=False):
                return network(y, f, *layers, self.non_negative)
        return network(y, f, *layers, self.non_negative)

    def element_source(self) -> list[str]:
        rows = torch.tensor(self.finite_weights(), dtype=torch.float64).split(SIZES)
        layers = [part.view(shape).tolist() for part, shape in zip(rows, SHAPES, strict=True)]
        listed = (
            "LAYERS = [\n" + "".join(f"    torch.tensor({layer}, dtype=torch.float64),\n" for layer in layers) + "]\n"
        )
        call = f"network(y, f, *(layer.to(f) for layer in LAYERS), {self.non_negative})"
        return [listed, inspect.getsource(network), f"def element(y, f):\n    return {call}\n"]

    def __str__(self) -> str:
        return "neural(2-50-50-1)"
