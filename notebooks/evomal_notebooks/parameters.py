"""Read, check and freeze the parameters of a notebook, because papermill itself only warns of a misspelt one.

A notebook has one cell tagged `parameters`, of `name = value  # help` lines, and right behind it:

    p = read_parameters(globals(), "seed budget datasets")

papermill writes the caller's values into a cell between the two, so an unknown name is simply one more global. It passes
single values (`-p seed 3`), so a list may also be one value or a comma-separated string (`-p datasets diabetes,boston`).
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from evomal_core.checks import check_choice
from evomal_core.config import Config
from evomal_core.experiments.cell import Cell
from evomal_core.machine import ROOT
from evomal_core.registry import DATASETS, METHODS, MODELS
from evomal_core.tasks import find_data_dir, find_device

SIMPLE = (str, int, float, list, tuple, dict, set, type(None))  # what a parameter can be; modules, functions … are not
CHECKED = "_evomal_parameters_checked"  # stands in a notebook's globals once they were checked


@dataclass(frozen=True)
class Parameters:
    """What a notebook is to compute and show. A notebook that does not take a parameter has its default.

    Attributes:
        seed: one more seed to compute. With None the notebook computes nothing, and shows the existing records.
        seeds: several seeds to compute.
        budget, protocol: of the runs to compute; see `config.BUDGETS` and `config.Protocol`.
        datasets, models, methods: the rows.
        device: "auto", "cpu", "cuda" or "cuda:1".
        results_dir, data_dir: as for `run_cell`.
        workers: how many cells run at once.
        cluster: "local" or the address of a Dask scheduler, whose workers compute; with an address `workers` does not count.
        force: compute runs anew that have a record.
        plan: show how long the runs are expected to take, and compute nothing.
        source, target: "mnist/lenet5", the data set and model that losses are taken from, and that they are tested on; the
            rows are then transfers, and `datasets` and `models` do not count.
        rates: base learning rates.
        starts: how many other starts each loss is trained from.
        leaders: how many of the best leaders of a search; None for all.
        setups: names of `own_model.SETUPS`.
    """

    seed: int | None = None
    seeds: tuple[int, ...] = ()
    budget: str = "quick"
    datasets: tuple[str, ...] = ("diabetes",)
    models: tuple[str, ...] = ("mlp",)
    methods: tuple[str, ...] = field(default_factory=lambda: tuple(METHODS))
    protocol: str = "paper"
    device: str = "auto"
    results_dir: str | None = None
    data_dir: str | None = None
    workers: int | None = None
    cluster: str | None = None
    force: bool = False
    plan: bool = False
    source: str | None = None
    target: str | None = None
    rates: tuple[float, ...] = ()
    starts: int | None = None
    leaders: int | None = None
    setups: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Cell]:
        """One cell of seed 0 for each row. The rows are all combinations of data sets, models and methods.

        With a target they are the target's, for each method; what losses they are tested under is the notebook's to say.
        """
        names = itertools.product(self.datasets, self.models, self.methods)
        if self.target:
            names = [(*_pair("target", self.target), method) for method in self.methods]
        return [Cell(*name, 0, self.budget, self.protocol) for name in names]

    def cells(self) -> list[Cell]:
        """The cells to compute: every row under `seed` and under each of `seeds`, or none if no seed was asked for."""
        wanted = sorted({*self.seeds, self.seed} - {None})
        return [replace(row, seed=seed) for seed in wanted for row in self.rows]

    @property
    def config(self) -> Config:
        """The settings of the first row. Data sets of one kind have equal settings at one budget."""
        return Config.for_cell(self.rows[0])

    @property
    def figures(self) -> Path:
        """The folder for figures: `results/figures/`, or one below `results_dir` if there is one."""
        return Path(self.results_dir) / "figures" if self.results_dir else ROOT / "results" / "figures"

    @property
    def run_arguments(self) -> dict:
        """The arguments of `run_grid` beside the cells."""
        given = {n: getattr(self, n) for n in ("results_dir", "data_dir", "device", "force")}
        return given | {"executor": self.cluster, "workers": self.workers if self.cluster in (None, "local") else None}

    def __str__(self) -> str:
        unused = ("datasets", "models") if self.target else ("source", "target")
        unused += tuple(name for name in ("rates", "starts", "leaders", "cluster", "setups") if not getattr(self, name))
        return "\n".join(f"{name} = {value!r}" for name, value in asdict(self).items() if name not in unused)


def read_parameters(given: dict, known: str, **choices: Iterable[str]) -> Parameters:
    """Check and freeze a notebook's parameters.

    Args:
        given: the notebook's `globals()`, or a plain dict.
        known: names of the parameters that the notebook takes, with spaces between; fields of `Parameters`.
        choices: the allowed values of a parameter, if the notebook takes fewer than the package knows, for example
            `datasets=("diabetes", "boston")`.

    Raises:
        ValueError: an unknown parameter or value, with its near miss; a data folder or device that is not there. Names that
            later cells of the notebook define are no parameters, so in a live kernel only the first call looks for unknown
            names.
    """
    names = known.split()
    for name, value in {} if given.get(CHECKED) else given.items():
        if isinstance(value, SIMPLE) and not name.startswith("_") and name not in ("In", "Out"):
            check_choice("a parameter of this notebook", name, names)
    if "get_ipython" in given:
        given[CHECKED] = True
    p = Parameters(**{name: _read(name, given[name]) for name in names if name in given})
    for name, allowed in choices.items():
        for value in getattr(p, name):
            check_choice(name, value, allowed)
    find_device(p.device)
    find_data_dir(p.data_dir)
    row = p.rows[0]  # making the rows checks every name
    return replace(p, budget=row.budget, protocol=row.protocol)


def _read(name: str, value):
    """A parameter's value in its type. A list may be one value, or text with commas and brackets: `-p seeds "[0, 1]"`."""
    text = "" if str(value) == "None" else str(value).strip()
    if name in ("seeds", "datasets", "models", "methods", "setups"):
        parts = [part.strip(" '\"") for part in text.strip("[]()").split(",") if part.strip()]
        if not parts and name != "seeds":
            raise ValueError(f"{name} must name at least one, got {value!r}")
        return tuple(dict.fromkeys(_whole(name, part) if name == "seeds" else part for part in parts))
    if name in ("seed", "workers", "starts", "leaders", "cluster", "results_dir", "data_dir") and not text:
        return None
    if name in ("seed", "workers", "starts", "leaders"):
        return _whole(name, text, least=int(name != "seed"))
    if name == "rates":
        return tuple(_rate(part) for part in text.strip("[]()").split(",") if part.strip())
    if name in ("source", "target"):
        return "/".join(_pair(name, text)) if text else None
    if name in ("force", "plan"):
        return check_choice(name, text.capitalize(), ("True", "False")) == "True"
    return text


def _pair(name: str, text: str) -> tuple[str, str]:
    """Data set and model of "mnist/lenet5"."""
    dataset, _, model = text.partition("/")
    if not model or "/" in model:
        raise ValueError(f"{name} must be a data set and a model such as 'mnist/lenet5', got {text!r}")
    return check_choice(f"data set of {name}", dataset, DATASETS), check_choice(f"model of {name}", model, MODELS)


def _rate(text: str) -> float:
    """A learning rate: a positive finite number."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"rates must be positive numbers, got {text.strip()!r}")
    return rate


def _whole(name: str, text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{name} must be a whole number, {least} or more; got {text!r}")
    return int(text)
