"""MLP in–1000–1000–out with ReLU (section IV-B)."""

import itertools
import math

from torch import nn

from .initialisation import chain, xavier_uniform


def mlp(input_shape: tuple[int, ...], outputs: int, hidden: tuple[int, ...] = (1000, 1000)) -> nn.Sequential:
    """x (B, *input_shape) -> z (B, outputs). A plain chain of Linear and ReLU; images are flattened first."""
    sizes = (math.prod(input_shape), *hidden)
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return chain(xavier_uniform, *layers, nn.Linear(sizes[-1], outputs))
