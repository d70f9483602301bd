"""Trials (eq. 3): train base models under losses and judge them.

Fitness, meta-testing, the control `tuned`, learning-rate grids, transfer and re-validation are trials of other purpose,
length, rate or start. All losses of a trial see one stream of initial weights and batches, so they differ in nothing else.
"""

import copy
import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import nn

from .. import files, streams
from ..checks import check, check_choice, native
from ..config import Config
from ..losses import Loss
from ..machine import since
from ..models.mixed_precision import MixedPrecision
from ..models.random_layers import seeded
from . import batches, heartbeat
from .acceleration import accelerated
from .problem import Problem
from .session import Session

CHUNK = 25  # steps that one session makes before the next: its weights stay in the cache, batches are drawn once
CHECK_EVERY = 2 * CHUNK  # steps between looks for trainings that diverged
LOOKS = 40  # of early stopping, at the validation error in the course of a training
CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SCHEMA = 2


@dataclass(frozen=True)
class Trial:
    """What a training that judges a loss is.

    Args:
        purpose: "fitness" or "test"; names the streams of initial weights, batches and what layers draw.
        steps: number of steps of the base optimiser.
        index: goes with the purpose: the task's position of a fitness evaluation, nothing of a test.
        learning_rate: the base optimiser's; None takes the configuration's.
        milestones: steps at which the learning rate is multiplied by 0.1.
        parts: the parts of the task that are measured at the end, and after each of the steps in `curve`.
        stop: "end", or "validation": of `LOOKS` steps, evenly apart, the one of lowest validation error is the last.
        starts: how many initialisations; start 0 has the stream `index`, start s > 0 the stream `(*index, s)`.
        keep_models: whether the trained models are part of the outcome.
    """

    purpose: str
    steps: int
    index: tuple[int, ...] = ()
    learning_rate: float | None = None
    milestones: tuple[int, ...] = ()
    parts: tuple[str, ...] = ("validation",)
    curve: tuple[int, ...] = ()
    stop: str = "end"
    starts: int = 1
    keep_models: bool = False

    def __post_init__(self):
        for each in fields(self):
            object.__setattr__(self, each.name, native(getattr(self, each.name)))

    def of_start(self, start: int) -> "Trial":
        """The trial of one of the starts alone."""
        return replace(self, index=(*self.index, start) if start else self.index, starts=1)

    @property
    def looks(self) -> tuple[int, ...]:
        """The steps before the last after which the model is measured."""
        steps = {*self.curve, *(early_stops(self.steps) if self.stop == "validation" else ())}
        return tuple(sorted(step for step in steps if step < self.steps))


def early_stops(steps: int) -> list[int]:
    """The `LOOKS` steps, evenly apart, among which early stopping chooses; the last is the end."""
    return sorted({math.ceil(steps * look / LOOKS) for look in range(1, LOOKS + 1)})


@dataclass
class Outcome:
    """What came of training one base model under one loss.

    Attributes:
        errors: part -> performance metric; inf where the training, or the metric, was not finite.
        curve: for each step of `Trial.looks`, (step, errors).
        step: the step after which `errors` were measured.
        model: the trained model in evaluation mode, if it was to be kept and is finite.
    """

    errors: dict[str, float]
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    step: int = 0
    model: nn.Module | None = None

    @property
    def diverged(self) -> bool:
        return not all(map(math.isfinite, self.errors.values()))


def run_trial(
    losses: Sequence[nn.Module],
    problem: Problem,
    config: Config,
    seed: int,
    trial: Trial,
    checkpoint: Path | None = None,
    provenance: list[dict] | None = None,
) -> list[list[Outcome]]:
    """Train a fresh base model under each loss from each start, and judge it.

    Args:
        problem: a `Problem`, or a pair (task, model).
        checkpoint: a file from which a killed trial goes on. It is written about once a minute and at the end; results do
            not depend on it. Whoever keeps the outcomes removes it then, so that a kill in between loses nothing.
        provenance: takes what the trial was computed with, and from which start and step on; on entry, one object, what it
            is computed with now. There is one entry, unless the checkpoint is of another machine, code or setting.

    Returns:
        For each loss, one outcome a start.
    """
    check(isinstance(trial.starts, int) and trial.starts > 0, "Trial.starts", "at least 1", trial.starts)
    check_choice("Trial.stop", trial.stop, ("end", "validation"))
    one = trial.starts == 1 and trial.stop == "end"  # a checkpoint has no models but those under way
    got = f"{trial.starts}, {trial.stop}"
    check(
        one or not (checkpoint and trial.keep_models),
        "starts and stop with keep_models and a checkpoint",
        "1, end",
        got,
    )
    if not losses:
        return []
    with streams.computing(), torch.enable_grad():
        problem = Problem.of(problem, config)
        if trial.learning_rate is not None:
            config = replace(config, base_learning_rate=trial.learning_rate)
        kept = Checkpoint(checkpoint, _identity(losses, problem, config, seed, trial), trial) if checkpoint else None
        if kept and provenance:
            where = {"start": len(kept.outcomes), "step": kept.step}
            with files.reading(checkpoint):
                provenance[:] = kept.provenance = since(kept.provenance, where, *provenance)
        done: list[list[Outcome]] = list(kept.outcomes) if kept else []
        with files.reading(checkpoint):
            check({*map(len, done)} <= {len(losses)}, "outcomes of a start", f"{len(losses)}", [len(o) for o in done])
        for start in range(len(done), trial.starts):
            done.append(_from_one_start(losses, problem, config, seed, trial.of_start(start), kept))
        if kept and trial.keep_models:
            kept.path.unlink(missing_ok=True)  # it has no models
        return [list(outcomes) for outcomes in zip(*done, strict=True)]


def train(losses: Sequence[nn.Module], problem, config: Config, seed: int, trial: Trial) -> list[nn.Module | None]:
    """The models that `run_trial` trains from the first start, in evaluation mode; None where the training diverged."""
    outcomes = run_trial(losses, problem, config, seed, replace(trial, keep_models=True, starts=1))
    return [outcome.model for (outcome,) in outcomes]


def _from_one_start(losses, problem: Problem, config: Config, seed: int, trial: Trial, kept) -> list[Outcome]:
    index, purpose = trial.index, trial.purpose
    problem.initialise(seed, f"{purpose}-init", *index)
    form = accelerated("sessions")
    sessions = (form and form(losses, problem, config)) or [Session(loss, problem, config) for loss in losses]
    outcomes = [Outcome({}) for _ in losses]
    begin = kept.restore(sessions, outcomes) if kept else 0
    for session in sessions:
        for step in trial.milestones:
            if step < begin:
                session.optimiser.change_rate(0.1)
    running = [session for session in sessions if session.running()]
    ends = sorted({*range(CHUNK, trial.steps, CHUNK), trial.steps, *trial.looks})
    for start, end in itertools.pairwise([begin, *(e for e in ends if e > begin)]):
        if running:
            steps = range(start, end)
            data = [problem.batch("train", config.batch_size, seed, f"{purpose}-batch", *index, t) for t in steps]
            seeds = [problem.layer_seed(seed, f"{purpose}-layers", *index, t) for t in steps]
            for session in running:
                heartbeat.beat()
                for t, batch, layer_seed in zip(steps, data, seeds, strict=True):
                    if t in trial.milestones:
                        session.optimiser.change_rate(0.1)
                    session.step(batch, layer_seed)
            if start % CHECK_EVERY == 0:  # rarely: on a GPU the host waits for it
                running = [session for session in running if session.running()]
        if end in trial.looks:
            for outcome, (errors, model) in zip(outcomes, _judged(sessions, problem, config, seed, trial), strict=True):
                outcome.curve.append((end, errors))
                if model is not None:
                    _take(outcome, end, errors, copy.deepcopy(model) if trial.keep_models else None, trial)
                    model.train()
        if kept and end < trial.steps:
            kept.write(sessions, outcomes, end)
    for outcome, (errors, model) in zip(outcomes, _judged(sessions, problem, config, seed, trial), strict=True):
        _take(outcome, trial.steps, errors, model if trial.keep_models else None, trial)
    if kept:
        kept.finish(outcomes)
    return outcomes


def _take(outcome: Outcome, step: int, errors: dict[str, float], model: nn.Module | None, trial: Trial) -> None:
    """The errors after a step, and the model, are those of the trial: at the end, or where validation is the best so far."""
    if trial.stop == "validation":
        if outcome.errors and errors["validation"] >= outcome.errors["validation"]:
            return
    elif step < trial.steps:
        return
    outcome.errors, outcome.step, outcome.model = errors, step, None
    if model is not None:
        usual = accelerated("usual_layers")
        model = model.model if isinstance(model, MixedPrecision) else model
        outcome.model = (usual(model) if usual else model).eval()


def _judged(sessions, problem: Problem, config: Config, seed: int, trial: Trial):
    """(errors by part, model or None) of each model as it is now."""
    layer_seed = problem.layer_seed(seed, f"{trial.purpose}-layers", *trial.index, trial.steps)
    rest = config.evaluation_instances, layer_seed
    for model in (model for session in sessions for model in session.models()):
        yield {part: evaluate(model, problem.task, part, *rest) for part in trial.parts}, model


@torch.no_grad()
def evaluate(model: nn.Module | None, task, part: str, instances: int = 0, seed: int | None = None) -> float:
    """Performance metric of a trained model on a part of the task, in evaluation mode; inf if it diverged.

    Args:
        instances: how many of the part's first instances are measured; 0 for all.
        seed: the seed of what layers draw in evaluation mode, too; None for a model that draws nothing.
    """
    if model is None:
        return math.inf
    model.eval()
    with seeded(seed, task.device):
        outputs, y = zip(
            *((model(x), y) for x, y in batches.in_order(task, part, task.evaluation_batch, instances)), strict=True
        )
    outputs = torch.cat(outputs)
    value = float(task.metric(outputs, torch.cat(y))) if outputs.isfinite().all() else math.inf
    return value if math.isfinite(value) else math.inf


def _identity(losses: Sequence[nn.Module], problem: Problem, config: Config, seed: int, trial: Trial) -> list:
    """What makes a trial this trial: seed, trial, base optimiser, losses, and a digest of their weights and the problem."""
    settings = [config.batch_size, sorted(config.sgd.items()), config.score_non_finite, config.evaluation_instances]
    weights = [tensor for loss in losses for tensor in (*loss.parameters(), *loss.buffers())]
    digest = problem.digest("train", *trial.parts, also=weights)
    names = [f"{loss} {files.digest(loss.to_json())}" if isinstance(loss, Loss) else str(loss) for loss in losses]
    return [seed, repr(trial), settings, names, digest]  # a digest, since names lack options


class Checkpoint:
    """The file of a trial that is under way: the sessions' tensors, the step, the outcomes so far; safetensors, no pickle.

    Args:
        identity: what makes the trial this trial.
        trial: the trial itself.

    Raises:
        RecordError: the file is damaged or of another trial.
    """

    def __init__(self, path: Path, identity: list, trial: Trial):
        self.path, self.identity, self.trial = Path(path).expanduser(), json.dumps(identity), trial
        self.written = time.monotonic()
        self.outcomes: list[list[Outcome]] = []  # of the starts that are done
        self.provenance: list[dict] = []
        self.step, self.tensors, self.current = 0, {}, []
        with files.reading(self.path):
            if self.path.exists():
                self._read()

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open  # slow to import, and used here alone

        files.check_regular(self.path, sys.maxsize)
        try:
            with safe_open(self.path, "pt") as file:
                text = (file.metadata() or {}).get("trial", "{}")
                self.tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"expected the checkpoint of a trial, got {error}") from None
        facts = files.parse_json(text.encode(), CHECKPOINT_SCHEMA)
        got, want = facts.get("identity"), self.identity
        check(got == want, "it", f"the checkpoint of the trial {want}", got)
        check(files.unsealed(facts)["tensors"] == _digest(self.tensors), "its tensors", "those of its digest", "others")
        self.step, self.provenance = facts["step"], facts.get("provenance", [])
        self.outcomes = [[_outcome(o) for o in of_start] for of_start in facts["outcomes"]]
        self.current = [_outcome(o) for o in facts["current"]]
        trial, parts = self.trial, [sorted(outcome.errors) for start in self.outcomes for outcome in start]
        fits = type(self.step) is int and 0 <= self.step < trial.steps and len(self.outcomes) <= trial.starts
        check(fits, "step and starts", f"below {trial.steps} of {trial.starts}", (self.step, len(self.outcomes)))
        check(all(part == sorted(trial.parts) for part in parts), "errors", f"of {', '.join(trial.parts)}", parts)

    def restore(self, sessions, outcomes: list[Outcome]) -> int:
        """Bring sessions and outcomes to where the file was written; returns the step to go on from."""
        if not self.step:
            return 0
        for k, session in enumerate(sessions):
            prefix = f"{k}."
            kept = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
            shapes = ([(n, *of[n].shape, of[n].dtype) for n in sorted(of)] for of in (session.tensors(), kept))
            with files.reading(self.path):
                own, old = map(str, shapes)
                check(own == old, "its tensors", f"those of the same number of copies, {own[:300]}", old[:300])
                session.load(kept)
        with files.reading(self.path):
            for own, old in zip(outcomes, self.current, strict=True):
                own.curve, own.errors, own.step = old.curve, old.errors, old.step
        step, self.step, self.tensors = self.step, 0, {}
        return step

    def write(self, sessions, outcomes: list[Outcome], step: int) -> None:
        """Write the file if the last one is older than `CHECKPOINT_SECONDS`."""
        if time.monotonic() - self.written < CHECKPOINT_SECONDS:
            return
        each = enumerate(sessions)
        self._save({f"{k}.{name}": t for k, session in each for name, t in session.tensors().items()}, outcomes, step)

    def finish(self, outcomes: list[Outcome]) -> None:
        """One start is done."""
        self.outcomes.append(outcomes)
        self._save({}, [], 0)

    def _save(self, tensors: dict, current: list[Outcome], step: int) -> None:
        from safetensors.torch import save

        facts = {"schema": CHECKPOINT_SCHEMA, "identity": self.identity, "step": step, "provenance": self.provenance}
        facts |= {"outcomes": [[_plain(o) for o in of_start] for of_start in self.outcomes]}
        dense = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        facts |= {"current": [_plain(o) for o in current], "tensors": _digest(dense)}
        facts = files.sealed(json.loads(json.dumps(facts, allow_nan=False)))
        files.write_bytes(self.path, save(dense, {"trial": json.dumps(facts)}))
        self.written = time.monotonic()


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """What names contiguous tensors on the CPU: a digest of their names, types, shapes and bytes."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _plain(outcome: Outcome) -> dict:
    return files.strict({"errors": outcome.errors, "curve": outcome.curve, "step": outcome.step})


def _outcome(data: dict) -> Outcome:
    def errors(of: dict) -> dict[str, float]:
        return {part: math.inf if error is None else error for part, error in of.items()}

    return Outcome(errors(data["errors"]), [(step, errors(of)) for step, of in data["curve"]], data["step"])
