"""A base model that is a chain of Linear layers and elementwise activations, trained without autograd's overhead.

The plain form of everything here is autograd through `nn.Sequential`; tests hold the two together.
"""

from dataclasses import dataclass

import torch
from torch import nn

FEW = 32  # outputs
# activation -> (function, derivative from its output)
ACTIVATIONS = {
    nn.ReLU: (torch.relu, lambda a: (a > 0).to(a.dtype)),
    nn.Tanh: (torch.tanh, lambda a: 1 - a * a),
    nn.Sigmoid: (torch.sigmoid, lambda a: a * (1 - a)),
}


def linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """What the layer gives for x (B, n). A layer of few outputs is W x^T, which takes half the time of x W^T."""
    if layer.bias is None or layer.out_features > FEW:
        return nn.functional.linear(x, layer.weight, layer.bias)
    return torch.addmm(layer.bias[:, None], layer.weight, x.T).T.contiguous()


@dataclass(frozen=True)
class Chain:
    """Linear layers W_1 … W_L with one activation (or None) between each two; the input is flattened to (B, n)."""

    layers: tuple[nn.Linear, ...]
    activations: tuple[type | None, ...]  # L - 1: behind each layer but the last

    @classmethod
    def of(cls, model: nn.Module) -> "Chain | None":
        """The chain that `model` is, or None: an `nn.Sequential` of [Flatten,] Linear, activation, …, Linear."""
        if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
            return None
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, name) for module in model.modules() for name in hooks):
            return None
        modules = list(model)
        if modules and type(modules[0]) is nn.Flatten and (modules[0].start_dim, modules[0].end_dim) == (1, -1):
            modules = modules[1:]
        layers, activations = [], []
        for module in modules:
            if type(module) is nn.Linear:
                if len(activations) < len(layers):
                    activations.append(None)
                layers.append(module)
            elif type(module) in ACTIVATIONS and len(activations) == len(layers) - 1:
                activations.append(type(module))
            else:
                return None
        weights = [p for layer in layers for p in layer.parameters()]
        shared = len({id(p) for p in weights}) < len(weights)
        if not layers or len(activations) != len(layers) - 1 or shared or not all(p.requires_grad for p in weights):
            return None
        return cls(tuple(layers), tuple(activations))

    def activate(self, l: int, z: torch.Tensor) -> torch.Tensor:
        """Activation behind layer l (from 0)."""
        return z if self.activations[l] is None else ACTIVATIONS[self.activations[l]][0](z)

    def gate(self, l: int, signal: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """`signal` times the derivative of the activation behind layer l, whose output is `a`."""
        if self.activations[l] is None:
            return signal
        if self.activations[l] is nn.ReLU:
            return torch.ops.aten.threshold_backward(signal, a, 0)
        return signal * ACTIVATIONS[self.activations[l]][1](a)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(inputs a_0 … a_{L-1} of the layers, outputs (B, C))."""
        inputs = [x.flatten(1)]
        for l, layer in enumerate(self.layers):
            z = linear(inputs[-1], layer)
            if l < len(self.activations):
                inputs.append(self.activate(l, z))
        return inputs, z

    @torch.no_grad()
    def signals(self, v: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Back-propagated signals dL/dz_l, (B, n_l) each, from the gradient `v` (B, C) on the outputs."""
        result = [v]
        for l in range(len(self.layers) - 1, 0, -1):
            weight = self.layers[l].weight  # of one output: a scaling instead of a product
            back = result[-1] * weight if len(weight) == 1 else result[-1] @ weight
            result.append(self.gate(l - 1, back, inputs[l]))
        return result[::-1]

    @torch.no_grad()
    def backward(self, v: torch.Tensor, inputs: list[torch.Tensor]) -> None:
        """Write the gradients of the weights into `.grad`, as `z.backward(v)` would on cleared ones."""
        for layer, signal, a in zip(self.layers, self.signals(v, inputs), inputs, strict=True):
            if layer.weight.grad is None:
                for p in layer.parameters():
                    p.grad = torch.empty_like(p)
            torch.mm(signal.T, a, out=layer.weight.grad)
            if layer.bias is not None:
                torch.sum(signal, 0, out=layer.bias.grad)
