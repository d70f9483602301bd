"""Mixed precision: the base model alone runs in bfloat16 where that is safe; losses and weights stay as they are."""

import torch
from torch import Tensor, nn


class MixedPrecision(nn.Module):
    """A base model under `torch.autocast` with bfloat16: x -> z (B, C) in the dtype of x.

    The model's weights are float32 and are shared with it. Losses, task loss and metric see float32 outputs.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def initialisation(self):
        """How the model's weights are drawn, see `initialise`."""
        return self.model.initialisation

    def forward(self, x: Tensor) -> Tensor:
        # No cache of cast weights: it would outlive the weights of one step, and `torch.func` has several sets at once.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            z = self.model(x)
        return z.to(x.dtype)
