"""Data of one's own: what people have, read into tensors whose first dimension counts the instances.

Inputs may be one tensor, or a tuple or dict of tensors, as the model takes them: `model(x)`, `model(*x)`, `model(**x)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..checks import check

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
MOST_BATCHES = 1_000_000  # of a data set without a length, which may never end
KINDS = "a Dataset, a DataLoader, or a pair (x, y) of tensors, arrays or DataFrames"


@dataclass(frozen=True)
class Data:
    """Inputs and targets of N instances; every tensor is (N, …)."""

    x: Inputs
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


def read(data, name: str, target: Callable | None = None) -> Data:
    """The instances of a data set, which is gone through once, in order.

    Args:
        data: a Dataset, a DataLoader (its order and last batch do not matter), or (x, y), where x may be a tuple or a dict.
        name: what errors call it.
        target: batch -> targets, where a batch, as the loader gives it, is not a pair (x, y).

    Raises:
        ValueError: names what was expected and what came.
    """
    if isinstance(data, (Dataset, DataLoader)):
        x, y = _gathered(data, name, target)
    elif target:
        x, y = _parts(_tensors(data, name), target, name)
    else:
        check(isinstance(data, (tuple, list)) and len(data) == 2, name, KINDS, _kind(data))
        x, y = (_tensors(part, f"{name} {letter}") for part, letter in zip(data, "xy", strict=True))
    check(isinstance(y, Tensor), f"{name} y", "one tensor or array", _kind(y))
    counts = {len(t) if t.ndim else None for t in (*leaves(x), y)}
    check(len(counts) == 1 and None not in counts, f"{name} x and y", "of one length", f"lengths {_shapes(x, y)}")
    check(len(y) > 0, name, "at least one instance", "none")
    for tensor, letter in (*((t, "x") for t in leaves(x)), (y, "y")):
        finite = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        check(finite, f"{name} {letter}", "finite", "a NaN or an infinity")
    return Data(x, y)


def leaves(x: Inputs) -> list[Tensor]:
    """The tensors of inputs."""
    return [x] if isinstance(x, Tensor) else list(x.values() if isinstance(x, dict) else x)


def mapped(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Inputs of the same form, each tensor replaced by what `function` gives for it."""
    if isinstance(x, Tensor):
        return function(x)
    return {k: function(t) for k, t in x.items()} if isinstance(x, dict) else tuple(map(function, x))


def _gathered(data, name: str, target: Callable | None):
    loader = data if isinstance(data, DataLoader) else None
    dataset = loader.dataset if loader else data
    collate = loader.collate_fn if loader and loader.collate_fn is not None else default_collate
    if isinstance(dataset, IterableDataset) or (loader and loader.batch_size is None):
        batches = loader or DataLoader(dataset, batch_size=256)
    else:
        batches = DataLoader(dataset, batch_size=256, collate_fn=collate)  # in order, all of it
    pairs = []
    for number, batch in enumerate(batches):
        check(number < MOST_BATCHES, name, f"at most {MOST_BATCHES} batches", "more")
        pairs.append(_parts(batch, target, name))
    check(pairs, name, "at least one instance", "none")
    xs, ys = zip(*pairs, strict=True)
    try:
        return _joined([_tensors(x, f"{name} x") for x in xs]), torch.cat([_tensors(y, f"{name} y") for y in ys])
    except RuntimeError as error:
        raise ValueError(f"{name}: instances must have one shape (pad sequences to one length): {error}") from None


def _parts(batch, target: Callable | None, name: str):
    """(x, y) of a batch."""
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if target is None:
        check(pair, f"a batch of {name}", "a pair (x, y), or `target` says what its targets are", _kind(batch))
        return batch[0], batch[1]
    alone = isinstance(batch, (tuple, list)) and len(batch) == 1
    return (batch[0] if pair or alone else batch), target(batch)


def _joined(xs: list) -> Inputs:
    first = xs[0]
    if isinstance(first, Tensor):
        return torch.cat(xs)
    if isinstance(first, dict):
        return {key: torch.cat([x[key] for x in xs]) for key in first}
    return tuple(torch.cat(parts) for parts in zip(*xs, strict=True))


def _tensors(value, what: str) -> Inputs:
    """Tensors, arrays, DataFrames, and tuples and dicts of them, as tensors of the type that they have."""
    if isinstance(value, Tensor):
        return value.detach()
    if hasattr(value, "to_numpy"):  # a DataFrame or a Series of pandas or polars
        value = value.to_numpy()
    if isinstance(value, np.ndarray) or np.isscalar(value):
        number = np.asarray(value).dtype.kind in "fiub"
        check(number, what, "numbers", f"an array of {np.asarray(value).dtype}; encode text and categories first")
        return torch.as_tensor(np.array(value))
    if isinstance(value, Mapping):
        return {str(key): _leaf(part, f"{what}[{key!r}]") for key, part in value.items()}
    if isinstance(value, (tuple, list)) and value:
        if all(np.isscalar(part) or isinstance(part, list) for part in value):
            return _tensors(np.asarray(value), what)
        return tuple(_leaf(part, f"{what}[{k}]") for k, part in enumerate(value))
    raise ValueError(f"{what} must be tensors, arrays or DataFrames, or a tuple or dict of them, got {_kind(value)}")


def _leaf(value, what: str) -> Tensor:
    tensor = _tensors(value, what)
    check(isinstance(tensor, Tensor), what, "one tensor or array", _kind(value))
    return tensor


def _kind(value) -> str:
    inside = (
        f" of {len(value)}: {', '.join(type(v).__name__ for v in value)}" if isinstance(value, (tuple, list)) else ""
    )
    return f"{type(value).__name__}{inside}"[:200]


def _shapes(x: Inputs, y: Tensor) -> str:
    return ", ".join(str(tuple(t.shape)) for t in (*leaves(x), y))
