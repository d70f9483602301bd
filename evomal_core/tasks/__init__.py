"""Data sets as `Task`s: training, validation and test part, task loss and metric."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from .. import portable
from ..checks import check, check_choice
from ..config import Protocol
from ..registry import DATASETS, DataSet
from . import cifar, digits, mnist, svhn, tabular
from .images import Images, prepare
from .sources import DataUnavailable
from .task import Task


def load_task(name: str, protocol="paper", data_dir=None, device="auto", dtype="float32") -> Task:
    """Load one of the data sets of section IV, split and normalised.

    Args:
        name: one of `registry.DATASETS`.
        protocol: text or `Protocol`; its switch "split" chooses the split of the tabular tasks.
        data_dir: folder of the data files, where downloads are kept too; default: the environment variable EVOMAL_DATA,
            else `data/` beside the package.
        device: where the tensors lie; "auto" takes the GPU if there is one.
        dtype: the type that the model sees, "float32" or "float64"; the images of CIFAR and SVHN lie on the device as uint8.

    Raises:
        ValueError: an unknown name, or a file that is not the data set.
        DataUnavailable: not on disk, and the download failed; the message tells which file to put where.
    """
    check_choice("data set", name, DATASETS)
    dtype = getattr(torch, check_choice("dtype", str(dtype).removeprefix("torch."), ("float32", "float64")))
    device, folder = find_device(device), find_data_dir(data_dir)
    return DATASETS[name].load(folder, Protocol.parse(protocol)).to(device, dtype)


def _tabular(name: str, features: int, *instances: int) -> DataSet:
    def load(folder: Path, protocol: Protocol) -> Task:
        return _task(name, tabular.split(*tabular.load_table(name, folder), protocol["split"]), classification=False)

    return DataSet(load, classification=False, shape=(features,), instances=instances)


def _images(name: str, read: Callable[..., Images], settings: dict, budgets: dict, **facts) -> DataSet:
    def load(folder: Path, protocol: Protocol) -> Task:
        released = name == "svhn" and protocol["svhn"] == "100"
        images = read(folder, released) if released else read(folder)
        parts, rest = prepare(images)
        also = [("validation", protocol["validation_augmentation"] == "on"), ("test", released)]
        augmented = ("train", *(part for part, on in also if on)) if images.augmentation else ()
        return _task(name, parts, classification=True, augmented=augmented, **rest)

    return DataSet(load, True, settings, budgets, **facts)


def _task(name: str, parts: dict, **settings) -> Task:
    tensors = {part: (torch.as_tensor(x), torch.as_tensor(y)) for part, (x, y) in parts.items()}
    return Task(name, **tensors, **settings)


PLAIN_SGD = {"base_momentum": 0.0, "base_nesterov": False, "base_weight_decay": 0.0}  # of MNIST [R]
FEWER_REJECTION_STEPS = {"paper": {"rejection_steps": 100}}  # of MNIST [R]
LONG = {"paper": {"test_steps": 150_000, "test_milestones": (100_000, 135_000)}}  # CIFAR-10, CIFAR-100, SVHN [R]
GREY = {"shape": (1, 28, 28), "outputs": 10, "instances": (54_000, 6_000, 10_000)}
COLOUR = {"shape": (3, 32, 32), "outputs": 10, "instances": (45_000, 5_000, 10_000)}
DATASETS["diabetes"] = _tabular("diabetes", 10, 265, 88, 89)
DATASETS["boston"] = _tabular("boston", 13, 303, 101, 102)
DATASETS["california"] = _tabular("california", 8, 12_384, 4_128, 4_128)
DATASETS["mnist"] = _images("mnist", mnist.load, PLAIN_SGD, FEWER_REJECTION_STEPS, **GREY)
DATASETS["cifar10"] = _images("cifar10", cifar.load_cifar10, {}, LONG, **COLOUR)
DATASETS["cifar100"] = _images("cifar100", cifar.load_cifar100, {}, LONG, **COLOUR | {"outputs": 100})
DATASETS["svhn"] = _images("svhn", svhn.load, {}, LONG, **COLOUR | {"instances": (65_931, 7_326, 26_032)})
DATASETS["digits"] = _images("digits", digits.load, PLAIN_SGD, FEWER_REJECTION_STEPS, stand_in=True)


def find_device(device="auto") -> torch.device:
    """The device of that name; "auto": the GPU if there is one, and the CPU if numerics are to be portable.

    Raises:
        ValueError: a device that is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{n}" for n in range(gpus))]
    check_choice("device, of those that PyTorch finds here,", str(device), ("auto", *names))
    return torch.device(("cuda" if gpus and not portable.enabled() else "cpu") if device == "auto" else device)


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
