"""How a loss meets a batch: the calling convention of every learned loss, and the two derivatives that training needs.

`Elements` is what a loss sees of a batch (classification applies M to softmax outputs and one-hot labels, sums over
the classes and averages over the batch; regression averages). `Derivatives` of several losses on it serve base training and
loss optimisation; they work for any `nn.Module` called as `loss(prediction, target)`, by autograd, and go through the tape
for `MetaLoss`.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .. import files
from ..config import check, check_choice

SCHEMA, MAX_FILE_BYTES = 1, 4_000_000  # of loss files


class Elements:
    """Raw outputs `prediction` and `target` (class indices (B,), or (B, C) for regression), as a loss sees them.

    Built once a step and shared by all losses of a lockstep, or `prediction` is (K, B, C), one for each of K losses. `f`
    ((K,) C, B) and `y` (C, B) are arrays of namespace `xp`, with the instances last: a softmax over few classes that lie
    side by side in memory takes 20 times as long.
    """

    def __init__(self, prediction: torch.Tensor, target: torch.Tensor):
        self.prediction, self.target = prediction.detach(), target
        self.classification = not target.is_floating_point()
        self.several = prediction.ndim > 2
        self.xp = np if prediction.device.type == "cpu" else torch
        self.instances = len(target) if self.classification else target.numel()
        if target.shape != prediction.shape[-2 : -1 if self.classification else None]:  # it would broadcast
            shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            raise ValueError(f"outputs and target must be (B, C) and (B,) of classes or (B, C) of values, got {shapes}")

    def array(self, tensor: torch.Tensor):
        """The tensor as the library `xp` has it, without a copy."""
        return tensor.detach().numpy() if self.xp is np else tensor.detach()

    @cached_property
    def _f(self) -> torch.Tensor:
        z = self.prediction.mT.contiguous()
        return torch.softmax(z, -2) if self.classification else z

    @cached_property
    def f(self):
        return self.array(self._f)

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

    def of(self, k: int) -> "Elements":
        """What the k-th loss sees."""
        return Elements(self.prediction[k], self.target) if self.several else self

    def pull(self, m) -> torch.Tensor:
        """S m / B: the gradient on the raw outputs from m = dM/df, with S the softmax Jacobian; both (…, C, B).

        S is symmetric, so this also takes a direction on the raw outputs to one of f, over B.
        """
        m = torch.as_tensor(m)
        if self.classification:
            m, f = torch.broadcast_tensors(m, self._f)
            m = torch.ops.aten._softmax_backward_data(m, f, -2, m.dtype)
        return m * (1 / self.instances)


class ElementwiseLoss(nn.Module):
    """Base of the losses that act element by element on label and prediction.

    Call it like PyTorch's losses. Classification: logits (B, C) or (C,) and class indices (B,) or (); regression:
    prediction and target of one shape, usually (B, 1). Half precision is computed in float32.

    Args:
        classification: softmax, one-hot, sum over the classes, mean over the batch; else mean over all elements.
        non_negative: softplus on each element's output (section III-B3).
        reduction: "mean", "sum" or "none", as in PyTorch's losses; "none" gives (B,) or the prediction's shape.
    """

    kind: str  # in a loss file
    FIELDS: tuple[str, ...] = ("weights", "dtype", "classification", "non_negative", "reduction")  # of a loss file
    weights: nn.Parameter  # phi, (n,)

    def __init__(
        self, weights, n: int, classification: bool = False, non_negative: bool = False, reduction: str = "mean"
    ):
        super().__init__()
        for name, flag in (("classification", classification), ("non_negative", non_negative)):
            check(type(flag) is bool, name, "True or False", repr(flag))
        self.classification, self.non_negative = classification, non_negative
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))
        weights = torch.as_tensor(weights).detach().clone()
        weights = weights if weights.is_floating_point() else weights.float()
        shape = tuple(weights.shape)
        check(shape == (n,), f"weights of this {self.kind} loss", f"of shape ({n},), {n} weights", f"shape {shape}")
        self.weights = nn.Parameter(weights)

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """M(y, f) for tensors of one shape; differentiable in `f` and in the loss's weights."""
        raise NotImplementedError

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.check(prediction, target)
        if prediction.dtype in (torch.float16, torch.bfloat16):
            prediction = prediction.float()
        if self.classification:
            y = functional.one_hot(target.long(), prediction.shape[-1]).to(prediction.dtype)  # (B, C)
            value = self.elementwise(y, torch.softmax(prediction, -1)).sum(-1)  # (B,)
        else:
            value = self.elementwise(target.to(prediction.dtype), prediction)  # (B, 1)
        return value if self.reduction == "none" else getattr(value, self.reduction)()

    def check_kind(self, elements: Elements) -> None:
        """Raise ValueError if the loss is of regression and the labels are classes, or the other way round."""
        if self.classification != elements.classification:
            kind = "class indices" if elements.classification else "values"
            raise ValueError(f"a loss with classification={self.classification} was given {kind} as target")

    def check(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Raise ValueError where PyTorch would broadcast or misread."""
        check(prediction.is_floating_point(), "the prediction", "of a floating type", prediction.dtype)
        want, needs = tuple(prediction.shape), "a target"
        integers = not target.is_floating_point() and target.dtype != torch.bool
        if self.classification:
            want, needs = want[:-1], "integer class indices"
        if target.shape != want or (self.classification and not (integers and prediction.ndim)):
            raise ValueError(
                f"a prediction of shape {tuple(prediction.shape)} needs {needs} of shape {want}, got {target.dtype} "
                f"{tuple(target.shape)}"
            )

    def to_json(self) -> dict:
        """What `load_loss` rebuilds the loss from; strict JSON. Raises ValueError for weights that are not finite."""
        weights = self.weights.tolist()
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"the loss {self} has non-finite weights and cannot be saved")
        dtype = str(self.weights.dtype).removeprefix("torch.")
        check_choice("dtype of a loss that is saved", dtype, ("float32", "float64"))
        options = {name: getattr(self, name) for name in self.FIELDS[2:]}
        return {"kind": self.kind, "weights": weights, "dtype": dtype, **options}

    @classmethod
    def from_json(cls, data: dict) -> "ElementwiseLoss":
        """The loss of a dict with these FIELDS. Raises ValueError or TypeError for one that `to_json` does not write."""
        dtype, weights = check_choice("dtype", data["dtype"], ("float32", "float64")), data["weights"]
        numbers = isinstance(weights, list) and all(type(w) in (int, float) for w in weights)
        check(numbers, "weights", "a list of numbers", f"{str(weights)[:80]}")
        weights = torch.tensor(weights, dtype=getattr(torch, dtype))
        check(weights.isfinite().all(), "weights", f"finite in {dtype}", "one that is not")
        return cls(weights=weights, **{name: data[name] for name in cls.FIELDS[2:]})

    def save(self, path) -> None:
        """Write the loss as JSON (no pickle); `load_loss` reads it."""
        files.write_json(path, {"schema": SCHEMA, **self.to_json()})


def taped(loss: nn.Module) -> bool:
    """Does the loss take its derivatives from the tape?"""
    return hasattr(loss, "tape") and loss.reduction == "mean"


def _squared_error(loss: nn.MSELoss, e: Elements) -> torch.Tensor:
    return (e.prediction - e.target) * (2 / e.instances)


def _cross_entropy(loss: nn.CrossEntropyLoss, e: Elements) -> torch.Tensor:
    return torch.as_tensor((e.f - e.y) * (1 / e.instances)).mT


def closed_form(loss):
    """`gradient` written out, of PyTorch's two task losses and where a loss has its own; None for any other."""
    forward = getattr(type(loss), "forward", None)  # of a plain function there is none
    if hasattr(loss, "closed_form") and not loss.non_negative and loss.reduction == "mean":
        return type(loss).closed_form
    if forward is nn.MSELoss.forward and loss.reduction == "mean":
        return _squared_error
    if forward is nn.CrossEntropyLoss.forward and loss.reduction == "mean" and not loss.label_smoothing:
        return _cross_entropy if loss.weight is None and loss.ignore_index < 0 else None
    return None


def gradient(loss: nn.Module, elements: Elements) -> torch.Tensor:
    """dL/dz of one loss, of the prediction's shape; on several predictions each is taken alone."""
    if closed := closed_form(loss):
        return closed(loss, elements)
    if elements.several:
        return torch.stack([gradient(loss, elements.of(k)) for k in range(len(elements.prediction))])
    return Derivatives([loss], elements).v[0]


def _without_tape(loss: nn.Module, elements: Elements) -> tuple[torch.Tensor, torch.Tensor]:
    """(value (), dL/dz (B, C)) of one loss, in closed form or by autograd."""
    if closed := closed_form(loss):
        with torch.no_grad():
            return loss(elements.prediction, elements.target), closed(loss, elements)
    with torch.enable_grad():
        z = elements.prediction.detach().requires_grad_()
        value = loss(z, elements.target)
        return value.detach(), torch.autograd.grad(value, z)[0]


class Derivatives:
    """What training needs of K losses on one batch. What is not elementwise, the softmax's Jacobian, is done for all at once.

    Args:
        order: 2 if `mixed` is to follow.

    Attributes:
        v: dL_k/dz, (K, B, C) (eq. 5 without the base model).
    """

    def __init__(self, losses: Sequence[nn.Module], elements: Elements, order: int = 1):
        self.losses, self.elements = losses, elements
        instances, outputs = elements.prediction.shape[-2:]
        v = elements.prediction.new_empty((len(losses), outputs, instances))
        m = elements.array(v).reshape(len(losses), -1)
        with np.errstate(all="ignore"):  # a non-finite loss is counted by who trains under it
            self.tapes = [loss.tape(elements, order, k) if taped(loss) else None for k, loss in enumerate(losses)]
            for k, t in enumerate(self.tapes):
                if t:
                    m[k] = t.derivative
        self.v = (elements.pull(v) if any(self.tapes) else v).mT
        self._known: dict[int, torch.Tensor] = {}  # values of losses without tape
        for k, t in enumerate(self.tapes):
            if not t:
                self._known[k], self.v[k] = _without_tape(losses[k], elements.of(k))

    def values(self) -> torch.Tensor:
        """The losses, (K,)."""
        values, e = self.v.new_empty(len(self.losses)), self.elements
        array = e.array(values)
        with np.errstate(all="ignore"):
            for k, t in enumerate(self.tapes):
                if t:
                    array[k] = t.value.dot(e.ones) / e.instances
                else:
                    values[k] = self._known[k]
        return values

    def mixed(self, u: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """d<dL_k/dz, u_k>/dphi_k, one tensor a parameter of each loss; `u` (K, B, C) are directions on the raw outputs
        (eq. 9 with the base model taken out)."""
        pulled = self.elements.array(self.elements.pull(u.mT.contiguous())).reshape(len(u), -1)
        with np.errstate(all="ignore"):
            parts = [g for k, t in enumerate(self.tapes) if t for g in t.gradient(pulled[k])]
        if self.elements.xp is np:
            flat = torch.from_numpy(np.array(parts, pulled.dtype))
        else:
            parts = [g if isinstance(g, torch.Tensor) else u.new_full((), g) for g in parts]
            flat = torch.stack(parts) if parts else u.new_empty(0)
        each = iter(flat.split([len(loss.weights) for loss, t in zip(self.losses, self.tapes, strict=True) if t]))
        return [
            (next(each).to(loss.weights.dtype),) if t else _mixed_by_autograd(loss, self.elements.of(k), u[k])
            for k, (loss, t) in enumerate(zip(self.losses, self.tapes, strict=True))
        ]


def _mixed_by_autograd(loss: nn.Module, elements: Elements, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    phi = tuple(loss.parameters())
    with torch.enable_grad():
        z = elements.prediction.detach().requires_grad_()
        (v,) = torch.autograd.grad(loss(z, elements.target), z, create_graph=True)
        if not v.requires_grad:
            return tuple(torch.zeros_like(p) for p in phi)
        return torch.autograd.grad((v * u).sum(), phi, materialize_grads=True)
