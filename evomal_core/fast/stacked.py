"""Stacked copies: the weights of K copies of a small base model under `torch.func.vmap`, one step for all.

Stacking is for a GPU, which a single small model leaves mostly idle. On a CPU it gains nothing where weights differ, but
for a single layer (`LinearSession`), and is there to be tested. The plain forms are `training.session.Session` and one
`jvp_engine` a loss, equal to rounding: SGD on stacked weights is K independent SGDs, BatchNorm keeps K running
statistics, and what layers draw is the same for all copies, as in runs one by one with the same seed.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import jvp, vmap

from ..config import Config
from ..models.forward import ForwardMap, stack
from ..training.problem import Problem
from ..training.session import Session
from .chain import Chain
from .derivatives import Derivatives, LossInputs, gradient

STACKED_BYTES = 8 << 30  # memory that the copies of a group may take, by default
MOST_COPIES = 32


def copies(config: Config, problem: Problem) -> int:
    """K: how many copies are trained as one.

    It is `config.copies`, or, if that is 0, one; on a GPU or for a single layer as many as fit `STACKED_BYTES`, at most
    `MOST_COPIES`. The memory that is free at the moment does not count, so that equal runs have equal K.
    """
    if config.copies:
        return config.copies
    pays = problem.task.device.type == "cuda" or single_layer(problem.model)
    return max(1, min(MOST_COPIES, STACKED_BYTES // problem.bytes_of_a_copy(config.batch_size))) if pays else 1


def single_layer(model: nn.Module) -> bool:
    """Is the model one Linear layer?"""
    chain = Chain.of(model)
    return chain is not None and len(chain.layers) == 1


def vmapped(maps: ForwardMap, x: torch.Tensor, seed: int | None) -> Callable:
    """(stacked weights, stacked buffers) -> outputs of the copies, (K, B, C)."""
    return vmap(lambda weights, fixed: maps(weights, x, seed, fixed), randomness="same")


class StackedSession(Session):
    """Base training of several losses as one."""

    def __init__(self, losses, problem: Problem, config: Config, optimiser):
        self.losses, self.problem = list(losses), problem
        self.model = copy.deepcopy(problem.model).train()
        self.map, n = ForwardMap(self.model), len(self.losses)
        self.stacked = [stack(w, n).requires_grad_() for w in self.map.weights]
        self.fixed = self.map.stacked_fixed(n)
        self.optimiser = optimiser(self.stacked, config)
        self.nonfinite, self.stopped = torch.zeros(n, device=problem.task.device), torch.zeros((), dtype=torch.bool)

    def outputs(self, x: torch.Tensor, seed: int | None) -> torch.Tensor:
        """What the copies give for the inputs x, (K, B, C)."""
        return vmapped(self.map, x, seed)(self.stacked, self.fixed)

    def gradients(self, x: torch.Tensor, z: torch.Tensor, v: torch.Tensor) -> Sequence[torch.Tensor]:
        """The gradients of the stacked weights, from the gradients `v` on the outputs `z`, both (K, B, C)."""
        return torch.autograd.grad(z, self.stacked, v, materialize_grads=True)

    def step(self, batch, seed: int | None) -> None:
        """One gradient step of every copy (eq. 3)."""
        x, y = batch
        z = self.outputs(x, seed)
        found = Derivatives(self.losses, LossInputs(z, y))
        self.nonfinite.add_(found.values(), alpha=0)
        for weight, g in zip(self.stacked, self.gradients(x, z, found.v), strict=True):
            weight.grad = g
        self.optimiser.step()

    def models(self) -> list[nn.Module | None]:
        """The trained models, None where a training loss was not finite."""
        models = [copy.deepcopy(self.model) if finite else None for finite in self.nonfinite.isfinite().tolist()]
        for k, model in enumerate(models):
            if model is not None:
                model.load_state_dict({name: t[k] for name, t in self.weights().items()}, strict=False)
        return models

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self.stacked[place].detach() for name, place in self.map.names} | self.fixed


class LinearSession(StackedSession):
    """The same for a single Linear layer, also for a CPU: K models side by side are one weight (K C, n)."""

    step = torch.no_grad()(StackedSession.step)

    def outputs(self, x: torch.Tensor, seed: int | None) -> torch.Tensor:
        weight, *bias = self.stacked  # (K, C, n), (K, C)
        x, rows = x.flatten(1), weight.flatten(0, 1)
        z = torch.addmm(bias[0].view(-1, 1), rows, x.T) if bias else rows @ x.T  # (K C, B)
        return z.view(*weight.shape[:2], -1).mT

    def gradients(self, x: torch.Tensor, z: torch.Tensor, v: torch.Tensor) -> Sequence[torch.Tensor]:
        of_weight = (v.mT.flatten(0, 1) @ x.flatten(1)).view_as(self.stacked[0])
        return (of_weight, v.sum(1)) if len(self.stacked) > 1 else (of_weight,)


def stacked_jvp(losses, maps, z0, theta0, train, validation, task_loss, config: Config, seeds) -> list[tuple]:
    """`jvp_engine` for S_base = 1, all losses at once: batched vjp, K models at theta_new, batched jvp."""
    alpha, decay = config.first_rate, config.base_weight_decay
    found = Derivatives(losses, LossInputs(z0, train[1]), order=2)
    # (K, ...)
    g = torch.autograd.grad(z0, theta0, found.v, is_grads_batched=True, retain_graph=True, materialize_grads=True)
    theta = tuple((w - alpha * (g_w + decay * w)).requires_grad_() for w, g_w in zip(maps.weights, g, strict=True))
    with torch.enable_grad():
        z = vmapped(maps, validation[0], seeds[-1])(theta, maps.stacked_fixed(len(losses)))
    h = torch.autograd.grad(z, theta, gradient(task_loss, LossInputs(z, validation[1])), materialize_grads=True)

    def along(t, fixed):  # a forward pass may not write into what it captured
        return jvp(lambda *w: maps(w, train[0], seeds[0], {n: b.clone() for n, b in fixed.items()}), maps.weights, t)[1]

    directions = tuple(-alpha * part for part in h)
    return found.mixed(vmap(along, randomness="same")(directions, maps.stacked_fixed(len(losses))))
