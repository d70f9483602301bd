"""CIFAR-10, CIFAR-100 and SVHN: files against damage and hostility, images as bytes, crop and flip against torchvision."""

import hashlib
import io
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.transforms.v2 import functional as reference

from evomal_core import tasks
from evomal_core.config import Protocol
from evomal_core.registry import DATASETS
from evomal_core.tasks import DataUnavailable, Task, cifar, load_task, mnist, sources, svhn
from evomal_core.tasks.augment import crop_and_flip, draw_augmentation, normalise
from evomal_core.tasks.images import Images, split
from evomal_core.tasks.sources import Published

NAMES = ("cifar10", "cifar100", "svhn")
FILES = {"cifar10": cifar.CIFAR10_FILES, "cifar100": cifar.CIFAR100_FILES, "svhn": svhn.SVHN_FILES}
FOLDERS = {"cifar10": cifar.CIFAR10_FOLDER, "cifar100": cifar.CIFAR100_FOLDER, "svhn": ""}
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10}
MOMENTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "svhn": ((0.4380, 0.4440, 0.4730), (0.1751, 0.1771, 0.1744)),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches the network or a folder of the machine's owner."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    monkeypatch.delenv("EVOMAL_DATA", raising=False)


def pickled(content) -> bytes:
    """A pickle of protocol 3: that of Python 2 with bytes for str, as its reader sees the published files."""
    return pickle.dumps(content, protocol=3)


def batch(rng, n: int, classes: int, key: bytes) -> tuple[np.ndarray, np.ndarray, bytes]:
    x, y = rng.integers(0, 256, (n, 3072), np.uint8), rng.permutation(np.arange(n) % classes)
    return x.reshape(n, 3, 32, 32), y, pickled({b"data": x, key: y.tolist(), b"filenames": [b"a.png"] * n})


def contents(name: str) -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Small files of a data set, and the images and labels that they hold: {"train": (x, y), "test": (x, y)}."""
    rng = np.random.default_rng(0)
    if name == "cifar10":
        batches = {f"data_batch_{k}": batch(rng, 40, 10, b"labels") for k in range(1, 6)} | {
            "test_batch": batch(rng, 30, 10, b"labels")
        }
        train = [np.concatenate([batches[f"data_batch_{k}"][i] for k in range(1, 6)]) for i in (0, 1)]
        written = {file: content for file, (_, _, content) in batches.items()}
        return written | {"batches.meta": pickled({})}, {"train": tuple(train), "test": batches["test_batch"][:2]}
    if name == "cifar100":
        batches = {part: batch(rng, n, 100, b"fine_labels") for part, n in (("train", 1000), ("test", 200))}
        written = {file: content for file, (_, _, content) in batches.items()}
        return written | {"meta": pickled({})}, {part: b[:2] for part, b in batches.items()}
    written, arrays = {}, {}
    for part, n in (("train", 200), ("test", 30)):
        x, y = rng.integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n) % 10
        file = io.BytesIO()
        labels = np.where(y == 0, 10, y).astype(np.uint8)[:, None]  # as published: (N, 1), 10 for the digit 0
        savemat(file, {"X": x.transpose(2, 3, 1, 0), "y": labels}, do_compression=True)
        written[f"{part}_32x32.mat"], arrays[part] = file.getvalue(), (x, y)
    return written, arrays


def published(content: bytes) -> Published:
    return Published(len(content), hashlib.md5(content).hexdigest())


def place(monkeypatch, folder, name: str, sub: str | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the small files of a data set below `folder`, and make them the published ones."""
    written, arrays = contents(name)
    target = folder / (FOLDERS[name] if sub is None else sub)
    target.mkdir(exist_ok=True)
    for file, content in written.items():
        (target / file).write_bytes(content)
        monkeypatch.setitem(FILES[name], file, published(content))
    return arrays


# What is loaded


@pytest.mark.parametrize("name", NAMES)
def test_images_are_read_and_split(monkeypatch, tmp_path, name):
    arrays = place(monkeypatch, tmp_path, name)
    task = load_task(name, data_dir=tmp_path, device="cpu")
    (x, y), classes = arrays["train"], CLASSES[name]
    assert task.classification
    assert (task.outputs, task.input_shape, task.metric_name) == (classes, (3, 32, 32), "error rate")
    assert (task.dtype, task.augmented, task.padding) == (torch.float32, ("train",), 4)
    sizes = [len(y) - len(y) // 10, len(y) // 10, len(arrays["test"][1])]
    assert [len(part[1]) for part in (task.train, task.validation, task.test)] == sizes
    for stored, _ in (task.train, task.validation, task.test):
        assert stored.dtype == torch.uint8
        assert stored.is_contiguous()
    assert torch.bincount(task.validation[1]).tolist() == [len(y) // 10 // classes] * classes
    assert np.array_equal(task.test[0].numpy(), arrays["test"][0])
    assert np.array_equal(task.test[1].numpy(), arrays["test"][1])
    label_of = {image.tobytes(): label for image, label in zip(x, y.tolist(), strict=True)}
    assert len(label_of) == len(y)
    found = [  # each image of both parts, with its label
        (image.numpy().tobytes(), label.item())
        for part in (task.train, task.validation)
        for image, label in zip(*part, strict=True)
    ]
    assert dict(found) == label_of
    assert len(found) == len(y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_model_sees_normalised_floats(monkeypatch, tmp_path, name, dtype):
    arrays = place(monkeypatch, tmp_path, name)
    task = load_task(name, data_dir=tmp_path, device="cpu", dtype=dtype)
    mean, std = (np.reshape(m, (3, 1, 1)).astype(dtype) for m in MOMENTS[name])
    wanted = (arrays["test"][0] / np.dtype(dtype).type(255) - mean) / std
    seen = task.inputs(task.test[0])
    assert seen.dtype == task.dtype == getattr(torch, dtype)
    assert np.array_equal(seen.numpy(), wanted)


def test_svhn_is_found_in_its_own_folder_and_has_100_outputs_as_released(monkeypatch, tmp_path):
    arrays = place(monkeypatch, tmp_path, "svhn", sub="svhn")
    assert svhn.load(tmp_path).classes == 10
    images = svhn.load(tmp_path, released=True)
    assert images.classes == 100
    assert np.array_equal(images.test[1], arrays["test"][1])


def test_split_is_the_same_whoever_asks(monkeypatch, tmp_path):
    place(monkeypatch, tmp_path, "cifar10")
    first, second = (load_task("cifar10", p, tmp_path, "cpu") for p in ("paper", Protocol.parse("released")))
    for part in ("train", "validation", "test"):
        for a, b in zip(getattr(first, part), getattr(second, part), strict=True):
            assert torch.equal(a, b)


def test_loading_holds_no_floats():
    """The peak of splitting and wrapping stays near the bytes themselves; floats would take four times as much."""
    x, y = np.zeros((5_000, 3, 32, 32), np.uint8), np.arange(5_000) % 10
    images = Images((x, y), (x[:1_000], y[:1_000]), 10, moments=MOMENTS["cifar10"], augmentation=True)
    tracemalloc.start()
    try:
        parts, rest = tasks.prepare(images)
        tasks._task("own", parts, classification=True, **rest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert x.nbytes <= peak < 1.5 * x.nbytes


# Files against damage and hostility


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_and_kept(monkeypatch, tmp_path, name):
    place(monkeypatch, tmp_path, name)
    for file, expected in FILES[name].items():
        path = tmp_path / FOLDERS[name] / file
        good = path.read_bytes()
        for damaged in (good[:-1], good + b"\0", good[:-1] + bytes([good[-1] ^ 1]), b""):
            path.write_bytes(damaged)
            with pytest.raises(ValueError) as caught:
                load_task(name, data_dir=tmp_path, device="cpu")
            for part in (path, expected, published(damaged)):
                assert str(part) in str(caught.value)
            assert path.read_bytes() == damaged
        path.write_bytes(good)
    load_task(name, data_dir=tmp_path, device="cpu")


class Hostile:
    """What a pickle calls when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("file", ["data_batch_1", "batches.meta"])
def test_a_wrong_checksum_is_refused_before_unpickling(monkeypatch, tmp_path, file):
    place(monkeypatch, tmp_path, "cifar10")
    path, trace = tmp_path / cifar.CIFAR10_FOLDER / file, tmp_path / "trace"
    path.write_bytes(pickled(Hostile(os.mkdir, str(trace))))
    read = []

    class Recording(cifar.ArrayUnpickler):
        def load(self):
            content = super().load()
            read.append(content)
            return content

    monkeypatch.setattr(cifar, "ArrayUnpickler", Recording)
    with pytest.raises(ValueError, match=f"{file}: must be .* with md5"):
        load_task("cifar10", data_dir=tmp_path, device="cpu")
    assert len(read) == list(FILES["cifar10"]).index(file)  # the good files before it, and nothing of this one
    assert not trace.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        lambda path: Hostile(os.mkdir, path),
        lambda path: Hostile(eval, f"__import__('os').mkdir({path!r})"),
        lambda path: Hostile(np.load, path),
        lambda path: Hostile(np.memmap, path),
        lambda path: np.array([Hostile(os.mkdir, path)], dtype=object),
        lambda path: {b"data": [Hostile(os.mkdir, path)]},
    ],
)
def test_a_hostile_pickle_can_do_nothing_even_with_the_right_checksum(monkeypatch, tmp_path, hostile):
    place(monkeypatch, tmp_path, "cifar10")
    path, trace = tmp_path / cifar.CIFAR10_FOLDER / "data_batch_1", tmp_path / "trace"
    path.write_bytes(pickled(hostile(str(trace))))
    monkeypatch.setitem(cifar.CIFAR10_FILES, "data_batch_1", published(path.read_bytes()))
    with pytest.raises(pickle.UnpicklingError, match="is refused"):
        load_task("cifar10", data_dir=tmp_path, device="cpu")
    assert not trace.exists()


def test_arrays_of_both_numpy_generations_are_read():
    content = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2]}
    text = pickled(content)
    old = text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != text
    for each in (text, old):
        loaded = cifar.ArrayUnpickler(io.BytesIO(each), encoding="bytes").load()
        assert np.array_equal(loaded[b"data"], content[b"data"])
        assert loaded[b"labels"] == [1, 2]


# Downloads


@pytest.mark.parametrize("name", NAMES)
def test_data_unavailable_names_files_sizes_and_checksums(tmp_path, name):
    with pytest.raises(DataUnavailable) as caught:
        load_task(name, data_dir=tmp_path, device="cpu")
    text = str(caught.value)
    assert str(tmp_path / FOLDERS[name]) in text
    assert "no network in tests" in text
    for file, expected in FILES[name].items():
        assert f"{file}: {expected.size:,} bytes with md5 {expected.md5}" in text
    assert os.listdir(tmp_path) == []


def serve(monkeypatch, source, name: str, damage: str | None = None) -> list:
    """Let torchvision's downloads copy from `source`; one file is cut off if `damage` names it."""
    calls = []

    def copy(target, files):
        calls.append(target)
        os.makedirs(target, exist_ok=True)
        for file in files:
            content = (source / FOLDERS[name] / file).read_bytes()
            with open(os.path.join(target, file), "wb") as out:
                out.write(content[:-1] if file == damage else content)

    def archive(url, root, filename, md5):
        copy(os.path.join(root, FOLDERS[name]), FILES[name])

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", archive)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda url, root, file, md5: copy(root, [file]))
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_a_download_is_kept_and_not_made_twice(monkeypatch, tmp_path, tmp_path_factory, name):
    place(monkeypatch, tmp_path, name)
    expected = load_task(name, data_dir=tmp_path, device="cpu")
    calls, empty = serve(monkeypatch, tmp_path, name), tmp_path_factory.mktemp("empty")
    for _ in range(2):
        task = load_task(name, data_dir=empty, device="cpu")
        assert torch.equal(task.train[0], expected.train[0])
        before = len(calls)
    assert len(calls) == before == (2 if name == "svhn" else 1)
    assert sorted(os.listdir(empty / FOLDERS[name])) == sorted(FILES[name])  # nothing temporary is left


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_download_is_not_kept(monkeypatch, tmp_path, tmp_path_factory, name):
    place(monkeypatch, tmp_path, name)
    serve(monkeypatch, tmp_path, name, damage=list(FILES[name])[-1])
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataUnavailable, match="with md5"):
        load_task(name, data_dir=empty, device="cpu")
    assert os.listdir(empty) == []


def test_a_download_leaves_the_files_that_are_there(monkeypatch, tmp_path, tmp_path_factory):
    place(monkeypatch, tmp_path, "cifar100")
    serve(monkeypatch, tmp_path, "cifar100")
    folder = tmp_path_factory.mktemp("half") / cifar.CIFAR100_FOLDER
    folder.mkdir()
    (folder / "train").write_bytes(b"own")
    with pytest.raises(ValueError, match="train: must be"):
        load_task("cifar100", data_dir=folder.parent, device="cpu")
    assert (folder / "train").read_bytes() == b"own"


def test_the_tables_are_torchvisions():
    from torchvision import datasets

    for source, files in ((datasets.CIFAR10, cifar.CIFAR10_FILES), (datasets.CIFAR100, cifar.CIFAR100_FILES)):
        listed = dict([*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])])
        assert {name: file.md5 for name, file in files.items()} == listed
    assert (datasets.CIFAR10.base_folder, datasets.CIFAR100.base_folder) == (FOLDERS["cifar10"], FOLDERS["cifar100"])
    for part in ("train", "test"):
        _, name, md5 = datasets.SVHN.split_list[part]
        assert svhn.SVHN_FILES[name].md5 == md5


def test_an_unreadable_file_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"), sources.open_checked(tmp_path, Published(1, "0")):
        pass


# Bytes to floats, crop and flip


@pytest.mark.parametrize("shape", [(6, 3, 32, 32), (4, 1, 5, 7)])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_flip_equals_torchvision_one_by_one(shape, padding, dtype):
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, np.uint8)).to(dtype)
    for seed in range(5):
        rows, columns, flips = draw_augmentation(np.random.default_rng(seed), len(x), padding)
        got = crop_and_flip(x, rows, columns, flips, padding)
        assert got.dtype == dtype
        for image, row, column, flip, one in zip(x, rows, columns, flips, got, strict=True):
            wanted = reference.crop(reference.pad(image, [padding] * 4), int(row), int(column), *shape[2:])
            assert torch.equal(one, reference.horizontal_flip(wanted) if flip else wanted)


def test_every_corner_of_the_padding_can_be_drawn():
    x = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 3, 4)
    corners = [(r, c, f) for r in range(3) for c in range(3) for f in (False, True)]
    rows, columns, flips = (torch.tensor(a) for a in zip(*corners, strict=True))
    got = crop_and_flip(x.expand(len(corners), 1, 3, 4), rows, columns, flips, 1)
    assert len({one.numpy().tobytes() for one in got}) == 18
    middle = corners.index((1, 1, False))
    assert torch.equal(got[middle], x[0])
    assert torch.equal(got[middle + 1], x[0].flip(-1))


def test_draws_are_uniform_and_depend_on_the_generator_alone():
    rows, columns, flips = draw_augmentation(np.random.default_rng(3), 18_000, 4)
    assert rows.dtype == columns.dtype == torch.int64
    assert flips.dtype == torch.bool
    for drawn in (rows, columns):
        counts = torch.bincount(drawn)
        assert len(counts) == 9
        assert (counts - 2_000).abs().max() < 250  # 6 standard deviations
    assert abs(flips.sum().item() - 9_000) < 400
    together = torch.stack([rows, columns, flips.long()]).double()
    assert (torch.corrcoef(together) - torch.eye(3)).abs().max() < 0.04
    again = draw_augmentation(np.random.default_rng(3), 18_000, 4)
    assert all(torch.equal(a, b) for a, b in zip((rows, columns, flips), again, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalise_equals_numpy_bit_for_bit_for_every_byte(dtype):
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    for mean, std in (*MOMENTS.values(), ((0.1307,) * 3, (0.3081,) * 3)):
        got = normalise(x, *(torch.tensor(m, dtype=torch.float64) for m in (mean, std)), getattr(torch, dtype))
        a, b = (np.reshape(m, (3, 1, 1)).astype(dtype) for m in (mean, std))
        assert np.array_equal(got.numpy(), (x.numpy() / np.dtype(dtype).type(255) - a) / b)


# Tasks of bytes


def own(**changes) -> Task:
    x, y = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4), torch.tensor([0, 1])
    moments = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    settings = {"classification": True, "outputs": 2, "moments": moments} | changes
    parts = {"train": (x, y), "validation": (x, y), "test": (x, y)}
    return Task("own", **(parts | settings))


def test_bytes_stay_bytes_when_a_task_moves():
    task = own()
    assert (task.dtype, task.augmented) == (torch.float32, ())
    moved = task.to("cpu", torch.float64)
    assert moved.train[0].dtype == torch.uint8
    assert moved.dtype == moved.inputs(moved.train[0]).dtype == torch.float64
    assert moved.moments[0].tolist() == [0.5, 0.4, 0.3]  # no digit was lost on the way
    back = moved.to(dtype=torch.float32)
    assert torch.equal(back.inputs(back.train[0]), task.inputs(task.train[0]))
    assert moved.to("cpu").dtype == torch.float64


def test_floats_are_what_the_model_sees():
    x = torch.randn(2, 3, 4, 4)
    task = own(**{part: (x, torch.tensor([0, 1])) for part in ("train", "validation", "test")}, moments=None)
    assert task.inputs(x) is x
    assert task.dtype == torch.float32
    assert task.to(dtype=torch.float64).dtype == torch.float64


def test_bytes_for_regression():
    x, y = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.randn(2, 1)
    parts = {part: (x, y) for part in ("train", "validation", "test")}
    task = own(**parts, classification=False, outputs=1)
    assert task.to(dtype=torch.float64).train[1].dtype == torch.float64
    with pytest.raises(ValueError, match=r"Task.train y must be torch.float64, got torch.float32"):
        own(**parts, classification=False, outputs=1, dtype=torch.float64)


FLAT = (torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([0, 1]))
FLOATS = (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
MOMENTS_WANTED = r"Task.moments of torch.uint8 x must be \(mean, std\) with 3 finite numbers each, std positive, got "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moments": None}, MOMENTS_WANTED + "None"),
        ({"moments": (0.5, 0.2)}, MOMENTS_WANTED),
        ({"moments": ((0.5,), (0.2,))}, MOMENTS_WANTED),
        ({"moments": ((0.5,) * 3,)}, MOMENTS_WANTED),
        ({"moments": ((0.5,) * 3, (0.2, 0.0, 0.2))}, MOMENTS_WANTED),
        ({"moments": ((0.5, float("nan"), 0.5), (0.2,) * 3)}, MOMENTS_WANTED),
        ({"moments": "mean"}, MOMENTS_WANTED + "'mean'"),
        ({"padding": -1}, "Task.padding must be a whole number of pixels, at least 0, got -1"),
        ({"padding": 1.5}, "Task.padding must be a whole number of pixels, at least 0, got 1.5"),
        ({"dtype": torch.int64}, "Task.dtype must be a floating-point torch.dtype, got torch.int64"),
        ({"dtype": "float32"}, "Task.dtype must be a floating-point torch.dtype, got 'float32'"),
        ({"test": FLOATS}, "Task.test x must be torch.uint8 like Task.train, got torch.float32"),
        ({"train": FLAT}, r"Task.train x with uint8 must be \(N, channels, height, width\), got \(2, 3\)"),
        ({part: FLOATS for part in ("train", "validation", "test")}, "Task.moments of torch.float32 x must be None"),
        (
            {"train": (FLAT[0].float(), FLAT[1]), "moments": None, "augmented": ("train",)},
            r"Task.train x with augmentation must be \(N, channels, height, width\), got \(2, 3\)",
        ),
    ],
)
def test_errors_say_what_was_expected_and_what_came(changes, message):
    with pytest.raises(ValueError, match=message):
        own(**changes)


def test_registered_settings():
    for name in NAMES:
        assert DATASETS[name].classification
        assert DATASETS[name].settings_for("paper") == {"test_steps": 150_000, "test_milestones": (100_000, 135_000)}


# The published data, where a folder has them


def where(path: str):
    folder = os.environ.get("EVOMAL_DATA") or tasks.find_data_dir()
    found = any(os.path.exists(os.path.join(folder, path + suffix)) for suffix in ("", ".gz"))
    return pytest.param(folder, marks=pytest.mark.skipif(not found, reason=f"{path} is not in the data folder"))


@pytest.mark.parametrize("folder", [where("cifar-10-batches-py/data_batch_1")])
def test_published_cifar10(folder):
    images = cifar.load_cifar10(tasks.find_data_dir(folder))
    assert [np.bincount(y).tolist() for _, y in (images.train, images.test)] == [[5_000] * 10, [1_000] * 10]
    mean = images.train[0].mean((0, 2, 3), dtype=np.float64) / 255
    np.testing.assert_allclose(mean, (0.49139968, 0.48215841, 0.44653091), atol=1e-8)
    for (x, y), (n, each) in zip(split(images).values(), ((45_000, 4_500), (5_000, 500), (10_000, 1_000)), strict=True):
        assert x.shape == (n, 3, 32, 32)
        assert np.bincount(y).tolist() == [each] * 10


@pytest.mark.parametrize("folder", [where("cifar-100-python/train")])
def test_published_cifar100(folder):
    images = cifar.load_cifar100(tasks.find_data_dir(folder))
    assert [np.bincount(y).tolist() for _, y in (images.train, images.test)] == [[500] * 100, [100] * 100]
    mean = images.train[0].mean((0, 2, 3), dtype=np.float64) / 255
    np.testing.assert_allclose(mean, (0.50707516, 0.48654887, 0.44091784), atol=1e-8)
    assert [np.bincount(y).tolist() for _, y in split(images).values()] == [[450] * 100, [50] * 100, [100] * 100]


@pytest.mark.parametrize("folder", [where("MNIST/raw/train-images-idx3-ubyte")])
def test_normalise_equals_the_numbers_of_mnist_bit_for_bit(folder):
    folder = tasks.find_data_dir(folder)
    task, parts = load_task("mnist", data_dir=folder, device="cpu"), split(mnist.load(folder))
    moments = [torch.tensor([m], dtype=torch.float64) for m in (0.1307, 0.3081)]
    for part, (x, _) in parts.items():
        assert torch.equal(normalise(torch.tensor(x), *moments, torch.float32), getattr(task, part)[0])
