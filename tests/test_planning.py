"""What a notebook says before it computes, and that `plan` computes nothing."""

import pytest

import evomal_core as ec
from evomal_core import cost_model
from evomal_core.cost_model import Rates
from evomal_notebooks import Parameters, planning

SIZES = {"train": 0, "validation": 0, "test": 0}


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    rates = Rates(meta=0, filter=0, fitness=0.36, test=1.8, instance=0, sizes=SIZES)
    monkeypatch.setattr(cost_model, "timed", lambda problem, config, sizes: rates)


def parameters(tmp_path, **changes):
    given = {"budget": "smoke", "datasets": ("digits",), "models": ("logistic",), "results_dir": str(tmp_path)}
    return Parameters(**given | {"methods": ("baseline", "tuned"), "workers": 1} | changes)


def test_no_seed_computes_nothing(tmp_path, capsys):
    assert planning.compute(parameters(tmp_path)) == []
    assert "No seed was asked for" in capsys.readouterr().out


def test_the_plan_is_shown_before_and_instead(tmp_path, capsys):
    assert planning.compute(parameters(tmp_path, seed=0, plan=True)) == []
    text = capsys.readouterr().out
    assert "Runs asked for: 2; of these 0 have a record already." in text
    assert "Expected on this machine: 2 min in all." in text and "plan is True" in text
    assert not list(tmp_path.iterdir())
    done = planning.compute(parameters(tmp_path, seed=0))
    assert [run.status for run in done] == ["complete", "complete"]
    capsys.readouterr()
    assert len(planning.compute(parameters(tmp_path, seed=0))) == 2
    text = capsys.readouterr().out
    assert "of these 2 have a record already" in text and "Expected" not in text


def test_a_search_counts_once(tmp_path):
    cells = [ec.Cell("digits", "logistic", "tuned", 0, f"smoke+test_steps={n}") for n in (20, 40)]
    table = planning.plan(cells, parameters(tmp_path))
    assert table["search"].tolist() == pytest.approx([25 * 5 * 0.36 / 3600, 0])
    assert table["test"].tolist() == pytest.approx([20 * 1.8 / 3600, 40 * 1.8 / 3600])
    shown = planning.display_plan(table)
    assert shown["runs"].tolist() == [1, 1] and shown["search"].tolist() == ["45 s", "0 s"]


def test_damaged_records_count_as_missing(tmp_path):
    cell = ec.Cell("digits", "logistic", "baseline", 0, "smoke")
    path = tmp_path / "digits/logistic/baseline/smoke-paper/seed0/record.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert planning.missing([cell], parameters(tmp_path)) == [cell]


@pytest.mark.parametrize(
    ("value", "text"), [(5 / 3600, "5 s"), (0.5, "30 min"), (1.4, "84 min"), (2.25, "2.2 h"), (12_345.0, "12,345 h")]
)
def test_times_in_words(value, text):
    assert planning.hours(value) == text


def test_source_and_target_are_read():
    from evomal_notebooks import read_parameters

    known = "seed source target methods plan"
    given = {"seed": 1, "source": "mnist/logistic", "target": "digits/logistic", "methods": "evomal", "plan": "True"}
    p = read_parameters(given, known)
    assert (p.source, p.target, p.plan) == ("mnist/logistic", "digits/logistic", True)
    assert p.cells() == [ec.Cell("digits", "logistic", "evomal", 1)]
    for bad, message in (
        ("mnist", "a data set and a model"),
        ("mnst/mlp", "Did you mean 'mnist'"),
        ("mnist/mpl", "mlp"),
    ):
        with pytest.raises(ValueError, match=message):
            read_parameters(given | {"source": bad}, known)
