"""Base optimisers of one's own: any of PyTorch's, and one step of it as a function of the weights, with its adjoint.

From fresh state the first step of an optimiser is theta_new = U(theta, g). The meta-gradient needs the adjoint of g,
(dU/dg)^T a, for the adjoint a of theta_new. For SGD, Adam and AdamW it is written out; for another optimiser it is taken by
autograd through its own `step` with `differentiable=True`.

    SGD      d = g + wd theta,  theta_new = theta - alpha (1 + mu if Nesterov, else 1) d:  -alpha_eff a
    Adam(W)  theta_new = (1 - alpha wd of AdamW) theta - alpha g / (|g| + eps):  -alpha eps / (|g| + eps)^2 a

Adam's first step is nearly the sign of the gradient, so its meta-gradient is small where |g| is large beside eps; Adam on
the loss weights, which does not see their scale, makes up for it.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..checks import check
from ..config import Config

Factory = Callable[[list[Tensor]], torch.optim.Optimizer]
Schedule = Callable[[int], float]
WRITTEN_OUT = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class Optimiser:
    """A base optimiser of one's own, as `training.Problem` takes it.

    Args:
        factory: weights -> optimiser, such as `lambda p: torch.optim.AdamW(p, 1e-3)`. Called anew for each training.
        schedule: step (0, 1, …) -> factor of the learning rate; None for 1.

    Attributes:
        rate: the learning rate of its first group. A training at another rate has all groups' rates in proportion.
        name: of its class.

    Raises:
        ValueError: what the factory gives is no optimiser of these weights, or has no learning rate.
    """

    def __init__(self, factory: Factory, schedule: Schedule | None = None):
        check(callable(factory), "optimizer", "a function of weights, like lambda p: AdamW(p, 1e-3)", repr(factory))
        check(schedule is None or callable(schedule), "schedule", "a function step -> factor", repr(schedule))
        self.factory, self.schedule = factory, schedule
        made = self.made([torch.zeros(2, requires_grad=True)])
        self.rate, self.name, self.kind = float(made.param_groups[0]["lr"]), type(made).__name__, type(made)
        check(self.rate > 0, "the optimizer's learning rate", "positive", self.rate)

    def made(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """A new optimiser of these weights."""
        optimiser = self.factory(weights)
        expected = "a torch.optim.Optimizer with a learning rate lr"
        right = isinstance(optimiser, torch.optim.Optimizer) and "lr" in optimiser.param_groups[0]
        check(right, "what `optimizer` gives", expected, type(optimiser).__name__)
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        check(
            held == set(map(id, weights)),
            "what `optimizer` gives",
            "an optimizer of all the weights it was given",
            "another",
        )
        return optimiser

    @property
    def exact(self) -> str:
        """How the meta-gradient goes through a step: "written out", "autograd", or "SGD" where neither can be had."""
        if self.kind in WRITTEN_OUT:
            return "written out"
        return "autograd" if "differentiable" in inspect.signature(self.kind.__init__).parameters else "SGD"

    def session(self, weights: Iterable[Tensor], config: Config) -> "Stepper":
        """What steps weights in base training."""
        return Stepper(self, list(weights), config)

    def rule(self, config: Config, add) -> "FirstStep":
        """The first step and its adjoint, for the engine `jvp`."""
        check(config.inner_steps == 1, "inner_steps with an optimizer of one's own", 1, config.inner_steps)
        return FirstStep(self, config)

    def scaled(self, weights: list[Tensor], config: Config) -> torch.optim.Optimizer:
        """A new optimiser whose learning rates are in proportion to the configuration's."""
        optimiser = self.made(weights)
        for group in optimiser.param_groups:
            group["lr"] = group["lr"] * (config.base_learning_rate / self.rate)
        return optimiser

    def __deepcopy__(self, memo) -> "Optimiser":
        return self


class Stepper:
    """An optimiser in base training; it follows the schedule. See `training.sgd.Sgd`."""

    def __init__(self, own: Optimiser, weights: list[Tensor], config: Config):
        self.optimiser, self.schedule, self.steps = own.scaled(weights, config), own.schedule, 0
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.momenta: list[Tensor] = []  # of checkpoints, which such a training does not have

    def step(self) -> None:
        if self.schedule:
            for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
                group["lr"] = rate * float(self.schedule(self.steps))
        self.steps += 1
        self.optimiser.step()

    def zero_grad(self) -> None:
        self.optimiser.zero_grad()

    def change_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.rates = [rate * factor for rate in self.rates]
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate


class FirstStep:
    """The first step of an optimiser from fresh state as a function of the weights, and its adjoint (module docstring)."""

    def __init__(self, own: Optimiser, config: Config):
        self.own, self.config = own, config

    def step(self, theta: Sequence[Tensor], g: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """theta_new."""
        weights = [w.detach().clone().requires_grad_() for w in theta]
        optimiser = self._begun(weights)
        for w, gradient in zip(weights, g, strict=True):
            w.grad = gradient.detach().clone()
        optimiser.step()
        self.theta, self.g = tuple(theta), tuple(gradient.detach() for gradient in g)
        return tuple(w.detach() for w in weights)

    def back(self, adjoint: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The adjoint of g, from that of theta_new."""
        if self.own.exact == "autograd":
            return self._by_autograd(adjoint)
        weights = [w.detach().clone().requires_grad_() for w in self.theta]
        optimiser, found = self._begun(weights), {}
        place = {id(w): k for k, w in enumerate(weights)}
        for group in optimiser.param_groups:
            for w in group["params"]:
                k = place[id(w)]
                found[k] = self._written_out(group, self.theta[k], self.g[k], adjoint[k])
        return tuple(found[k] for k in range(len(weights)))

    def _begun(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        optimiser = self.own.scaled(weights, self.config)
        if self.own.schedule:
            for group in optimiser.param_groups:
                group["lr"] = group["lr"] * float(self.own.schedule(0))
        return optimiser

    def _written_out(self, group: dict, theta: Tensor, g: Tensor, a: Tensor) -> Tensor:
        rate, sign = group["lr"], -1.0 if group.get("maximize") else 1.0
        if self.own.kind in (torch.optim.Adam, torch.optim.AdamW):
            coupled = self.own.kind is torch.optim.Adam and not group.get("decoupled_weight_decay", False)
            d = sign * g + group["weight_decay"] * theta if coupled else sign * g
            return -rate * sign * group["eps"] / (d.abs() + group["eps"]) ** 2 * a
        momentum = group.get("momentum", 0.0) if group.get("nesterov") else 0.0
        return -rate * sign * (1 + momentum) * a

    def _by_autograd(self, adjoint: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [w.detach().clone().requires_grad_() for w in self.theta]
            optimiser = self._begun(leaves)
            optimiser.defaults["differentiable"] = True
            g, moved = [x.clone().requires_grad_() for x in self.g], {}
            for group in optimiser.param_groups:
                group |= {"differentiable": True, "foreach": False, "fused": False}
                group["params"] = [moved.setdefault(id(w), w.detach().clone()) for w in group["params"]]
            weights = [moved[id(w)] for w in leaves]
            for w, gradient in zip(weights, g, strict=True):
                w.grad = gradient
            optimiser.step()
            found = torch.autograd.grad(weights, g, list(adjoint), materialize_grads=True)
        return tuple(torch.where(x.isfinite(), x, torch.zeros_like(x)) for x in found)  # no derivative where g is 0
