"""Base training (eq. 3 and Algorithm 2): train base models under their losses, in partial sessions and in meta-testing.

All losses of a call see one stream of initial weights and batches, so they differ in nothing but the loss.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from .. import streams
from ..config import Config
from ..losses.elementwise import Elements, cotangent
from ..models import initialise
from ..tasks import Task
from . import batches
from .chain import Chain

Problem = tuple[Task, nn.Module]  # a task and a base model for it; the model is scratch, its weights are drawn afresh
CHUNK = 10  # steps that one candidate makes before the next: its weights stay in the cache, batches are drawn once
EVALUATION_BATCH = 2_000


def has_random_layers(model: nn.Module) -> bool:
    """Does the model draw random numbers in training mode?"""
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules())


class Session:
    """One candidate's base training: a copy of the model, its loss, its optimiser."""

    def __init__(self, loss: nn.Module, model: nn.Module, config: Config):
        self.loss, self.model, self.config = loss, copy.deepcopy(model).train(), config
        self.optimiser = sgd(self.model, config)
        self.chain = Chain.of(self.model)
        self.random_layers = has_random_layers(self.model)
        self.poison = torch.zeros((), device=next(model.parameters()).device)  # NaN once a training loss was not finite
        self.stopped = False

    def step(self, batch, seed: int | None) -> None:
        """One gradient step (eq. 3)."""
        x, y = batch
        if self.chain:
            inputs, z = self.chain.forward(x)
        elif self.random_layers:
            with streams.layer_generator(seed, x.device):
                z = self.model(x)
        else:
            z = self.model(x)
        value, v = cotangent(self.loss, Elements(z, y, not y.is_floating_point()))
        if self.config.score_non_finite and not math.isfinite(value):
            self.stopped = True  # [R]: stops before this update and is scored with the weights it has
            return
        self.poison += value * 0
        if self.chain:
            self.chain.backward(v, inputs)
        else:
            self.optimiser.zero_grad()
            z.backward(v)
        self.optimiser.step()


def sgd(model: nn.Module, config: Config) -> torch.optim.SGD:
    """The base optimiser, with fresh state."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.base_learning_rate,
        momentum=config.base_momentum,
        nesterov=config.base_nesterov,
        weight_decay=config.base_weight_decay,
        fused=all(p.is_floating_point() for p in model.parameters()),
    )


def train(
    losses: Sequence[nn.Module],
    problem: Problem,
    config: Config,
    seed: int,
    purpose: str,
    steps: int,
    index: tuple[int, ...] = (),
    milestones: Sequence[int] = (),
    progress: Callable[[int], None] | None = None,
) -> list[nn.Module | None]:
    """Train one fresh base model under each loss; None where the training diverged.

    Args:
        purpose: "fitness" or "test", names the streams of initial weights, batches and Dropout draws; `index` goes with it.
        milestones: steps at which the learning rate is multiplied by 0.1.
        progress: called with the number of steps done, now and then.

    Returns:
        Trained models in training mode, in the order of `losses`. A non-finite training loss ends a training.
    """
    task, model = problem
    initialise(model, streams.torch_generator(seed, f"{purpose}-init", *index))
    sessions = [Session(loss, model, config) for loss in losses]
    running = list(sessions)
    for chunk in (range(i, min(i + CHUNK, steps)) for i in range(0, steps, CHUNK)):
        data = [batches.draw(task.train, config.batch_size, seed, f"{purpose}-batch", *index, t) for t in chunk]
        for session in running:
            for t, batch in zip(chunk, data, strict=True):
                if t in milestones:
                    for group in session.optimiser.param_groups:
                        group["lr"] *= 0.1
                session.step(
                    batch, streams.integer(seed, f"{purpose}-layers", *index, t) if session.random_layers else None
                )
                if session.stopped:
                    break
        running = [s for s in running if not s.stopped and math.isfinite(s.poison)]
        if progress:
            progress(chunk[-1] + 1)
        if not running:
            break
    return [s.model if math.isfinite(s.poison) else None for s in sessions]


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
