"""Four set-ups of a practitioner, in which a learned loss meets the usual one and the best of the classic ones.

    noise        digits, 40 % of the training labels wrong; an MLP, SGD
    outliers     Diabetes, 15 % of the training targets replaced; an MLP, SGD
    sequence     digits read row by row by an LSTM, 20 % of the training labels wrong; AdamW
    fine-tuning  an MLP trained on upright digits goes on with 160 turned ones, 20 % of them labelled wrongly; SGD

Validation and test parts are clean. Each loss has its learning rate chosen among `FACTORS` times the usual one, by
validation error from one start; its test error is that of `STARTS` other starts. What was measured is a row a loss in

    <results_dir>/own_model/errors.csv
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import scipy.stats
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import nn
from torch.nn import functional

import evomal_core as ec
from evomal_core import files, machine
from evomal_core.experiments import store
from evomal_core.own import adapt, setup
from evomal_core.own.data import read as read_data
from evomal_core.own.optimisers import Optimiser
from evomal_core.training import Trial, run_trial

from . import forests, layout, report

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
STARTS = 3
KEY = ["setup", "seed", "budget", "loss"]
COLUMNS = [
    *KEY,
    "rate",
    "errors",
    "validation",
    "learned",
    "beats",
    "trivial",
    "n",
    "seconds",
    "hardware",
    "torch",
    "commit",
]


class GeneralisedCrossEntropy(nn.Module):
    """(1 - p^q) / q of the true class's probability p, which bears wrong labels (Zhang & Sabuncu 2018); q = 0.7."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(logits, -1).gather(-1, target[..., None]).clamp_min(1e-7)
        return ((1 - p**0.7) / 0.7).mean()


class Focal(nn.Module):
    """-(1 - p)^2 log p of the true class's probability p (Lin et al. 2017)."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        log_p = functional.log_softmax(logits, -1).gather(-1, target[..., None])
        return (-((1 - log_p.exp()) ** 2) * log_p).mean()


CLASSIC = {
    "multiclass": {
        "generalised cross-entropy": GeneralisedCrossEntropy(),
        "focal loss": Focal(),
        "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.1),
    },
    "regression": {"Huber loss": nn.SmoothL1Loss(beta=0.5), "absolute error": nn.L1Loss()},
}
USUAL = {"multiclass": ("cross-entropy", nn.CrossEntropyLoss()), "regression": ("squared error", nn.MSELoss())}


@dataclass(frozen=True)
class Setup:
    """A model, its data and how it is trained.

    Attributes:
        model: a function that makes the model, or the model to be fine-tuned.
        train, validation, test: (x, y).
        task: "multiclass" or "regression".
        options: further arguments of `ec.search_loss`.
    """

    model: Callable[[], nn.Module] | nn.Module
    train: tuple
    validation: tuple
    test: tuple
    task: str
    options: dict


def _digits(seed: int) -> tuple[np.random.Generator, torch.Tensor, torch.Tensor]:
    generator, (x, y) = np.random.default_rng(seed), load_digits(return_X_y=True)
    order = generator.permutation(len(x))
    return generator, torch.tensor(x[order] / 16, dtype=torch.float32), torch.tensor(y[order])


def _with_wrong_labels(y: torch.Tensor, share: float, generator: np.random.Generator) -> torch.Tensor:
    wrong = torch.tensor(generator.random(len(y)) < share)
    return torch.where(wrong, (y + torch.tensor(generator.integers(1, 10, len(y)))) % 10, y)


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def noise(seed: int) -> Setup:
    """Digits with 40 % wrong labels in the training part."""
    generator, x, y = _digits(seed)
    train = x[:900], _with_wrong_labels(y[:900], 0.4, generator)
    return Setup(_mlp(64, 10), train, (x[900:1200], y[900:1200]), (x[1200:], y[1200:]), "multiclass", {})


def outliers(seed: int) -> Setup:
    """Diabetes, standardised, with 15 % of the training targets replaced by draws five times as wide."""
    generator, (x, y) = np.random.default_rng(seed), load_diabetes(return_X_y=True)
    order = generator.permutation(len(x))
    x, y = x[order], (y[order] - y.mean()) / y.std()
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    wild = generator.random(260) < 0.15
    y_train = np.where(wild, generator.normal(0, 5, 260), y[:260])
    parts = [(x[:260], y_train), (x[260:350], y[260:350]), (x[350:], y[350:])]
    train, validation, test = ((a, torch.tensor(b, dtype=torch.float32)[:, None]) for a, b in parts)
    return Setup(_mlp(10, 1), train, validation, test, "regression", {})


class RowByRow(nn.Module):
    """An LSTM over the eight rows of an image of digits."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x)[0][:, -1])


def sequence(seed: int) -> Setup:
    """Digits as sequences of rows, with 20 % wrong labels in the training part."""
    generator, x, y = _digits(seed)
    x, train_y = x.reshape(-1, 8, 8), _with_wrong_labels(y[:900], 0.2, generator)
    options = {"optimizer": lambda weights: torch.optim.AdamW(weights, 3e-3)}
    return Setup(
        RowByRow(), (x[:900], train_y), (x[900:1200], y[900:1200]), (x[1200:], y[1200:]), "multiclass", options
    )


def fine_tuning(seed: int) -> Setup:
    """An MLP that knows upright digits, and 160 turned ones of which 20 % are labelled wrongly."""
    generator, x, y = _digits(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _mlp(64, 10)
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(300):
            rows = torch.randint(0, 900, (64,))
            optimiser.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    turned = x.reshape(-1, 8, 8).rot90(1, (1, 2)).flatten(1)
    train = turned[900:1060], _with_wrong_labels(y[900:1060], 0.2, generator)
    validation, test = (turned[1060:1240], y[1060:1240]), (turned[1240:], y[1240:])
    return Setup(model, train, validation, test, "multiclass", {"init": "keep"})


SETUPS = {"noise": noise, "outliers": outliers, "sequence": sequence, "fine-tuning": fine_tuning}


def path_of(folder) -> Path:
    """The file of the measurements below a folder of results."""
    return Path(folder) / "own_model" / "errors.csv"


def read(folder) -> pandas.DataFrame:
    """The measurements below a folder of results, a row a loss; an empty table if there are none.

    Columns: setup, seed (of the data and the search), budget, loss, rate (chosen), errors (of the test part, a tuple with
    one a start, inf where a training diverged), validation (the lowest, by which the rate was chosen), learned (the formula
    of the learned loss), beats (what `search_loss` said of it), trivial (the trivial predictor's error on the validation
    part), n (of the test part), seconds (of the search, or of the trainings), hardware, version of PyTorch, commit.
    """
    path = path_of(folder)
    if not path.exists():
        return pandas.DataFrame(columns=COLUMNS)
    with store.reading(path):
        table = pandas.read_csv(path, keep_default_na=False)[COLUMNS]
        return table.assign(errors=[tuple(map(float, text.split())) for text in table["errors"].astype(str)])


def measure(name: str, seed: int, budget: str = "quick", results_dir=None, progress: bool = False) -> pandas.DataFrame:
    """Search for a loss in a set-up, compare it with the usual and the classic ones, and keep the rows; those that are there
    already are not measured again.

    Returns:
        The rows of this set-up, seed and budget, as `read` gives them.
    """
    folder = store.results_dir(results_dir)
    table = read(folder)
    there = table[(table["setup"] == name) & (table["seed"] == seed) & (table["budget"] == budget)]
    if len(there):
        return there
    made = SETUPS[name](seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the verdict is in the table
        found = ec.search_loss(
            made.model,
            made.train,
            made.validation,
            made.task,
            budget=budget,
            seed=seed,
            progress=progress,
            **made.options,
        )
    usual, loss = USUAL[made.task]
    losses = {usual: loss} | CLASSIC[made.task]
    if found.leaders:
        losses |= {"learned": found.leaders[0].loss}
    learned = found.leaders[0].expression if found.leaders else ""
    facts = machine.environment(torch.device("cpu"))
    facts = {"hardware": str(facts["hardware"]["cpu"]), "torch": facts["versions"]["torch"], "commit": facts["commit"]}
    facts |= {"learned": learned, "beats": str(found.beats_baseline), "trivial": found.trivial, "n": len(made.test[1])}
    rows = []
    for label, loss in losses.items():
        start = time.perf_counter()
        rate, validation, errors = tuned(loss, made, found.config, seed)
        seconds = time.perf_counter() - start + (found.seconds if label == "learned" else 0.0)
        row = {"setup": name, "seed": seed, "budget": budget, "loss": label, "rate": rate, "errors": errors}
        rows.append(row | {"validation": validation, "seconds": round(seconds, 1)} | facts)
    new = pandas.DataFrame(rows)[COLUMNS]
    with files.locked(path_of(folder).with_suffix(".lock")):
        whole = pandas.concat([t for t in (read(folder), new) if len(t)], ignore_index=True).sort_values(KEY)
        text = [" ".join(f"{error:.6g}" for error in each) for each in whole["errors"]]
        files.write_text(path_of(folder), whole.assign(errors=text).to_csv(index=False))
    return new


def tuned(loss: nn.Module, made: Setup, config: ec.Config, seed: int) -> tuple[float, float, tuple[float, ...]]:
    """(learning rate of lowest validation error from one start, that error, test errors from `STARTS` other starts)."""
    parts = {part: read_data(getattr(made, part), part) for part in ("train", "validation", "test")}
    optimiser = Optimiser(made.options["optimizer"]) if "optimizer" in made.options else None
    own = setup.settle(
        made.model, parts, made.task, config, metric=None, task_loss=None, optimiser=optimiser,
        keep=made.options.get("init") == "keep", forward=None, ignore_index=None, device=torch.device("cpu"),
    )  # fmt: skip
    restored = adapt.Restored(loss, own.shapes)

    def trained(rate: float, purpose: str, starts: int) -> list[dict[str, float]]:
        trial = Trial(purpose, config.test_steps, (), rate, parts=("validation", "test"), starts=starts)
        (outcomes,) = run_trial([restored], own.problem, config, seed, trial)
        return [outcome.errors for outcome in outcomes]

    rates = [factor * config.base_learning_rate for factor in FACTORS]
    errors = {rate: trained(rate, "selection", 1)[0]["validation"] for rate in rates}
    best = min(rates, key=errors.__getitem__)
    return best, errors[best], tuple(each["test"] for each in trained(best, "test", STARTS))


def summary(table: pandas.DataFrame) -> pandas.DataFrame:
    """The mean test error over starts, a row for each set-up and seed: of the task loss, of the classic loss that validation
    prefers, and of the learned loss (NaN where the search found none); inf where a training diverged."""
    rows = []
    for key, group in table.groupby(["setup", "seed"], sort=False):
        means = {row.loss: float(np.mean(row.errors)) for row in group.itertuples()}
        usual = next(name for name, _ in USUAL.values() if name in means)
        classic = group[~group["loss"].isin([usual, "learned"])]
        best = classic.loc[classic["validation"].idxmin(), "loss"]
        row = {"setup": key[0], "seed": key[1], "task loss": means[usual], "best classic": means[best], "which": best}
        rows.append(row | {"learned": means.get("learned", math.nan), "formula": group["learned"].iloc[0]})
    columns = ["setup", "seed", "task loss", "best classic", "which", "learned", "formula"]
    return pandas.DataFrame(rows, columns=columns)


def answer(table: pandas.DataFrame) -> layout.Answer:
    """The first screen: in how many runs the learned loss beats the task loss, and the best classic one."""
    means = summary(table)
    below = {other: int((means["learned"] < means[other]).sum()) for other in ("task loss", "best classic")}
    n, names = len(means), dict.fromkeys(means["setup"])
    sentence = (
        f"On {len(names)} set-ups the learned loss has a lower test error than the task loss in "
        f"{below['task loss']} of {n} runs, and than the best classic loss in {below['best classic']}; all have a tuned "
        "learning rate."
    )
    kinds = {"task loss": "task loss", "classic": "best classic", "learned": "learned"}
    panels = {
        name: [
            forests.Row(label, {"mean of three starts": means[means["setup"] == name][column].tolist()})
            for label, column in kinds.items()
        ]
        for name in names
    }
    meaning = [_meaning(name, means[means["setup"] == name]) for name in names]
    meaning.append(
        "`search_loss` compares before it recommends: it gives the task loss back where the learned one does not beat it on "
        f"the validation part from every start. It recommended the learned loss in {_recommended(table)} of {n} runs."
    )
    figure = forests.forest(panels, "test error", columns=4, width=2.9)
    return layout.Answer(
        sentence, figure, f"Test errors of a dot a seed, by loss and set-up. {sentence}", tuple(meaning)
    )


def _recommended(table: pandas.DataFrame) -> int:
    return int((table.drop_duplicates(["setup", "seed"])["beats"].astype(str) == "True").sum())


def _meaning(name: str, means: pandas.DataFrame) -> str:
    """One sentence on a set-up."""
    parts = []
    for column, other in (("task loss", "the task loss"), ("best classic", "the best classic loss")):
        differences = (means["learned"] - means[column]).to_numpy()
        low, high = scipy.stats.t.interval(0.95, len(differences) - 1, differences.mean(), scipy.stats.sem(differences))
        below = f"below {other} on {(differences < 0).sum()} of {len(differences)} seeds"
        sure = f" [{low:+.3f}, {high:+.3f}]" if len(differences) > 1 and np.isfinite([low, high]).all() else ""
        parts.append(f"{below} ({differences.mean():+.3f}{sure})".replace("-", "−"))
    best = ", ".join(dict.fromkeys(means["which"]))
    return f"**{name}**: the learned loss is {', and '.join(parts)}; the best classic is {best}."


def show() -> None:
    """The first cell: the answer from the committed measurements."""
    layout.show(answer(read(report.REFERENCE)), "own_model")


def display(table: pandas.DataFrame) -> pandas.DataFrame:
    """The measurements for reading: a row for each set-up and loss, the mean test error of each seed."""
    means = table.assign(error=[float(np.mean(errors)) for errors in table["errors"]], rate=table["rate"].astype(float))
    wide = means.pivot_table(index=["setup", "loss"], columns="seed", values="error", sort=False)
    wide.columns = [f"seed {seed}" for seed in wide.columns]
    wide["mean"] = wide.mean(axis=1)
    wide["median rate"] = means.groupby(["setup", "loss"], sort=False)["rate"].median()
    return wide.round(4)


def compute(p) -> pandas.DataFrame:
    """Measure the set-ups of a notebook's parameters under its seeds; a word on each before. An empty table for no seed."""
    tables = []
    for seed in sorted({*p.seeds, p.seed} - {None}):
        for name in p.setups:
            print(f"{name}, seed {seed}: a search and the trainings of {1 + STARTS} starts")
            tables.append(measure(name, seed, p.budget, p.results_dir))
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=COLUMNS)
