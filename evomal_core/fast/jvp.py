"""The `jvp` engine: meta-gradients without a second-order graph through the base model. Its plain form is `higher_engine`.

With d_s the direction of step s (gradient plus weight decay), b_s the momentum and lambda the adjoint of theta_{s+1}, the
sweep back needs of step s only <grad L_s, l> for the adjoint l of d_s, a derivative of L along l: in phi it is
d<v(phi), J l>/dphi, one forward-mode product J l; in theta the Hessian-vector product H l, not needed at the first step.
For S_base = 1, l = -alpha_eff h with h the task loss's gradient and alpha_eff = alpha (1 + mu) for Nesterov (the first
step of momentum), which is all there is to compute (eq. 4 to 9).
"""

import torch
from torch.func import grad, jvp

from ..config import Config
from ..models.forward import ForwardMap, tangent
from ..training import sgd
from . import private, stacked
from .derivatives import Derivatives, LossInputs, gradient
from .linearise import Linearisation


def jvp_engine(losses, model, train, validation, task_loss, config: Config, seeds, optimiser=None):
    """Meta-gradients of several losses from one theta, a list of tuples; any model, any S_base (module docstring).

    Args:
        optimiser: as of `training.Problem`; None for the rule of `training.sgd`.
    """
    make = optimiser.rule if optimiser else sgd.Unrolled
    maps, x = ForwardMap(model), train[0][0]
    theta0, z0 = maps.trace(maps.weights, x, seeds[0])
    together = max(1, config.copies)
    if len(train) == 1 and min(together, len(losses)) > 1 and not optimiser:
        groups = [losses[i : i + together] for i in range(0, len(losses), together)]
        common = (maps, z0, theta0, train[0], validation, task_loss, config, seeds)
        return [gradient for group in groups for gradient in stacked.stacked_jvp(group, *common)]
    linear = Linearisation.of(model, x) if len(losses) > 1 else None  # J of the first step, which all losses share
    results = []
    for k, loss in enumerate(losses):
        path, found, rule = [maps.weights], [], make(config, private.add_scaled)
        for s, batch in enumerate(train):
            theta, z = maps.trace(path[s], batch[0], seeds[s]) if s else (theta0, z0)
            found.append(Derivatives([loss], LossInputs(z, batch[1]), order=2))
            shared = s == 0 and k < len(losses) - 1  # behind the last loss the graph lets go of its memory
            g = torch.autograd.grad(z, theta, found[s].v[0], retain_graph=shared, materialize_grads=True)
            path.append(rule.step(path[s], g))
        theta, z = maps.trace(path[-1], validation[0], seeds[-1])
        v = gradient(task_loss, LossInputs(z, validation[1]))
        adjoint, total = torch.autograd.grad(z, theta, v, materialize_grads=True), None
        for s in range(len(train) - 1, -1, -1):
            l = rule.back(adjoint)
            u = linear(l) if linear and s == 0 else tangent(maps, path[s], l, train[s][0], seeds[s])
            (part,) = found[s].mixed(u.detach()[None])
            total = part if total is None else private.add_scaled(total, part, 1)
            if s:
                adjoint = private.add_scaled(adjoint, _hessian_product(loss, maps, path[s], train[s], seeds[s], l), 1)
                if config.base_weight_decay:
                    adjoint = private.add_scaled(adjoint, l, config.base_weight_decay)
        results.append(total)
    return results


def _hessian_product(loss, maps: ForwardMap, weights, batch, seed: int | None, l) -> tuple[torch.Tensor, ...]:
    """Second derivative of the loss in the weights times `l`, forward over reverse."""
    gradient = grad(lambda w: loss(maps(w, batch[0], seed), batch[1]))
    return tuple(product.detach() for product in jvp(gradient, (weights,), (l,))[1])
