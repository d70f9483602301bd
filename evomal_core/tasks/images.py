"""The image classification tasks: MNIST, and `digits`, an offline stand-in for smoke runs (section IV-B)."""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from evomal_core import streams
from evomal_core.tasks.tabular import Arrays, download_timeout
from evomal_core.tasks.task import DataUnavailable

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
    """A data set as it is published. Values of x are 0 to `scale`; mean and std are those of x / scale, by channel."""

    train: Arrays  # x (N, channels, height, width) uint8, y (N,) int64
    test: Arrays
    classes: int
    scale: float
    mean: tuple[float, ...] | None  # None: of the training part
    std: tuple[float, ...] | None
    augmentation: str | None = None


def mnist(folder: Path) -> Images:
    """70,000 digits of 28×28, grey. Read from `folder`/MNIST/raw, else downloaded there."""
    found = {name: _find(folder / IDX_FOLDER, name) for name in MNIST_FILES}
    if None in found.values():
        download_mnist(folder)
        found = {name: _find(folder / IDX_FOLDER, name) for name in MNIST_FILES}
    arrays = [read_idx(path, MNIST_FILES[name]) for name, path in found.items()]
    parts = [(x[:, None], y.astype(np.int64)) for x, y in (arrays[:2], arrays[2:])]
    return Images(*parts, classes=10, scale=255.0, mean=(0.1307,), std=(0.3081,))


def digits(folder: Path) -> Images:
    """1,797 digits of 8×8, grey, which ship with scikit-learn; a stratified fifth is the test part."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.uint8)
    return Images(*_stratified(x, y.astype(np.int64), 0.2), classes=10, scale=16.0, mean=None, std=None)


LOADERS: dict[str, Callable[[Path], Images]] = {"mnist": mnist, "digits": digits}


def load_images(name: str, folder: Path) -> tuple[dict[str, Arrays], Images]:
    """Read a data set, split off a stratified 10 % of the training images for validation, and normalise.

    Returns:
        part -> (x (N, channels, height, width) float32, y (N,) int64); and what was read.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: a file in `folder` is not what is published.
    """
    images = LOADERS[name](folder)
    train, validation = _stratified(*images.train, 0.1)
    mean, std = images.mean, images.std
    if mean is None:
        x = train[0] / images.scale
        mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
    mean, std = (np.reshape(a, (-1, 1, 1)).astype(np.float32) for a in (mean, std))
    parts = {"train": train, "validation": validation, "test": images.test}
    scale = np.float32(images.scale)
    return {part: ((x / scale - mean) / std, y) for part, (x, y) in parts.items()}, images


def _stratified(x: np.ndarray, y: np.ndarray, share: float) -> tuple[Arrays, Arrays]:
    """(the rest, the share), each with the classes in their proportions."""
    rest, part = train_test_split(np.arange(len(y)), test_size=share, stratify=y, random_state=SPLIT_SEED)
    return (x[rest], y[rest]), (x[part], y[part])


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)


def read_idx(path: Path, md5: str | None = None) -> np.ndarray:
    """An idx file of bytes, packed with gzip or not (format: yann.lecun.com/exdb/mnist).

    Args:
        path: of the file.
        md5: of the unpacked bytes; None: not checked.

    Raises:
        ValueError: the file is damaged, of another type, or not the one expected.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 not in (None, found):
        raise ValueError(f"{path}: md5 of the unpacked bytes must be {md5}, found {found}")
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path}: must begin like an idx file of bytes, 00 00 08 and its rank; found {content[:4]!r}")
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">i4", rank, 4).tolist())
    data = np.frombuffer(content, np.uint8, -1, 4 + 4 * rank)
    if min(shape, default=0) <= 0 or data.size != np.prod(shape):
        raise ValueError(f"{path}: must hold the bytes of shape {shape} that its header tells, found {data.size}")
    return data.reshape(shape)


def download_mnist(folder: Path) -> None:
    """Let torchvision download MNIST, and keep the four .gz in `folder`/MNIST/raw. Raises DataUnavailable."""
    try:
        import torchvision  # slow to import, and used here alone

        target = folder / IDX_FOLDER
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".download-") as scratch, download_timeout():
            torchvision.datasets.MNIST(scratch, download=True)  # checks md5s
            for name in MNIST_FILES:
                os.replace(Path(scratch, IDX_FOLDER, f"{name}.gz"), target / f"{name}.gz")
    except Exception as error:  # of the network or the disk, and whatever torchvision makes of them
        files = ", ".join(f"{name}.gz" for name in MNIST_FILES)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataUnavailable(
            f"MNIST is not complete in {folder / IDX_FOLDER}, and cannot be downloaded ({reason})."
            f" Put the four canonical files there, unpacked or as .gz: {files}."
        ) from error
