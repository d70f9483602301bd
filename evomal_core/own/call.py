"""`search_loss`: a loss for a model and data of one's own, in one call that says whether it is worth having."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from .. import files, machine, streams
from ..checks import check, check_choice, native
from ..config import Config
from ..losses import MetaLoss
from ..losses.handcrafted import task_loss as usual_loss
from ..models.random_layers import seeded
from ..remedies import halving
from ..search import SearchState, genetic, search, tuned
from ..search.genetic import GeneticState
from ..search.state import Leader, claim, origin_of
from ..tasks import find_device
from ..tasks.metrics import mean_squared_error
from ..training import batches, heartbeat
from ..training.fitness import fitness
from ..training.trial import CHUNK, Trial, run_trial, train
from . import data
from .adapt import plain_kernels
from .optimisers import Factory, Optimiser, Schedule
from .report import Found, Row
from .setup import Own, settle
from .watch import Enough, Progress, Watch

SCHEMA = 1  # of the file of `checkpoint`
METHOD = "evomal"
LEARNED, TUNED = "learned loss", "tuned rate"  # in the comparison
RULES = 0.5  # share of the validation error from which one target is said to choose the loss
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the own learning rate, which a loss is tried at
TUNING = (0, 0, 9)  # index of the start from which they are tried, which no contest has


def search_loss(
    model: nn.Module | Callable[[], nn.Module],
    train,
    validation,
    task: str,
    *,
    test=None,
    metric: Callable | None = None,
    task_loss: Callable | None = None,
    optimizer: Factory | None = None,
    schedule: Schedule | None = None,
    init: str = "fresh",
    forward: Callable | None = None,
    target: Callable | None = None,
    ignore_index: int | None = None,
    initial_losses: str = "known",
    operators: Sequence[str] | None = None,
    budget: str = "quick",
    protocol: str = "robust",
    starts: int = 3,
    timeout: float | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callable[[Progress], bool | None]] = (),
    checkpoint=None,
) -> Found:
    """Search for a loss for a model and data of one's own (EvoMAL, Fig. 1), and say whether it beats the usual one.

    The search begins with known losses of the task beside random ones. Under the protocol `robust` its leaders and the task
    loss, also at its best learning rate, then meet in a contest over fresh starts (`remedies.halving`). At the end the best
    loss and the task loss are trained from `starts` other starts each, for the same number of steps: at the optimiser's
    learning rate, and at the best of five around it, chosen for each of the two by validation over full trainings.

    Args:
        model: an `nn.Module`, which is copied and never changed, or a function without arguments that makes one.
        train, validation: a Dataset, a DataLoader, or a pair (x, y) of tensors, arrays or DataFrames. x may be a tuple or a
            dict, and whole numbers (tokens) are left as they are. Losses are trained on the one part and judged on the other.
        task: "binary" (one logit (B,), (B, 1) or (B, K) and targets 0 and 1), "multiclass" (logits (B, C) or (B, C, …)
            and class indices (B,) or (B, …)), or "regression" (outputs and values of one shape).
        test: a part that is measured at the end and judges instead of the validation part, which the search has used.
        metric: (outputs, targets) -> number, the lower the better, in the shapes that the model gives; left out, the error
            rate or the mean squared error. With `ignore_index` it gets (M, C) and (M,), what counts alone.
        task_loss: the loss to beat, by which loss weights are learned, such as `nn.CrossEntropyLoss(weight=w)`; left out,
            `BCEWithLogitsLoss`, `CrossEntropyLoss` or `MSELoss`.
        optimizer: weights -> optimiser, like `lambda p: torch.optim.AdamW(p, 1e-3)`; left out, SGD with learning rate 0.01,
            momentum 0.9 and weight decay 5e-4 (section IV). The meta-gradient goes through its first step (`own.optimisers`).
        schedule: step -> factor of the learning rate.
        init: "fresh", or "keep" to begin each training from the model's own weights (fine-tuning).
        forward: (model, x) -> outputs, where that is not `model(x)`.
        target: batch -> targets, where a batch is no pair (x, y); an autoencoder has `lambda b: b[0]`.
        ignore_index: a target that does not count, such as that of padding.
        initial_losses: "known" or "random", what generation 0 has.
        operators: names of those that losses are made of; left out, the twelve of Table I.
        budget: "smoke", "quick" or "paper", optionally with overrides of `Config`: "quick+generations=20+test_steps=500".
            `test_steps` is the length of a full training.
        protocol: "robust", or "paper": the loss of best fitness, without a contest.
        timeout: seconds after which search and contest end with the best so far; the last trainings come on top.
        device: "auto", "cpu" or "cuda".
        threads: of the CPU; left out, one, or all cores for a model of more than five million weights.
        progress: show a bar.
        callbacks: called with a `Progress` after each generation; the search ends where one gives True.
        checkpoint: a file from which a stopped call goes on, generation by generation.

    Returns:
        A `Found`: `loss`, `learning_rate`, `beats_baseline`, `table()`, `plot()`, and the report as text. Ctrl-C ends the
        search and gives the best so far.

    Raises:
        ValueError: names what was expected and what came, before anything is computed.
    """
    check_choice("init", init, ("fresh", "keep"))
    starts, seed, timeout = map(native, (starts, seed, timeout))
    check(type(starts) is int and starts > 0, "starts", "a whole number, at least 1", repr(starts))
    check(type(seed) is int and seed >= 0, "seed", "a whole number, 0 or more", repr(seed))
    check(timeout is None or timeout > 0, "timeout", "positive seconds, or None", repr(timeout))
    good = threads is None or (type(threads) is int and threads > 0)
    check(good, "threads", "a whole number, at least 1, or None", repr(threads))
    given = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
    optimiser = Optimiser(optimizer or _sgd, schedule) if optimizer or schedule else None
    config = _config(budget, protocol, initial_losses, operators, train, optimiser)
    where = find_device(device)
    with streams.computing(), streams.global_generators(seed), torch.random.fork_rng(devices=[]), plain_kernels():
        torch.default_generator.manual_seed(seed)  # of a DataLoader and of transforms that draw
        parts = {name: data.read(part, name, target) for name, part in given.items()}
        own = settle(
            model, parts, task, config, metric=metric, task_loss=task_loss, optimiser=optimiser,
            keep=init == "keep", forward=forward, ignore_index=ignore_index, device=where,
        )  # fmt: skip
        config = _fitted(config, own)
        with machine.threads(own.problem.model, threads):
            return _Run(own, config, seed, starts, Watch(progress, timeout, callbacks), checkpoint).found()


def _sgd(weights):
    sgd = Config().sgd
    return torch.optim.SGD(weights, **sgd)


def _config(budget, protocol, initial_losses, operators, train, optimiser: Optimiser | None) -> Config:
    size = getattr(train, "batch_size", None)  # of a DataLoader
    settings = {"batch_size": size} if isinstance(size, int) else {}
    settings |= {"base_learning_rate": optimiser.rate} if optimiser else {}
    config = Config.of(budget, protocol, settings)
    what = "selection for a model of one's own"  # whose validation data may come from elsewhere
    check(config.selection != "resplit", what, "halving or fitness", config.selection)
    return replace(config, initial_losses=initial_losses, operators=tuple(operators or ()))


def _fitted(config: Config, own: Own) -> Config:
    """The filters look at about as many elements as they do where an instance has one; the dtype is the model's."""
    instances = max(2, config.rejection_batch // max(1, own.shapes.positions))
    return replace(config, rejection_batch=instances, dtype=str(own.problem.task.dtype).removeprefix("torch."))


@dataclass
class _Run:
    """One call of `search_loss` under way."""

    own: Own
    config: Config
    seed: int
    starts: int
    watch: Watch
    checkpoint: object

    def __post_init__(self):
        self.problem, self.task = self.own.problem, usual_loss(self.own.problem.task)
        self.state, self.contest = GeneticState(), halving.Contest()
        self.best: Leader | None = None
        self.held = False
        self.ruled = ""  # a note on the validation part
        self.path = None if self.checkpoint is None else Path(self.checkpoint).expanduser()
        self.origin = origin_of([self.problem], self.config)
        self._read()

    def found(self) -> Found:
        """Search, hold the contest, compare."""
        stopped, interrupted = "", False
        self.watch.begin(self._beats(), len(self.state.history), self.config.generations)
        try:
            with heartbeat.listening(self.watch.beat):
                self.watch.phase("baseline")
                self.watch.baseline = fitness([self.task], [self.problem], self.config, self.seed)[0]
                self.ruled = self._ruled()
                self.watch.phase("search")
                search([self.problem], self.config, self.seed, METHOD, self.state, self._on_generation)
                if self.config.selection == "halving":
                    self.watch.phase("contest")
                    self._hold()
        except Enough as enough:
            stopped = str(enough)
        except KeyboardInterrupt:
            stopped, interrupted = "interrupted", True
        rows: list[Row] = []
        leaders = self._leaders()
        try:
            if not interrupted:
                with heartbeat.listening(self.watch.quiet_beat):
                    self.watch.phase("comparison")
                    rows = self._compared(leaders)
        except KeyboardInterrupt:
            stopped = "interrupted"
        finally:
            self.watch.end()
        return self._told(leaders, rows, stopped)

    def _ruled(self) -> str:
        """A note where one validation target makes most of the task loss's mean squared error; empty if none does."""
        task, steps = self.problem.task, self.config.fitness_steps
        if task.metric is not mean_squared_error:
            return ""
        (model,) = train([self.task], self.problem, self.config, self.seed, Trial("fitness", steps, (0,), parts=()))
        if model is None:
            return ""
        rows = batches.in_order(task, "validation", task.evaluation_batch, self.config.evaluation_instances)
        with torch.no_grad(), seeded(self.seed if self.problem.draws else None, task.device):
            errors = torch.cat([(model(x) - y).square().flatten() for x, y in rows])
        share = float(errors.max() / errors.sum())
        return (
            f"one of {len(errors)} validation targets makes {share:.0%} of the mean squared error after {steps} steps under "
            "the task loss, and so chooses the loss: a `metric` such as the mean absolute error hears the others, too"
            if share > RULES
            else ""
        )

    def _beats(self) -> int:
        """How many beats there are to be, about."""
        config, plan = self.config, halving.rounds(self.config)
        each = config.meta_steps + config.rejection_steps // CHUNK + math.ceil(config.fitness_steps / CHUNK)
        left = (config.generations - self.state.generation) * each
        contest = (
            sum(r.starts * math.ceil(r.steps / CHUNK) for r in plan) + 2 * plan[-1].starts * plan[-1].steps // CHUNK
        )
        rates = len(tuned.LEARNING_RATES) * math.ceil(config.fitness_steps / CHUNK)
        compared = (4 * self.starts + 2 * len(FACTORS)) * math.ceil(config.test_steps / CHUNK)
        return left + rates + compared + (contest if config.selection == "halving" else 0)

    def _on_generation(self, state: SearchState) -> None:
        self._write()
        self.watch.generation(state, self.config.generations)

    def _hold(self) -> None:
        def on_round(contest) -> None:
            self._write()

        leaders = self._leaders()
        halving.hold(self.contest, leaders, self.problem, self.config, self.seed, on_round)
        self.held = True
        last = {name: fmean(errors) for name, errors in self.contest.results[-1].items() if name.startswith("leader")}
        if last:  # the best learned one, whether the task loss was better at this rate or not
            self.best = leaders[int(min(last, key=lambda name: last[name]).removeprefix("leader "))]

    def _leaders(self) -> list[Leader]:
        """The search's, the best first; the winner of a contest before all others."""

        def compile(expression: str, weights) -> MetaLoss:
            tensor = torch.as_tensor(weights, dtype=getattr(torch, self.config.dtype))
            kind = (self.problem.task.classification, self.config.non_negative, self.config.protection)
            return MetaLoss(expression, tensor, *kind).to(self.problem.task.device).requires_grad_(False)

        if not hasattr(self, "_found") or self._found[0] != self.state.generation:
            self._found = self.state.generation, list(genetic.found(self.state, self.config, compile).leaders)
        leaders = self._found[1]
        return leaders if self.best is None else [self.best, *(l for l in leaders if l is not self.best)]

    def _compared(self, leaders: list[Leader]) -> list[Row]:
        """The best learned loss and the task loss, each trained in full from the same starts, which no search has seen.

        Each has the optimiser's learning rate, and of `FACTORS` times this rate that of lowest validation error.
        """
        config, usual = self.config, _name(self.own.task_loss)
        losses = ([(LEARNED, leaders[0].loss)] if leaders else []) + [(usual, self.task)]
        part, rows = self.own.judged, []
        for name, loss in losses:
            rates = [factor * config.base_learning_rate for factor in FACTORS]
            tried = {rate: self._trained(loss, rate, "selection", TUNING, 1)[0]["validation"] for rate in rates}
            best = min(rates, key=lambda rate: tried[rate])
            chosen = [(name, config.base_learning_rate)] if best == config.base_learning_rate else []
            chosen = chosen or [(name, config.base_learning_rate), (f"{name}, {TUNED}", best)]
            for label, rate in chosen:
                errors = self._trained(loss, rate, "test", (), self.starts)
                rows.append(Row(label, rate, tuple(each[part] for each in errors)))
        return rows

    def _trained(self, loss, rate: float, purpose: str, index: tuple[int, ...], starts: int) -> list[dict[str, float]]:
        """Errors of full trainings by part, one a start."""
        parts = ("validation", "test") if self.own.judged == "test" else ("validation",)
        trial = Trial(purpose, self.config.test_steps, index, rate, self.config.test_milestones, parts, starts=starts)
        (outcomes,) = run_trial([loss], self.problem, self.config, self.seed, trial)
        return [outcome.errors for outcome in outcomes]

    def _told(self, leaders: list[Leader], rows: list[Row], stopped: str) -> Found:
        own, notes = self.own, [*self.own.notes, *filter(None, [self.ruled])]
        if stopped:
            notes.append(f"stopped: {stopped}, after {self.state.generation} of {self.config.generations} generations")
        if self.config.selection == "halving" and not self.held:
            notes.append("no contest over fresh starts was held, so the loss is the one of best fitness from one start")
        optimiser = self.problem.optimiser
        if optimiser and optimiser.exact != "written out":
            how = "autograd through its own step" if optimiser.exact == "autograd" else "a step of SGD in its place"
            notes.append(f"{optimiser.name}: the meta-gradient goes through {how}")
        mine = [row for row in rows if row.name.startswith(LEARNED)]
        baselines = [row for row in rows if row not in mine]
        learned = mine[-1] if mine else None  # at its tuned rate, where that is another
        best = min(baselines, key=lambda row: row.mean) if baselines else None
        beats = learned.below(baselines) if learned and baselines else None
        loss, rate = own.task_loss, best.learning_rate if best else self.config.base_learning_rate
        if leaders and beats is not False:
            loss = as_given(leaders[0].loss, own)
            rate = learned.learning_rate if learned else self.config.base_learning_rate
        found = Found(
            loss=loss,
            learning_rate=rate,
            beats_baseline=beats,
            metric=self.problem.task.metric_name,
            part=own.judged,
            rows=tuple(rows),
            trivial=own.trivial,
            leaders=tuple(replace(leader, loss=as_given(leader.loss, own)) for leader in leaders),
            state=self.state,
            config=self.config,
            seconds=self.watch.seconds,
            stopped=stopped,
            notes=tuple(notes),
        )
        if beats is not True:
            warnings.warn(found.verdict, stacklevel=4)
        return found

    def _identity(self) -> dict:
        optimiser, task = self.problem.optimiser, self.problem.task
        settings = [optimiser.name, optimiser.rate, bool(optimiser.schedule)] if optimiser else None
        return {"optimiser": settings, "metric": task.metric_name, "test_steps": self.config.test_steps}

    def _write(self) -> None:
        if self.path is not None:
            contest = asdict(self.contest)
            kept = {"schema": SCHEMA, "own": self._identity(), "contest": contest, "state": self.state.to_json()}
            files.write_json(self.path, files.sealed(files.strict(kept)))

    def _read(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        with files.reading(self.path):
            kept = files.unsealed(files.read_json(self.path, SCHEMA))
            check(kept["own"] == self._identity(), "checkpoint", f"one of {self._identity()}", kept["own"])
            state = SearchState.from_json(kept["state"])
            claim(state, METHOD, self.seed, self.origin)
            state.check(self.config)
            self.state = state
            names = list(halving.entrants(self._leaders()))
            self.contest = halving.Contest.from_json(kept["contest"], names, self.config)


def _name(loss: nn.Module) -> str:
    known = {
        nn.CrossEntropyLoss: "cross-entropy",
        nn.MSELoss: "squared error",
        nn.BCEWithLogitsLoss: "binary cross-entropy",
    }
    return getattr(loss, "__name__", None) or known.get(type(loss), type(loss).__name__)


def as_given(loss, own: Own):
    """A learned loss for the outputs and targets in the user's shapes, frozen."""
    loss = loss.of_one_logit() if own.shapes.task == "binary" else loss
    ignored = own.shapes.ignore_index
    return loss if ignored is None else loss.with_options(ignore_index=ignored)
