"""What trains: base models under losses (Algorithm 2), loss weights by unrolled differentiation (Algorithm 1)."""

from .base import evaluate, fitness, train
from .population import copies
from .unroll import choose, meta_gradient, optimise_losses

__all__ = ["choose", "copies", "evaluate", "fitness", "meta_gradient", "optimise_losses", "train"]
