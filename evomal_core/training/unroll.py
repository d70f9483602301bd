"""Loss optimisation by unrolled differentiation (section III-C, Algorithm 1, eq. 4 to 9).

One meta step: reset theta; take S_base inner steps under the learned loss; the task loss of the result on a validation
batch; its gradient in the loss weights phi, the meta-gradient; one Adam step on phi. All losses of a call see the same
initial weights and batches.

The engine `higher` is the plain form: it differentiates through the unrolled graph, by the package of that name. The room
`fast` has two more engines, exact like this one: `jvp` for any model and `gram` for chains of Linear layers.
"""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from .. import streams
from ..checks import check, check_choice
from ..config import ENGINES, Config
from ..losses.elementwise import check_target
from ..models.forward import random_layers
from ..models.mixed_precision import MixedPrecision
from ..models.random_layers import seeded
from . import heartbeat
from .acceleration import FORMS, accelerated
from .problem import Problem

Batch = tuple[torch.Tensor, torch.Tensor]
CHECK_EVERY = 25  # meta steps between looks for losses whose weights are no longer finite


def meta_gradient(
    loss: nn.Module,
    model: nn.Module,
    train_batch: Batch | Sequence[Batch],
    validation_batch: Batch,
    task_loss: nn.Module,
    config: Config,
    engine: str = "auto",
    seed: int | None = None,
    optimiser=None,
) -> tuple[torch.Tensor, ...]:
    """d L_T(f_theta_new) / d phi after `config.inner_steps` steps of the base optimiser under `loss` (eq. 4 to 9).

    Args:
        loss: called as `loss(prediction, target)`; phi are its parameters.
        model: the base model at theta, in the mode it is to be run in. Its weights, buffers and mode stay as they are.
        train_batch: one (x, y) for every inner step, or a list of them, one a step.
        task_loss: L_T, called as `task_loss(prediction, target)`.
        engine: "auto", "jvp", "gram" or "higher" (module docstring).
        seed: the seed of what the layers draw; None takes one from torch's global generator.
        optimiser: the base optimiser, as of `Problem`; None for that of the configuration.

    Returns:
        One tensor a parameter, like `loss.parameters()`.

    Raises:
        ValueError: an engine that cannot serve this model or `inner_steps`, or a wrong number of batches.
    """
    pair = isinstance(train_batch, Sequence) and len(train_batch) > 0 and isinstance(train_batch[0], torch.Tensor)
    train = [train_batch] * config.inner_steps if pair else list(train_batch)
    if len(train) != config.inner_steps:
        raise ValueError(f"expected one training batch or a list of {config.inner_steps}, one a step; got {len(train)}")
    for _, y in [*train, validation_batch]:
        shape = "(B,) of class indices or (B, C) of values"
        check(y.ndim == (2 if y.is_floating_point() else 1), "a batch's target", shape, tuple(y.shape))
    _check_trainable(loss)
    model = MixedPrecision(model) if config.autocast else model
    with streams.computing():
        seeds: list[int | None] = [None] * (len(train) + 1)
        if random_layers(model, train[0][0]):
            seed = int(torch.randint(2**62, ())) if seed is None else seed
            seeds = [streams.integer(seed, "meta-layers", 0, 0, s) for s in (*range(len(train)), -1)]
        gradients = engine_for(engine, model, config, optimiser)
        return gradients([loss], model, train, validation_batch, task_loss, config, seeds)[0]


def _check_trainable(loss: nn.Module) -> None:
    phi = list(loss.parameters())
    check(phi, "loss", "a module with parameters", type(loss).__name__)
    expected = "one whose parameters require gradients, such as `loss.trainable()` of one that was found"
    check(all(p.requires_grad for p in phi), "loss", expected, f"a frozen {type(loss).__name__}")


def choose(engine: str, model: nn.Module, config: Config) -> str:
    """The engine that `auto` stands for: the fastest exact one that serves the model, or `higher` where all is plain.

    Raises ValueError for a named engine that does not serve the model.
    """
    check_choice("engine", engine, ENGINES)
    fastest = accelerated("choose") if engine == "auto" else FORMS.get("choose")
    return fastest(engine, model, config) if fastest else "higher"


def engine_for(engine: str, model: nn.Module, config: Config, optimiser=None):
    """The function of that engine: (losses, model, train, validation, task_loss, config, seeds) -> meta-gradients.

    An optimiser other than that of the configuration has the engine `jvp`, which knows its rule.
    """
    if optimiser:
        check_choice("engine with an optimiser of one's own", engine, ("auto", "jvp"))
        return partial(FORMS["jvp"], optimiser=optimiser)
    name = choose(engine, model, config)
    return higher_engine if name == "higher" else FORMS[name]


def higher_engine(losses, model, train, validation, task_loss, config: Config, seeds) -> list[tuple[torch.Tensor, ...]]:
    """Algorithm 1, line by line: meta-gradients of each loss through the unrolled graph of `higher.innerloop_ctx`."""
    import higher  # slow to import, and used here alone

    results = []
    for loss in losses:
        base = copy.deepcopy(model)
        optimiser = torch.optim.SGD([p for p in base.parameters() if p.requires_grad], **config.sgd)
        with torch.enable_grad(), higher.innerloop_ctx(base, optimiser) as (unrolled, differentiable):

            def outputs(batch: Batch, seed: int | None, unrolled=unrolled) -> torch.Tensor:
                with seeded(seed, batch[0].device):
                    z = unrolled(batch[0])
                check_target(z, batch[1])
                return z

            for batch, seed in zip(train, seeds[:-1], strict=True):
                differentiable.step(loss(outputs(batch, seed), batch[1]))  # eq. 4 to 7
            value = task_loss(outputs(validation, seeds[-1]), validation[1])  # eq. 8
            results.append(torch.autograd.grad(value, tuple(loss.parameters()), materialize_grads=True))
    return results


def optimise_losses(losses: Sequence[nn.Module], problems: Sequence, config: Config, seed: int) -> list[bool]:
    """Algorithm 1 for several losses in lockstep: `config.meta_steps` Adam steps on the weights of each, in place.

    Args:
        problems: the meta-training set, m problems, or pairs (task, model).

    Returns:
        For each loss, whether its weights stayed finite. One that did not is left as it was found, non-finite.
    """
    for loss in losses:
        _check_trainable(loss)
    if not losses:
        return []
    with streams.computing():
        return _optimise(losses, [Problem.of(problem, config) for problem in problems], config, seed)


def _optimise(losses: Sequence[nn.Module], problems: list[Problem], config: Config, seed: int) -> list[bool]:
    flat = torch.cat([p.detach().reshape(-1) for loss in losses for p in loss.parameters()])
    parts = flat.split([sum(p.numel() for p in loss.parameters()) for loss in losses])
    for loss, part in zip(losses, parts, strict=True):
        torch.nn.utils.vector_to_parameters(part, loss.parameters())  # views: Adam is elementwise, one steps all losses
    adam = torch.optim.Adam([flat], lr=config.meta_learning_rate, fused=True)
    engines = [engine_for(config.engine, problem.model, config, problem.optimiser) for problem in problems]
    for t in range(config.meta_steps):
        heartbeat.beat()
        flat.grad = torch.zeros_like(flat)
        for i, problem in enumerate(problems):
            problem.initialise(seed, "meta-init", i, t)
            problem.model.train()
            size, inner = config.batch_size, range(config.inner_steps)
            train = [problem.batch("train", size, seed, "meta-train", i, t, s) for s in inner]
            validation = problem.batch("validation", size, seed, "meta-validation", i, t)
            seeds = [problem.layer_seed(seed, "meta-layers", i, t, s) for s in (*inner, -1)]
            task_loss = problem.task.task_loss
            gradients = engines[i](losses, problem.model, train, validation, task_loss, config, seeds)
            flat.grad += torch.cat([g.reshape(-1) for of_loss in gradients for g in of_loss]) / len(problems)
        adam.step()
        if (t + 1) % CHECK_EVERY == 0 and not any(bool(part.isfinite().all()) for part in parts):
            break
    for loss in losses:
        for p in loss.parameters():
            p.data = p.data.clone()  # no longer a view of all losses' weights
    return [bool(part.isfinite().all()) for part in parts]
