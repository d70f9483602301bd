"""Data sets as `Task`s: training, validation and test part, task loss and metric."""

import os
from pathlib import Path

import torch

from ..config import DATASETS, TABULAR, Protocol, check, check_choice
from . import images, tabular
from .sources import DataUnavailable
from .task import Task

__all__ = ["DataUnavailable", "Task", "load_task"]


def load_task(name: str, protocol="paper", data_dir=None, device="auto", dtype="float32") -> Task:
    """Load one of the data sets of section IV, split and normalised.

    Args:
        name: one of `config.DATASETS`.
        protocol: text or `Protocol`; its switch "split" chooses the split of the tabular tasks.
        data_dir: folder of the data files, where downloads are kept too; default: the environment variable EVOMAL_DATA,
            else `data/` beside the package.
        device: of the tensors; "auto": the GPU if there is one.
        dtype: of the tensors, "float32" or "float64".

    Raises:
        ValueError: an unknown name, or a file that is not the data set.
        DataUnavailable: neither on disk nor to be downloaded; the message tells which file to put where.
        NotImplementedError: a data set that this version cannot load yet.
    """
    check_choice("data set", name, DATASETS)
    kind = Protocol.parse(protocol)["split"]
    dtype = getattr(torch, check_choice("dtype", str(dtype).removeprefix("torch."), ("float32", "float64")))
    device, folder = find_device(device), find_data_dir(data_dir)
    if name in TABULAR:
        parts, outputs = tabular.split(*tabular.load_table(name, folder), kind), 1
    elif name in images.LOADERS:
        parts, outputs = images.load_images(name, folder)
    else:
        loaded = ", ".join([*TABULAR, *images.LOADERS])
        raise NotImplementedError(f"data set {name!r} cannot be loaded yet; this version loads {loaded}")

    tensors = {part: (torch.as_tensor(x), torch.as_tensor(y)) for part, (x, y) in parts.items()}
    return Task(name, **tensors, classification=name not in TABULAR, outputs=outputs).to(device, dtype)


def find_device(device="auto") -> torch.device:
    """The device of that name; "auto": the GPU if there is one. Raises ValueError for one that is not there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{n}" for n in range(gpus))]
    check_choice("device, of those that PyTorch finds here,", str(device), ("auto", *names))
    return torch.device(("cuda" if gpus else "cpu") if device == "auto" else device)


def find_data_dir(data_dir=None) -> Path:
    """The folder of the data files: `data_dir`, else EVOMAL_DATA, else the repository's `data/`.

    Raises:
        ValueError: a folder was named that does not exist.
    """
    named = data_dir or os.environ.get("EVOMAL_DATA")
    if not named:
        return Path(__file__).parents[2] / "data"
    folder = Path(named).expanduser()
    origin = "data_dir" if data_dir else "the environment variable EVOMAL_DATA"
    check(folder.is_dir(), origin, "an existing folder", repr(str(named)))
    return folder
