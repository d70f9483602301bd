"""`digits`, an offline stand-in for MNIST in smoke runs, which ships with scikit-learn."""

from pathlib import Path

import numpy as np

from .images import Images, stratified


def load(folder: Path) -> Images:
    """1,797 digits of 8×8, grey; a stratified fifth is the test part. Nothing is read from `folder`."""
    from sklearn.datasets import load_digits  # slow to import

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.uint8)
    return Images(*stratified(x, y.astype(np.int64), 0.2), classes=10, scale=16.0)
