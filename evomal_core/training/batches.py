"""Batches of data that lie on the device as tensors: no DataLoader in the inner loops."""

from functools import lru_cache

import torch

from .. import streams


@lru_cache(maxsize=8192)  # every generation of a run draws the same batches
def _rows(device: torch.device, instances: int, batch_size: int, seed: int, purpose: str, *index: int) -> torch.Tensor:
    generator = streams.numpy_generator(seed, purpose, *index)
    return torch.from_numpy(generator.choice(instances, batch_size, replace=False)).to(device)


def draw(part: tuple[torch.Tensor, torch.Tensor], batch_size: int, seed: int, purpose: str, *index: int):
    """A uniform batch (x, y) of `part`, without replacement; a part smaller than the batch is the batch.

    The draw depends on the stream `(seed, purpose, *index)` alone (see `streams`).
    """
    x, y = part
    if len(x) <= batch_size:
        return part
    rows = _rows(x.device, len(x), batch_size, seed, purpose, *index)
    return x.index_select(0, rows), y.index_select(0, rows)
