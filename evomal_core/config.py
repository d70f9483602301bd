"""Settings: `Config` (every count and rate of the method), `Protocol` (where paper and released code differ), budgets."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

TABULAR = ("diabetes", "boston", "california")
IMAGES = ("mnist", "cifar10", "cifar100", "svhn")
DATASETS = (*TABULAR, *IMAGES, "digits")  # digits: offline stand-in for image smoke runs, never a row of the paper
MODELS = (
    *("mlp", "logistic", "lenet5", "alexnet", "vgg16", "allcnnc", "resnet18", "preresnet101"),
    *("wideresnet28_10", "squeezenet", "pyramidnet110_48"),
)


def check_choice(kind: str, value: Any, choices) -> Any:
    """Return `value` if it is one of `choices`; else raise ValueError with the near miss."""
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{kind} must be one of {', '.join(map(str, choices))}; got {value!r}.{hint}")


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
        for name, value in self.changes:
            if name == switch:
                return value
        if switch in EXTRA_SWITCHES:
            return EXTRA_SWITCHES[switch][0]
        return SWITCHES[switch][self.base == "released"]

    def __str__(self) -> str:
        return "+".join([self.base, *(f"{n}={v}" for n, v in self.changes)])


COUNTS = ("population", "generations", "meta_steps", "fitness_steps", "rejection_steps", "test_steps")
# Named sets of counts, frozen. `paper` is what section IV and the released code use.
BUDGETS: dict[str, dict[str, int]] = {
    "smoke": dict(zip(COUNTS, (4, 2, 3, 5, 5, 20), strict=True)),
    "quick": dict(zip(COUNTS, (8, 8, 80, 100, 100, 2_000), strict=True)),
    "paper": dict(zip(COUNTS, (25, 50, 250, 500, 1_000, 10_000), strict=True)),
}


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
    rejection_steps: int = 1_000  # [R]
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
            value = getattr(self, field.name)
            kind = type(field.default)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field.name, value := float(value))
            if kind is tuple and isinstance(value, list):
                object.__setattr__(self, field.name, value := tuple(value))
            if type(value) is not kind:
                raise ValueError(f"Config.{field.name} must be {kind.__name__}, got {value!r}")
            if kind is int and value < (0 if field.name in ("meta_steps", "rejection_steps", "copies") else 1):
                raise ValueError(f"Config.{field.name} must be positive, got {value}")
            if kind is float and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Config.{field.name} must be finite and not negative, got {value}")
        for name in ("initial_height", "mutation_height"):
            heights = getattr(self, name)
            if len(heights) != 2 or not all(type(h) is int for h in heights) or not 0 <= heights[0] <= heights[1]:
                raise ValueError(f"Config.{name} must be a lowest and a highest height, got {heights}")
        check_choice("Config.dtype", self.dtype, ("float32", "float64"))
        check_choice("Config.protection", self.protection, ("abs", "clamp"))
        if self.base_nesterov and not self.base_momentum > 0:
            raise ValueError("Config.base_nesterov needs a positive base_momentum, got 0")
        if self.crossover_rate + self.mutation_rate <= 0:
            raise ValueError("Config.crossover_rate + mutation_rate must be positive, got 0")

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
        values |= {
            "elitism": protocol["elitism"] == "on",
            "gradient_equivalence": protocol["gradient_equivalence"] == "on",
            "double_tournament": protocol["tournament"] == "double",
            "archive_rejected": protocol["archive"] == "all",
            "stale_best": protocol["stale_best"] == "on",
            "protection": protocol["protection"],
            "score_non_finite": protocol["non_finite"] == "score",
            "taylor_roles": protocol["taylor_roles"],
            "taylor_last_term": protocol["taylor_term"],
            "non_negative": protocol["non_negative"] == "on",
        }
        for change in changes:
            name, _, text = change.partition("=")
            values[name] = parse_override(name, text)
        return cls(**values)


# What does not change results in exact arithmetic, and so is no part of a run's identity
NOT_IDENTITY = ("engine", "threads", "copies", "cuda_graphs")
_FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def parse_override(name: str, text: Any) -> Any:
    """One override from its text (`generations`, `"10"`) or value. Raises ValueError that names the near miss."""
    check_choice("override", name, [n for n in _FIELDS if n not in NOT_IDENTITY])
    kind = type(_FIELDS[name].default)
    if not isinstance(text, str):
        return text
    try:
        if kind is bool:
            return {"True": True, "False": False}[text]
        if kind is tuple:
            return tuple(int(part) for part in text.split(",") if part)
        return kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"override {name} must be {kind.__name__}, got {text!r}") from None
