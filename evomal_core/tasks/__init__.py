"""Data sets as `Task`s: training, validation and test part, task loss and metric."""

import os
from pathlib import Path

import torch

from evomal_core.config import DATASETS, TABULAR, Protocol, check_choice
from evomal_core.tasks import images, tabular
from evomal_core.tasks.task import DataUnavailable, Task

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
    try:
        known = device == "auto" or torch.device(device).type == "cpu" or torch.cuda.is_available()
    except RuntimeError:
        known = False
    if not known:
        gpu = "there is a GPU" if torch.cuda.is_available() else "there is no GPU that PyTorch can use"
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}; {gpu}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = find_data_dir(data_dir)
    if name in TABULAR:
        parts, facts = tabular.split(*tabular.load_table(name, folder), kind), {"classification": False}
    elif name in images.LOADERS:
        parts, source = images.load_images(name, folder)
        facts = {"classification": True, "outputs": source.classes, "augmentation": source.augmentation}
    else:
        loaded = ", ".join([*TABULAR, *images.LOADERS])
        raise NotImplementedError(f"data set {name!r} cannot be loaded yet; this version loads {loaded}")

    def tensor(a) -> torch.Tensor:
        return torch.as_tensor(a, device=device, dtype=torch.int64 if a.ndim == 1 else dtype).contiguous()

    return Task(name, **{part: (tensor(x), tensor(y)) for part, (x, y) in parts.items()}, **facts)


def find_data_dir(data_dir=None) -> Path:
    """The folder of the data files: `data_dir`, else EVOMAL_DATA, else the repository's `data/`.

    Raises:
        ValueError: a folder was named that does not exist.
    """
    named = data_dir or os.environ.get("EVOMAL_DATA")
    if not named:
        return Path(__file__).parents[2] / "data"
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = "data_dir" if data_dir else "the environment variable EVOMAL_DATA"
        raise ValueError(f"{origin} must be an existing folder, got {str(named)!r}")
    return folder
