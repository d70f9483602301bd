"""SVHN, cropped digits (Netzer et al. 2011), from its authors' MATLAB files in torchvision's layout."""

from pathlib import Path

import numpy as np

from .images import Images
from .sources import Arrays, Published, find_or_download, open_checked

SVHN_FILES = {
    "train_32x32.mat": Published(182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test_32x32.mat": Published(64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
}
SVHN_FOLDER = "svhn"
MOMENTS = (0.4380, 0.4440, 0.4730), (0.1751, 0.1771, 0.1744)  # [R]
CLASSES, RELEASED_OUTPUTS = 10, 100


def load(folder: Path, released: bool = False) -> Images:
    """99,289 colour images of 32×32, a digit in the middle of each. The published "extra" images are not used.

    Read from `folder` or `folder`/svhn, else downloaded into `folder`.

    Args:
        folder: where the data files lie.
        released: give the model 100 outputs, as the released code does, 90 of which belong to no class.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: a file in `folder` is not what is published.
    """
    paths = find_or_download("SVHN", folder, SVHN_FILES, fetch, also=SVHN_FOLDER)
    parts = [_read(paths[name], expected) for name, expected in SVHN_FILES.items()]
    return Images(*parts, classes=RELEASED_OUTPUTS if released else CLASSES, moments=MOMENTS, augmentation=True)


def _read(path: Path, expected: Published) -> Arrays:
    """x (N, 3, 32, 32) uint8 and y (N,) int64 of one file, in which N comes last and the label 10 means the digit 0."""
    with open_checked(path, expected) as file:
        from scipy.io import loadmat  # slow to import

        content = loadmat(file, variable_names=("X", "y"))
    x, y = content["X"], content["y"].reshape(-1).astype(np.int64)  # (32, 32, 3, N)
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y % CLASSES


def fetch(scratch: str) -> Path:
    """Let torchvision download both files into the scratch folder; its md5s are checked there."""
    from torchvision import datasets  # slow to import, and used here alone
    from torchvision.datasets.utils import download_url

    for part in ("train", "test"):
        url, name, md5 = datasets.SVHN.split_list[part]
        download_url(url, scratch, name, md5)
    return Path(scratch)
