"""Population batching: K copies of a small base model as stacked weights under `torch.func.vmap`, one step for all.

For a GPU, where a single small model leaves most of the machine idle; on a CPU it gains nothing where weights differ, and
is there to be tested, but for a single layer (`LinearSession`). The plain forms are `base.Session` and
`unroll.jvp_engine`, equal to rounding: SGD on stacked weights is K independent SGDs, BatchNorm keeps K running statistics,
and Dropout draws one mask for all copies, as one-by-one runs of the same seed do.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, jvp, vmap

from .. import streams
from ..config import Config
from ..losses.elementwise import Derivatives, Elements, gradient
from .chain import Chain

STACKED_WEIGHTS = 100_000_000  # numbers that the stacked weights of a group may hold, by default


def copies(config: Config, model: nn.Module) -> int:
    """K: `config.copies`, or, if that is 0, as many as `STACKED_WEIGHTS` allows, at most 32, on a GPU or of a single layer,
    else one."""
    if config.copies:
        return config.copies
    if not (next(model.parameters()).is_cuda or single_layer(model)):
        return 1
    return max(1, min(32, STACKED_WEIGHTS // sum(p.numel() for p in model.parameters())))


def single_layer(model: nn.Module) -> bool:
    chain = Chain.of(model)
    return chain is not None and len(chain.layers) == 1


class CapturedStep:
    """`step(x, y)` as one CUDA graph that is replayed: of a small model a step costs its launches, not its arithmetic.

    The first calls run as they are, on a side stream, which sets up the allocator and the optimiser's state. Shapes must
    stay as they are, and the step may not draw random numbers or wait for the device.
    """

    WARM_UP = 3

    def __init__(self, step: Callable):
        self.step, self.calls, self.graph = step, 0, None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.calls += 1
        if self.calls <= self.WARM_UP:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.step(x, y)
            torch.cuda.current_stream().wait_stream(side)
            return
        if self.graph is None:
            self.x, self.y, self.graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, does not run
                self.step(self.x, self.y)
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()


class StackedSession:
    """Base training of several candidates as one; interface of `base.Session`."""

    def __init__(self, losses, model: nn.Module, config: Config, optimiser):
        self.losses, self.model = list(losses), copy.deepcopy(model).train()
        n = len(self.losses)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: stack(p, n).requires_grad_() for name, p in trained.items()}
        fixed = [*model.named_buffers(), *((name, p) for name, p in model.named_parameters() if name not in trained)]
        self.fixed = {name: stack(t, n) for name, t in fixed}
        self.optimiser = optimiser(self.weights.values(), config)
        self.poison = torch.zeros(n, device=next(model.parameters()).device)
        self.captured = CapturedStep(self._step) if config.cuda_graphs and self.poison.is_cuda else None

    def step(self, batch, seed: int | None) -> None:
        """One gradient step of every copy (eq. 3)."""
        if self.captured and seed is None:
            self.captured(*batch)
        else:
            self._step(*batch, seed)

    def change_rate(self, factor: float) -> None:
        """Multiply the learning rate, which a captured step holds as a constant."""
        self.optimiser.change_rate(factor)
        self.captured = self.captured and CapturedStep(self._step)

    def _step(self, x: torch.Tensor, y: torch.Tensor, seed: int | None = None) -> None:
        with streams.layer_generator(seed, x.device):
            run = vmap(lambda w, fixed: functional_call(self.model, (w, fixed), (x,)), randomness="same")
            z = run(self.weights, self.fixed)
        found = Derivatives(self.losses, Elements(z, y))
        self.poison.add_(found.values(), alpha=0)
        results = torch.autograd.grad(z, list(self.weights.values()), found.v, materialize_grads=True)
        for weight, g in zip(self.weights.values(), results, strict=True):
            weight.grad = g.contiguous()  # the fused optimiser reads memory order, not strides
        self.optimiser.step()

    def running(self) -> bool:
        return bool(self.poison.isfinite().any())

    def models(self) -> list[nn.Module | None]:
        """The trained models, None where a training loss was not finite."""
        result: list[nn.Module | None] = []
        for k, finite in enumerate(self.poison.isfinite().tolist()):
            trained = copy.deepcopy(self.model) if finite else None
            if trained is not None:
                stacked = {**self.weights, **self.fixed}
                trained.load_state_dict({n: t[k].detach() for n, t in stacked.items()}, strict=False)
            result.append(trained)
        return result


class LinearSession(StackedSession):
    """The same for a single Linear layer, also for a CPU: K models side by side are one weight (K C, n)."""

    @torch.no_grad()
    def _step(self, x: torch.Tensor, y: torch.Tensor, seed: int | None = None) -> None:
        weight, *bias = self.weights.values()  # (K, C, n), (K, C)
        x, rows = x.flatten(1), weight.flatten(0, 1)
        z = torch.addmm(bias[0].view(-1, 1), rows, x.T) if bias else rows @ x.T  # (K C, B)
        found = Derivatives(self.losses, Elements(z.view(*weight.shape[:2], -1).mT, y))
        self.poison.add_(found.values(), alpha=0)
        weight.grad = (found.v.mT.reshape(len(rows), -1) @ x).view_as(weight)
        if bias:
            bias[0].grad = found.v.sum(1)
        self.optimiser.step()


def stack(tensor: torch.Tensor, n: int) -> torch.Tensor:
    """`n` copies of a tensor, (n, ...)."""
    return tensor.detach().expand(n, *tensor.shape).clone()


def stacked_jvp(losses, maps, z0, theta0, train, validation, task_loss, config: Config, seeds) -> list[tuple]:
    """`unroll.jvp_engine` for S_base = 1, all losses at once: batched vjp, K models at theta_new, batched jvp."""
    x, y = train
    alpha = config.first_rate
    found = Derivatives(losses, Elements(z0, y), order=2)
    g = torch.autograd.grad(
        z0, theta0, found.v, is_grads_batched=True, retain_graph=True, materialize_grads=True
    )  # (K, ...)
    theta = tuple(
        (w - alpha * (g_w + config.base_weight_decay * w)).requires_grad_()
        for w, g_w in zip(maps.weights, g, strict=True)
    )
    with torch.enable_grad():
        z = vmap(lambda w, b: maps(w, validation[0], seeds[-1], b), randomness="same")(
            theta, maps.stacked_buffers(len(losses))
        )
    task_v = gradient(task_loss, Elements(z, validation[1]))
    h = torch.autograd.grad(z, theta, task_v, materialize_grads=True)
    along = vmap(lambda t, b: jvp(lambda *w: maps(w, x, seeds[0], b), maps.weights, t)[1], randomness="same")
    u = along(tuple(-alpha * part for part in h), maps.stacked_buffers(len(losses)))  # (K, B, C)
    return found.mixed(u)
