"""Images as the model sees them: bytes to floats, random crop and flip (section IV-B). Pure functions of tensors."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4  # pixels on each side (section IV-B)


def normalise(x: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """(x / 255 − mean) / std, computed in `dtype` in this order.

    Args:
        x: (B, channels, height, width) uint8.
        mean, std: (channels,), of x / 255; on the device of x.
        dtype: the result's type.
    """
    mean, std = (a.to(dtype)[:, None, None] for a in (mean, std))  # (channels, 1, 1)
    # CUDA multiplies by the reciprocal of a divisor that lies on the CPU, which rounds otherwise: this one lies with x.
    return (x.to(dtype) / mean.new_full((), 255.0) - mean) / std


def crop_and_flip(x: Tensor, rows: Tensor, columns: Tensor, flips: Tensor, padding: int = PADDING) -> Tensor:
    """A window of the padded image for each image, mirrored left to right where `flips` says so: one indexed gather.

    The padding has the value 0 of x. As in torchvision's RandomCrop on an image, it belongs to raw pixels: a padded
    pixel is black, and `normalise` comes afterwards. The crop comes before the flip.

    Args:
        x: (B, channels, height, width), of any dtype.
        rows, columns: (B,) int64, the window's upper left corner in the padded image, from 0 to 2 · padding.
        flips: (B,) bool.
        padding: pixels of padding on each side.

    Returns:
        (B, channels, height, width) of the dtype of x, on its device, where the arguments lie, too.
    """
    images, channels, height, width = x.shape
    padded = functional.pad(x, (padding,) * 4)
    right, down = (torch.arange(n, device=x.device) for n in (width, height))
    across = torch.where(flips[:, None], width - 1 - right, right) + columns[:, None]  # (B, width)
    below = rows[:, None] + down  # (B, height)
    image = torch.arange(images, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return padded[image, channel, below[:, None, :, None], across[:, None, None, :]]


def draw_augmentation(generator: np.random.Generator, n: int, padding: int = PADDING) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, columns, flips) of `crop_and_flip` for `n` images: uniform corners, and a flip of every second on average.

    Returns:
        (n,) int64, (n,) int64 and (n,) bool, on the CPU.
    """
    rows, columns = generator.integers(0, 2 * padding + 1, (2, n))
    return torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(generator.random(n) < 0.5)
