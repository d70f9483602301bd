"""The names of the tables' rows: data sets, base models, methods. Each room adds its own rows when it is imported.

A new data set, base model or method is one more row; tables, checks, progress and figures read these registries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class DataSet:
    """A data set and its training settings.

    Args:
        load: (folder, protocol) -> `tasks.Task` on the CPU, in float32.
        classification: else regression.
        settings: fields of `Config` in which its training differs from the tabular tasks'.
        budgets: budget -> fields of `Config` that differ further under it.
        stand_in: whether it only stands in for a data set of the paper, and never is a row of a table.
        shape, outputs, instances: the shape of an input, the base model's outputs, and the sizes of training, validation
            and test part under `paper`; the cost model goes by them where the data cannot be had.
    """

    load: Callable
    classification: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stand_in: bool = False
    shape: tuple[int, ...] = ()
    outputs: int = 1
    instances: tuple[int, int, int] = (0, 0, 0)

    def settings_for(self, budget: str) -> dict[str, Any]:
        """All fields of `Config` that the data set sets under a budget."""
        return {**self.settings, **self.budgets.get(budget, {})}


class Work(NamedTuple):
    """How many losses a search is expected to optimise, to pass through the rejection protocol, and to train under."""

    optimised: float = 0
    filtered: float = 0
    evaluated: float = 0

    @staticmethod
    def of_shares(*shares: float) -> "Callable[[Any], Work]":
        """(config) -> the work of a search, from such shares of all its candidates."""
        return lambda config: Work(*(config.population * config.generations * share for share in shares))


DATASETS: dict[str, DataSet] = {}
MODELS: dict[str, Callable] = {}  # name -> function of (input_shape, outputs) that builds the base model
METHODS: dict[str, Any] = {}  # name -> `search.state.Method`
