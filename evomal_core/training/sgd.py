"""The base optimiser's rule: stochastic gradient descent with weight decay, momentum and Nesterov's (eq. 3, section IV).

With g the gradient, wd the weight decay, mu the momentum and b the buffer, one step from theta is

    d = g + wd theta;   b = d at the first step, else mu b + d;   theta_new = theta - alpha (d + mu b with Nesterov, else b)

and theta_new = theta - alpha d without momentum. `torch.optim.SGD` is the plain form.
"""

from collections.abc import Iterable, Sequence

import torch

from ..config import Config

Tensors = tuple[torch.Tensor, ...]


class Sgd(torch.optim.SGD):
    """The base optimiser of a configuration: `torch.optim.SGD`, whose momenta begin at zero instead of not being there.

    From zero the first step's momentum is the gradient, as PyTorch's is.
    """

    def __init__(self, weights: Iterable[torch.Tensor], config: Config):
        weights = list(weights)
        super().__init__(weights, **config.sgd)
        self.momenta = [torch.zeros_like(w) for w in weights] if config.base_momentum else []
        for w, momentum in zip(weights, self.momenta, strict=False):
            self.state[w]["momentum_buffer"] = momentum

    def change_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        for group in self.param_groups:
            group["lr"] *= factor


class Unrolled:
    """The rule as a function of the weights, and the adjoint of it, for weights that are tuples of tensors.

    Args:
        add: (a, b, factor) -> a + factor b, tensor by tensor.
    """

    def __init__(self, config: Config, add):
        self.rate, self.mu = config.base_learning_rate, config.base_momentum
        self.nesterov, self.decay, self.add = config.base_nesterov, config.base_weight_decay, add
        self.buffer: Tensors | None = None
        self.buffer_adjoint: Tensors | None = None

    def step(self, theta: Tensors, g: Tensors) -> Tensors:
        """theta_new; the momentum moves on."""
        direction = self.add(g, theta, self.decay) if self.decay else g
        if self.mu:
            self.buffer = direction if self.buffer is None else self.add(direction, self.buffer, self.mu)
            direction = self.add(direction, self.buffer, self.mu) if self.nesterov else self.buffer
        return self.add(theta, direction, -self.rate)

    def back(self, adjoint: Sequence[torch.Tensor]) -> Tensors:
        """The adjoint of d, from that of theta_new; to be called for the last step first."""
        l = tuple(-self.rate * a for a in adjoint)  # adjoint of the update
        if self.mu:
            own = tuple(self.mu * a for a in l) if self.nesterov else l
            own = own if self.buffer_adjoint is None else self.add(own, self.buffer_adjoint, 1)  # adjoint of b
            l = self.add(l, own, 1) if self.nesterov else own
            self.buffer_adjoint = tuple(self.mu * a for a in own)
        return l
