"""Loss optimisation by unrolled differentiation (section III-C, Algorithm 1, eq. 4 to 9).

One meta step: reset theta; take S_base inner steps under the learned loss; the task loss of the result on a validation
batch; its gradient in the loss weights phi, the meta-gradient; one Adam step on phi. All losses of a call see the same
initial weights and batches, so what depends on these alone is computed once a step.

Engines of the meta-gradient, all exact:
    jvp     reverse sweep over the inner steps, each seen through forward-mode products; any model, any S_base
    gram    the same for chains of Linear layers and S_base = 1, without a weight-sized gradient (training/gram.py)
    higher  the reference: the unrolled graph, by the package of that name
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call, grad, jvp

from .. import streams
from ..config import Config, check, check_choice
from ..losses.elementwise import Derivatives, Elements, gradient
from ..models import initialise
from . import batches, gram, population
from .base import Problem, has_random_layers
from .linearise import Linearisation

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
) -> tuple[torch.Tensor, ...]:
    """d L_T(f_theta_new) / d phi after `config.inner_steps` steps of the base optimiser under `loss` (eq. 4 to 9).

    Args:
        loss: called as `loss(prediction, target)`; phi are its parameters.
        model: the base model at theta, in the mode it is to be run in. Its weights, buffers and mode stay as they are.
        train_batch: one (x, y) for every inner step, or a list of them, one a step.
        task_loss: L_T, called as `task_loss(prediction, target)`.
        engine: "auto", "jvp", "gram" or "higher" (module docstring).
        seed: of Dropout's draws; None takes one from torch's global generator.

    Returns:
        One tensor a parameter, like `loss.parameters()`.

    Raises:
        ValueError: an engine that cannot serve this model or `inner_steps`, or a wrong number of batches.
    """
    several = not (isinstance(train_batch, Sequence) and train_batch and isinstance(train_batch[0], torch.Tensor))
    train = list(train_batch) if several else [train_batch] * config.inner_steps
    if len(train) != config.inner_steps:
        raise ValueError(f"expected one training batch or a list of {config.inner_steps}, one a step; got {len(train)}")
    for _, y in [*train, validation_batch]:
        shape = "(B,) of class indices or (B, C) of values"
        check(y.ndim == (2 if y.is_floating_point() else 1), "a batch's target", shape, tuple(y.shape))
    check(any(True for _ in loss.parameters()), "loss", "a module with parameters", type(loss).__name__)
    if seed is None:
        seed = int(torch.randint(2**62, ())) if has_random_layers(model) else 0
    seeds = [streams.integer(seed, "meta-layers", 0, 0, s) for s in (*range(len(train)), -1)]
    return ENGINES[choose(engine, model, config)]([loss], model, train, validation_batch, task_loss, config, seeds)[0]


def choose(engine: str, model: nn.Module, config: Config) -> str:
    """The engine that `auto` stands for: the fastest exact one that serves the model."""
    check_choice("engine", engine, ("auto", *ENGINES))
    if engine == "auto":
        return "gram" if gram.applies(model, config) is None else "jvp"
    if engine == "gram" and (reason := gram.applies(model, config)):
        raise ValueError(f"engine 'gram' cannot be used here: {reason}; use 'jvp' or 'auto'")
    return engine


class BaseMaps:
    """A base model as maps of its weights: what an engine sees of it. Buffers are cloned at every call."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.weights = tuple(p.detach() for p in model.parameters() if p.requires_grad)
        self.fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self.random_layers = has_random_layers(model)

    def __call__(self, weights, x: torch.Tensor, seed: int, buffers: dict | None = None) -> torch.Tensor:
        """Outputs (B, C) at `weights`; the same seed draws the same Dropout masks."""
        state = dict(zip(self.names, weights, strict=True)) | self.fixed
        state |= {name: buffer.clone() for name, buffer in (buffers or dict(self.model.named_buffers())).items()}
        with streams.layer_generator(seed if self.random_layers else None, x.device):
            return functional_call(self.model, state, (x,))

    def stacked_buffers(self, n: int) -> dict[str, torch.Tensor]:
        """The buffers of `n` copies: vmap updates running statistics in place only where they are stacked too."""
        return {name: population.stack(buffer, n) for name, buffer in self.model.named_buffers()}

    def trace(self, weights, x: torch.Tensor, seed: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """(weights, outputs) with the graph between them."""
        with torch.enable_grad():
            weights = tuple(w.detach().requires_grad_() for w in weights)
            return weights, self(weights, x, seed)


def jvp_engine(losses, model, train, validation, task_loss, config: Config, seeds) -> list[tuple[torch.Tensor, ...]]:
    """Meta-gradients of several losses from one theta, without a second-order graph through the base model.

    With d_s the direction of step s (gradient plus weight decay), b_s the momentum and lambda the adjoint of
    theta_{s+1}, the sweep back needs of step s only <grad L_s, l> for the adjoint l of d_s, a derivative of L along l:
    in phi it is d<v(phi), J l>/dphi, one forward-mode product J l; in theta the Hessian-vector product H l, not needed at
    the first step. For S_base = 1, l = -alpha_eff h with h the task loss's gradient and alpha_eff = alpha (1 + mu) for
    Nesterov (the first step of momentum), which is all there is to compute.
    """
    maps, x = BaseMaps(model), train[0][0]
    mu, nesterov, decay = config.base_momentum, config.base_nesterov, config.base_weight_decay
    theta0, z0 = maps.trace(maps.weights, x, seeds[0])
    together = population.copies(config, model)
    if len(train) == 1 and min(together, len(losses)) > 1:
        groups = [losses[i : i + together] for i in range(0, len(losses), together)]
        common = (maps, z0, theta0, train[0], validation, task_loss, config, seeds)
        return [gradient for group in groups for gradient in population.stacked_jvp(group, *common)]
    linear = Linearisation.of(model, x) if len(losses) > 1 else None  # J of the first step, which all losses share
    results = []
    for k, loss in enumerate(losses):
        path, found, direction, buffer = [maps.weights], [], None, None
        for s, batch in enumerate(train):
            theta, z = maps.trace(path[s], batch[0], seeds[s]) if s else (theta0, z0)
            found.append(Derivatives([loss], Elements(z, batch[1]), order=2))
            shared = s == 0 and k < len(losses) - 1  # behind the last loss the graph lets go of its memory
            g = torch.autograd.grad(z, theta, found[s].v[0], retain_graph=shared, materialize_grads=True)
            direction = _sum(g, path[s], decay) if decay else g
            if mu:
                buffer = direction if s == 0 else _sum(direction, buffer, mu)
                direction = _sum(direction, buffer, mu) if nesterov else buffer
            path.append(_sum(path[s], direction, -config.base_learning_rate))
        theta, z = maps.trace(path[-1], validation[0], seeds[-1])
        v = gradient(task_loss, Elements(z, validation[1]))
        adjoint = torch.autograd.grad(z, theta, v, materialize_grads=True)
        momentum_adjoint, total = None, None
        for s in range(len(train) - 1, -1, -1):
            l = tuple(-config.base_learning_rate * a for a in adjoint)  # adjoint of the update
            if mu:
                own = tuple(mu * a for a in l) if nesterov else l
                own = own if momentum_adjoint is None else _sum(own, momentum_adjoint, 1)  # adjoint of b_s
                l = _sum(l, own, 1) if nesterov else own  # adjoint of d_s
                momentum_adjoint = tuple(mu * a for a in own)
            if s == 0 and linear:
                u = linear(l)
            else:
                u = jvp(lambda *w, s=s: maps(w, train[s][0], seeds[s]), path[s], l)[1]
            (part,) = found[s].mixed(u.detach()[None])
            total = part if total is None else _sum(total, part, 1)
            if s:
                adjoint = _sum(adjoint, _hessian_product(loss, maps, path[s], train[s], seeds[s], l), 1)
                adjoint = _sum(adjoint, l, decay) if decay else adjoint
        results.append(total)
    return results


def _sum(a, b, factor: float) -> tuple[torch.Tensor, ...]:
    """a + factor b, tensor by tensor."""
    return tuple(torch._foreach_add(a, b, alpha=factor))


def _hessian_product(loss, maps: BaseMaps, weights, batch: Batch, seed: int, l) -> tuple[torch.Tensor, ...]:
    """Second derivative of the loss in the weights times `l`, forward over reverse."""
    gradient = grad(lambda w: loss(maps(w, batch[0], seed), batch[1]))
    return tuple(product.detach() for product in jvp(gradient, (weights,), (l,))[1])


def higher_engine(losses, model, train, validation, task_loss, config: Config, seeds) -> list[tuple[torch.Tensor, ...]]:
    """The reference: meta-gradients through the unrolled graph of `higher.innerloop_ctx`."""
    import higher

    results = []
    for loss in losses:
        base = copy.deepcopy(model)
        optimiser = torch.optim.SGD([p for p in base.parameters() if p.requires_grad], **config.sgd)
        with torch.enable_grad(), higher.innerloop_ctx(base, optimiser) as (unrolled, differentiable):

            def outputs(x: torch.Tensor, seed: int) -> torch.Tensor:
                with streams.layer_generator(seed, x.device):
                    return unrolled(x)

            for (x, y), seed in zip(train, seeds[:-1], strict=True):
                differentiable.step(loss(outputs(x, seed), y))
            z = outputs(validation[0], seeds[-1])
            Elements(z, validation[1])  # refuses a target that would broadcast
            value = task_loss(z, validation[1])
            results.append(torch.autograd.grad(value, tuple(loss.parameters()), materialize_grads=True))
    return results


ENGINES: dict[str, Callable] = {"jvp": jvp_engine, "gram": gram.gram_engine, "higher": higher_engine}


def optimise_losses(losses: Sequence[nn.Module], problems: Sequence[Problem], config: Config, seed: int) -> list[bool]:
    """Algorithm 1 for several losses in lockstep: `config.meta_steps` Adam steps on the weights of each, in place.

    Args:
        problems: the meta-training set, m tasks with a base model each; the models are scratch.

    Returns:
        For each loss, whether its weights stayed finite. One that did not is left as it was found, non-finite.
    """
    if not losses:
        return []
    flat = torch.cat([p.detach().reshape(-1) for loss in losses for p in loss.parameters()])
    parts = flat.split([sum(p.numel() for p in loss.parameters()) for loss in losses])
    for loss, part in zip(losses, parts, strict=True):
        torch.nn.utils.vector_to_parameters(part, loss.parameters())  # views: Adam is elementwise, one steps all losses
    adam = torch.optim.Adam([flat], lr=config.meta_learning_rate, fused=True)
    engines = [ENGINES[choose(config.engine, model, config)] for _, model in problems]
    draws = [has_random_layers(model) for _, model in problems]
    for t in range(config.meta_steps):
        flat.grad = torch.zeros_like(flat)
        for i, (task, model) in enumerate(problems):
            initialise(model, streams.torch_generator(seed, "meta-init", i, t))
            model.train()
            train = [
                batches.draw(task.train, config.batch_size, seed, "meta-train", i, t, s)
                for s in range(config.inner_steps)
            ]
            validation = batches.draw(task.validation, config.batch_size, seed, "meta-validation", i, t)
            steps = (*range(config.inner_steps), -1)
            seeds = [streams.integer(seed, "meta-layers", i, t, s) if draws[i] else 0 for s in steps]
            gradients = engines[i](losses, model, train, validation, task.task_loss, config, seeds)
            flat.grad += torch.cat([g.reshape(-1) for of_loss in gradients for g in of_loss]) / len(problems)
        adam.step()
        if (t + 1) % CHECK_EVERY == 0 and not any(bool(part.isfinite().all()) for part in parts):
            break
    for loss in losses:
        for p in loss.parameters():
            p.data = p.data.clone()  # no longer a view of all losses' weights
    return [bool(part.isfinite().all()) for part in parts]
