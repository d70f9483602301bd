"""The data sets: splits against scikit-learn, files against damage, and what is said when there is no file."""

import gzip
import hashlib
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import nn

from evomal_core import tasks
from evomal_core.config import Protocol
from evomal_core.tasks import DataUnavailable, Task, load_task, mnist, sources, tabular


def rows(part) -> set[bytes]:
    x, y = part
    return {row.tobytes() for row in torch.cat([x.flatten(1), y.reshape(len(y), -1).to(x.dtype)], 1).numpy()}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches the network or a folder of the machine's owner."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(datasets, "fetch_openml", refuse)
    monkeypatch.setattr(datasets, "fetch_california_housing", refuse)
    monkeypatch.delenv("EVOMAL_DATA", raising=False)
    return refuse


# Splits


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [("paper", (265, 88, 89)), ("released", (88, 89, 177)), ("paper+split=overlapping", (88, 89, 177))],
)
def test_diabetes_split_sizes(protocol, sizes):
    task = load_task("diabetes", protocol, device="cpu")
    for (x, y), n in zip((task.train, task.validation, task.test), sizes, strict=True):
        assert x.shape == (n, 10)
        assert y.shape == (n, 1)
        assert x.dtype == y.dtype == torch.float32


def test_honest_split_is_disjoint_and_complete():
    task = load_task("diabetes", device="cpu", dtype="float64")
    parts = [rows(p) for p in (task.train, task.validation, task.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts)) == 442


def test_overlapping_split_tests_on_its_own_training_part():
    task = load_task("diabetes", Protocol.parse("released"), device="cpu", dtype="float64")
    train, validation, test = (rows(p) for p in (task.train, task.validation, task.test))
    assert not train & validation
    assert train | validation == test


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_split_and_standardisation_equal_an_independent_computation(protocol):
    x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    index = np.arange(len(y))
    sixty, forty = train_test_split(index, test_size=0.4, random_state=0)
    first, second = train_test_split(forty, test_size=0.5, random_state=0)
    expected = (sixty, first, second) if protocol == "paper" else (first, second, forty)
    task = load_task("diabetes", protocol, device="cpu", dtype="float64")
    for part, index in zip((task.train, task.validation, task.test), expected, strict=True):
        for values, all_values in zip(part, (x, y[:, None]), strict=True):
            reference = all_values[expected[0]]
            deviations = reference - reference.sum(0) / len(reference)
            std = np.sqrt((deviations**2).sum(0) / len(reference))
            wanted = (all_values[index] - reference.sum(0) / len(reference)) / std
            np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_constant_column_is_divided_by_one():
    x, y = np.column_stack([np.full(50, 0.1), np.arange(50.0)]), np.arange(50.0)[:, None]
    parts = tabular.split(x, y, "honest")
    assert np.abs(parts["train"][0][:, 0]).max() < 1e-12
    assert parts["train"][0][:, 1].std() == pytest.approx(1)


def test_digits():
    task = load_task("digits", device="cpu")
    assert [len(part[1]) for part in (task.train, task.validation, task.test)] == [1293, 144, 360]
    assert task.input_shape == (1, 8, 8)
    assert task.classification
    assert (task.outputs, task.metric_name) == (10, "error rate")
    assert isinstance(task.task_loss, nn.CrossEntropyLoss)
    assert task.train[1].dtype == torch.int64
    assert task.train[0].mean().item() == pytest.approx(0, abs=1e-5)
    assert task.train[0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    for _, y in (task.train, task.validation, task.test):
        assert torch.bincount(y, minlength=10).float().div(len(y)).sub(0.1).abs().max() < 0.02  # stratified
    again = load_task("digits", "released", device="cpu")
    assert torch.equal(task.validation[0], again.validation[0])


# Files of tables


def small_table(fetch=None) -> tabular.Table:
    return tabular.Table(
        "small_housing.csv",
        ("a", "b", "MEDV"),
        40,
        *(part.mean() for part in (SMALL[:, :-1], SMALL[:, -1])),
        tabular.digest_of(SMALL),
        fetch,
        "a server",
    )


SMALL = np.random.default_rng(0).normal(3, 1, (40, 3))


@pytest.fixture
def small(monkeypatch):
    """A stand-in for Boston; its server answers."""
    calls = []

    def fetch(scratch):
        calls.append(scratch)
        return SMALL

    monkeypatch.setattr(tabular, "BOSTON", small_table(fetch))
    return calls


def write(path, table, header="a,b,MEDV"):
    text = "\n".join([header, *(",".join(map(repr, row)) for row in table.tolist())]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("name", ["small_housing.csv", "small_housing.csv.gz", "small.csv", "small.csv.gz"])
def test_a_file_is_read_under_its_names(small, tmp_path, name):
    write(tmp_path / name, SMALL)
    x, y = tabular.load_table("boston", tmp_path)
    assert not small  # nothing was downloaded
    assert np.array_equal(x, SMALL[:, :2])
    assert np.array_equal(y, SMALL[:, 2:])


def test_a_download_is_kept_and_read_back_bit_for_bit(small, tmp_path):
    first = load_task("boston", data_dir=tmp_path, device="cpu", dtype="float64")
    assert os.listdir(tmp_path) == ["small_housing.csv"]  # nothing temporary is left
    second = load_task("boston", data_dir=tmp_path, device="cpu", dtype="float64")
    assert len(small) == 1
    for part in ("train", "validation", "test"):
        for a, b in zip(getattr(first, part), getattr(second, part), strict=True):
            assert torch.equal(a, b)


def test_a_download_that_cannot_be_kept_is_used(small, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    with pytest.warns(UserWarning, match="cannot be kept"):
        x, _ = tabular.load_table("boston", blocked)
    assert np.array_equal(x, SMALL[:, :2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (SMALL[:-1], "rows must be 40, found 39"),
        (SMALL[:, 1:], "columns must be 3, found 2"),
        (SMALL + np.array([0, 0, 0.01]), "mean of MEDV must be .*, found"),
        (SMALL + np.array([0.01, 0, 0]), "mean of the features must be .*, found"),
        (SMALL[::-1], "digest of the table must be"),
        (np.column_stack([SMALL[:, :2], SMALL[::-1, 2]]), "digest of the table must be"),
        (SMALL[:, [1, 0, 2]], "digest of the table must be"),
        (np.where(SMALL == SMALL[3, 2], np.nan, SMALL), "mean of MEDV must be .*, found nan"),
    ],
)
def test_a_file_that_is_not_the_data_set_is_named_and_kept(small, tmp_path, damage, message):
    path = tmp_path / "small_housing.csv"
    write(path, damage)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        load_task("boston", data_dir=tmp_path, device="cpu")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert not small


@pytest.mark.parametrize("content", [b"a,b,MEDV\n1,2,three\n", b"\xff\xfe\x00", b"a,b,MEDV\n1,2\n1,2,3\n"])
def test_a_file_that_is_no_table(small, tmp_path, content):
    path = tmp_path / "small_housing.csv"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"must hold a header line and 40 lines of 3 numbers|rows must be 40"
    ) as caught:
        tabular.load_table("boston", tmp_path)
    assert str(path) in str(caught.value)


def test_a_cut_off_packed_file(small, tmp_path):
    path = tmp_path / "small_housing.csv.gz"
    write(path, SMALL)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="must hold a header line"):
        tabular.load_table("boston", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [
        ("boston", "boston_housing.csv", "MEDV"),
        ("california", "california_housing.csv", "MedHouseVal"),
        ("mnist", "train-images-idx3-ubyte.gz", "packed"),
    ],
)
def test_data_unavailable_tells_which_file_to_put_where(monkeypatch, offline, tmp_path, name, file, column):
    if name == "mnist":
        monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    with pytest.raises(DataUnavailable) as caught:
        load_task(name, data_dir=tmp_path, device="cpu")
    for part in (file, str(tmp_path), column, "no network in tests"):
        assert part in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_wrong_download_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(tabular, "BOSTON", small_table(lambda scratch: SMALL[:10]))
    with pytest.raises(DataUnavailable, match="a server: rows must be 40, found 10"):
        load_task("boston", data_dir=tmp_path, device="cpu")
    assert os.listdir(tmp_path) == []


def test_boston_from_openml_takes_the_values_of_categories(monkeypatch, tmp_path):
    pandas = pytest.importorskip("pandas")
    columns = tabular.BOSTON.columns
    frame = pandas.DataFrame({name: np.arange(4.0) for name in reversed(columns[:-1])})
    frame["RAD"] = pandas.Categorical(["24", "5", "24", "1"])
    answer = type("Bunch", (), {"data": frame, "target": pandas.Series([9.0, 8.0, 7.0, 6.0])})
    monkeypatch.setattr(datasets, "fetch_openml", lambda *args, **kwargs: answer)
    table = tabular._fetch_boston(str(tmp_path))
    assert table.shape == (4, 14)
    assert table[:, columns.index("RAD")].tolist() == [24, 5, 24, 1]
    assert table[:, -1].tolist() == [9, 8, 7, 6]


def test_a_download_gives_up_soon_and_restores_the_timeout(monkeypatch, tmp_path):
    import socket

    seen = []
    monkeypatch.setattr(datasets, "fetch_california_housing", lambda **kwargs: seen.append(socket.getdefaulttimeout()))
    before = socket.getdefaulttimeout()
    with pytest.raises(DataUnavailable):
        load_task("california", data_dir=tmp_path, device="cpu")
    assert seen == [sources.DOWNLOAD_TIMEOUT]
    assert socket.getdefaulttimeout() == before


# Files of images


def write_idx(path, array) -> str:
    """Write an idx file, packed if it is called so; return the md5 of what is packed."""
    content = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """200 + 50 images of 28×28 under the names of MNIST, some packed, with their own md5s."""
    md5s = {}
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for kind, n, suffix in (("train", 200, ".gz"), ("t10k", 50, "")):
        arrays[kind] = rng.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8)
        for name, array in zip((f"{kind}-images-idx3-ubyte", f"{kind}-labels-idx1-ubyte"), arrays[kind], strict=True):
            md5s[name] = write_idx(folder / f"{name}{suffix}", array)
    monkeypatch.setattr(mnist, "MNIST_FILES", md5s)
    return tmp_path, arrays


def test_mnist_is_read_split_and_normalised(tiny_mnist):
    folder, arrays = tiny_mnist
    task = load_task("mnist", data_dir=folder, device="cpu")
    assert [tuple(x.shape) for x, _ in (task.train, task.validation, task.test)] == [
        (n, 1, 28, 28) for n in (180, 20, 50)
    ]
    assert torch.bincount(task.validation[1]).tolist() == [2] * 10
    x, y = arrays["t10k"]
    np.testing.assert_allclose(task.test[0][:, 0].numpy(), (x / 255 - 0.1307) / 0.3081, rtol=1e-4, atol=1e-5)
    assert task.test[1].tolist() == y.tolist()
    assert not rows(task.train) & rows(task.validation)
    assert len(rows(task.train) | rows(task.validation)) == 200
    wanted = {
        (int(i.sum()), int(label)) for i, label in zip(*arrays["train"], strict=True)
    }  # each label with its image
    for x, y in (task.train, task.validation):
        sums = ((x.double() * 0.3081 + 0.1307) * 255).sum((1, 2, 3)).round().long()
        assert all(pair in wanted for pair in zip(sums.tolist(), y.tolist(), strict=True))


def test_mnist_is_downloaded_once_and_kept(monkeypatch, tiny_mnist, tmp_path_factory):
    folder, _ = tiny_mnist
    expected = load_task("mnist", data_dir=folder, device="cpu")
    roots = []

    def fetch(root, download):
        target = os.path.join(root, mnist.IDX_FOLDER)
        os.makedirs(target)
        for path in (folder / mnist.IDX_FOLDER).iterdir():
            content = path.read_bytes()
            with open(os.path.join(target, path.name.removesuffix(".gz") + ".gz"), "wb") as file:
                file.write(content if path.suffix == ".gz" else gzip.compress(content))
        roots.append(root)

    monkeypatch.setattr("torchvision.datasets.MNIST", fetch)
    empty = tmp_path_factory.mktemp("empty")
    for _ in range(2):
        task = load_task("mnist", data_dir=empty, device="cpu")
        assert torch.equal(task.train[0], expected.train[0])
        assert torch.equal(task.test[1], expected.test[1])
    assert len(roots) == 1
    kept = [p.name for p in (empty / mnist.IDX_FOLDER).iterdir()]
    assert sorted(kept) == sorted(f"{name}.gz" for name in mnist.MNIST_FILES)


def test_idx_files_are_checked(tmp_path):
    path = tmp_path / "images"
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    md5 = write_idx(path, array)
    good = path.read_bytes()
    assert np.array_equal(mnist.read_idx(path, md5), array)
    other_type, other_shape = b"\0\0\x0d" + good[3:], good[:4] + struct.pack(">3i", 2, 4, 3) + good[16:]
    for damaged in (good[:-1], good + b"\0", good[:-1] + b"\xff", other_type, other_shape, b""):
        path.write_bytes(damaged)
        found = hashlib.md5(damaged).hexdigest()
        with pytest.raises(ValueError, match=f"images: md5 of the unpacked bytes must be {md5}, found {found}"):
            mnist.read_idx(path, md5)
    packed = tmp_path / "images.gz"
    write_idx(packed, array)
    assert np.array_equal(mnist.read_idx(packed, md5), array)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"images.gz: cannot be read"):
        mnist.read_idx(packed, md5)


# Names and folders


def test_names(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'california'"):
        load_task("californa")
    with pytest.raises(ValueError, match="Did you mean 'released'"):
        load_task("diabetes", "release")
    with pytest.raises(ValueError, match="Did you mean 'float64'"):
        load_task("diabetes", dtype="float6")


def test_folder(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"data_dir must be an existing folder, got '.*nowhere'"):
        load_task("boston", data_dir=tmp_path / "nowhere")
    assert tasks.find_data_dir().name == "data"
    assert (tasks.find_data_dir().parent / "evomal_core").is_dir()
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    assert tasks.find_data_dir() == tmp_path
    assert tasks.find_data_dir(tmp_path / "..") == tmp_path / ".."
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="EVOMAL_DATA must be an existing folder"):
        load_task("boston")


def test_dtype():
    for dtype in ("float64", torch.float64):
        assert load_task("diabetes", device="cpu", dtype=dtype).dtype == torch.float64


# Task


def part(n=6, features=3, **changes):
    return {"x": torch.randn(n, features), "y": torch.randn(n, 1)} | changes


def make(train=None, test=None, **settings) -> Task:
    train, other, test = train or part(), part(n=4), test or part(n=5)
    settings = {"classification": False} | settings
    if settings["classification"]:
        other["y"] = torch.zeros(4, dtype=torch.int64)
        test["y"] = torch.zeros(5, dtype=torch.int64)
    return Task("own", *(tuple(p.values()) for p in (train, other, test)), **settings)


def test_own_regression_task():
    task = make()
    assert (task.outputs, task.metric_name, task.input_shape, task.device.type) == (
        1,
        "mean squared error",
        (3,),
        "cpu",
    )
    assert isinstance(task.task_loss, nn.MSELoss)
    moved = task.to("cpu", torch.float64)
    assert moved.dtype == moved.test[1].dtype == torch.float64
    assert task.dtype == torch.float32
    assert moved.name == "own"
    own_loss = nn.L1Loss()
    assert make(task_loss=own_loss).task_loss is own_loss


def test_own_classification_task():
    task = make(part(y=torch.tensor([0, 1, 2, 0, 1, 2])), classification=True, outputs=3)
    assert task.metric_name == "error rate"
    moved = task.to(dtype=torch.float64)
    assert moved.train[0].dtype == torch.float64
    assert moved.train[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": part(y=torch.randn(6))}, r"Task.train y must be \(6, 1\), got \(6,\)"),
        ({"train": part(y=torch.randn(5, 1))}, r"Task.train y must be \(6, 1\), got \(5, 1\)"),
        ({"train": part(x=torch.randn(6))}, r"Task.train x must be \(N, …\) with N > 0, got \(6,\)"),
        ({"train": part(n=0)}, r"Task.train x must be \(N, …\) with N > 0, got \(0, 3\)"),
        ({"train": part(x=torch.ones(6, 3, dtype=torch.int64))}, "x must be floating point, got torch.int64"),
        ({"test": part(n=5, features=4)}, r"Task.test x must be \(N, 3\), got \(5, 4\)"),
        ({"test": part(n=5, x=torch.randn(5, 3).double())}, "Task.test x must be torch.float32 like Task.train"),
        ({"train": part(y=torch.randn(6, 1).double())}, "Task.train y must be torch.float32, got torch.float64"),
        ({"train": part(y=torch.full((6, 1), torch.nan))}, "Task.train y must be finite"),
        ({"train": part(x=torch.full((6, 3), torch.inf))}, "Task.train x must be finite"),
        ({"train": part(x=np.ones((6, 3)))}, r"Task.train part must be a tuple \(x, y\) of tensors"),
        ({"outputs": 2}, "Task.outputs of regression must be 1, got 2"),
        ({"classification": True}, r"Task.outputs of classification must be at least 2 \(classes\), got 1"),
        ({"classification": True, "outputs": 3}, r"Task.train y must be \(6,\), got \(6, 1\)"),
        (
            {"train": part(y=torch.tensor([0, 1, 2, 3, 0, 1])), "classification": True, "outputs": 3},
            "Task.train y must be a class from 0 to 2, got 0 to 3",
        ),
        (
            {"train": part(y=torch.zeros(6)), "classification": True, "outputs": 3},
            "Task.train y must be torch.int64, got torch.float32",
        ),
    ],
)
def test_task_errors_say_what_was_expected_and_what_came(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_metrics():
    regression = make()
    assert regression.metric(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])).item() == 2.5
    with pytest.raises(ValueError, match=r"must be \(B, 1\) and \(B, 1\), got \(2, 1\) and \(2,\)"):
        regression.metric(torch.zeros(2, 1), torch.zeros(2))
    task = make(part(y=torch.tensor([0, 1, 2, 0, 1, 2])), classification=True, outputs=3)
    z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    error = task.metric(z, torch.tensor([0, 1, 1, 1]))
    assert error.shape == ()
    assert error.item() == 0.25
    z[2, 0] = torch.nan  # never a fair-looking rate
    assert task.metric(z, torch.tensor([0, 1, 1, 1])).isnan()
    with pytest.raises(ValueError, match=r"must be \(B, C\) and \(B,\), got \(4, 3\) and \(4, 1\)"):
        task.metric(z, torch.zeros(4, 1))


# The published data, where a folder has them


def published(path: str):
    folder = os.environ.get("EVOMAL_DATA") or tasks.find_data_dir()
    found = any(os.path.exists(os.path.join(folder, path + suffix)) for suffix in ("", ".gz"))
    return pytest.param(str(folder), marks=pytest.mark.skipif(not found, reason=f"{path} is not in the data folder"))


@pytest.mark.parametrize("folder", [published("boston_housing.csv")])
def test_published_boston(folder):
    task = load_task("boston", data_dir=folder, device="cpu")
    assert [len(x) for x, _ in (task.train, task.validation, task.test)] == [303, 101, 102]
    assert task.input_shape == (13,)


@pytest.mark.parametrize("folder", [published("california_housing.csv")])
def test_published_california(folder):
    task = load_task("california", data_dir=folder, device="cpu")
    assert [len(x) for x, _ in (task.train, task.validation, task.test)] == [12_384, 4_128, 4_128]
    assert task.input_shape == (8,)


@pytest.mark.parametrize("folder", [published("MNIST/raw/train-images-idx3-ubyte")])
def test_published_mnist(folder):
    task = load_task("mnist", data_dir=folder, device="cpu")
    assert [len(x) for x, _ in (task.train, task.validation, task.test)] == [54_000, 6_000, 10_000]
    assert torch.bincount(task.test[1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert task.train[0].mean().item() == pytest.approx(0, abs=2e-3)
    assert task.train[0].std().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("pack", [True, False])
def test_a_bomb_of_an_idx_file_takes_no_memory(tmp_path, pack):
    """A gzip file of 200 kB that holds 200 MB, or 200 MB as they are: refused before they are in memory."""
    path = tmp_path / ("t10k-images-idx3-ubyte" + ".gz" * pack)
    if pack:
        with gzip.open(path, "wb", 9) as file:
            for _ in range(200):
                file.write(bytes(1_000_000))
    else:
        with path.open("wb") as file:
            file.truncate(200_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="its size must be at most 50000000") as caught:
        mnist.read_idx(path, "0" * 32)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and most < 160_000_000


def test_a_bomb_of_a_table_is_refused(small, tmp_path):
    with gzip.open(tmp_path / "small_housing.csv.gz", "wb", 9) as file:
        for _ in range(30):
            file.write(b"1" * 1_000_000)
    with pytest.raises(ValueError, match="its size must be at most 20000000"):
        tabular.load_table("boston", tmp_path)


@pytest.mark.parametrize("table", [tabular.BOSTON, tabular.CALIFORNIA], ids=["boston", "california"])
@pytest.mark.parametrize("folder", [published("boston_housing.csv")])
def test_a_published_table_in_another_order_is_refused(folder, table):
    if not (path := table.find(Path(folder))):
        pytest.skip(f"no {table.file} in {folder}")
    good = table.read(path)
    shuffled = np.random.default_rng(0).permutation(len(good))
    others = [1, 0, *range(2, good.shape[1])]
    for wrong in (good[::-1], np.column_stack([good[:, :-1], good[shuffled, -1]]), good[:, others]):
        with pytest.raises(ValueError, match="digest of the table must be"):
            table.check(wrong, "it")
    assert table.check(good, "it") is good
