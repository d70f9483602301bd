"""The base training of one loss, plainly (eq. 3): what a trial makes steps with, and what `fast/` does sooner."""

import copy
import math

import torch
from torch import nn

from ..config import Config
from ..losses.elementwise import check_target
from ..models.forward import rearranged
from ..models.random_layers import seeded
from . import sgd
from .problem import Problem


class Session:
    """The base training of one loss, plainly: a copy of the model, the loss, the base optimiser."""

    def __init__(self, loss: nn.Module, problem: Problem, config: Config):
        self.loss, self.problem, self.config = loss, problem, config
        self.model = rearranged(copy.deepcopy(problem.model), problem.layout).train()
        self.nonfinite = torch.zeros((), device=problem.task.device)  # NaN once a training loss was not finite
        self.stopped = torch.zeros((), dtype=torch.bool)
        make = problem.optimiser.session if problem.optimiser else self.make_optimiser
        self.optimiser = make([p for p in self.model.parameters() if p.requires_grad], config)

    make_optimiser = staticmethod(sgd.Sgd)

    def step(self, batch, seed: int | None) -> None:
        """One gradient step (eq. 3)."""
        if self.stopped:
            return
        x, y = batch
        with seeded(seed, x.device):
            z = self.model(self.problem.as_laid_out(x))
        check_target(z, y)
        value = self.loss(z, y)
        if self.stops_at(value.detach()):
            return
        self.optimiser.zero_grad()
        value.backward()
        self.optimiser.step()

    def stops_at(self, value: torch.Tensor) -> bool:
        """Take note of a training loss. The released code stops before an update that would not be finite, and scores the
        weights reached so far; else the training counts as diverged."""
        if self.config.score_non_finite and not math.isfinite(value):
            self.stopped.fill_(True)
            return True
        self.nonfinite.add_(value, alpha=0)
        return False

    def running(self) -> bool:
        """Is there anything left to train? The host waits for the device, so this is not to be asked at every step."""
        return not self.stopped and bool(self.nonfinite.isfinite().any())

    def models(self) -> list[nn.Module | None]:
        """The trained model, None where a training loss was not finite."""
        return [self.model if math.isfinite(self.nonfinite) else None]

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors that hold what was trained."""
        return self.model.state_dict()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the session goes on from, as it is in use: weights, buffers, momenta, whether it diverged or stopped."""
        momenta = {f"momentum.{k}": m for k, m in enumerate(self.optimiser.momenta)}
        state = {f"weight.{name}": t for name, t in self.weights().items()} | momenta
        return state | {"nonfinite": self.nonfinite, "stopped": self.stopped}

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what `tensors` gave elsewhere. Raises KeyError for a tensor that is missing."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
