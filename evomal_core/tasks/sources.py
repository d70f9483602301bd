"""Where the files of a data set come from: a folder, else a download."""

import contextlib
import gzip
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..checks import check
from ..files import check_regular

Arrays = tuple[np.ndarray, np.ndarray]  # x, y
DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer


class DataUnavailable(RuntimeError):
    """A data set is not on disk, and its download failed."""


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of these files that there is."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def unpacked(path: Path, most_bytes: int) -> bytes:
    """The content of a file, unpacked if it is called .gz. Raises ValueError if it is larger, also once it is unpacked."""
    check_regular(path, most_bytes)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read(most_bytes + 1)
    check(len(content) <= most_bytes, "its size", f"at most {most_bytes} bytes, also unpacked", "more")
    return content


_offline = False


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within this block nothing is downloaded: a data set that is not on disk is unavailable at once."""
    global _offline
    before, _offline = _offline, True
    try:
        yield
    finally:
        _offline = before


@contextlib.contextmanager
def download(missing: str, remedy: str, beside: Path | None = None) -> Iterator[str]:
    """A scratch folder to download into, which goes away afterwards; the wait for a server is limited.

    Args:
        missing: what is not on disk and where from it cannot be had, for the message.
        remedy: which file to put where, likewise.
        beside: the scratch folder lies in this one, so that files can be renamed from there, or, if there is none yet, in
            the nearest above it; else where the system has such folders.

    Raises:
        DataUnavailable: anything that went wrong inside: the network, the disk, or an unexpected answer.
    """
    if _offline:
        raise DataUnavailable(f"{missing} (nothing is to be downloaded). {remedy}")
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


class Published(NamedTuple):
    """A file as it is published."""

    size: int  # bytes
    md5: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes with md5 {self.md5}"


@contextlib.contextmanager
def open_checked(path: Path, expected: Published) -> Iterator[BinaryIO]:
    """The file, open at its beginning, after all of it was compared with what is published.

    Raises:
        ValueError: the file cannot be read, or has another size or md5.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path}: must have {expected}; it cannot be read ({error})") from error
    with file:
        found = Published(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, _md5).hexdigest())
        check(found == expected, f"{path}:", expected, found)
        file.seek(0)
        yield file  # the same open file, so that nothing comes between check and use


def _md5():
    return hashlib.md5(usedforsecurity=False)


def find_or_download(
    title: str, folder: Path, files: Mapping[str, Published], fetch: Callable[[str], Path], also: str = ""
) -> dict[str, Path]:
    """Where the files of a data set lie; those that are missing are downloaded, checked and kept in `folder`.

    Args:
        title: the data set's name in messages.
        folder: where the files are looked for.
        files: name -> what is published.
        fetch: downloads into a scratch folder, and returns the folder below it in which the files then lie.
        also: a folder below `folder` in which they are looked for, too.

    Raises:
        DataUnavailable: a file is neither there nor to be downloaded; no part of a download is left.
    """
    found = {name: find_file(folder, name, os.path.join(also, name)) for name in files}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        wanted = "; ".join(f"{name}: {files[name]}" for name in missing)
        message = f"{title} is not complete in {folder}, and cannot be downloaded"
        with download(message, f"Put the missing files there. {wanted}.", folder) as scratch:
            source = fetch(scratch)
            for name in missing:
                with open_checked(source / name, files[name]):
                    pass
            folder.mkdir(parents=True, exist_ok=True)
            for name in missing:
                os.replace(source / name, folder / name)
    return {name: path or folder / name for name, path in found.items()}
