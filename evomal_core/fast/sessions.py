"""Base training of one loss sooner: derivatives of the loss without autograd, the base optimiser as one fused call.

The plain form of `FastSession` is `training.session.Session`, that of `Sgd` is `torch.optim.SGD`.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ..config import Config
from ..models.random_layers import seeded
from ..training.problem import Problem
from ..training.session import Session
from . import private, stacked
from .chain import Chain
from .derivatives import Derivatives, LossInputs


class Sgd:
    """`torch.optim.SGD` with fresh state as one fused call: with small weights nine tenths of its step are bookkeeping.

    The fused call goes through memory. A gradient that lies otherwise than its weight is laid out like it first.
    """

    def __init__(self, weights: Iterable[torch.Tensor], config: Config):
        self.weights = list(weights)
        self.momenta = [torch.zeros_like(w) for w in self.weights] if config.base_momentum else []
        self.settings = config.sgd

    @torch.no_grad()
    def step(self) -> None:
        """Weights without a gradient stay as they are. Without momentum there are no momenta."""
        weights = [w for w in self.weights if w.grad is not None]
        momenta = [m for w, m in zip(self.weights, self.momenta, strict=False) if w.grad is not None]
        laid_out = [w.grad if w.grad.stride() == w.stride() else torch.empty_like(w).copy_(w.grad) for w in weights]
        private.fused_sgd(weights, laid_out, momenta, **self.settings)

    def change_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.settings["lr"] *= factor


class FastSession(Session):
    """One loss's base training. A chain of Linear layers does without autograd altogether."""

    make_optimiser = Sgd

    def __init__(self, loss: nn.Module, problem: Problem, config: Config):
        super().__init__(loss, problem, config)
        self.chain = Chain.of(self.model)

    def step(self, batch, seed: int | None) -> None:
        if self.stopped:
            return
        x, y = batch
        if self.chain:
            inputs, z = self.chain.forward(x)
        else:
            with seeded(seed, x.device):
                z = self.model(self.problem.as_laid_out(x))
        found = Derivatives([self.loss], LossInputs(z, y))
        if self.stops_at(found.values()[0]):
            return
        if self.chain:
            self.chain.backward(found.v[0], inputs)
        else:
            self.model.zero_grad()
            z.backward(found.v[0])
        self.optimiser.step()


def sessions(losses: Sequence[nn.Module], problem: Problem, config: Config) -> list[Session]:
    """Sessions that train a model each under these losses, stacked where that pays."""
    together = 1 if config.score_non_finite or problem.optimiser else stacked.copies(config, problem)
    if together == 1:
        return [FastSession(loss, problem, config) for loss in losses]
    kind = stacked.LinearSession if stacked.single_layer(problem.model) else stacked.StackedSession
    return [kind(losses[i : i + together], problem, config, Sgd) for i in range(0, len(losses), together)]
