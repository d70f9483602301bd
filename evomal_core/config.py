"""Settings: `Config` (every count and rate of the method), `Protocol` (where paper and released code differ), budgets."""

import contextlib
import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .checks import check, check_choice, native
from .registry import DATASETS

ENGINES = ("auto", "jvp", "gram", "higher")  # of the meta-gradient


class Switch(NamedTuple):
    """One setting that a protocol's name can hold, `switch=value`.

    Attributes:
        paper, released: its value as the paper's text has it, and as the released code has it.
        field: the field of `Config` that it sets; None where the data set or the base model reads it.
        true: the value that means True of that field; None where the field takes the value itself.
        more: values that neither source has.
    """

    paper: str
    released: str
    field: str | None = None
    true: str | None = None
    more: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """All values, the paper's first."""
        return tuple(dict.fromkeys((self.paper, self.released, *self.more)))


# The one table of switches. Those in which paper and released code differ are the rows of notebooks/protocol.ipynb.
SWITCHES: dict[str, Switch] = {
    # 60:20:20, or a test part that contains training and validation part
    "split": Switch("honest", "overlapping"),
    # 5 % best survive, or 5 % plain reproduction
    "elitism": Switch("on", "off", "elitism", "on"),
    # the filter of section III-E3, absent in the released code
    "gradient_equivalence": Switch("on", "off", "gradient_equivalence", "on"),
    # by fitness, or by size and then fitness
    "tournament": Switch("single", "double", "double_tournament", "double"),
    # every seen loss, or only those whose fitness was evaluated
    "archive": Switch("all", "evaluated", "archive_rejected", "all"),
    # the released code's best-so-far stores the last fitness computed for anyone
    "stale_best": Switch("off", "on", "stale_best", "on"),
    # log(|x| + eps), or log(max(|x|, eps))
    "protection": Switch("abs", "clamp", "protection"),
    # TaylorGLO's a and b are of prediction and label, or exchanged
    "taylor_roles": Switch("prediction", "exchanged", "taylor_roles"),
    # the point around which the last factor of TaylorGLO's last term is taken
    "taylor_term": Switch("t1", "t0", "taylor_last_term"),
    # a diverged session is the worst case, or is scored with the weights it has
    "non_finite": Switch("worst", "score", "score_non_finite", "score"),
    # validation images as they are, or cropped and flipped like training images
    "validation_augmentation": Switch("off", "on"),
    # SVHN with 10 outputs and test images as they are, or with 100 outputs and test images cropped and flipped
    "svhn": Switch("10", "100"),
    # bottlenecks, or basic blocks
    "preresnet": Switch("bottleneck", "basic"),
    # ReLU after each convolution and global pooling, or two ReLUs less and a pooling that sees the upper left 6x6 only
    "allcnnc": Switch("paper", "released"),
    # as many outputs as classes, or always 10
    "pyramidnet_outputs": Switch("classes", "10"),
    # meta-testing from initial weights and batches of its own, or from those that the loss was selected on
    "test_start": Switch("fresh", "search", "test_start"),
    # softplus on the output, optional in section III-B3
    "non_negative": Switch("off", "off", "non_negative", "on", more=("on",)),
    # gradients are equal when their norms are to two digits, or when all lie within 1 % of one another
    "equivalence": Switch("rounded", "rounded", "equivalence", more=("within",)),
    # What neither source has, for losses that hold from fresh initial weights:
    # the loss of best fitness, or the one that wins a contest over fresh starts (`remedies.halving`), whose parts are
    # those of the search, or redrawn for each start
    "selection": Switch("fitness", "fitness", "selection", more=("halving", "resplit")),
    # a test's error after its last step, or after the step of best validation error
    "test_stop": Switch("end", "end", "test_stop", more=("validation",)),
    # fitness over `fitness_starts` starts: their mean, or the worst
    "fitness_over": Switch("mean", "mean", "fitness_over", more=("worst",)),
    # all candidates from the same starts, or each generation from new ones, from which elites are measured again
    "fitness_start": Switch("same", "same", "fitness_start", more=("generation",)),
    # generation 0 is random, or holds known losses, too (`losses.known`)
    "initial_losses": Switch("random", "random", "initial_losses", more=("known",)),
}
# The protocol `robust`, for models of one's own: the switches in which it differs from `paper`
ROBUST = {"selection": "halving"}
BASES = ("paper", "released", "robust")
DEPARTURES = tuple(name for name, switch in SWITCHES.items() if switch.paper != switch.released)


def as_switch(field: str, value) -> str | None:
    """`switch=value` of a protocol, which gives a field of `Config` this value; None if no switch sets the field."""
    for name, switch in SWITCHES.items():
        if switch.field == field:
            texts = switch.values
            wanted = (t for t in texts if value == (t if switch.true is None else t == switch.true))
            return f"{name}={next(wanted)}"
    return None


@dataclass(frozen=True)
class Protocol:
    """Which reading of the method is run: `paper`, `released`, `robust`, or one of them with switches changed.

    Written `base+switch=value+…`, for example `paper+elitism=off`; `str()` gives the shortest such name, so that equal
    protocols have equal names. `robust` is `paper` with the switches of `ROBUST`.
    """

    base: str = "paper"
    changes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: "str | Protocol") -> "Protocol":
        """Read a protocol string. Raises ValueError that names the near miss."""
        if isinstance(text, Protocol):
            return text
        base, *parts = str(text).split("+")
        check_choice("protocol", base, BASES)
        changes = dict(ROBUST) if base == "robust" else {}
        base = "paper" if base == "robust" else base
        for part in parts:
            name, _, value = part.partition("=")
            check_choice("protocol switch", name, SWITCHES)
            check_choice(f"protocol switch {name}", value, SWITCHES[name].values)
            changes[name] = value
        default = cls(base)
        return cls(base, tuple(sorted((n, v) for n, v in changes.items() if default[n] != v)))

    def __getitem__(self, switch: str) -> str:
        default = SWITCHES[switch].released if self.base == "released" else SWITCHES[switch].paper
        return dict(self.changes).get(switch, default)

    def __str__(self) -> str:
        robust = self.base == "paper" and ROBUST.items() <= dict(self.changes).items()
        changes = [(n, v) for n, v in self.changes if not (robust and n in ROBUST)]
        return "+".join(["robust" if robust else self.base, *(f"{n}={v}" for n, v in changes)])

    @property
    def of_search(self) -> "Protocol":
        """The protocol without what concerns the tests of a loss alone."""
        return replace(self, changes=tuple((n, v) for n, v in self.changes if SWITCHES[n].field not in TESTING))


COUNTS = ("population", "generations", "meta_steps", "fitness_steps", "rejection_steps", "test_steps")
# Named sets of counts, frozen. `paper` is what section IV and the released code use; `pocket` is for convolutional
# networks on a CPU.
BUDGETS: dict[str, dict[str, int]] = {
    "smoke": dict(zip(COUNTS, (4, 2, 3, 5, 5, 20), strict=True)),
    "pocket": dict(zip(COUNTS, (6, 4, 30, 60, 50, 1_000), strict=True)) | {"batch_size": 32},
    "quick": dict(zip(COUNTS, (8, 8, 80, 100, 100, 2_000), strict=True)),
    "paper": dict(zip(COUNTS, (25, 50, 250, 500, 1_000, 10_000), strict=True)),
}
MAX_HEIGHT = 90  # of a tree: DEAP's own limit
MAX_GROWN_HEIGHT = 12  # of a tree that is grown in full, which then has 8,191 nodes
# Fields of `Config` that count something and may be zero
MAY_BE_ZERO = ("meta_steps", "rejection_steps", "copies", "evaluation_instances")


@dataclass(frozen=True)
class Config:
    """Every setting of one run. Immutable; vary it with `dataclasses.replace`.

    The defaults are those of the tabular tasks at the paper's budget; `Config.for_cell` gives those of a cell. Values
    marked [R] are the released code's, where the paper is silent.
    """

    # Search (section III-B2)
    population: int = 25
    generations: int = 50  # generations of evaluation; the first is the initial population
    crossover_rate: float = 0.70
    mutation_rate: float = 0.25
    elitism_rate: float = 0.05
    tournament_size: int = 4  # [R]
    initial_height: tuple[int, int] = (2, 4)  # ramped half-and-half [R]
    mutation_height: tuple[int, int] = (0, 2)  # of the new subtree [R]
    max_height: int = 10  # [R]
    operators: tuple[str, ...] = ()  # that trees are made of; none named: the twelve of Table I
    leaders: int = 25  # distinct candidates of best fitness that a search keeps
    non_negative: bool = False  # softplus on the loss's output, optional in section III-B3
    protection: str = "abs"  # of log and sqrt: "abs" or "clamp"
    elitism: bool = True
    gradient_equivalence: bool = True
    double_tournament: bool = False
    archive_rejected: bool = True
    stale_best: bool = False
    score_non_finite: bool = False
    taylor_roles: str = "prediction"
    taylor_last_term: str = "t1"
    initial_losses: str = "random"
    # Loss optimisation (section III-C, Algorithm 1)
    meta_steps: int = 250  # S_meta
    inner_steps: int = 1  # S_base
    meta_learning_rate: float = 1e-3  # of Adam [R]
    weight_std: float = 1e-3  # standard deviation of the initial loss weights around 1 [R]
    # Filters (section III-E)
    rejection_steps: int = 1_000  # [R]; after 0 nothing is gained, and every candidate is rejected
    rejection_batch: int = 100
    equivalence: str = "rounded"
    equivalence_digits: int = 2  # significant digits of the gradient norms
    equivalence_tolerance: float = 0.01  # relative, of the gradient norms under "within"
    # Base training (sections III-D and IV)
    fitness_steps: int = 500  # S_testing
    fitness_starts: int = 1  # initialisations of a fitness evaluation
    fitness_over: str = "mean"
    fitness_start: str = "same"
    racing: bool = False  # a candidate that is worse from the first start than all leaders gets no second
    test_steps: int = 10_000
    test_milestones: tuple[int, ...] = ()  # steps at which the rate is multiplied by 0.1
    test_learning_rate: float = 0.0  # of meta-testing; 0: the loss's own, else the base learning rate
    test_start: str = "fresh"  # weights and batches of meta-testing: "fresh", or "search", those of fitness
    test_stop: str = "end"
    selection: str = "fitness"
    batch_size: int = 128
    evaluation_instances: int = 0  # first instances of a part that a trained model is measured on; 0: all
    base_learning_rate: float = 0.01
    base_momentum: float = 0.9
    base_nesterov: bool = True
    base_weight_decay: float = 5e-4
    # Numerics
    dtype: str = "float32"
    autocast: bool = False  # the base model in bfloat16, losses and weights in `dtype`
    channels_last: bool = False  # memory format of base training; does not change results in exact arithmetic
    engine: str = "auto"  # of the meta-gradient; does not change results in exact arithmetic
    threads: int = 1  # of the CPU, a cell; likewise
    copies: int = 0  # K of stacking, likewise; 0 chooses by device and model

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value, kind = f"Config.{field.name}", native(getattr(self, field.name)), type(field.default)
            object.__setattr__(self, field.name, value)
            if (type(value), kind) in ((int, float), (list, tuple)):
                with contextlib.suppress(OverflowError):  # a whole number beyond all floats is refused below
                    value = kind(value)
                object.__setattr__(self, field.name, value)
            check(type(value) is kind, name, kind.__name__, repr(value))
            if kind is int:
                least = int(field.name not in MAY_BE_ZERO)
                check(value >= least, name, f"at least {least}", value)
            if kind is float:
                check(0 <= value < math.inf, name, "finite and not negative", value)
        for name in ("initial_height", "mutation_height"):
            heights = getattr(self, name)
            pair = len(heights) == 2 and all(type(h) is int for h in heights)
            most = min(self.max_height, MAX_GROWN_HEIGHT)
            fits = pair and 0 <= heights[0] <= heights[1] <= most
            check(fits, f"Config.{name}", f"a lowest and a highest height, at most {most}", heights)
        check(self.max_height <= MAX_HEIGHT, "Config.max_height", f"at most {MAX_HEIGHT}", self.max_height)
        steps = all(type(step) is int and step > 0 for step in self.test_milestones)
        check(steps, "Config.test_milestones", "whole numbers of steps", self.test_milestones)
        check(self.elitism_rate <= 1, "Config.elitism_rate", "at most 1", self.elitism_rate)
        check_choice("Config.engine", self.engine, ENGINES)
        check_choice("Config.dtype", self.dtype, ("float32", "float64"))
        for switch in SWITCHES.values():
            if switch.field and switch.true is None:
                check_choice(f"Config.{switch.field}", getattr(self, switch.field), switch.values)
        names = all(isinstance(name, str) for name in self.operators)
        check(names, "Config.operators", "names of operators", self.operators)
        if self.base_nesterov:
            check(self.base_momentum > 0, "Config.base_momentum with base_nesterov", "positive", self.base_momentum)
        check(self.crossover_rate + self.mutation_rate > 0, "Config.crossover_rate + mutation_rate", "positive", 0)

    @property
    def sgd(self) -> dict[str, Any]:
        """The base optimiser's settings, as `torch.optim.SGD` takes them."""
        step = {"lr": self.base_learning_rate, "weight_decay": self.base_weight_decay}
        return step | {"momentum": self.base_momentum, "nesterov": self.base_nesterov}

    @property
    def first_rate(self) -> float:
        """alpha_eff, by which the base optimiser's first step multiplies its direction: alpha (1 + mu) under Nesterov."""
        return self.base_learning_rate * (1 + self.base_momentum if self.base_nesterov else 1)

    @classmethod
    def for_cell(cls, cell) -> "Config":
        """The settings of a `Cell` (section IV and, where it is silent, the released code [R]).

        Args:
            cell: has `dataset`, `budget` (optionally with overrides, `quick+generations=10`) and `protocol`.
        """
        budget = str(cell.budget).split("+")[0]
        check_choice("budget", budget, BUDGETS)
        settings = DATASETS[check_choice("data set", cell.dataset, DATASETS)].settings_for(budget)
        return cls.of(cell.budget, cell.protocol, settings)

    @classmethod
    def of(cls, budget: str, protocol: str = "paper", settings: dict | None = None) -> "Config":
        """The settings of a budget and a protocol.

        Args:
            budget: optionally with overrides, `quick+generations=10`.
            settings: of the data set; they stand behind the overrides, and before the budget.

        Raises:
            ValueError: an unknown name, with its near miss.
        """
        budget, *changes = str(budget).split("+")
        check_choice("budget", budget, BUDGETS)
        values: dict[str, Any] = dict(BUDGETS[budget]) | (settings or {})
        protocol = Protocol.parse(protocol)
        for name, switch in SWITCHES.items():
            if switch.field:
                values[switch.field] = protocol[name] if switch.true is None else protocol[name] == switch.true
        for name, _, text in (change.partition("=") for change in changes):
            values[name] = parse_override(name, text)
        return cls(**values)


# What does not change results in exact arithmetic, and so is no part of a run's identity; `cuda_graphs` is a setting of old
# records alone
NOT_IDENTITY = ("engine", "threads", "copies", "cuda_graphs", "channels_last")
# What concerns the tests of a loss alone, and so is no part of the identity of its search
TESTING = ("test_steps", "test_milestones", "test_learning_rate", "test_start", "test_stop", "selection")
NAMES = ("operators",)  # tuples of names; other tuples are of whole numbers


def parse_override(name: str, text: Any) -> Any:
    """One override from its text (`generations`, `"10"`) or value. Raises ValueError that names the near miss."""
    check_choice("override", name, [f.name for f in dataclasses.fields(Config) if f.name not in NOT_IDENTITY])
    kind = type(getattr(Config, name))  # of its default
    if not isinstance(text, str):
        return text
    try:
        if kind is bool:
            return {"True": True, "False": False}[text]
        if kind is tuple:
            return tuple(part if name in NAMES else int(part) for part in text.split(",") if part)
        return kind(text)
    except (KeyError, ValueError):
        expected = {bool: "True or False", tuple: "whole numbers with commas between"}
        raise ValueError(f"override {name} must be {expected.get(kind, kind.__name__)}, got {text!r}") from None
