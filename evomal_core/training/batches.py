"""Batches of data that lie on the device as tensors: no DataLoader in the inner loops. The one home of augmentation."""

from functools import lru_cache

import torch

from .. import streams
from ..tasks import Task
from ..tasks.augment import crop_and_flip, draw_augmentation


@lru_cache(maxsize=8192)  # every generation of a run draws the same batches
def _numbers(device, instances: int, batch_size: int, padding: int | None, seed: int, purpose: str, *index: int):
    """(rows, or None where the whole part is the batch; (rows, columns, flips) of the crops, or None without padding)."""
    generator = streams.numpy_generator(seed, purpose, *index)
    rows = generator.choice(instances, batch_size, replace=False) if instances > batch_size else None
    crops = None if padding is None else draw_augmentation(generator, min(instances, batch_size), padding)
    rows = None if rows is None else torch.from_numpy(rows).to(device)
    return rows, crops and tuple(numbers.to(device) for numbers in crops)


def draw(task: Task, part: str, batch_size: int, seed: int, purpose: str, *index: int):
    """A uniform batch (x, y) of a part, without replacement, as the model sees it; a smaller part is the batch.

    Images of an augmented part are cropped and flipped at random. All depends on the stream `(seed, purpose, *index)` alone:
    the rows are drawn first, then the crops and flips.
    """
    x, y = getattr(task, part)
    padding = task.padding if part in task.augmented else None
    if len(x) <= batch_size and padding is None:
        return task.inputs(x), task.targets(y)
    rows, crops = _numbers(x.device, len(x), batch_size, padding, seed, purpose, *index)
    if rows is not None:
        x, y = x.index_select(0, rows), y.index_select(0, rows)
    return task.inputs(crop_and_flip(x, *crops, padding) if crops else x), task.targets(y)


def in_order(task: Task, part: str, size: int, instances: int = 0):
    """All of a part, or its first `instances`, in batches (x, y), in order, as the model sees it.

    An augmented validation or test part has crops of a stream of its own, the same for every loss and seed.
    """
    x, y = (tensor[: instances or None] for tensor in getattr(task, part))
    for start in range(0, len(x), size):
        some = x[start : start + size]
        if part in task.augmented and part != "train":
            generator = streams.numpy_generator(0, "evaluation", start)
            crops = (numbers.to(x.device) for numbers in draw_augmentation(generator, len(some), task.padding))
            some = crop_and_flip(some, *crops, task.padding)
        yield task.inputs(some), task.targets(y[start : start + size])
