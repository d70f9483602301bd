"""The image classification tasks: MNIST, and `digits`, an offline stand-in for smoke runs (section IV-B)."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .. import streams
from .sources import Arrays, download, find_file

SPLIT_SEED = streams.integer(0, "split") % 2**32  # one split for all runs
IDX_FOLDER = Path("MNIST", "raw")
# Canonical files, packed (.gz) or not, with the md5 of what is packed.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Images(NamedTuple):
    """A data set as it is published. Values of x are 0 to `scale`."""

    train: Arrays  # x (N, channels, height, width) uint8, y (N,) int64
    test: Arrays
    classes: int
    scale: float
    moments: tuple[float, float] | None = None  # mean and std of x / scale; None: each channel's in the training part


def mnist(folder: Path) -> Images:
    """70,000 digits of 28×28, grey. Read from `folder`/MNIST/raw, else downloaded there."""
    raw = folder / IDX_FOLDER
    if not all(find_file(raw, f"{name}.gz", name) for name in MNIST_FILES):
        download_mnist(raw)
    arrays = [read_idx(find_file(raw, f"{name}.gz", name), md5) for name, md5 in MNIST_FILES.items()]
    parts = [(x[:, None], y.astype(np.int64)) for x, y in (arrays[:2], arrays[2:])]
    return Images(*parts, classes=10, scale=255.0, moments=(0.1307, 0.3081))


def digits(folder: Path) -> Images:
    """1,797 digits of 8×8, grey, which ship with scikit-learn; a stratified fifth is the test part."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.uint8)
    return Images(*_stratified(x, y.astype(np.int64), 0.2), classes=10, scale=16.0)


LOADERS = {"mnist": mnist, "digits": digits}


def load_images(name: str, folder: Path) -> tuple[dict[str, Arrays], int]:
    """Read a data set, split off a stratified 10 % of the training images for validation, and normalise.

    Returns:
        part -> (x (N, channels, height, width) float32, y (N,) int64); and the number of classes.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: a file in `folder` is not what is published.
    """
    images = LOADERS[name](folder)
    train, validation = _stratified(*images.train, 0.1)
    mean, std = images.moments or _moments(train[0] / images.scale)
    mean, std = (np.reshape(a, (-1, 1, 1)).astype(np.float32) for a in (mean, std))
    parts = {"train": train, "validation": validation, "test": images.test}
    scale = np.float32(images.scale)
    return {part: ((x / scale - mean) / std, y) for part, (x, y) in parts.items()}, images.classes


def _moments(x: np.ndarray) -> Arrays:
    """Mean and standard deviation of each channel."""
    return x.mean((0, 2, 3)), x.std((0, 2, 3))


def _stratified(x: np.ndarray, y: np.ndarray, share: float) -> tuple[Arrays, Arrays]:
    """(the rest, the share), each with the classes in their proportions."""
    rest, part = train_test_split(np.arange(len(y)), test_size=share, stratify=y, random_state=SPLIT_SEED)
    return (x[rest], y[rest]), (x[part], y[part])


def read_idx(path: Path, md5: str) -> np.ndarray:
    """An idx file of bytes, packed with gzip or not (format: yann.lecun.com/exdb/mnist).

    Args:
        path: of the file.
        md5: of the unpacked bytes, which vouches for the header.

    Raises:
        ValueError: the file is damaged, or not the one expected.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{path}: md5 of the unpacked bytes must be {md5}, found {found}")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def download_mnist(folder: Path) -> None:
    """Let torchvision download MNIST, and keep the four .gz in `folder`. Raises DataUnavailable."""
    names = ", ".join(f"{name}.gz" for name in MNIST_FILES)
    missing = f"MNIST is not complete in {folder}, and cannot be downloaded"
    with download(missing, f"Put the four canonical files there, unpacked or as .gz: {names}.", folder) as scratch:
        import torchvision  # slow to import, and used here alone

        torchvision.datasets.MNIST(scratch, download=True)  # checks md5s
        folder.mkdir(parents=True, exist_ok=True)
        for name in MNIST_FILES:
            os.replace(Path(scratch, IDX_FOLDER, f"{name}.gz"), folder / f"{name}.gz")
