"""Trials: starts, curves, rates, and checkpoints from which a killed trial goes on and ends equal to the last digit."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from test_stacked import CONFIG, chain, convolutional, image_task, logistic, losses

import evomal_core as ec
from evomal_core.training import Problem, Trial, fitness, run_trial, trial

TRIAL = Trial("test", 60, parts=("train", "validation"), milestones=(20, 45), curve=(10, 40), starts=2)


def numbers(outcomes) -> list:
    return [(outcome.errors, outcome.curve) for of_loss in outcomes for outcome in of_loss]


def test_several_starts_are_the_starts_alone():
    problem = (image_task(), chain())
    together = run_trial(losses(3), problem, CONFIG, 5, dataclasses.replace(TRIAL, starts=3))
    assert [len(of_loss) for of_loss in together] == [3, 3, 3]
    one = run_trial(losses(3), problem, CONFIG, 5, dataclasses.replace(TRIAL, starts=1))
    for k in range(3):
        assert together[k][0].errors == pytest.approx(one[k][0].errors, rel=1e-12)
        for start in (1, 2):
            alone = run_trial(losses(3)[k : k + 1], problem, CONFIG, 5, TRIAL.of_start(start))
            assert together[k][start].errors == pytest.approx(alone[0][0].errors, rel=1e-12)
    assert len({outcome.errors["train"] for of_loss in together for outcome in of_loss}) > 3


def test_fitness_is_a_trial():
    problem = (image_task(), chain())
    outcomes = run_trial(losses(3), problem, CONFIG, 2, Trial("fitness", CONFIG.fitness_steps, (0,)))
    assert [o.errors["validation"] for (o,) in outcomes] == fitness(losses(3), [problem], CONFIG, 2)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_curve_holds_what_shorter_trials_end_with(copies):
    problem, config = (image_task(), convolutional()), dataclasses.replace(CONFIG, copies=copies)
    long = dataclasses.replace(TRIAL, starts=1, milestones=())
    whole = run_trial(losses(2), problem, config, 0, long)
    for steps in TRIAL.curve:
        short = run_trial(losses(2), problem, config, 0, dataclasses.replace(long, steps=steps, curve=()))
        for (a,), (b,) in zip(whole, short, strict=True):
            assert dict(a.curve)[steps] == pytest.approx(b.errors, rel=1e-12)


def test_learning_rate_and_kept_models():
    problem = (image_task(), chain())
    rate = dataclasses.replace(TRIAL, learning_rate=0.2, starts=1, keep_models=True)
    changed = dataclasses.replace(CONFIG, base_learning_rate=0.2)
    a = run_trial(losses(2), problem, CONFIG, 0, rate)
    b = run_trial(losses(2), problem, changed, 0, dataclasses.replace(rate, learning_rate=None))
    assert numbers(a) == numbers(b)
    x, y = problem[0].validation
    for (outcome,) in a:
        assert not outcome.model.training
        assert float(problem[0].metric(outcome.model(x), y)) == outcome.errors["validation"]
    assert all(
        o.model is None for (o,) in run_trial(losses(2), problem, CONFIG, 0, dataclasses.replace(TRIAL, starts=1))
    )


def test_a_kept_model_has_pytorchs_own_layers():
    task = image_task()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 4),
    ).double()
    assert type(Problem(task, model).model[1]) is not torch.nn.Tanh
    ((outcome,),) = run_trial(losses(1), (task, model), CONFIG, 0, Trial("test", 3, keep_models=True))
    assert [type(m) for m in outcome.model] == [type(m) for m in model]


def test_a_diverged_training_has_no_finite_error():
    config = dataclasses.replace(CONFIG, base_learning_rate=1e200)
    (outcomes,) = run_trial(losses(1), (image_task(), chain()), config, 0, TRIAL)
    assert all(outcome.diverged and outcome.errors["validation"] == math.inf for outcome in outcomes)


class Stop(Exception):
    """Raised in the middle of a trial."""


KINDS = {
    "chain": (chain, {}, False),
    "plain": (chain, {}, True),
    "convolutional": (convolutional, {}, False),
    "convolutional, plain": (convolutional, {}, True),
    "stacked": (convolutional, {"copies": 2}, False),
    "single layer": (logistic, {}, False),
    "no momentum": (chain, {"base_momentum": 0.0, "base_nesterov": False}, False),
    "released": (chain, {"score_non_finite": True}, False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [30, 47, 80])
def test_a_stopped_trial_ends_as_if_never_stopped(kind, after, tmp_path, monkeypatch):
    build, changes, plainly = KINDS[kind]
    config, problem = dataclasses.replace(CONFIG, **changes), (image_task(), build())
    path = tmp_path / "trial.safetensors"
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)
    context = ec.plain() if plainly else torch.no_grad()
    with context:
        want = run_trial(losses(3), problem, config, 1, TRIAL)
        calls, batch = [0], Problem.batch

        def counted(self, *arguments):
            calls[0] += 1
            if calls[0] > after:
                raise Stop
            return batch(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Problem, "batch", counted)
            with pytest.raises(Stop):
                run_trial(losses(3), problem, config, 1, TRIAL, path)
        assert path.exists()
        calls[0] = -10_000
        with monkeypatch.context() as patch:
            patch.setattr(Problem, "batch", counted)
            got = run_trial(losses(3), problem, config, 1, TRIAL, path)
    assert calls[0] + 10_000 <= 120 - 25 * (after // 25 - (after > 60)) + 25  # it did not begin anew
    assert numbers(got) == numbers(want)
    with monkeypatch.context() as patch:
        patch.setattr(Problem, "batch", None)
        assert numbers(run_trial(losses(3), problem, config, 1, TRIAL, path)) == numbers(want), "it is kept"
    path.unlink()
    (kept,) = run_trial(losses(1), problem, config, 1, dataclasses.replace(TRIAL, starts=1, keep_models=True), path)
    assert kept[0].model is not None and not path.exists(), "models are not"


def test_a_trial_lists_all_that_it_was_computed_with(tmp_path, monkeypatch):
    """Begun and gone on with by one machine, ended by another; the usual trial has one entry."""
    path, problem = tmp_path / "trial.safetensors", (image_task(), chain())
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)
    calls, batch = [0], Problem.batch

    def counted(self, *arguments):
        calls[0] += 1
        if calls[0] in (47, 60):
            raise Stop
        return batch(self, *arguments)

    monkeypatch.setattr(Problem, "batch", counted)
    for _ in range(2):
        with pytest.raises(Stop):
            run_trial(losses(3), problem, CONFIG, 1, TRIAL, path, [{"threads": 1}])
    listed = [{"threads": 2}]
    run_trial(losses(3), problem, CONFIG, 1, TRIAL, path, listed)
    assert [entry["threads"] for entry in listed] == [1, 2]
    assert (listed[0]["start"], listed[0]["step"]) == (0, 0) and listed[1]["start"] + listed[1]["step"] > 0
    path.unlink()
    alone = [{"threads": 1}]
    run_trial(losses(3), problem, CONFIG, 1, TRIAL, path, alone)
    assert alone == [{"start": 0, "step": 0, "threads": 1}]


def test_a_checkpoint_of_another_trial_is_refused_and_unharmed(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)
    path, problem = tmp_path / "trial.safetensors", (image_task(), chain())
    run_trial(losses(1), problem, CONFIG, 1, TRIAL, path)
    path.unlink()
    kept = trial.Checkpoint(path, [2, repr(TRIAL)], TRIAL)
    kept.finish([trial.Outcome({"validation": 0.5})])
    before = path.read_bytes()
    with pytest.raises(ec.RecordError, match="the checkpoint of the trial"):
        run_trial(losses(1), problem, CONFIG, 1, TRIAL, path)
    first = trial._identity(losses(1), Problem.of(problem), CONFIG, 1, TRIAL)
    moved = losses(1)
    moved[0].weights.data += 0.1
    other = dataclasses.replace(CONFIG, base_learning_rate=0.3)
    for changed in (
        trial._identity(moved, Problem.of(problem), CONFIG, 1, TRIAL),
        trial._identity(losses(2)[1:], Problem.of(problem), CONFIG, 1, TRIAL),
        trial._identity([losses(1)[0].with_options(label_smoothing=0.1)], Problem.of(problem), CONFIG, 1, TRIAL),
        trial._identity(losses(1), Problem.of(problem), other, 1, TRIAL),
        trial._identity(losses(1), Problem(image_task(80), chain()), CONFIG, 1, TRIAL),
        trial._identity(losses(1), Problem(image_task(), logistic()), CONFIG, 1, TRIAL),
    ):
        assert changed != first
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(ec.RecordError, match="checkpoint of a trial"):
        run_trial(losses(1), problem, CONFIG, 1, TRIAL, path)
    path.write_bytes(before)


SCRIPT = """
    import os, signal, sys
    import evomal_core as ec
    from evomal_core.training import Problem, trial
    trial.CHECKPOINT_SECONDS = 0.0
    left = int(sys.argv[2])
    batch = Problem.batch
    def counted(self, *arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, *arguments)
    Problem.batch = counted
    cell = ec.Cell("diabetes", "logistic", "baseline", 0, "smoke+test_steps=400")
    print(repr(ec.run_cell(cell, results_dir=sys.argv[1], device="cpu").test_metric))
"""


def test_a_killed_test_of_a_cell_goes_on_from_its_checkpoint(tmp_path):
    def run(folder: str, left: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / folder), str(left)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = run("whole", -1).stdout
    for left in (120, 130):
        assert run("killed", left).returncode == -signal.SIGKILL
    assert {p.suffix for p in (tmp_path / "killed").rglob("tests/.*")} == {".safetensors", ".lock"}
    assert run("killed", 230).stdout == whole != ""
    assert not list((tmp_path / "killed").rglob(".*"))
    json.loads(next((tmp_path / "killed").rglob("fresh*.json")).read_text())
