"""A new data set, base model or method is one row of a registry; tables and figures read it from there."""

import dataclasses

import pytest
import torch
from torch import nn

import evomal_core as ec
from evomal_core.losses.handcrafted import SquaredError
from evomal_core.registry import DATASETS, METHODS, MODELS, DataSet
from evomal_core.search import Leader, Method, Result
from evomal_notebooks import comparisons, plots, report


def load_line(folder, protocol) -> ec.Task:
    x = torch.linspace(-1, 1, 60)[:, None]
    part = (x, 2 * x)
    return ec.Task("line", part, part, part, classification=False)


def wide(input_shape, outputs) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 30), nn.ReLU(), nn.Linear(30, outputs))


def doubled(problems, config, seed, state, on_generation) -> Result:
    """Twice squared error, as a loss of Table I's operators."""
    loss = ec.MetaLoss("add(square(sub(y, f)), square(sub(y, f)))", classification=problems[0].task.classification)
    return Result(loss, None, (Leader(loss, None),), state)


def test_a_new_data_set_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setitem(DATASETS, "line", DataSet(load_line, False, {"base_learning_rate": 0.1}))
    cell = ec.Cell("line", "logistic", "baseline", 0, "smoke")
    assert ec.Config.for_cell(cell).base_learning_rate == 0.1
    run = ec.run_cell(cell, results_dir=tmp_path, device="cpu")
    assert run.status == "complete" and run.test_metric < 1


def test_a_new_base_model_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, "wide", wide)
    run = ec.run_cell(ec.Cell("diabetes", "wide", "gp-lfl", 0, "smoke"), results_dir=tmp_path, device="cpu")
    assert run.status in ("complete", "no_loss") and run.cell.model == "wide"
    assert sum(p.numel() for p in ec.build_model("wide", ec.load_task("diabetes", device="cpu")).parameters()) == 361


def test_a_new_method_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "doubled", Method("doubled", doubled, colour=8))
    cells = [ec.Cell("diabetes", "logistic", method, 0, "smoke") for method in ("baseline", "doubled")]
    runs = ec.run_grid(cells, results_dir=tmp_path, workers=1, progress=None, device="cpu")
    assert [run.status for run in runs] == ["complete"] * 2
    assert runs[0].test_metric != runs[1].test_metric
    records = report.collect(tmp_path, reference_dir=tmp_path / "none")
    assert "doubled" in report.summary(records).index.get_level_values("method")
    assert list(comparisons.compare(records, "doubled")["other"]) == ["baseline"]
    assert plots.colour("doubled") == plots.PALETTE[8]
    result = ec.search(
        [(load_line(None, None), wide((1,), 1))], dataclasses.replace(ec.Config(), generations=1), 0, "doubled"
    )
    assert result.loss is not None and result.leaders[0].loss is result.loss


def test_what_is_no_row_is_named():
    for names, message in ((("lime", "mlp", "evomal"), "data set"), (("diabetes", "mpl", "evomal"), "mlp")):
        with pytest.raises(ValueError, match=message):
            ec.Cell(*names)
    assert isinstance(
        ec.search([(load_line(None, None), wide((1,), 1))], ec.Config(), 0, "baseline").loss, SquaredError
    )
