"""The `gram` engine: meta-gradients of a chain of Linear layers for one inner step, without a weight-sized gradient.

Let a_l, z_l, delta_l be a chain's activations, pre-activations and back-propagated signals on the training batch x at
theta, with v = dL/df on top; the same with ' on the validation batch at theta_new; alpha the effective rate, wd the
weight decay, s = 1 - alpha wd. As W_new = s W - alpha delta^T a, everything at theta_new needs only products of
activations, K_l = a'_l a_l^T + 1 (B' x B; the 1 is the bias):

    forward at theta_new    z'_l = s (a'_{l-1} W_l^T + b_l) - alpha K_{l-1} delta_l
    back from the task loss  eps_{l-1} = (s eps_l W_l - alpha (eps_l delta_l^T) a_{l-1}) o act'(z'_{l-1})
    what phi sees, u = J h   u_bc = sum_l sum_n D_l[b,c,n] (K_{l-1}^T eps_l)[b,n]

where D_l[b,c,n] = d f_bc / d z_l,bn at theta is shared by all losses, as are a_l, K_0 and the first layer's products;
likewise delta_l[b,n] = sum_c v_bc D_l[b,c,n]. The meta-gradient is -alpha d<v(phi), u>/dphi. A loss costs two products
of the size of the model's, where vjp, gradient and jvp cost eight. The plain form is `training.unroll.higher_engine`.
"""

import torch

from ..config import Config
from .chain import Chain
from .derivatives import Derivatives, LossInputs, gradient


def applies(model, config: Config) -> str | None:
    """None if the engine serves this model and configuration, else the reason why not."""
    if config.inner_steps != 1:
        return f"it takes one inner step, inner_steps is {config.inner_steps}"
    if Chain.of(model) is None:
        return "the model is not an nn.Sequential of Linear layers with at most ReLU, Tanh or Sigmoid between them"
    return None


class OutputSignals:
    """D_l[b,c,n] = d f_bc / d z_l,bn for every layer: the chain's signals for each output alone."""

    def __init__(self, chain: Chain, inputs: list[torch.Tensor], outputs: int):
        unit = torch.eye(outputs, dtype=inputs[0].dtype, device=inputs[0].device)
        rows = unit[:, None, :].expand(outputs, len(inputs[0]), outputs)  # (c, b, n)
        self.layers, self.outputs = [rows], outputs
        for l in range(len(chain.layers) - 1, 0, -1):
            rows = chain.gate(l - 1, rows @ chain.layers[l].weight, inputs[l].expand(outputs, *inputs[l].shape))
            self.layers.insert(0, rows)

    def factors(self, l: int, gram: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K delta_l as two factors, (B', B) and (B, n_l), from the gradient `v` (B, C) on the outputs. With one output
        delta_l = v D_l, and K is scaled instead."""
        if self.outputs == 1:
            return gram * v.T, self.layers[l][0]
        return gram, v if l == len(self.layers) - 1 else torch.einsum("bc,cbn->bn", v, self.layers[l])

    def products(self, l: int, gram: torch.Tensor, v: torch.Tensor, delta: torch.Tensor, epsilon: torch.Tensor):
        """(sum_n D_l[b,c,n] (K^T eps_l)[b,n], (B, C); eps_l delta_l^T, (B', B)); `delta` is the second factor of
        `factors`. With one output the product eps_l D_l^T serves both."""
        if self.outputs == 1:
            product = epsilon @ delta.T
            return (gram * product).sum(0)[:, None], product * v.T
        r = gram.T @ epsilon
        return r if l == len(self.layers) - 1 else torch.einsum("cbn,bn->bc", self.layers[l], r), epsilon @ delta.T


@torch.no_grad()
def gram_engine(losses, model, train, validation, task_loss, config: Config, seeds) -> list[tuple[torch.Tensor, ...]]:
    """Meta-gradients of several losses from one theta (module docstring); interface as `jvp.jvp_engine`."""
    chain = Chain.of(model)
    (x, y), (x_new, y_new) = train[0], validation
    alpha = config.first_rate
    s = 1 - alpha * config.base_weight_decay
    weights, biases = zip(*((layer.weight, layer.bias) for layer in chain.layers), strict=True)
    a, z = chain.forward(x)
    D = OutputSignals(chain, a, z.shape[-1])
    found = Derivatives(losses, LossInputs(z, y), order=2)
    v = found.v
    first_input = x_new.flatten(1)
    first_product = s * torch.nn.functional.linear(first_input, weights[0], biases[0])
    first_gram = _gram(first_input, a[0], biases[0])
    if len(weights) == 1:
        # Nothing as wide as the input is left: all losses in one product each way, (K C, B) in memory.
        z_new = torch.addmm(first_product.T.repeat(len(v), 1), v.mT.flatten(0, 1), first_gram.T, alpha=-alpha)
        epsilon = gradient(task_loss, LossInputs(z_new.unflatten(0, (len(v), -1)).mT, y_new))
        u = (epsilon.mT.flatten(0, 1) @ first_gram).unflatten(0, (len(v), -1)).mT
    else:
        u = torch.zeros_like(v)
        for k in range(len(losses)):
            delta, gram, a_new = [], [first_gram], [first_input]
            for l in range(len(weights)):
                product, scale = first_product, 1.0
                if l:
                    gram.append(_gram(a_new[l], a[l], biases[l]))
                    product, scale = torch.nn.functional.linear(a_new[l], weights[l], biases[l]), s
                left, right = D.factors(l, gram[l], v[k])
                delta.append(right)
                z_new = torch.addmm(product, left, right, beta=scale, alpha=-alpha)
                a_new.append(chain.activate(l, z_new))
            epsilon = gradient(task_loss, LossInputs(z_new, y_new))
            for l in range(len(weights) - 1, -1, -1):
                seen, overlap = D.products(l, gram[l], v[k], delta[l], epsilon)
                u[k] += seen
                if l:
                    back = torch.addmm(epsilon @ weights[l], overlap, a[l], beta=s, alpha=-alpha)
                    epsilon = chain.gate(l - 1, back, a_new[l])
    return found.mixed(-alpha * u)


def _gram(a_new: torch.Tensor, a: torch.Tensor, bias) -> torch.Tensor:
    """K = a' a^T, plus 1 for a layer with bias, (B', B)."""
    return a_new @ a.T if bias is None else (a_new @ a.T).add_(1)
