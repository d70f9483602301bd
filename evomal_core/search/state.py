"""What a search is: candidates, the state it goes on from, its result, and the row that makes it a method."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar

import torch

from .. import files
from ..checks import MAYBE, NUMBER, check, check_choice, check_fields
from ..config import NOT_IDENTITY, TESTING, Config
from ..losses import Loss, expression
from ..registry import METHODS, Work
from ..training.problem import Problem

# How a member of a population came by its fitness
OUTCOMES = ("elite", "symbolic", "rejected", "equivalent", "evaluated", "non_finite")
PHASES = ("optimise", "filter", "fitness")
# What a row of the history holds
OF_ROW = dict.fromkeys(("generation", *OUTCOMES), (int,)) | dict.fromkeys(("best_so_far", "best", "median"), MAYBE)
OF_ROW |= dict.fromkeys((f"seconds_{phase}" for phase in PHASES), NUMBER)


@dataclass(frozen=True)
class Individual:
    """A tree with its loss weights."""

    expression: str
    weights: tuple[float, ...]
    fitness: float
    outcome: str

    @property
    def merit(self) -> float:
        """What DEAP's tournaments maximise."""
        return -self.fitness

    def __len__(self) -> int:  # what DEAP's double tournament minimises
        return 1 + len(self.weights)


@dataclass(frozen=True)
class Point:
    """The parameters of a loss of fixed form."""

    weights: tuple[float, ...]
    fitness: float
    outcome: str

    def __len__(self) -> int:
        return 1 + len(self.weights)


@dataclass(frozen=True)
class Rate:
    """A learning rate for the task loss."""

    learning_rate: float
    fitness: float
    outcome: str

    def __len__(self) -> int:
        return 2  # the mean size that histories of this control have always had


def freeze(loss) -> None:
    """Let the weights of a loss that was found require no gradients; a task's own module, or None, stays as it is."""
    if isinstance(loss, Loss):
        loss.requires_grad_(False)


@dataclass(frozen=True)
class Leader:
    """One of the best distinct candidates of a search: its loss, frozen, its fitness, and, where it brings one, its rate."""

    loss: torch.nn.Module
    fitness: float | None
    learning_rate: float | None = None

    def __post_init__(self):
        freeze(self.loss)

    @property
    def expression(self) -> str:
        """The loss as text, without weights."""
        return str(self.loss)

    @property
    def weights(self) -> tuple[float, ...]:
        """The loss's weights; none of a task loss."""
        return tuple(w for p in self.loss.parameters() for w in p.detach().reshape(-1).tolist())


@dataclass
class SearchState:
    """Everything a search needs to go on, after `generation` evaluated generations.

    Attributes:
        best, best_fitness: the best candidate so far; under the released code's stale variable the two differ.
        history: one row a generation.
        method, seed, origin: which search the state belongs to; empty before the first generation.
    """

    generation: int = 0
    best: "Individual | Point | Rate | None" = None
    best_fitness: float = math.inf
    history: list[dict] = field(default_factory=list)
    method: str = ""
    seed: int = 0
    origin: dict = field(default_factory=dict)
    candidate: ClassVar[type] = Point  # type of `best`
    lists: ClassVar[dict[str, type]] = {}  # fields that are lists of candidates, and of which type

    def to_json(self) -> dict:
        """Strict JSON; a non-finite number is null."""
        return files.strict(asdict(self))

    def check(self, config: Config) -> None:
        """Raise ValueError unless a search under these settings can have this state."""
        most = METHODS[self.method].generations
        most, done = most(config) if most else 1, self.generation
        check(type(done) is int and 0 <= done <= most, "generation of the state", f"a whole number up to {most}", done)
        check_history(self.history)
        check(len(self.history) == done, "history of the state", f"{done} rows, one a generation", len(self.history))
        best = self.history[-1]["best_so_far"] if done else None
        check(files.finite(self.best_fitness) == best, "best_fitness of the state", best, self.best_fitness)
        own = self.best.fitness if self.best else math.inf
        check(
            own == self.best_fitness or (config.stale_best and self.best), "best of the state", self.best_fitness, own
        )

    def counted(self, *outcomes: str, rows: slice = slice(None)) -> int:
        """How many candidates of some generations had one of these outcomes."""
        return sum(row[outcome] for row in self.history[rows] for outcome in outcomes)

    @classmethod
    def decoded(cls, data: dict) -> dict:
        """The fields that `to_json` wrote, for `cls(**fields)`."""
        names = {field.name for field in fields(cls)} - {"memory"}
        check(
            names <= data.keys(), "a state", f"an object with {', '.join(sorted(names))}", ", ".join(sorted(data))[:300]
        )
        found = {name: data[name] for name in names}
        found |= {name: [candidate_from_json(kind, i) for i in found[name]] for name, kind in cls.lists.items()}
        found["best"] = candidate_from_json(cls.candidate, data["best"]) if data["best"] else None
        return found | {"best_fitness": number(data["best_fitness"])}

    @staticmethod
    def from_json(data: dict) -> "SearchState":
        """The state that `to_json` described, of the type that its method has. Raises ValueError or KeyError."""
        check_choice("method of the state", data["method"], METHODS)
        kind = METHODS[data["method"]].state
        return kind(**kind.decoded(data))


def candidate_from_json(kind: type, data: dict):
    """A candidate of its fields, in which null is a number that is not finite. Raises ValueError or TypeError."""
    data = dict(data)
    if "weights" in data:
        data["weights"] = tuple(math.nan if w is None else w for w in data["weights"])
    found = kind(**data | {"fitness": number(data["fitness"])})
    numbers = [found.fitness, getattr(found, "learning_rate", 0.0), *getattr(found, "weights", ())]
    check(all(type(n) in NUMBER for n in numbers), "fitness, rate and weights of a candidate", "numbers", numbers[:20])
    check_choice("outcome of a candidate", found.outcome, OUTCOMES)
    if kind is Individual:
        nodes = len(expression.parse(found.expression))
        check(nodes == len(found), f"weights of {found.expression[:200]}", f"{nodes - 1} numbers", len(found.weights))
    return found


def check_history(history) -> None:
    """Raise ValueError unless these are rows as `tell` writes them, from generation 0 on."""
    check(isinstance(history, list), "the history", "a list", type(history).__name__)
    for k, row in enumerate(history):
        check_fields(f"row {k} of the history", row, OF_ROW, MAYBE)
        check(row["generation"] == k, f"generation of row {k} of the history", k, row["generation"])


def number(value: float | None) -> float:
    """A number of strict JSON; null is the worst fitness."""
    check(type(value) in MAYBE, "a fitness", "a number or null", repr(value)[:80])
    return math.inf if value is None else value


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        loss: the best loss, frozen (`loss.trainable()` is a copy that is not); None if every candidate failed.
        learning_rate: the one that goes with the loss; None for the configuration's.
        leaders: the best distinct candidates, the best first; at most `Config.leaders`.
        state: the final state.
        steps: how many steps to train with the loss; None for the configuration's.
    """

    loss: torch.nn.Module | None
    learning_rate: float | None
    leaders: tuple[Leader, ...]
    state: SearchState
    steps: int | None = None

    def __post_init__(self):
        freeze(self.loss)


@dataclass(frozen=True)
class Method:
    """One method: a row of the registry.

    Args:
        name: the method's name in the tables.
        search: (problems, config, seed, state, on_generation) -> `Result`. It goes on from `state` and changes it.
        colour: place in seaborn's colour-blind palette, for figures.
        state: type of its state.
        generations: (config) -> how many generations it has, at most; None if it has none.
        work: (config) -> what a search is expected to cost, for `evomal_core.cost_model`.
    """

    name: str
    search: Callable[..., Result]
    colour: int
    state: type[SearchState] = SearchState
    generations: Callable[[Config], int] | None = None
    work: Callable[[Config], Work] | None = None


def tell(
    state: SearchState, candidates: Sequence, outcomes: Sequence[str], seconds: Mapping[str, float], config: Config
) -> None:
    """Take evaluated candidates into the state, as one generation with its row of the history.

    Args:
        outcomes: how each came by its fitness, of `OUTCOMES`.
        seconds: what each phase took.
    """
    latest = math.inf  # fitness that was computed, not copied or looked up
    for candidate, outcome in zip(candidates, outcomes, strict=True):
        if outcome not in ("elite", "symbolic"):
            latest = candidate.fitness
        if candidate.fitness < state.best_fitness:  # never true of NaN or inf
            state.best = candidate
            state.best_fitness = latest if config.stale_best else candidate.fitness
    finite = [c.fitness for c in candidates if math.isfinite(c.fitness)]
    state.history.append(
        {
            "generation": state.generation,
            "best_so_far": files.finite(state.best_fitness),
            "best": min(finite, default=None),
            "median": statistics.median(finite) if finite else None,
            "mean_size": statistics.fmean(map(len, candidates)) if candidates else None,
            **{outcome: list(outcomes).count(outcome) for outcome in OUTCOMES},
            **{f"seconds_{phase}": round(seconds.get(phase, 0.0), 4) for phase in PHASES},
        }
    )
    state.generation += 1


def evaluated(value: float) -> str:
    """The outcome of a candidate whose fitness was computed."""
    return "evaluated" if math.isfinite(value) else "non_finite"


def origin_of(problems: Sequence[Problem], config: Config) -> dict:
    """What a search is of, so that its state is not continued with anything else: data, base models, configuration."""
    without = (*NOT_IDENTITY, *TESTING)
    settings = {name: value for name, value in asdict(config).items() if name not in without}
    data, models = ([p.digest(*parts) for p in problems] for parts in (("train", "validation"), ()))
    return json.loads(json.dumps({"model": models, "data": data, "config": settings}))


def claim(state: SearchState, method: str, seed: int, origin: dict) -> None:
    """Make the state one of this search. Raises ValueError, which names what differs, if it is one of another."""
    if not state.method:
        state.method, state.seed, state.origin = method, seed, origin
        return
    got = f"{state.method}, seed {state.seed}"
    check((state.method, state.seed) == (method, seed), "state", f"one of {method}, seed {seed}", got)
    old = state.origin
    settings = old.get("config", {})
    differing = [f"the {what}" for what in ("model", "data") if old.get(what) != origin[what]]
    changed = [(n, value) for n, value in origin["config"].items() if n in settings and settings[n] != value]
    differing += [f"{name} = {settings[name]!r} instead of {value!r}" for name, value in changed]
    check(not differing, "state", "one of the same search", "one that differs in " + ", ".join(differing))
