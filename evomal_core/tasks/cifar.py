"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the files of their authors' archives in torchvision's layout.

The files are pickles, which could run code. Each is opened only after its checksum matched, and then by an unpickler that
builds nothing but bytes, numbers, lists, dicts and arrays.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .images import Images
from .sources import Arrays, Published, find_or_download, open_checked

CIFAR10_FOLDER, CIFAR100_FOLDER = "cifar-10-batches-py", "cifar-100-python"
CIFAR10_FILES = {
    "data_batch_1": Published(31_035_704, "c99cafc152244af753f735de768cd75f"),
    "data_batch_2": Published(31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
    "data_batch_3": Published(31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
    "data_batch_4": Published(31_035_696, "634d18415352ddfa80567beed471001a"),
    "data_batch_5": Published(31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
    "test_batch": Published(31_035_526, "40351d587109b95175f43aff81a1287e"),
    "batches.meta": Published(158, "5ff9c542aee3614f3951f8cda6e48888"),
}
CIFAR100_FILES = {
    "train": Published(155_249_918, "16019d7e3df5f24257cddd939b257f8d"),
    "test": Published(31_049_707, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    "meta": Published(1_473, "7973b15100ade9c7d40fb424638fde48"),
}
CIFAR10_MOMENTS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # [R]
CIFAR100_MOMENTS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # [R]


def load_cifar10(folder: Path) -> Images:
    """60,000 colour images of 32×32 in 10 classes. Read from `folder`/cifar-10-batches-py, else downloaded there.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: a file in `folder` is not what is published.
    """
    content = _read("CIFAR10", folder / CIFAR10_FOLDER, CIFAR10_FILES)
    batches = [_arrays(content[f"data_batch_{k}"], b"labels") for k in range(1, 6)]
    train = tuple(np.concatenate(a) for a in zip(*batches, strict=True))
    return Images(train, _arrays(content["test_batch"], b"labels"), 10, moments=CIFAR10_MOMENTS, augmentation=True)


def load_cifar100(folder: Path) -> Images:
    """60,000 colour images of 32×32 in 100 (fine) classes. Read from `folder`/cifar-100-python, else downloaded there.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: a file in `folder` is not what is published.
    """
    content = _read("CIFAR100", folder / CIFAR100_FOLDER, CIFAR100_FILES)
    train, test = (_arrays(content[name], b"fine_labels") for name in ("train", "test"))
    return Images(train, test, 100, moments=CIFAR100_MOMENTS, augmentation=True)


def _read(title: str, folder: Path, files: Mapping[str, Published]) -> dict[str, dict]:
    """name of the file -> the dict that it holds."""

    def fetch(scratch: str) -> Path:
        from torchvision import datasets  # slow to import, and used here alone
        from torchvision.datasets.utils import download_and_extract_archive

        # The archive alone: constructing the data set would also unpickle it, without restrictions.
        source = getattr(datasets, title)
        download_and_extract_archive(source.url, scratch, filename=source.filename, md5=source.tgz_md5)
        return Path(scratch, source.base_folder)

    content = {}
    for name, path in find_or_download(title, folder, files, fetch).items():
        with open_checked(path, files[name]) as file:
            content[name] = ArrayUnpickler(file, encoding="bytes").load()
    return content


def _arrays(content: dict, labels: bytes) -> Arrays:
    """x (N, 3, 32, 32) uint8 and y (N,) int64 of one file, whose rows hold the red, green and blue plane in turn."""
    return content[b"data"].reshape(-1, 3, 32, 32), np.array(content[labels], np.int64)


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows what NumPy's arrays are made of, and no other class or function."""

    KNOWN: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # in files of NumPy 1
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name. Nothing is imported.

        Raises:
            pickle.UnpicklingError: anything else.
        """
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is refused: such a file may hold arrays alone") from None
