"""Settings: `Config` (every count and rate of the method), `Protocol` (where paper and released code differ), budgets."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

TABULAR = ("diabetes", "boston", "california")
IMAGES = ("mnist", "cifar10", "cifar100", "svhn")
DATASETS = (*TABULAR, *IMAGES, "digits")  # digits: offline stand-in for image smoke runs, never a row of the paper
MODELS = ("mlp", "logistic", "lenet5", "alexnet", "vgg16", "allcnnc", "resnet18")
MODELS += ("preresnet101", "wideresnet28_10", "squeezenet", "pyramidnet110_48")


def check_choice(kind: str, value: Any, choices) -> Any:
    """Return `value` if it is one of `choices`; else raise ValueError with the near miss."""
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{kind} must be one of {', '.join(map(str, choices))}; got {value!r}.{hint}")


def check(true, what: str, expected, got) -> None:
    """Raise ValueError that says what must be what, and what came, unless `true`."""
    if not true:
        raise ValueError(f"{what} must be {expected}, got {got}")


# Where the released code departs from the paper: switch -> (value of the paper, value of the released code).
# The rows of the audit; each is explained in notebooks/protocol.ipynb.
SWITCHES: dict[str, tuple[str, str]] = {
    "split": ("honest", "overlapping"),  # 60:20:20, or a test part that contains training and validation part
    "elitism": ("on", "off"),  # 5 % best survive, or 5 % plain reproduction
    "gradient_equivalence": ("on", "off"),  # the filter of section III-E3, absent in the released code
    "tournament": ("single", "double"),  # by fitness, or by size and then fitness
    "archive": ("all", "evaluated"),  # every seen loss, or only those whose fitness was evaluated
    "stale_best": ("off", "on"),  # the released code's best-so-far stores the last fitness computed for anyone
    "protection": ("abs", "clamp"),  # log(|x| + eps), or log(max(|x|, eps))
    "taylor_roles": ("prediction", "exchanged"),  # TaylorGLO's a and b are of prediction and label, or exchanged
    "taylor_term": ("t1", "t0"),  # the point around which the last factor of TaylorGLO's last term is taken
    "non_finite": ("worst", "score"),  # a diverged session is the worst case, or is scored with the weights it has
}
# What may be switched on though neither source has it as the default.
EXTRA_SWITCHES: dict[str, tuple[str, ...]] = {"non_negative": ("off", "on")}  # softplus on the output, section III-B3
# Switch -> the field of `Config` that it sets, and the value that means True; without one, the field takes the value.
SWITCH_FIELDS = {name: (name, "on") for name in ("elitism", "gradient_equivalence", "stale_best", "non_negative")}
SWITCH_FIELDS |= {name: (name, None) for name in ("protection", "taylor_roles")}
SWITCH_FIELDS |= {"tournament": ("double_tournament", "double"), "archive": ("archive_rejected", "all")}
SWITCH_FIELDS |= {"non_finite": ("score_non_finite", "score"), "taylor_term": ("taylor_last_term", None)}


def as_switch(field: str, value) -> str | None:
    """`switch=value` of a protocol, which gives a field of `Config` this value; None if no switch sets the field."""
    for switch, (name, true) in SWITCH_FIELDS.items():
        if name == field:
            texts = SWITCHES.get(switch) or EXTRA_SWITCHES[switch]
            return next(f"{switch}={text}" for text in texts if value == (text if true is None else text == true))
    return None


@dataclass(frozen=True)
class Protocol:
    """Which reading of the method is run: `paper`, `released`, or one of them with switches changed.

    Written `base+switch=value+…`, for example `paper+elitism=off`; `str()` gives the shortest such name, so that equal
    protocols have equal names.
    """

    base: str = "paper"
    changes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: "str | Protocol") -> "Protocol":
        """Read a protocol string. Raises ValueError that names the near miss."""
        if isinstance(text, Protocol):
            return text
        base, *parts = str(text).split("+")
        check_choice("protocol", base, ("paper", "released"))
        changes = {}
        for part in parts:
            name, _, value = part.partition("=")
            check_choice("protocol switch", name, [*SWITCHES, *EXTRA_SWITCHES])
            check_choice(f"protocol switch {name}", value, SWITCHES.get(name) or EXTRA_SWITCHES[name])
            changes[name] = value
        default = cls(base)
        return cls(base, tuple(sorted((n, v) for n, v in changes.items() if default[n] != v)))

    def __getitem__(self, switch: str) -> str:
        default = EXTRA_SWITCHES[switch][0] if switch in EXTRA_SWITCHES else SWITCHES[switch][self.base == "released"]
        return dict(self.changes).get(switch, default)

    def __str__(self) -> str:
        return "+".join([self.base, *(f"{n}={v}" for n, v in self.changes)])


COUNTS = ("population", "generations", "meta_steps", "fitness_steps", "rejection_steps", "test_steps")
# Named sets of counts, frozen. `paper` is what section IV and the released code use.
BUDGETS: dict[str, dict[str, int]] = {
    "smoke": dict(zip(COUNTS, (4, 2, 3, 5, 5, 20), strict=True)),
    "quick": dict(zip(COUNTS, (8, 8, 80, 100, 100, 2_000), strict=True)),
    "paper": dict(zip(COUNTS, (25, 50, 250, 500, 1_000, 10_000), strict=True)),
}
MAY_BE_ZERO = ("meta_steps", "rejection_steps", "copies")  # of the fields of `Config` that count something


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
    # Loss optimisation (section III-C, Algorithm 1)
    meta_steps: int = 250  # S_meta
    inner_steps: int = 1  # S_base
    meta_learning_rate: float = 1e-3  # of Adam [R]
    weight_std: float = 1e-3  # standard deviation of the initial loss weights around 1 [R]
    # Filters (section III-E)
    rejection_steps: int = 1_000  # [R]; after 0 nothing is gained, and every candidate is rejected
    rejection_batch: int = 100
    equivalence_digits: int = 2  # significant digits of the gradient norms
    # Base training (sections III-D and IV)
    fitness_steps: int = 500  # S_testing
    test_steps: int = 10_000
    test_milestones: tuple[int, ...] = ()  # steps at which the rate is multiplied by 0.1
    batch_size: int = 128
    base_learning_rate: float = 0.01
    base_momentum: float = 0.9
    base_nesterov: bool = True
    base_weight_decay: float = 5e-4
    # Numerics
    dtype: str = "float32"
    engine: str = "auto"  # of the meta-gradient; does not change results in exact arithmetic
    threads: int = 1  # of the CPU, a cell; likewise
    copies: int = 0  # K of population batching, likewise; 0 chooses by device and model size
    cuda_graphs: bool = False  # replay stacked training steps as CUDA graphs, likewise

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value, kind = f"Config.{field.name}", getattr(self, field.name), type(field.default)
            if (type(value), kind) in ((int, float), (list, tuple)):
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
            fits = pair and 0 <= heights[0] <= heights[1] <= self.max_height
            check(fits, f"Config.{name}", f"a lowest and a highest height, at most {self.max_height}", heights)
        steps = all(type(step) is int and step > 0 for step in self.test_milestones)
        check(steps, "Config.test_milestones", "whole numbers of steps", self.test_milestones)
        check(self.elitism_rate <= 1, "Config.elitism_rate", "at most 1", self.elitism_rate)
        check_choice("Config.engine", self.engine, ("auto", "jvp", "gram", "higher"))
        check_choice("Config.dtype", self.dtype, ("float32", "float64"))
        for switch, (field, true) in SWITCH_FIELDS.items():
            if true is None:
                check_choice(f"Config.{field}", getattr(self, field), SWITCHES[switch])
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
        budget, *changes = str(cell.budget).split("+")
        check_choice("budget", budget, BUDGETS)
        values: dict[str, Any] = dict(BUDGETS[budget])
        if cell.dataset in ("mnist", "digits"):
            values |= {"base_momentum": 0.0, "base_nesterov": False, "base_weight_decay": 0.0}
            if budget == "paper":
                values["rejection_steps"] = 100
        elif cell.dataset in IMAGES and budget == "paper":
            values |= {"test_steps": 150_000, "test_milestones": (100_000, 135_000)}
        protocol = Protocol.parse(cell.protocol)
        for switch, (field, true) in SWITCH_FIELDS.items():
            values[field] = protocol[switch] if true is None else protocol[switch] == true
        for name, _, text in (change.partition("=") for change in changes):
            values[name] = parse_override(name, text)
        return cls(**values)


# What does not change results in exact arithmetic, and so is no part of a run's identity
NOT_IDENTITY = ("engine", "threads", "copies", "cuda_graphs")


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
            return tuple(int(part) for part in text.split(",") if part)
        return kind(text)
    except (KeyError, ValueError):
        expected = {bool: "True or False", tuple: "whole numbers with commas between"}
        raise ValueError(f"override {name} must be {expected.get(kind, kind.__name__)}, got {text!r}") from None
