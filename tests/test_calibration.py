"""Measures of confidence against examples by hand and scikit-learn, and how measurements are kept, compared and told."""

import math

import numpy as np
import pandas
import pytest
import torch
from sklearn.calibration import calibration_curve

import evomal_core as ec
from evomal_notebooks import calibration

CELL = ec.Cell("digits", "logistic", "baseline", 7, "smoke")  # no reference record has this seed


def test_calibration_error_by_hand():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = torch.tensor([True, True, True, False, True, False])
    wanted = 4 / 6 * abs(3 / 4 - 0.95) + 2 / 6 * abs(1 / 2 - 0.55)
    assert calibration.expected_calibration_error(confidence, correct, 10) == pytest.approx(wanted, abs=1e-7)
    sure = torch.ones(3)
    assert calibration.expected_calibration_error(sure, sure.bool()) == 0
    edge = torch.tensor([0.5, 0.51], dtype=torch.float64)  # 0.5 ends the first of two bins
    assert calibration.expected_calibration_error(edge, torch.tensor([True, False]), 2) == pytest.approx(
        (0.5 + 0.51) / 2
    )


def test_calibration_error_is_the_weighted_gap_of_scikit_learns_curve():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.1, 1, 500)
    correct = random.uniform(size=500) < confidence**2
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    counts, _ = np.histogram(confidence, 15, (0, 1))
    wanted = (counts[counts > 0] * abs(accuracy - mean)).sum() / 500
    found = calibration.expected_calibration_error(torch.tensor(confidence), torch.tensor(correct))
    assert found == pytest.approx(wanted, abs=1e-12)


def test_measures_by_hand():
    logits = torch.tensor([[math.log(3), 0.0], [5.0, 5.0 + math.log(9)]])  # confidences 0.75 and 0.9
    found = calibration.measures(logits, torch.tensor([0, 0]))
    assert found["error"] == 0.5
    assert found["confidence"] == pytest.approx(0.825)
    assert found["ece"] == pytest.approx((0.25 + 0.9) / 2)
    assert found["nll"] == pytest.approx(-(math.log(0.75) + math.log(0.1)) / 2)
    assert found["norm"] == pytest.approx((math.log(3) + math.log(9)) / math.sqrt(2) / 2)


def test_losses_by_name():
    z, y = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    some = calibration.losses(0)
    assert "EvoMAL" in some and "EvoMAL" not in calibration.losses(7)
    assert {name for pair in calibration.PAIRS for name in pair[:2]} == set(some)
    assert float(some["2 x label smoothing"](z, y)) == pytest.approx(2 * float(some["label smoothing"](z, y)))
    record = ec.find_run(ec.Cell("mnist", "logistic", "evomal", 0, "paper"), calibration.report.REFERENCE)
    assert str(some["EvoMAL"]) == str(record.loss)


def test_measurements_are_kept_and_not_made_again(tmp_path, monkeypatch):
    table = calibration.compute([CELL, ec.Cell("digits", "logistic", "evomal", 7, "smoke")], tmp_path)
    assert list(table["loss"]) == list(calibration.losses(7))
    assert set(table["n"]) == {360} and set(table["steps"]) == {20} and set(table["status"]) == {"complete"}
    task = ec.load_task("digits")
    test = ec.test_loss(ec.CrossEntropy(), task, ec.build_model("logistic", task), ec.Config.for_cell(CELL), 7)
    assert table["error"].iloc[0] == pytest.approx(test.error, abs=1e-6)
    pandas.testing.assert_frame_equal(calibration.read(tmp_path), table)
    monkeypatch.setattr(calibration, "train", lambda *_: pytest.fail("trained again"))
    again = calibration.compute([CELL], tmp_path)
    pandas.testing.assert_frame_equal(again, table)
    with pytest.raises(pytest.fail.Exception):
        calibration.compute([CELL], tmp_path, force=True)
    nothing = calibration.compute([], tmp_path)
    assert nothing.empty and list(nothing) == calibration.COLUMNS
    assert calibration.compute([], tmp_path / "none").empty


def test_a_training_that_diverges_has_a_row_without_measures(monkeypatch, tmp_path):
    bad = calibration.Times(math.nan, ec.CrossEntropy())
    monkeypatch.setattr(calibration, "losses", lambda seed: {"cross-entropy": ec.CrossEntropy(), "focal": bad})
    table = calibration.compute([CELL], tmp_path)
    assert list(table["status"]) == ["complete", "diverged"]
    assert table["error"].isna().tolist() == [False, True]
    assert list(calibration.display_summary(table)["diverged"]) == [0, 1]
    calibration.figure(table)


@pytest.fixture
def table():
    """Three seeds of two losses on a task; the second has 0.1 less confidence, an equal error, an uncertain ece."""
    rows = []
    for loss, shift, ece in (("cross-entropy", 0, (0.1, 0.2, 0.3)), ("focal", -0.1, (0.2, 0.1, 0.3))):
        for seed in range(3):
            row = {"dataset": "digits", "model": "logistic", "budget": "paper+base_learning_rate=0.5", "steps": 10000}
            row |= {"loss": loss, "seed": seed, "status": "complete", "error": 0.2, "confidence": 0.7 + shift}
            rows.append(row | {"ece": ece[seed], "nll": 1.0, "norm": 5.0 + seed})
    return pandas.DataFrame(rows)


def test_summary_and_titles(table):
    shown = calibration.display_summary(table)
    row = shown.loc[("digits, logistic, 10000 steps, learning rate 0.5", "focal")]
    assert row["mean confidence"] == "0.6000 ± 0.0000" and row["confidence − accuracy"] == "-0.2000 ± 0.0000"
    assert row["norm of the logits"] == "6.0000 ± 1.0000" and row["n"] == 3


def test_comparisons_in_words(table):
    comparison = calibration.compare(table)
    assert dict(zip(comparison["measure"], comparison["finding"], strict=True)) == {
        "confidence": "smaller",
        "error": "the same",
        "ece": "open",
        "nll": "the same",
        "norm": "the same",
    }
    (line,) = calibration.verdicts(comparison)
    assert line.startswith(
        "digits, logistic, 10000 steps, learning rate 0.5, n = 3: with focal instead of cross-entropy, "
    )
    assert "the mean confidence is lower (-0.1000 [-0.1000, -0.1000])" in line
    assert line.endswith("and the test error is the same (+0.0000 [+0.0000, +0.0000]).")
    assert list(calibration.counts(comparison).loc["focal instead of cross-entropy"]) == ["lower 1", "open 1", "same 1"]
    assert calibration.compare(table[:0]).empty


def test_repeated_measurements_are_held_against_the_stored_ones(table):
    changes = calibration.repeated(table[1:3].assign(confidence=0.75), table)
    assert list(changes) == pytest.approx([0.05, 0.05])
    assert calibration.repeated(table[:1].assign(seed=9), table).empty
    assert calibration.repeated(table[:0], table).empty


def test_figure_has_a_row_a_measure_and_a_column_a_task(table):
    axes = calibration.figure(table).axes
    assert [axis.get_xlabel() for axis in axes] == [
        "test error",
        "mean confidence",
        "calibration error",
        "norm of the logits",
    ]
    calibration.figure(table[:0])


def test_reference_measurements_are_whole():
    table = calibration.read(calibration.report.REFERENCE)
    assert not table.duplicated(calibration.KEY).any()
    assert table[["n", "seconds", "hardware", "torch", "commit"]].notna().all(axis=None)
    done = table[table["status"] == "complete"]
    assert done[["error", "confidence", "ece"]].apply(lambda column: column.between(0, 1)).all(axis=None)
    assert (abs(done["confidence"] - (1 - done["error"])) <= done["ece"] + 1e-9).all(), "a mean gap is at most the ECE"


@pytest.mark.parametrize("seed", range(5))
def test_evomals_loss_repeats_the_error_of_its_record(seed):
    table = calibration.read(calibration.report.REFERENCE)
    (row,) = table.query(
        "dataset == 'mnist' and model == 'logistic' and loss == 'EvoMAL' and seed == @seed"
    ).itertuples()
    record = ec.find_run(ec.Cell("mnist", "logistic", "evomal", seed, "paper"), calibration.report.REFERENCE)
    assert row.error == pytest.approx(record.test_metric, abs=5e-4)
