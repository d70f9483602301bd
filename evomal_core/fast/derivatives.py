"""The derivatives of several losses on one batch, without autograd where a loss allows it.

`LossInputs` is what a loss sees of a batch; `Derivatives` of several losses on it serve base training and loss
optimisation. They work for any `nn.Module` called as `loss(prediction, target)`, by autograd, and go through the tape for
`MetaLoss`. The plain form is autograd through the loss's `forward`; tests hold the two together.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from ..losses.elementwise import check_target
from ..losses.meta_network import MetaLoss
from . import private, tape


class LossInputs:
    """Raw outputs `prediction` and `target` (class indices (B,), or (B, C) for regression), as a loss sees them.

    Built once a step and shared by all losses of a lockstep, or `prediction` is (K, B, C), one for each of K losses. `f`
    ((K,) C, B) and `y` (C, B) are arrays of namespace `xp`, with the instances last: a softmax over few classes that lie
    side by side in memory takes 20 times as long.
    """

    def __init__(self, prediction: torch.Tensor, target: torch.Tensor):
        self.prediction, self.target = prediction.detach(), target
        self.classification, self.several = not target.is_floating_point(), prediction.ndim > 2
        self.xp = np if prediction.device.type == "cpu" else torch
        self.instances = len(target) if self.classification else target.numel()
        check_target(prediction, target)

    def array(self, tensor: torch.Tensor):
        """The tensor as the library `xp` has it, without a copy."""
        return tensor.detach().numpy() if self.xp is np else tensor.detach()

    @cached_property
    def f(self):
        z = self.prediction.mT.contiguous()
        return self.array(torch.softmax(z, -2) if self.classification else z)

    @cached_property
    def y(self):
        if not self.classification:
            return self.array(self.target.mT)
        unit = torch.eye(self.prediction.shape[-1], dtype=self.prediction.dtype, device=self.prediction.device)
        return self.array(unit.index_select(1, self.target.long()))

    @cached_property
    def ones(self):
        """(C B,), with which a product is a sum."""
        return self.xp.ones_like(self.y).reshape(-1)

    def of(self, k: int) -> "LossInputs":
        """What the k-th loss sees."""
        return LossInputs(self.prediction[k], self.target) if self.several else self

    def softmax_vjp(self, m) -> torch.Tensor:
        """S m / B: the gradient on the raw outputs from m = dM/df, with S the softmax Jacobian; both (…, C, B).

        S is symmetric, so this also takes a direction on the raw outputs to one of f, over B.
        """
        m = torch.as_tensor(m)
        if self.classification:
            m = private.softmax_backward(*torch.broadcast_tensors(m, torch.as_tensor(self.f)))
        return m * (1 / self.instances)


def taped(loss: nn.Module) -> bool:
    """Does the loss take its derivatives from the tape? A subclass with an element of its own does not."""
    own = isinstance(loss, MetaLoss) and type(loss).elementwise is MetaLoss.elementwise
    return own and type(loss).forward is MetaLoss.forward and loss.plain


def tape_of(loss: MetaLoss, inputs: LossInputs, order: int = 2, k: int = 0) -> tape.Tape:
    """The loss's dual evaluation on a batch, on the k-th of several predictions; `order=1` for no more than dM/df."""
    loss.check_kind(inputs.target)
    f = inputs.f[k] if inputs.several else inputs.f
    weights = inputs.array(loss.weights.to(inputs.prediction.dtype))
    listed = tape.program(loss.expression, loss.protection, loss.non_negative, order, inputs.xp, f.dtype)
    return tape.Tape(listed, weights, inputs.y.reshape(-1), f.reshape(-1), inputs.ones)


def _task_gradient(loss: nn.MSELoss | nn.CrossEntropyLoss, e: LossInputs) -> torch.Tensor:
    factor = 2 if isinstance(loss, nn.MSELoss) else 1
    return torch.as_tensor((e.f - e.y) * (factor / e.instances)).mT


def closed_form(loss):
    """`gradient` written out, of PyTorch's two task losses and where a loss has its own; None for any other."""
    # A plain function has neither.
    forward, mean = getattr(type(loss), "forward", None), getattr(loss, "reduction", None) == "mean"
    if mean and hasattr(loss, "closed_form") and loss.plain and not loss.non_negative:
        return type(loss).closed_form
    entropy = forward is nn.CrossEntropyLoss.forward and loss.weight is None
    entropy = entropy and loss.ignore_index < 0 and not loss.label_smoothing
    return _task_gradient if mean and (entropy or forward is nn.MSELoss.forward) else None


def gradient(loss: nn.Module, inputs: LossInputs) -> torch.Tensor:
    """dL/dz of one loss, of the prediction's shape; on several predictions each is taken alone."""
    if closed := closed_form(loss):
        return closed(loss, inputs)
    count = len(inputs.prediction) if inputs.several else 1
    return Derivatives([loss] * count, inputs).v.reshape(inputs.prediction.shape)


def _without_tape(loss: nn.Module, inputs: LossInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(value (), dL/dz (B, C)) of one loss, in closed form or by autograd."""
    closed = closed_form(loss)
    z = inputs.prediction.detach().requires_grad_(not closed)
    with torch.set_grad_enabled(not closed):
        value = loss(z, inputs.target)
    return value.detach(), closed(loss, inputs) if closed else torch.autograd.grad(value, z)[0]


class Derivatives:
    """What training needs of K losses on one batch. What is not elementwise, the softmax's Jacobian, is done for all at once.

    Args:
        order: 2 if `mixed` is to follow.

    Attributes:
        v: dL_k/dz, (K, B, C) (eq. 5 without the base model).
    """

    def __init__(self, losses: Sequence[nn.Module], inputs: LossInputs, order: int = 1):
        self.losses, self.inputs = losses, inputs
        v = inputs.prediction.new_empty((len(losses), *inputs.prediction.mT.shape[-2:]))
        m = inputs.array(v).reshape(len(losses), -1)
        with np.errstate(all="ignore"):  # a non-finite loss is counted by who trains under it
            self.tapes = {k: tape_of(loss, inputs, order, k) for k, loss in enumerate(losses) if taped(loss)}
            for k, t in self.tapes.items():
                m[k] = t.derivative
        self.v = (inputs.softmax_vjp(v) if self.tapes else v).mT
        self._values = v.new_empty(len(losses))
        for k, loss in enumerate(losses):
            if k not in self.tapes:
                self._values[k], self.v[k] = _without_tape(loss, inputs.of(k))

    def values(self) -> torch.Tensor:
        """The losses, (K,)."""
        array = self.inputs.array(self._values)
        with np.errstate(all="ignore"):
            for k, t in self.tapes.items():
                array[k] = t.value.dot(self.inputs.ones) / self.inputs.instances
        return self._values

    def mixed(self, u: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """d<dL_k/dz, u_k>/dphi_k, one tensor a parameter of each loss; `u` (K, B, C) are directions on the raw outputs
        (eq. 9 with the base model taken out)."""
        pulled = self.inputs.array(self.inputs.softmax_vjp(u.mT.contiguous())).reshape(len(u), -1)
        with np.errstate(all="ignore"):
            parts = [g for k, t in self.tapes.items() for g in t.gradient(pulled[k])]
        if self.inputs.xp is np:
            flat = torch.from_numpy(np.array(parts, pulled.dtype))
        else:
            parts = [g if isinstance(g, torch.Tensor) else u.new_full((), g) for g in parts]
            flat = torch.stack(parts) if parts else u.new_empty(0)
        own = dict(zip(self.tapes, flat.split([len(self.losses[k].weights) for k in self.tapes]), strict=True))
        return [
            (own[k].to(loss.weights.dtype),) if k in own else _mixed_by_autograd(loss, self.inputs.of(k), u[k])
            for k, loss in enumerate(self.losses)
        ]


def _mixed_by_autograd(loss: nn.Module, inputs: LossInputs, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    phi = tuple(loss.parameters())
    with torch.enable_grad():
        z = inputs.prediction.detach().requires_grad_()
        (v,) = torch.autograd.grad(loss(z, inputs.target), z, create_graph=True)
        if not v.requires_grad:
            return tuple(torch.zeros_like(p) for p in phi)
        return torch.autograd.grad((v * u).sum(), phi, materialize_grads=True)


class OutputGradients:
    """`training.output_gradients` for one target: its labels are made one-hot once, not once a call."""

    def __init__(self, target: torch.Tensor):
        self.target, self.labels = target, None

    def __call__(self, losses: Sequence[nn.Module], outputs: torch.Tensor) -> torch.Tensor:
        inputs = LossInputs(outputs, self.target)
        if self.labels is not None:
            inputs.y = self.labels
        self.labels = inputs.y
        return Derivatives(losses, inputs).v
