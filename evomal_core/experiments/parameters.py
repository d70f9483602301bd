"""Parameters of a notebook: read, checked and frozen, because papermill itself only warns of a misspelt one.

A notebook has one cell tagged `parameters`, of `name = value  # help` lines, and right behind it:

    p = ec.read_parameters(globals(), "seed budget datasets")

papermill writes the caller's values into a cell between the two, so an unknown name is simply one more global. It passes
single values (`-p seed 3`), so a list may also be one value or a comma-separated string (`-p datasets diabetes,boston`).
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Config, check_choice
from . import store
from .cell import METHODS, Cell

IPYTHON_NAMES = ("In", "Out", "get_ipython", "exit", "quit", "open")
SIMPLE = (str, int, float, list, tuple, dict, set, type(None))  # what a parameter can be; modules, functions … are not
CHECKED = "_evomal_parameters_checked"  # stands in a notebook's globals once they were checked


@dataclass(frozen=True)
class Parameters:
    """What a notebook is to compute and show. A notebook that does not take a parameter has its default.

    Attributes:
        seed: one more seed to compute; None: none, the notebook shows the records there are.
        seeds: several, likewise.
        budget, protocol: of the runs to compute; see `config.BUDGETS` and `config.Protocol`.
        datasets, models, methods: the rows.
        device: "auto", "cpu", "cuda" or "cuda:1".
        results_dir, data_dir: as for `run_cell`.
        workers: cells at once.
        force: compute anew what has a record.
    """

    seed: int | None = None
    seeds: tuple[int, ...] = ()
    budget: str = "quick"
    datasets: tuple[str, ...] = ("diabetes",)
    models: tuple[str, ...] = ("mlp",)
    methods: tuple[str, ...] = METHODS
    protocol: str = "paper"
    device: str = "auto"
    results_dir: str | None = None
    data_dir: str | None = None
    workers: int | None = None
    force: bool = False

    @property
    def rows(self) -> list[Cell]:
        """One cell, of seed 0, for each row: all combinations of data sets, models and methods."""
        names = itertools.product(self.datasets, self.models, self.methods)
        return [Cell(*name, 0, self.budget, self.protocol) for name in names]

    def cells(self) -> list[Cell]:
        """The cells to compute: every row under `seed` and each of `seeds`; none if no seed was asked for."""
        wanted = sorted({*self.seeds, *([] if self.seed is None else [self.seed])})
        return [dataclasses.replace(row, seed=seed) for seed in wanted for row in self.rows]

    @property
    def config(self) -> Config:
        """The settings of the first row; data sets of one kind differ in none at one budget."""
        return Config.for_cell(self.rows[0])

    @property
    def figures(self) -> Path:
        """Where figures go: `results/figures/`, or below `results_dir` if there is one."""
        return Path(self.results_dir) / "figures" if self.results_dir else store.ROOT / "results" / "figures"

    @property
    def run_arguments(self) -> dict:
        """What `run_grid` is to be called with beside the cells."""
        return {n: getattr(self, n) for n in ("results_dir", "data_dir", "device", "workers", "force")}

    def __str__(self) -> str:
        return "\n".join(f"{name} = {value!r}" for name, value in dataclasses.asdict(self).items())


def read_parameters(given: Mapping, known: str | Iterable[str], **choices: Iterable[str]) -> Parameters:
    """Check and freeze a notebook's parameters.

    Args:
        given: the notebook's `globals()`, or a plain dict.
        known: names of the parameters that the notebook takes, of the fields of `Parameters`; a list, or text with spaces.
        choices: where fewer values are allowed than the package knows, for example `datasets=("diabetes", "boston")`.

    Raises:
        ValueError: an unknown parameter or value, with its near miss. Names that later cells of the notebook define are
            no parameters, so in a live kernel unknown names are looked for by the first call only.
    """
    known = tuple(known.split() if isinstance(known, str) else known)
    for name in known:
        check_choice("known parameter", name, _READERS)
    if not given.get(CHECKED):
        _refuse_unknown(given, known)
    if "get_ipython" in given and isinstance(given, MutableMapping):
        given[CHECKED] = True
    p = Parameters(**{name: _READERS[name](name, given[name]) for name in known if name in given})
    for name, allowed in choices.items():
        for value in getattr(p, name):
            check_choice(name, value, allowed)
    row = p.rows[0]  # making the rows checks every name
    return dataclasses.replace(p, budget=row.budget, protocol=row.protocol)


def _refuse_unknown(given: Mapping, known: tuple[str, ...]) -> None:
    for name, value in given.items():
        if not (name in known or name.startswith("_") or name in IPYTHON_NAMES) and isinstance(value, SIMPLE):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown parameter {name!r}; this notebook takes {', '.join(known)}.{hint}")


def _whole(name: str, value, least: int = 0) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}")
    return value


def _listed(name: str, value) -> tuple:
    """A list, one value, or a comma-separated string, also one in brackets: what `-p seeds "[0, 1]"` passes."""
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip(" []()").split(",") if part.strip()]
    elif not isinstance(value, (list, tuple)):
        value = [] if value is None else [value]
    return tuple(dict.fromkeys(value))


def _names(name: str, value) -> tuple[str, ...]:
    if not (listed := _listed(name, value)):
        raise ValueError(f"{name} must name at least one, got {value!r}")
    return listed


def _device(name: str, value) -> str:
    if not re.fullmatch(r"cuda:\d+", str(value)):
        check_choice(name, value, ("auto", "cpu", "cuda"))
    return value


def _optional(read):
    return lambda name, value: None if value in (None, "", "None") else read(name, value)


_READERS = {  # parameter -> function of its name and the value given
    "seed": _optional(_whole),
    "seeds": lambda name, value: tuple(_whole(name, v) for v in _listed(name, value)),
    **dict.fromkeys(("datasets", "models", "methods"), _names),
    **dict.fromkeys(("budget", "protocol"), lambda name, value: str(value)),
    "device": _device,
    **dict.fromkeys(("results_dir", "data_dir"), _optional(lambda name, value: str(value))),
    "workers": _optional(lambda name, value: _whole(name, value, least=1)),
    "force": lambda name, value: check_choice(name, str(value).capitalize(), ("True", "False")) == "True",
}
