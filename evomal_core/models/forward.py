"""A base model as a function of its weights, and what is learned of it by running it."""

import weakref
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, jvp

from .random_layers import draws_random_numbers, seeded

PROBED = 2  # instances that a model is run on to learn about it


def rearranged(model: nn.Module, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """The model itself, with every weight and buffer dense in memory; convolutions' weights in the format `layout`.

    An optimiser that goes through memory needs weights, gradients and momenta in one order.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.contiguous(memory_format=layout if tensor.ndim == 4 else torch.contiguous_format)
    return model


def activation_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """What the backward pass of one instance keeps, in bytes, counted on the inputs `x`; weights are left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    run, x = ForwardMap(model), x.clone()  # no view of a whole data set
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z = run(tuple(w.requires_grad_() for w in run.weights), x, 0)  # keeps the graph while it is counted
    kept[z.untyped_storage().data_ptr()] = z.untyped_storage().nbytes()
    return sum(kept.values()) // len(x)


_known: "weakref.WeakKeyDictionary[nn.Module, tuple]" = weakref.WeakKeyDictionary()


def random_layers(model: nn.Module, x: torch.Tensor) -> bool:
    """Does the model draw random numbers in the mode it is in? It is run once on `x`, and again when its modules change."""
    facts = tuple((type(m), m.training, getattr(m, "p", None), getattr(m, "dropout", None)) for m in model.modules())
    if model not in _known or _known[model][0] != facts:
        run = ForwardMap(model, seeded=False)
        with torch.no_grad():
            _known[model] = facts, draws_random_numbers(lambda: run(run.weights, x[:PROBED], None), x.device)
    return _known[model][1]


class ForwardMap:
    """A base model as a function of its weights: z = f_theta(x). The model itself stays as it is, on an exception too.

    Each tensor counts once, wherever it is used: a layer that is registered twice, or a parameter that two layers share,
    has one place among `weights`.

    Attributes:
        weights: the trained parameters, detached, in the order of `model.parameters()`.
    """

    def __init__(self, model: nn.Module, seeded: bool = True):
        self.model, self.seeded = model, seeded
        trained = [p for p in model.parameters() if p.requires_grad]
        place = {id(p): k for k, p in enumerate(trained)}
        self.weights = tuple(p.detach() for p in trained)
        self.names: list[tuple[str, int]] = []  # (name of an attribute of a module, its place among the weights)
        self.fixed: dict[str, torch.Tensor] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        for prefix, module in model.named_modules():  # every module once
            dot = f"{prefix}." if prefix else ""
            for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
                if id(p) in place:
                    self.names.append((dot + name, place[id(p)]))
                else:
                    self.fixed[dot + name] = p
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
                self.buffers[dot + name] = buffer

    def __call__(
        self, weights: Sequence[torch.Tensor], x: torch.Tensor, seed: int | None, fixed: dict | None = None
    ) -> torch.Tensor:
        """Outputs (B, C) at `weights`.

        Args:
            seed: the seed of what the layers draw; None for a model that draws nothing.
            fixed: buffers and untrained parameters to use, which the model may change; without it, clones of its own.
        """
        if fixed is None:
            fixed = {name: buffer.clone() for name, buffer in self.buffers.items()} | self.fixed
        state = {name: weights[place] for name, place in self.names} | fixed
        with seeded(seed if self.seeded else None, x.device):
            return functional_call(self.model, state, (x,), tie_weights=False)

    def trace(self, weights, x: torch.Tensor, seed: int | None) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """(weights, outputs) with the graph between them."""
        with torch.enable_grad():
            weights = tuple(w.detach().requires_grad_() for w in weights)
            return weights, self(weights, x, seed)

    def stacked_fixed(self, n: int) -> dict[str, torch.Tensor]:
        """Buffers and untrained parameters of `n` copies; vmap updates running statistics only where they are stacked."""
        return {name: stack(tensor, n) for name, tensor in (self.buffers | self.fixed).items()}


def tangent(maps: ForwardMap, weights, directions, x: torch.Tensor, seed: int | None) -> torch.Tensor:
    """J l (B, C): the derivative of the outputs at `weights` along `directions`.

    It is one forward-mode product. Where an operation of the model has no forward mode (the fused weight normalisation,
    an `out=` function), it is two backward passes: the derivative of v -> v^T J l.
    """
    try:
        return jvp(lambda *w: maps(w, x, seed), tuple(weights), tuple(directions))[1]
    except NotImplementedError:
        inputs, z = maps.trace(weights, x, seed)
        with torch.enable_grad():
            v = torch.zeros_like(z, requires_grad=True)
            back = torch.autograd.grad(z, inputs, v, create_graph=True, materialize_grads=True)
            reached = [(g, l) for g, l in zip(back, directions, strict=True) if g.requires_grad]
            return torch.autograd.grad([g for g, _ in reached], v, [l for _, l in reached])[0]


def stack(tensor: torch.Tensor, n: int) -> torch.Tensor:
    """`n` copies of a tensor, (n, ...), row-major whatever the strides of the tensor."""
    return tensor.detach().expand(n, *tensor.shape).clone(memory_format=torch.contiguous_format)
