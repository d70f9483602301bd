"""Base training (eq. 3 and Algorithm 2): train base models under their losses, in partial sessions and in meta-testing.

All losses of a call see one stream of initial weights and batches, so they differ in nothing but the loss.
"""

import copy
import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .. import streams
from ..config import Config
from ..losses.elementwise import Derivatives, Elements
from ..models import initialise
from ..models.blocks import BLOCKS
from ..models.layers import HalvingPool, Tanh
from ..tasks import Task
from . import batches, population
from .chain import Chain

Problem = tuple[Task, nn.Module]  # a task and a base model for it; the model is scratch, its weights are drawn afresh
CHUNK = 25  # steps that one candidate makes before the next: its weights stay in the cache, batches are drawn once
CHECK_EVERY = 2 * CHUNK  # steps between looks for trainings that diverged
EVALUATION_BATCH = 2_000


# Modules that draw no random numbers
QUIET = (nn.Sequential, nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.Tanh, nn.Sigmoid)
QUIET += (nn.Flatten, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LayerNorm, nn.GELU)
QUIET += (Tanh, HalvingPool, *BLOCKS)


def has_random_layers(model: nn.Module) -> bool:
    """May the model draw random numbers in training mode? Of a forward method of somebody's own nothing is known."""
    return any(type(m) not in QUIET for m in model.modules())


def layout(model: nn.Module) -> torch.memory_format:
    """Of a model of wide convolutions, channels last: resnet18 takes an eighth less time on a CPU; lenet5 would take more."""
    wide = any(isinstance(m, nn.Conv2d) and m.in_channels >= 32 for m in model.modules())
    # Dropout would draw other masks.
    return torch.channels_last if wide and not has_random_layers(model) else torch.contiguous_format


class Session:
    """One candidate's base training: a copy of the model, its loss, its optimiser."""

    def __init__(self, loss: nn.Module, model: nn.Module, config: Config):
        self.loss, self.model, self.config = loss, copy.deepcopy(model).train(), config
        self.layout = layout(model)
        self.model.to(memory_format=self.layout)
        self.optimiser = Sgd(self.model.parameters(), config)
        self.chain = Chain.of(self.model)
        self.poison = torch.zeros((), device=next(model.parameters()).device)  # NaN once a training loss was not finite
        self.stopped = False

    def step(self, batch, seed: int | None) -> None:
        """One gradient step (eq. 3)."""
        if self.stopped:
            return
        x, y = batch
        if self.chain:
            inputs, z = self.chain.forward(x)
        else:
            with streams.layer_generator(seed, x.device):
                z = self.model(x.contiguous(memory_format=self.layout) if x.ndim == 4 else x)
        found = Derivatives([self.loss], Elements(z, y))
        value, v = found.values()[0], found.v[0]
        if self.config.score_non_finite and not math.isfinite(value):
            self.stopped = True  # [R]: stops before this update and is scored with the weights it has
            return
        self.poison.add_(value, alpha=0)
        if self.chain:
            self.chain.backward(v, inputs)
        else:
            self.model.zero_grad()
            z.backward(v)
        self.optimiser.step()

    def change_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.optimiser.change_rate(factor)

    def running(self) -> bool:
        """Is there anything left to train? Looks at the device, so not to be asked at every step."""
        return not self.stopped and math.isfinite(self.poison)

    def models(self) -> list[nn.Module | None]:
        """The trained model, None where a training loss was not finite."""
        return [self.model if math.isfinite(self.poison) else None]


class Sgd:
    """`torch.optim.SGD` with the settings of `config` and fresh state, as the one fused call that it comes to: on small
    weights nine tenths of the optimiser's step are bookkeeping. A gradient must lie in memory as its weight does."""

    def __init__(self, weights: Iterable[torch.Tensor], config: Config):
        self.weights = list(weights)
        # From zeros the first step's momentum is the gradient, as torch's is.
        self.momenta = [torch.zeros_like(w) for w in self.weights] if config.base_momentum else []
        self.settings = config.sgd | {"dampening": 0.0, "maximize": False, "is_first_step": False}

    @torch.no_grad()
    def step(self) -> None:
        """Weights without a gradient stay as they are. Without momentum there are no momenta."""
        has = [k for k, w in enumerate(self.weights) if w.grad is not None]
        parts = self.weights, [w.grad for w in self.weights], self.momenta
        torch._fused_sgd_(*([part[k] for k in has if part] for part in parts), **self.settings)

    def change_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.settings["lr"] *= factor


def train(
    losses: Sequence[nn.Module],
    problem: Problem,
    config: Config,
    seed: int,
    purpose: str,
    steps: int,
    index: tuple[int, ...] = (),
    milestones: Sequence[int] = (),
) -> list[nn.Module | None]:
    """Train one fresh base model under each loss; None where the training diverged.

    Args:
        purpose: "fitness" or "test", names the streams of initial weights, batches and Dropout draws; `index` goes with it.
        milestones: steps at which the learning rate is multiplied by 0.1.

    Returns:
        Trained models in training mode, in the order of `losses`. A non-finite training loss ends a training.
    """
    task, model = problem
    initialise(model, streams.torch_generator(seed, f"{purpose}-init", *index))
    together = 1 if config.score_non_finite else population.copies(config, model)
    if together == 1:
        sessions = [Session(loss, model, config) for loss in losses]
    else:
        stacked = population.LinearSession if population.single_layer(model) else population.StackedSession
        groups = [losses[i : i + together] for i in range(0, len(losses), together)]
        sessions = [stacked(group, model, config, Sgd) for group in groups]
    running, draws = list(sessions), has_random_layers(model)
    for start in range(0, steps, CHUNK):
        chunk = range(start, min(start + CHUNK, steps))
        data = [batches.draw(task.train, config.batch_size, seed, f"{purpose}-batch", *index, t) for t in chunk]
        seeds = [streams.integer(seed, f"{purpose}-layers", *index, t) if draws else None for t in chunk]
        for session in running:
            for t, batch, layer_seed in zip(chunk, data, seeds, strict=True):
                if t in milestones:
                    session.change_rate(0.1)
                session.step(batch, layer_seed)
        if start % CHECK_EVERY == 0:  # rarely: on a GPU the host waits for it
            running = [session for session in running if session.running()]
        if not running:
            break
    return [model for session in sessions for model in session.models()]


@torch.no_grad()
def evaluate(model: nn.Module | None, task: Task, part: str) -> float:
    """Performance metric of a trained model on a part of the task, in evaluation mode; inf if it diverged."""
    if model is None:
        return math.inf
    model.eval()
    x, y = getattr(task, part)
    outputs = torch.cat([model(chunk) for chunk in x.split(EVALUATION_BATCH)])
    value = float(task.metric(outputs, y)) if outputs.isfinite().all() else math.inf
    return value if math.isfinite(value) else math.inf


def fitness(losses: Sequence[nn.Module], problems: Sequence[Problem], config: Config, seed: int) -> list[float]:
    """Algorithm 2: the mean over the tasks of the metric on the validation part after `fitness_steps` steps; inf is worst."""
    totals = [0.0] * len(losses)
    for i, problem in enumerate(problems):
        models = train(losses, problem, config, seed, "fitness", config.fitness_steps, (i,))
        totals = [total + evaluate(m, problem[0], "validation") for total, m in zip(totals, models, strict=True)]
    return [total / len(problems) for total in totals]
