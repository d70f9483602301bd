"""Random draws inside a base model: found out by running it, and the same for one seed however it is run.

PyTorch's Dropout draws its mask in the memory order of its input, so that the same seed gives other masks for transposed
activations, in forward mode, or under `vmap`. Within `seeded` the functions that draw take a mask of the logical shape from
a generator of their own, so one seed means one mask everywhere.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
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
    """Everything drawn within comes of `seed`; the global generators are put back afterwards.

    Args:
        seed: None leaves all as it is, for a model that draws nothing.
    """
    if seed is None:
        yield
        return
    generator = torch.Generator(device).manual_seed(seed)
    devices = [device] if device.type == "cuda" else []
    with streams.global_generators(seed), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # of what draws inside PyTorch's own kernels, such as a recurrent layer's Dropout
        draws = Draws(generator)
        usual = {name: getattr(functional, name) for name in draws.of_functional}
        try:
            for name, function in draws.of_functional.items():
                setattr(functional, name, function)  # for callers inside `torch.nn`, which a mode does not see
            with draws:
                yield
        finally:
            for name, function in usual.items():
                setattr(functional, name, function)


class Draws(TorchFunctionMode):
    """Replaces PyTorch's functions that draw with ones that draw in logical order from `generator`."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator
        self.of_functional = {
            "dropout": self.dropout,
            "dropout1d": self.feature_dropout,
            "dropout2d": self.feature_dropout,
            "dropout3d": self.feature_dropout,
            "alpha_dropout": self.alpha_dropout,
            "feature_alpha_dropout": lambda x, p=0.5, training=False, inplace=False: self.alpha_dropout(
                x, p, training, features=True
            ),
            "scaled_dot_product_attention": self.attention,
        }
        self.own = {getattr(functional, name): function for name, function in self.of_functional.items()}
        self.own |= {torch.dropout: self.dropout, torch.feature_dropout: self.feature_dropout}
        self.own |= {torch.alpha_dropout: self.alpha_dropout, torch.bernoulli: self.bernoulli}
        self.own |= {torch.rand_like: self.like(torch.rand), torch.randn_like: self.like(torch.randn)}
        self.own |= {getattr(Tensor, name): self.in_place(name) for name in ("bernoulli_", "normal_", "uniform_")}
        self.own |= {Tensor.exponential_: self.in_place("exponential_"), Tensor.bernoulli: self.bernoulli}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return self.own.get(func, func)(*args, **(kwargs or {}))

    def uniform(self, shape, like: Tensor) -> Tensor:
        """Uniform numbers of a shape in row-major order."""
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return torch.rand(tuple(shape), generator=self.generator, device=like.device, dtype=dtype)

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """`functional.dropout`; the mask has the shape of `input`, whatever its strides."""
        return self._masked(input, p, training, input.shape)

    def feature_dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """`functional.dropout1d` to `dropout3d`: whole channels of (B, C, ...) are dropped."""
        return self._masked(input, p, training, (*input.shape[:2], *(1 for _ in input.shape[2:])))

    def _masked(self, x: Tensor, p: float, training: bool, shape) -> Tensor:
        if not training or p == 0:
            return x
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must be between 0 and 1, got {p}")
        kept = (self.uniform(shape, x) >= p).to(x.dtype)
        return x * (kept / (1 - p) if p < 1 else kept)

    def alpha_dropout(
        self, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, features: bool = False
    ) -> Tensor:
        """`functional.alpha_dropout` (Klambauer et al. 2017): what is dropped takes the value -alpha' of SELU."""
        if not training or p == 0:
            return input
        shape = (*input.shape[:2], *(1 for _ in input.shape[2:])) if features else input.shape
        kept, alpha = (self.uniform(shape, input) >= p).to(input.dtype), 1.7580993408473766
        a = (1 / ((1 - p) * (1 + p * alpha**2))) ** 0.5 if p < 1 else 0.0
        return a * (input * kept - alpha * (1 - kept)) + a * alpha * p

    def bernoulli(self, input: Tensor, p: float | None = None, **_) -> Tensor:
        """`torch.bernoulli`."""
        return (self.uniform(input.shape, input) < (input if p is None else p)).to(input.dtype)

    def like(self, draw):
        """`torch.rand_like` and its kind, which else follow the strides of their argument."""

        def function(input: Tensor, *, dtype=None, device=None, requires_grad: bool = False, **_) -> Tensor:
            kind = {"dtype": dtype or input.dtype, "device": device or input.device}
            return draw(tuple(input.shape), generator=self.generator, **kind).requires_grad_(requires_grad)

        return function

    def in_place(self, name: str):
        """A method of Tensor that fills it with random numbers."""

        def function(tensor: Tensor, *args, generator=None, **named) -> Tensor:
            fresh = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)
            return tensor.copy_(getattr(fresh, name)(*args, generator=generator or self.generator, **named))

        return function

    def attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ) -> Tensor:
        """`functional.scaled_dot_product_attention`, written out; the fused kernels draw masks of their own."""
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
        return self.dropout(torch.softmax(scores, -1), dropout_p) @ value


def is_training(model: nn.Module) -> bool:
    """Is any part of the model in training mode?"""
    return any(module.training for module in model.modules())
