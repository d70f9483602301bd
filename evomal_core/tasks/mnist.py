"""MNIST (LeCun, Cortes and Burges), from its four idx files."""

import hashlib
import os
import zlib
from pathlib import Path

import numpy as np

from .images import Images
from .sources import download, find_file, unpacked

IDX_FOLDER = Path("MNIST", "raw")
MOST_BYTES = 50_000_000  # of an unpacked file; the largest has 47,040,016
# Canonical files, packed (.gz) or not, with the md5 of what is packed.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def load(folder: Path) -> Images:
    """70,000 digits of 28×28, grey. Read from `folder`/MNIST/raw, else downloaded there.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: a file in `folder` is not what is published.
    """
    raw = folder / IDX_FOLDER
    if not all(find_file(raw, f"{name}.gz", name) for name in MNIST_FILES):
        download_mnist(raw)
    arrays = [read_idx(find_file(raw, f"{name}.gz", name), md5) for name, md5 in MNIST_FILES.items()]
    parts = [(x[:, None], y.astype(np.int64)) for x, y in (arrays[:2], arrays[2:])]
    return Images(*parts, classes=10, moments=(0.1307, 0.3081))


def read_idx(path: Path, md5: str) -> np.ndarray:
    """An idx file of bytes, packed with gzip or not (format: yann.lecun.com/exdb/mnist).

    Args:
        path: where the file lies.
        md5: of the unpacked bytes, which vouches for the header.

    Raises:
        ValueError: the file is damaged, or not the one expected.
    """
    try:
        content = unpacked(path, MOST_BYTES)
    except (OSError, EOFError, ValueError, zlib.error) as error:
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
