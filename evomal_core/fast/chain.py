"""A base model that is a chain of Linear layers and elementwise activations, trained without autograd's overhead.

The plain form of everything here is autograd through `nn.Sequential`; tests hold the two together.
"""

import itertools
import re
from dataclasses import dataclass, field

import torch
from torch import nn

from . import private

FEW = 32  # outputs
# activation -> (function, (signal, output) -> signal times derivative), each in the memory of its first argument
ACTIVATIONS = {
    nn.ReLU: (torch.relu_, private.gate_relu),
    nn.Tanh: (torch.tanh_, lambda signal, a: signal.mul_(1 - a * a)),
    nn.Sigmoid: (torch.sigmoid_, lambda signal, a: signal.mul_(a * (1 - a))),
}


def linear(x: torch.Tensor, layer: nn.Linear, out: torch.Tensor) -> torch.Tensor:
    """What the layer gives for x (B, n), as a rule in `out`. A layer of few outputs is W x^T, in half the time of x W^T."""
    if layer.bias is None:
        return torch.mm(x, layer.weight.T, out=out)
    if layer.out_features > FEW:
        return torch.addmm(layer.bias, x, layer.weight.T, out=out)
    return torch.addmm(layer.bias[:, None], layer.weight, x.T).T.contiguous()


def hooked(module: nn.Module) -> bool:
    """Does the module have hooks? They would not be called where its work is done without it."""
    return any(getattr(module, f"_{kind}_hooks") for kind in ("forward", "forward_pre", "backward", "backward_pre"))


def plain_layers(model: nn.Module, known: tuple[type, ...]) -> list[nn.Module] | None:
    """The layers of an `nn.Sequential` of nothing but `known` ones, without hooks, each with trained weights of its own."""
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        return None
    weights = [p for layer in model for p in layer.parameters()]
    own = len({id(p) for p in weights if p.requires_grad}) == len(weights)
    plain = not any(map(hooked, model.modules())) and all(type(layer) in known for layer in model)
    return list(model) if own and plain else None


@dataclass(frozen=True)
class Chain:
    """Linear layers W_1 … W_L with one activation (or None) between each two; the input is flattened to (B, n)."""

    layers: tuple[nn.Linear, ...]
    activations: tuple[type | None, ...]  # L, behind each layer; None behind the last
    kept: dict = field(default_factory=dict, repr=False, compare=False)  # (what, layer) -> tensor written at every call

    @classmethod
    def of(cls, model: nn.Module) -> "Chain | None":
        """The chain that `model` is, or None: an `nn.Sequential` of [Flatten,] Linear, activation, …, Linear."""
        modules = plain_layers(model, (nn.Flatten, nn.Linear, *ACTIVATIONS)) or []
        kinds = "".join("L" if type(m) is nn.Linear else "A" if type(m) in ACTIVATIONS else "F" for m in modules)
        usual = all((m.start_dim, m.end_dim) == (1, -1) for m in modules if type(m) is nn.Flatten)
        if not usual or not re.fullmatch("F?(LA?)*L", kinds):
            return None
        behind = [type(after) for layer, after in itertools.pairwise([*modules, None]) if type(layer) is nn.Linear]
        activations = (kind if kind in ACTIVATIONS else None for kind in behind)
        return cls(tuple(m for m in modules if type(m) is nn.Linear), tuple(activations))

    def keep(self, what: str, l: int, rows: int, n: int) -> torch.Tensor:
        """A tensor (rows, n) that stays from call to call: fresh memory costs more than what is written into it."""
        tensor = self.kept.get((what, l))
        if tensor is None or len(tensor) != rows:
            tensor = self.kept[what, l] = self.layers[l].weight.new_empty(rows, n)
        return tensor

    def activate(self, l: int, z: torch.Tensor) -> torch.Tensor:
        """Activation behind layer l (from 0), in the memory of `z`."""
        return z if self.activations[l] is None else ACTIVATIONS[self.activations[l]][0](z)

    def gate(self, l: int, signal: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """`signal` times the derivative of the activation behind layer l, whose output is `a`, in the memory of `signal`."""
        return signal if self.activations[l] is None else ACTIVATIONS[self.activations[l]][1](signal, a)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(inputs a_0 … a_{L-1} of the layers, outputs (B, C)); the next call overwrites them."""
        inputs = [x.flatten(1)]
        for l, layer in enumerate(self.layers):
            z = linear(inputs[-1], layer, self.keep("output", l, len(x), layer.out_features))
            inputs.append(self.activate(l, z))
        return inputs[:-1], z

    @torch.no_grad()
    def backward(self, v: torch.Tensor, inputs: list[torch.Tensor]) -> None:
        """Write the gradients of the weights into `.grad`, as `z.backward(v)` would on cleared ones; `v` is (B, C)."""
        signal = v  # dL/dz_l, (B, n_l)
        for l, layer in reversed(list(enumerate(self.layers))):
            if layer.weight.grad is None:
                for p in layer.parameters():
                    p.grad = torch.empty_like(p)
            torch.mm(signal.T, inputs[l], out=layer.weight.grad)
            if layer.bias is not None:
                torch.sum(signal, 0, out=layer.bias.grad)
            if l:
                # With one output the product is a scaling.
                product = torch.mul if layer.out_features == 1 else torch.mm
                back = product(signal, layer.weight, out=self.keep("signal", l, len(signal), layer.in_features))
                signal = self.gate(l - 1, back, inputs[l])
