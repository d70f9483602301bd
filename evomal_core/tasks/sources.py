"""Where the files of a data set come from: a folder, else a download."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]  # x, y
DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer


class DataUnavailable(RuntimeError):
    """A data set is neither on disk nor to be had from where it is published."""


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of these files that there is."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


@contextlib.contextmanager
def download(missing: str, remedy: str, beside: Path | None = None) -> Iterator[str]:
    """A scratch folder to download into, which goes away afterwards; the wait for a server is limited.

    Args:
        missing: what is not on disk and where from it cannot be had, for the message.
        remedy: which file to put where, likewise.
        beside: the scratch folder lies in this one, so that files can be renamed from there, or, if there is none yet, in
            the nearest above it; else where the system has such folders.

    Raises:
        DataUnavailable: whatever went wrong inside, with the network, the disk, or an answer that nobody expected.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # of libraries that set no limit of their own
    try:
        beside = beside and next(folder for folder in (beside, *beside.absolute().parents) if folder.is_dir())
        with tempfile.TemporaryDirectory(dir=beside, prefix=".download-") as scratch:
            yield scratch
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataUnavailable(f"{missing} ({reason}). {remedy}") from error
    finally:
        socket.setdefaulttimeout(before)
