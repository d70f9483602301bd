"""The tabular regression tasks: Diabetes, Boston Housing, California Housing (section IV-B)."""

import hashlib
import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import files
from ..checks import check
from .sources import Arrays, download, find_file, unpacked
from .task import PARTS


def _fetch_boston(scratch: str) -> np.ndarray:
    from sklearn import datasets  # slow to import

    bunch = datasets.fetch_openml("boston", version=1, as_frame=True, data_home=scratch, n_retries=1, delay=0.5)
    # CHAS and RAD come as categories, whose codes are not their values.
    columns = [*(bunch.data[name] for name in BOSTON.columns[:-1]), bunch.target]
    return np.array([[float(str(value).strip("'\"")) for value in column] for column in columns]).T


def _fetch_california(scratch: str) -> np.ndarray:
    # scikit-learn pickles into its own folder, which goes away with `scratch`; only what it returns is kept.
    from sklearn import datasets  # slow to import

    bunch = datasets.fetch_california_housing(data_home=scratch, n_retries=1, delay=0.5)
    return np.column_stack([bunch.data, bunch.target])


MOST_BYTES = 20_000_000  # of an unpacked table; ten times the larger one


@dataclass(frozen=True)
class Table:
    """A table that scikit-learn does not ship: how its file is called, what it must hold, where it is published."""

    file: str
    columns: tuple[str, ...]  # the last is the target
    rows: int
    feature_mean: float  # over all values of all features
    target_mean: float
    digest: str  # of the parsed table, see `digest_of`
    fetch: Callable[[str], np.ndarray]  # scratch folder -> (rows, columns) float64
    source: str

    def find(self, folder: Path) -> Path | None:
        short = self.file.replace("_housing", "")
        return find_file(folder, self.file, f"{self.file}.gz", short, f"{short}.gz")

    def check(self, table: np.ndarray, origin) -> np.ndarray:
        """Return `table`; raise ValueError that names `origin`, what was expected and what was found."""
        facts = [("rows", self.rows, len(table)), ("columns", len(self.columns), table.shape[-1])]
        if table.size:
            facts.append(("mean of the features", self.feature_mean, table[:, :-1].mean()))
            facts.append((f"mean of {self.columns[-1]}", self.target_mean, table[:, -1].mean()))
        for what, expected, found in facts:
            if not abs(found - expected) <= 1e-5 * abs(expected):  # a NaN fails, too
                raise ValueError(f"{origin}: {what} must be {expected:.8g}, found {found:.8g}")
        check(digest_of(table) == self.digest, f"{origin}: digest of the table", self.digest, digest_of(table))
        return table

    def read(self, path: Path) -> np.ndarray:
        try:
            text = unpacked(path, MOST_BYTES).decode()
            table = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, ndmin=2)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            expected = f"a header line and {self.rows} lines of {len(self.columns)} numbers, separated by commas"
            raise ValueError(f"{path}: must hold {expected}; reading it gave: {error}") from error
        return self.check(table, path)

    def download(self, folder: Path) -> np.ndarray:
        """Fetch, check and keep as `folder/file`, written under another name and renamed. Raises DataUnavailable."""
        header = ",".join(self.columns)
        missing = f"no {self.file}[.gz] in {folder}, and no download from {self.source}"
        remedy = f"Put a CSV file of this name there: header line {header}, then {self.rows} lines, target last."
        with download(missing, remedy) as scratch:
            table = self.check(self.fetch(scratch), self.source)
        lines = [header, *(",".join(map(repr, row)) for row in table.tolist())]
        try:
            files.write_text(folder / self.file, "\n".join(lines) + "\n")
        except OSError as error:
            warnings.warn(f"{self.file} was downloaded but cannot be kept in {folder}: {error}", stacklevel=2)
        return table


def digest_of(table: np.ndarray) -> str:
    """A digest of all values to six significant digits, in their order."""
    text = "\n".join(",".join(f"{value:.6g}" for value in row) for row in table.tolist())
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


BOSTON = Table(
    file="boston_housing.csv",
    columns=tuple("CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO B LSTAT MEDV".split()),
    rows=506,
    feature_mean=70.073967,
    target_mean=22.532806,
    digest="850da6326c53b7ddab164e814851ec68",
    fetch=_fetch_boston,
    source="OpenML",
)
CALIFORNIA = Table(
    file="california_housing.csv",
    columns=tuple("MedInc HouseAge AveRooms AveBedrms Population AveOccup Latitude Longitude MedHouseVal".split()),
    rows=20_640,
    feature_mean=172.955674,
    target_mean=2.068558,
    digest="75f2a560a1b4249d629f69dde2528841",
    fetch=_fetch_california,
    source="scikit-learn's mirror",
)


def load_table(name: str, folder: Path) -> Arrays:
    """The raw table: x (N, features) and y (N, 1), in the units of the source.

    Raises:
        DataUnavailable: not in `folder` and not to be downloaded.
        ValueError: the file in `folder` is not the data set.
    """
    if name == "diabetes":
        from sklearn import datasets  # slow to import

        x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
        return x, y[:, None]
    table = {"boston": BOSTON, "california": CALIFORNIA}[name]
    path = table.find(folder)
    data = table.read(path) if path else table.download(folder)
    return data[:, :-1], data[:, -1:]


def split(x: np.ndarray, y: np.ndarray, kind: str) -> dict[str, Arrays]:
    """Split once for all seeds [R] and standardise with the training part (the switch `split` of `config.Protocol`).

    Args:
        x: (N, features); float64.
        y: (N, 1); float64.
        kind: "honest", 60:20:20; or "overlapping", as the released code does it: the 40 % is halved into training and
            validation part, all of it is the test part, and the 60 % is not used.

    Returns:
        part -> (x, y).
    """
    from sklearn.model_selection import train_test_split  # slow to import

    sixty, forty = train_test_split(np.arange(len(y)), test_size=0.4, random_state=0)
    first, second = train_test_split(forty, test_size=0.5, random_state=0)
    parts = (sixty, first, second) if kind == "honest" else (first, second, forty)
    (x_mean, x_std), (y_mean, y_std) = _scale(x[parts[0]]), _scale(y[parts[0]])
    return {n: ((x[i] - x_mean) / x_std, (y[i] - y_mean) / y_std) for n, i in zip(PARTS, parts, strict=True)}


def _scale(a: np.ndarray) -> Arrays:
    """Mean and population standard deviation of each column; a constant column is divided by 1."""
    return a.mean(0), np.where(np.ptp(a, axis=0) == 0, 1.0, a.std(0))
