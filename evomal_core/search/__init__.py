"""What finds losses: the genetic search (EvoMAL, GP-LFL, random), CMA-ES (TaylorGLO), gradients alone (ML3), a tuned rate."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .. import streams
from ..config import Config, check, check_choice
from ..losses.elementwise import closed_form
from ..losses.handcrafted import CrossEntropy, SquaredError
from ..losses.neural import NeuralLoss
from ..tasks import Task
from ..training import base, unroll
from ..training.base import Problem
from . import cma_es, genetic
from .evaluate import Evaluator, Individual
from .genetic import SearchState

# method -> (does it optimise loss weights?, is every generation drawn afresh?)
GENETIC_METHODS = {"evomal": (True, False), "gp-lfl": (False, False), "random": (True, True)}
WITHOUT_GENERATIONS = ("baseline", "ml3", "tuned")
METHODS = ("baseline", "ml3", "taylorglo", "gp-lfl", "evomal", "random", "tuned")
LEARNING_RATES = np.logspace(-3, 0, 25)  # of the control `tuned`


def search(
    problems: Sequence[Problem],
    config: Config,
    seed: int = 0,
    method: str = "evomal",
    state: SearchState | None = None,
    on_generation: Callable[[SearchState], None] | None = None,
):
    """Search for a loss (Fig. 1, section IV-A): for your own model, `problems` is `[(task, model)]`.

    Args:
        problems: the meta-training set; each model is scratch, its weights are drawn afresh.
        method: one of `METHODS`. "evomal"; "gp-lfl" is the same without loss optimisation; "random" draws fresh trees
            every generation; "taylorglo"; "ml3"; "tuned" is the task loss with a learning rate chosen by fitness
            (`state.best.weights[0]`); "baseline" the task loss.
        state: goes on from here, and is changed.
        on_generation: called with the state after each generation.

    Returns:
        (best loss, or None if every candidate failed; final `SearchState`).

    Raises:
        ValueError: problems that are no pairs, a model that does not go with its task, or a state of another search.
    """
    check_choice("method", method, METHODS)
    _check(problems, config, seed)
    check(method != "taylorglo" or config.population > 1, "Config.population of taylorglo", "at least 2", 1)
    state = state or SearchState()
    if state.method:
        got = f"{state.method}, seed {state.seed}"
        check((state.method, state.seed) == (method, seed), "state", f"one of {method}, seed {seed}", got)
    state.method, state.seed = method, seed
    task = problems[0][0]
    if method == "baseline":
        return _task_loss(task), state
    if method in ("ml3", "tuned"):
        return {"ml3": _ml3, "tuned": _tuned}[method](problems, config, seed, state), state
    learn_weights, fresh = GENETIC_METHODS.get(method, (False, False))
    evaluator = Evaluator(problems, config, seed, learn_weights)
    while state.generation < config.generations:
        if method == "taylorglo":
            cma_es.step(state, evaluator)
        else:
            genetic.step(state, evaluator, fresh)
        if on_generation:
            on_generation(state)
    if state.best is None:
        return None, state
    if method == "taylorglo":
        return cma_es.taylor(state.best.weights, config, task), state
    return evaluator.compile(state.best.expression, state.best.weights), state


def _check(problems: Sequence[Problem], config: Config, seed: int) -> None:
    """Raise ValueError, naming what was expected and what came, before anything is computed."""
    check(isinstance(config, Config), "config", "a Config", type(config).__name__)
    check(type(seed) is int and seed >= 0, "seed", "a whole number, 0 or more", repr(seed))
    pairs = [p for p in problems if isinstance(p, (tuple, list)) and len(p) == 2 and isinstance(p[0], Task)]
    kinds = [tuple(type(part).__name__ for part in p) if isinstance(p, (tuple, list)) else type(p) for p in problems]
    check(pairs and len(pairs) == len(problems), "problems", "a list of pairs [(Task, model), ...]", kinds)
    check(
        len({task.classification for task, _ in problems}) == 1,
        "problems",
        "of one kind, all classification or none",
        "both",
    )
    for task, model in problems:
        trained = any(p.requires_grad for p in model.parameters())
        check(trained, f"{task.name}: the model", "one with parameters to train", "none that requires a gradient")
        x = task.train[0][:2]
        try:
            with torch.no_grad():
                got = tuple(copy.deepcopy(model).eval()(x).shape)
        except Exception as error:
            text = f"{task.name}: the model cannot be run on x {tuple(x.shape)} {x.dtype}: {error}"
            raise ValueError(text) from error
        want = (len(x), task.outputs)
        check(got == want, f"{task.name}: the model's output", f"(B, {task.outputs})", f"{got} for B = {len(x)}")


def _task_loss(task: Task) -> torch.nn.Module:
    """L_T: the task's own, or this package's module of the same loss, which can be saved and printed."""
    plain = CrossEntropy() if task.classification else SquaredError()
    return plain if closed_form(task.task_loss) is closed_form(plain) else task.task_loss


def _ml3(problems: Sequence[Problem], config: Config, seed: int, state: SearchState) -> NeuralLoss | None:
    """Algorithm 1 alone, on a network of fixed form; None if its weights did not stay finite."""
    task, start = problems[0][0], time.perf_counter()
    loss = NeuralLoss.fresh(streams.torch_generator(seed, "phi"), classification=task.classification)
    loss = loss.to(device=task.device, dtype=task.dtype)
    (finite,) = unroll.optimise_losses([loss], problems, config, seed)
    failed = [] if finite else [Individual("neural", (), math.inf, "non_finite")]  # else there is no fitness
    genetic.tell(state, failed, [i.outcome for i in failed], {"optimise": time.perf_counter() - start}, config)
    return loss if finite else None


def _tuned(problems: Sequence[Problem], config: Config, seed: int, state: SearchState):
    """The task loss, with the learning rate of the best fitness as `state.best.weights[0]`; None if all diverged."""
    loss, start, tried = _task_loss(problems[0][0]), time.perf_counter(), []
    for rate in LEARNING_RATES.tolist():
        (value,) = base.fitness([loss], problems, dataclasses.replace(config, base_learning_rate=rate), seed)
        tried.append(Individual("learning_rate", (rate,), value, "evaluated" if math.isfinite(value) else "non_finite"))
    genetic.tell(state, tried, [i.outcome for i in tried], {"fitness": time.perf_counter() - start}, config)
    return loss if state.best else None
