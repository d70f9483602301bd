"""Notebook parameters: what papermill passes is read, and what is wrong fails at once and names the near miss."""

import dataclasses
import math

import pytest

import evomal_core as ec
from evomal_notebooks import Parameters, read_parameters

ALL = "seed seeds budget datasets models methods protocol device results_dir data_dir workers cluster force"


def read(**given):
    return read_parameters(given, ALL)


def test_defaults_compute_nothing():
    p = read(seed=None, seeds=[])
    assert p.cells() == []
    assert len(p.rows) == 1 * 1 * len(ec.METHODS)
    assert p == Parameters()


@pytest.mark.parametrize("value", [3, "3", " 3 "])
def test_one_more_seed_as_papermill_passes_it(value):
    cells = read(seed=value, datasets="diabetes,boston", methods=["evomal"]).cells()
    assert cells == [ec.Cell("diabetes", "mlp", "evomal", 3), ec.Cell("boston", "mlp", "evomal", 3)]


@pytest.mark.parametrize("value", [[0, 1, 2], (0, 1, 2), "0,1,2", "0, 1, 2", "[0, 1, 2]", ["0", 1, 2, 2]])
def test_a_list_is_a_list_or_a_string_with_commas(value):
    assert read(seeds=value).seeds == (0, 1, 2)


def test_one_value_is_a_list_of_one():
    p = read(seeds=4, datasets="boston", models="mlp", methods="'evomal'")
    assert (p.seeds, p.datasets, p.models, p.methods) == ((4,), ("boston",), ("mlp",), ("evomal",))
    assert read(seeds="").seeds == ()


def test_cells_are_the_product_without_repetition():
    p = read(seed=1, seeds="0,1", methods="baseline,evomal", datasets="diabetes,boston")
    assert len(p.cells()) == len(set(p.cells())) == 2 * 2 * 2
    assert [cell.seed for cell in p.cells()] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ({"budget": "qick"}, "quick"),
        ({"budget": "quick+generatons=3"}, "generations"),
        ({"protocol": "papr"}, "paper"),
        ({"protocol": "paper+elitsm=off"}, "elitism"),
        ({"datasets": "diabetes,bostn"}, "boston"),
        ({"methods": ["evmal"]}, "evomal"),
        ({"models": "lenet"}, "lenet5"),
        ({"device": "cp"}, "cpu"),
        ({"force": "tru"}, "True"),
    ],
)
def test_unknown_value_names_the_near_miss(given, near):
    with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
        read(**given)


def test_a_place_that_is_not_there_is_named_at_once():
    with pytest.raises(
        ValueError, match=r"device, of those that PyTorch finds here, must be one of auto, cpu.*'cuda:99'"
    ):
        read(device="cuda:99")
    with pytest.raises(ValueError, match="data_dir must be an existing folder, got 'no/such/folder'"):
        read(data_dir="no/such/folder")


@pytest.mark.parametrize(
    "given",
    [
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"seed": "three"},
        {"seeds": "1,x"},
        {"workers": 0},
        {"datasets": []},
        {"starts": 0},
        {"starts": "many"},
        {"leaders": -2},
    ],
)
def test_value_out_of_range_names_the_parameter(given):
    (name,) = given
    with pytest.raises(ValueError, match=name):
        read_parameters(given, f"{ALL} starts leaders")


def test_starts_and_leaders_are_shown_where_a_notebook_takes_them():
    p = read_parameters({"starts": "20", "leaders": None}, f"{ALL} starts leaders")
    assert (p.starts, p.leaders) == (20, None)
    assert "starts = 20" in str(p) and "leaders" not in str(p) and "starts" not in str(read())
    assert read_parameters({"leaders": 3}, f"{ALL} starts leaders").leaders == 3


@pytest.mark.parametrize(("name", "near"), [("sed", "seed"), ("dataset", "datasets"), ("result_dir", "results_dir")])
def test_unknown_parameter_names_the_near_miss(name, near):
    with pytest.raises(ValueError, match=f"parameter of this notebook must.*got '{name}'. Did you mean '{near}'"):
        read(**{name: "x"})


def test_a_parameter_that_this_notebook_does_not_take_is_unknown():
    with pytest.raises(ValueError, match="a parameter of this notebook must be one of seed, datasets; got 'models'"):
        read_parameters({"seed": 1, "models": "mlp"}, "seed datasets")


def test_what_a_notebook_has_beside_its_parameters_is_no_parameter():
    names = {"In": [""], "Out": {}, "get_ipython": read, "exit": object(), "quit": object(), "open": open}
    imported = {"ec": ec, "math": math, "Cell": ec.Cell, "_private": 1, "__name__": "__main__"}
    assert read_parameters({**names, **imported, "seed": 2}, ALL).seed == 2


def test_in_a_live_kernel_later_variables_are_no_parameters():
    notebook = {"get_ipython": read, "seed": 1}
    read_parameters(notebook, ALL)
    notebook |= {"table": [1, 2], "seed": 2}
    assert read_parameters(notebook, ALL).seed == 2


def test_a_notebook_may_allow_fewer_values():
    with pytest.raises(ValueError, match="datasets must be one of diabetes, boston; got 'mnist'"):
        read_parameters({"datasets": "mnist"}, ALL, datasets=("diabetes", "boston"))


def test_parameters_are_frozen_and_equal_names_are_equal():
    p = read(budget="quick+population=8+generations=3", protocol="paper+elitism=on")
    assert (p.budget, p.protocol) == ("quick+generations=3", "paper")
    assert p.config.generations == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.seed = 1


def test_arguments_for_run_grid_and_the_place_of_figures(tmp_path):
    p = read(results_dir=str(tmp_path), device="cpu", workers="2", force="true")
    assert p.run_arguments == {
        "results_dir": str(tmp_path),
        "data_dir": None,
        "device": "cpu",
        "workers": 2,
        "force": True,
        "executor": None,
    }
    far = read(cluster="tcp://head:8786", workers=2)
    assert (far.run_arguments["executor"], far.run_arguments["workers"]) == ("tcp://head:8786", None)
    assert read(cluster="local", workers=3).run_arguments["workers"] == 3
    assert "cluster = 'tcp://head:8786'" in str(far) and "cluster" not in str(p)
    assert p.figures == tmp_path / "figures"
    assert read().figures.parts[-2:] == ("results", "figures")
