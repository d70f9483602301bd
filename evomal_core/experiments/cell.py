"""Names: a `Cell` is one entry of a table, a search and the test of its loss that the entry shows."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property

from ..checks import check, check_choice, native
from ..config import SWITCHES, TESTING, Config, Protocol, as_switch, parse_override
from ..registry import DATASETS, METHODS, MODELS


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        dataset, model, method: names in the tables; see `registry.DATASETS`, `MODELS`, `METHODS`.
        seed: a whole number, 0 or more.
        budget: "smoke", "quick" or "paper", optionally with overrides: "quick+generations=10".
        protocol: "paper", "released" or "robust", optionally with switches: "paper+elitism=off".
        source: "cifar10/allcnnc" takes the loss of that data set's and model's search, whose method, seed, budget and
            protocol are the same, and tests it here (transfer, section V-C); "cifar10/allcnnc/2" takes that of the search
            of seed 2. None for a search of its own.

    Raises:
        ValueError: an unknown name, with its near miss. Equal runs have equal names: switches and overrides that say
            what holds anyway are dropped, an override that is a switch becomes one, the others are sorted.
    """

    dataset: str
    model: str
    method: str
    seed: int = 0
    budget: str = "quick"
    protocol: str = "paper"
    source: str | None = None

    def __post_init__(self):
        check_choice("data set", self.dataset, DATASETS)
        check_choice("model", self.model, MODELS)
        check_choice("method", self.method, METHODS)
        object.__setattr__(self, "seed", native(self.seed))
        whole = type(self.seed) is int and self.seed >= 0
        check(whole, "seed", "a whole number, 0 or more", repr(self.seed))
        object.__setattr__(self, "protocol", str(Protocol.parse(self.protocol)))
        changed = asdict(Config.for_cell(self))  # raises for an unknown budget or override
        object.__setattr__(self, "budget", str(self.budget).split("+")[0])
        plain = asdict(Config.for_cell(self))
        for name in sorted(name for name in plain if changed[name] != plain[name]):
            switch = as_switch(name, changed[name])
            part, change = ("protocol", switch) if switch else ("budget", f"{name}={_text(changed[name])}")
            object.__setattr__(self, part, f"{getattr(self, part)}+{change}")
        object.__setattr__(self, "protocol", str(Protocol.parse(self.protocol)))
        object.__setattr__(self, "source", self._checked_source())

    def _checked_source(self) -> str | None:
        parts = str(self.source or f"{self.dataset}/{self.model}").split("/")
        good = len(parts) in (2, 3) and all(seed.isdecimal() for seed in parts[2:])
        check(good, "source", "data set/model or data set/model/seed", repr(self.source))
        dataset, model, seed = self._origin
        check_choice("data set of the source", dataset, DATASETS)
        check_choice("model of the source", model, MODELS)
        kinds = {True: "classification", False: "regression"}
        here, there = (kinds[DATASETS[name].classification] for name in (self.dataset, dataset))
        check(here == there, f"source of {self.dataset}", f"a data set of {here}", f"{dataset}, of {there}")
        own_task, own_seed = (dataset, model) == (self.dataset, self.model), int(seed) == self.seed
        source = f"{dataset}/{model}" if own_seed else f"{dataset}/{model}/{int(seed)}"
        return None if own_task and own_seed else source

    @property
    def _origin(self) -> list[str]:
        """Data set, model and seed of the search, as text."""
        own = [self.dataset, self.model, str(self.seed)]
        given = str(self.source).split("/") if self.source else []
        return given + own[len(given) :]

    @property
    def transferred(self) -> bool:
        """Is the loss tested on another data set or model than it was searched on?"""
        return self._origin[:2] != [self.dataset, self.model]

    @cached_property
    def search(self) -> "Cell":
        """The cell that names the search alone: what concerns testing is left out."""
        dataset, model, seed = self._origin
        budget, *changes = self.budget.split("+")
        kept = [change for change in changes if change.split("=")[0] not in TESTING]
        where = {"dataset": dataset, "model": model, "seed": int(seed), "source": None}
        protocol = str(Protocol.parse(self.protocol).of_search)
        return replace(self, budget="+".join([budget, *kept]), protocol=protocol, **where)

    @property
    def test(self) -> str:
        """Name of the test among those of its search: "fresh", "fresh+test_steps=10000", "cifar100-allcnnc-search-seed1"."""
        changes = [change for change in self.budget.split("+")[1:] if change.split("=")[0] in TESTING]
        config, default = Config.for_cell(self), Config()
        fields = [name for name, switch in SWITCHES.items() if switch.field in TESTING and name != "test_start"]
        switches = [
            f"{name}={getattr(config, name)}" for name in fields if getattr(config, name) != getattr(default, name)
        ]
        name = "+".join([config.test_start, *switches, *changes])
        name = f"{self.dataset}-{self.model}-{name}" if self.transferred else name
        return name if self.search.seed == self.seed else f"{name}-seed{self.seed}"

    @property
    def selected(self) -> str:
        """Name of the contest that chooses the loss to be tested: "halving", "halving+test_steps=10000"; "" for none."""
        config, changes = Config.for_cell(self), self.budget.split("+")[1:]
        lengths = [change for change in changes if change.split("=")[0] in ("test_steps", "test_milestones")]
        return "" if config.selection == "fitness" else "+".join([config.selection, *lengths])

    def with_overrides(self, overrides: dict | None) -> "Cell":
        """The same cell with counts or settings changed, which stand in its budget's or protocol's name."""
        check(isinstance(overrides or {}, dict), "overrides", 'a dict, like {"generations": 10}', repr(overrides))
        changes = [f"{name}={_text(parse_override(name, value))}" for name, value in (overrides or {}).items()]
        return replace(self, budget="+".join([self.budget, *changes])) if changes else self

    def __lt__(self, other: "Cell") -> bool:
        mine, theirs = (list(asdict(replace(cell, source=None)).values()) for cell in (self, other))
        return (mine[:-1], self.source or "") < (theirs[:-1], other.source or "")

    def __str__(self) -> str:
        loss_of = f", loss of {self.source}" if self.source else ""
        return f"{self.dataset}/{self.model}/{self.method} seed {self.seed} ({self.budget}, {self.protocol}{loss_of})"


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).replace("e+", "e")
