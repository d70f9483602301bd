"""Random draws inside a base model: found out by running it, and the same for one seed however it is run.

PyTorch's Dropout draws its mask in the memory order of its input, so that the same seed gives other masks for transposed
activations, in forward mode, or under `vmap`. Within `seeded` the functions that draw do so for the logical shape, row by
row, so one seed means one mask everywhere.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .. import streams


def draws_random_numbers(run, device: torch.device) -> bool:
    """Does `run()` draw from a global generator of PyTorch, NumPy or Python? All are put back as they were."""
    devices = [device] if device.type == "cuda" else []
    with streams.computing(), torch.random.fork_rng(devices=devices):
        python_state, numpy_state = random.getstate(), np.random.get_state()
        torch_states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]
        try:
            run()
            after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]
            same = all(torch.equal(a, b) for a, b in zip(torch_states, after, strict=True))
            numbers = np.random.get_state()
            same = same and numpy_state[2] == numbers[2] and np.array_equal(numpy_state[1], numbers[1])
            return not (same and python_state == random.getstate())
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Everything drawn within comes from `seed`; the global generators are put back afterwards.

    Args:
        seed: None leaves all as it is, for a model that draws nothing.
    """
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with streams.global_generators(seed), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        usual = {name: getattr(functional, name) for name in OWN_FUNCTIONAL}
        try:
            for name, function in OWN_FUNCTIONAL.items():
                setattr(functional, name, function)  # for callers inside `torch.nn`, which a mode does not see
            with _InLogicalOrder():
                yield
        finally:
            for name, function in usual.items():
                setattr(functional, name, function)


def _mask(draw):
    """A Dropout of that kind whose mask is drawn for a row-major tensor of ones of the input's logical shape."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        dropped = input * draw(torch.ones(tuple(input.shape), dtype=input.dtype, device=input.device), p, True)
        return input.copy_(dropped) if inplace else dropped

    return dropout


def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor:
    """`functional.scaled_dot_product_attention`, written out: the fused kernels draw masks of their own."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return OWN_FUNCTIONAL["dropout"](torch.softmax(scores, -1), dropout_p) @ value


def _row_major(function):
    """The function on row-major arguments, so that what it draws does not depend on their strides."""

    def called(*args, **kwargs):
        return function(*(a.contiguous() if isinstance(a, Tensor) else a for a in args), **kwargs)

    return called


def _in_place(name: str):
    """The in-place function of `torch` for one of `torch.nn.functional`."""
    return lambda input, p, train: OWN_FUNCTIONAL[name](input, p, train, True)


def _like(draw):
    """`torch.rand_like` or its kind: numbers of the logical shape of `input`, row by row."""

    def function(input: Tensor, *bounds, dtype=None, device=None, **_) -> Tensor:
        return draw(*bounds, tuple(input.shape), dtype=dtype or input.dtype, device=device or input.device)

    return function


def _bernoulli(input: Tensor, p: float | None = None, **_) -> Tensor:
    """`torch.bernoulli`: 1 with probability `input`, or `p`."""
    return (torch.rand(tuple(input.shape), device=input.device) < (input if p is None else p)).to(input.dtype)


# In `torch.nn.functional`, by name
OWN_FUNCTIONAL = {"dropout": _mask(torch.dropout), "scaled_dot_product_attention": _attention}
OWN_FUNCTIONAL |= {f"dropout{d}d": _mask(torch.feature_dropout) for d in (1, 2, 3)}
OWN_FUNCTIONAL |= {n: _row_major(getattr(functional, n)) for n in ("alpha_dropout", "feature_alpha_dropout", "rrelu")}
# Wherever they are called from
OWN = {getattr(functional, name): function for name, function in OWN_FUNCTIONAL.items()}
OWN |= {torch.dropout: OWN_FUNCTIONAL["dropout"], torch.feature_dropout: OWN_FUNCTIONAL["dropout2d"]}
OWN |= {torch.dropout_: _in_place("dropout"), torch.feature_dropout_: _in_place("dropout2d")}
OWN |= {
    torch.rand_like: _like(torch.rand),
    torch.randn_like: _like(torch.randn),
    torch.randint_like: _like(torch.randint),
}
OWN |= {torch.bernoulli: _bernoulli, Tensor.bernoulli: _bernoulli}


class _InLogicalOrder(TorchFunctionMode):
    """Replaces PyTorch's functions that draw with those of `OWN`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return OWN.get(func, func)(*args, **(kwargs or {}))
