"""What the image classification tasks share: the split of the training images, and their normalisation (section IV-B)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import streams
from .sources import Arrays

SPLIT_SEED = streams.integer(0, "split") % 2**32  # one split for all runs
VALIDATION_SHARE = 0.1  # of the training images


class Images(NamedTuple):
    """A data set as it is published. Values of x are 0 to `scale`.

    Attributes:
        train, test: x (N, channels, height, width) uint8, y (N,) int64.
        classes: the number of outputs of a model.
        scale: the largest value of x.
        moments: mean and std of x / scale, a number or one a channel; None: each channel's in the training part.
        augmentation: whether training images are cropped and flipped at random; x then stays uint8 until it is drawn,
            and `moments` has one number a channel.
    """

    train: Arrays
    test: Arrays
    classes: int
    scale: float = 255.0
    moments: tuple[float | Sequence[float], float | Sequence[float]] | None = None
    augmentation: bool = False


def prepare(images: Images) -> tuple[dict[str, Arrays], dict[str, Any]]:
    """Split off a stratified 10 % of the training images for validation, and normalise what is not augmented.

    Returns:
        part -> (x (N, channels, height, width) float32, or uint8 if there is augmentation, y (N,) int64); and the other
        arguments of `Task`.
    """
    parts = split(images)
    if images.augmentation:
        return parts, {"outputs": images.classes, "moments": images.moments}
    mean, std = images.moments or channel_moments(parts["train"][0] / images.scale)
    mean, std = (np.reshape(a, (-1, 1, 1)).astype(np.float32) for a in (mean, std))
    scale = np.float32(images.scale)
    return {part: ((x / scale - mean) / std, y) for part, (x, y) in parts.items()}, {"outputs": images.classes}


def split(images: Images) -> dict[str, Arrays]:
    """The three parts, x still uint8: the validation part is a stratified 10 % of the training images."""
    train, validation = stratified(*images.train, VALIDATION_SHARE)
    return {"train": train, "validation": validation, "test": images.test}


def channel_moments(x: np.ndarray) -> Arrays:
    """Mean and standard deviation of each channel of x (N, channels, height, width)."""
    return x.mean((0, 2, 3)), x.std((0, 2, 3))


def stratified(x: np.ndarray, y: np.ndarray, share: float) -> tuple[Arrays, Arrays]:
    """(the rest, the share), each with the classes in their proportions."""
    from sklearn.model_selection import train_test_split  # slow to import

    rest, part = train_test_split(np.arange(len(y)), test_size=share, stratify=y, random_state=SPLIT_SEED)
    return (x[rest], y[rest]), (x[part], y[part])
