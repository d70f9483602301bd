"""bfloat16 and channels last as settings: off by default, the losses in float32, the caller's model untouched."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import evomal_core as ec
from evomal_core import training
from evomal_core.config import Config
from evomal_core.experiments import store
from evomal_core.models.initialisation import kaiming_normal
from evomal_core.training import Problem, Trial, meta_gradient, run_trial
from evomal_core.training.acceleration import FORMS

CONFIG = Config(batch_size=16, base_learning_rate=0.05, meta_steps=3, fitness_steps=4)
HALF = replace(CONFIG, autocast=True)


def task(n=64):
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(3, (n,), generator=draw)
    x = torch.randn(n, 2, 8, 8, generator=draw) + y.view(-1, 1, 1, 1)
    return ec.Task("images", (x, y), (x, y), (x, y), classification=True, outputs=3)


def model():
    layers = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    built = nn.Sequential(*layers)
    built.initialisation = kaiming_normal
    return built


class Spy(nn.Module):
    """Cross-entropy that notes the types it is given."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, z, y):
        self.seen.add(z.dtype)
        return nn.functional.cross_entropy(z, y)


def test_off_by_default_and_part_of_a_search_but_not_the_layout():
    assert not Config().autocast and not Config().channels_last
    cell = ec.Cell("mnist", "lenet5", "evomal", 0, "quick+autocast=True")
    assert Config.for_cell(cell).autocast
    plain = ec.Cell("mnist", "lenet5", "evomal", 0, "quick")
    assert store.identity(cell, Config.for_cell(cell)) != store.identity(plain, Config.for_cell(plain))
    layout = replace(Config.for_cell(plain), channels_last=True)
    assert store.identity(plain, layout) == store.identity(plain, Config.for_cell(plain))
    with pytest.raises(ValueError, match="channels_last"):
        ec.Cell("mnist", "lenet5", "evomal", 0, "quick+channels_last=True")


def test_the_loss_sees_float32_and_the_model_runs_in_bfloat16():
    spy, data = Spy(), task()
    kinds = []
    base = model()
    base[0].register_forward_hook(lambda layer, x, z: kinds.append(z.dtype))
    (outcome,) = run_trial([spy], (data, base), HALF, 0, Trial("test", 3, keep_models=True))[0]
    assert spy.seen == {torch.float32}
    assert set(kinds) == {torch.bfloat16}
    assert type(outcome.model) is nn.Sequential and outcome.model[0].weight.dtype == torch.float32
    spy.seen.clear(), kinds.clear()
    run_trial([spy], (data, base), CONFIG, 0, Trial("test", 3))
    assert set(kinds) == {torch.float32}


def test_meta_gradients_of_the_engines_agree_in_bfloat16():
    loss, data = ec.MetaLoss("square(sub(mul(y, f), 1))", classification=True), task()
    base = model()
    with torch.no_grad():
        kaiming_normal(base, torch.Generator().manual_seed(1))
    before = copy.deepcopy(base.state_dict())
    batch = (data.train[0][:16], data.train[1][:16])
    exact, jvp, higher = (
        torch.cat(meta_gradient(loss, base.eval(), batch, batch, data.task_loss, config, engine))
        for config, engine in ((CONFIG, "jvp"), (HALF, "jvp"), (HALF, "higher"))
    )
    assert (jvp - exact).norm() < 0.1 * exact.norm(), "bfloat16 has eight bits"
    assert (jvp - higher).norm() < 0.1 * exact.norm()
    assert not torch.equal(jvp, exact), "it was in use"
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("copies", [1, 2])
def test_searches_run_and_chains_are_not_taken_for_float32(copies):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    config = replace(HALF, population=4, generations=2, rejection_steps=20, copies=copies)
    result = ec.search([(task(), layers)], config, 0)
    assert result.loss is not None
    full = ec.search([(task(), layers)], replace(config, autocast=False), 0)
    assert result.state.history[0]["evaluated"] and full.state.history[0]["evaluated"]
    with pytest.raises(ValueError, match="gram"):
        ec.search([(task(), layers)], replace(config, engine="gram"), 0)


def test_channels_last_changes_the_layout_of_training_and_not_the_numbers():
    data, base = task(), model().double()
    data = data.to("cpu", torch.float64)
    losses = [nn.CrossEntropyLoss()]
    errors = []
    for on in (False, True):
        config = replace(CONFIG, dtype="float64", channels_last=on)
        problem = Problem(data, base, config)
        (session,) = FORMS["sessions"](losses, problem, config)
        last = session.model[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert last == on
        models = training.train(losses, problem, config, 3, Trial("test", 5))
        errors.append(models[0](data.test[0]).detach())
    assert torch.allclose(*errors, rtol=1e-10, atol=1e-12)


def test_a_cell_is_run_and_recorded_with_both(tmp_path):
    cell = ec.Cell("digits", "mlp", "baseline", 0, "smoke+autocast=True")
    run = ec.run_cell(cell, tmp_path, channels_last=True)
    test = run.data
    assert run.status == "complete" and test["config"]["autocast"] and run.path.name == "seed0"
    assert "autocast=True" in str(run.path)
    record = store.read_record(run.path / "record.json")
    assert record["config"]["channels_last"] is True
    assert ec.run_cell(cell, tmp_path).path == run.path, "the layout is no part of the identity"
