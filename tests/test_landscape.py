"""Directions, slices and their files, and what the tables say, against answers that are known."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

import evomal_core as ec
from evomal_core import files, streams, training
from evomal_core.experiments import store
from evomal_notebooks import flatness, landscape, report

CELL = ec.Cell("diabetes", "mlp", "baseline", 3, "smoke")


def network(seed=0):
    """A convolutional network with a BatchNorm that has seen data, and a frozen last layer."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.Linear(5, 3)
    model = nn.Sequential(*layers)
    model[-1].requires_grad_(False)
    model(torch.randn(16, 1, 8, 8))
    return model


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    part = torch.randn(50, 1, 8, 8, generator=generator), torch.randint(3, (50,), generator=generator)
    return ec.Task("made", part, part, part, classification=True, outputs=3)


@pytest.fixture(scope="module")
def quadratic():
    """A linear model without bias, of two inputs; its mean squared error is a quadratic in the weights."""
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 3.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [-2.0], [0.5], [4.0]], dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.6, -0.8]]))
    return ec.Task("made", (x, y), (x, y), (x, y), classification=False), model


def test_a_direction_has_the_norms_of_the_filters_and_is_zero_where_it_should_be():
    model = network()
    directions = landscape.direction(model, 5, 1)
    for (name, p), d in zip(model.named_parameters(), directions, strict=True):
        assert d.shape == p.shape and d.dtype == torch.float64
        if p.ndim == 1 or name.startswith("5"):
            assert not d.any(), f"{name} is a bias, of BatchNorm, or not trained"
            continue
        for filter_d, filter_p in zip(d, p.detach().double(), strict=True):
            assert filter_d.norm().item() == pytest.approx(filter_p.norm().item(), rel=1e-13)
    raw = torch.randn(4, 9, generator=streams.torch_generator(5, "landscape", 1), dtype=torch.float64)
    cosine = torch.cosine_similarity(raw, directions[0].flatten(1))
    assert torch.allclose(cosine, torch.ones(4, dtype=torch.float64)), "the numbers are the stream's"
    total = math.sqrt(sum(d.square().sum().item() for d in directions))
    assert landscape.weight_norm(model) == pytest.approx(total, rel=1e-12)


def test_directions_depend_on_seed_and_index_and_a_dead_filter_stays_dead():
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0
    first = landscape.direction(model, 5, 0)[0]
    assert torch.equal(first, landscape.direction(model, 5, 0)[0])
    assert not first[2].any() and first.isfinite().all()
    for other in ((5, 1), (6, 0)):
        assert not torch.allclose(first, landscape.direction(model, *other)[0])


def test_memory_format_changes_no_direction():
    model = network()
    before = landscape.direction(model, 0)
    model[0].weight.data = model[0].weight.data.contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(before, landscape.direction(model, 0), strict=True))


def test_alphas_are_symmetric_and_odd_in_number():
    assert landscape.alphas(5) == [-1, -0.5, 0, 0.5, 1]
    for wrong in (4, 1, 2.5):
        with pytest.raises(ValueError, match="odd number"):
            landscape.alphas(wrong)


@pytest.mark.parametrize("instances", [0, 20])
def test_in_the_middle_a_slice_is_what_the_model_gives_and_the_model_stays(images, instances):
    model = network().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = landscape.of_model(model, images, 3, points=5, instances=instances)
    assert model.training and all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    x, y = (tensor[: instances or None] for tensor in images.test)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model.eval()(x), y).item()
    error = training.evaluate(model, images, "test", instances)
    values = {name: np.array(v) for name, v in made["values"].items()}
    assert values["loss"].shape == values["error"].shape == (3, 5)
    assert (values["loss"][:, 2] == loss).all() and (values["error"][:, 2] == error).all()
    assert len(np.unique(values["loss"][:, 0])) == 3, "the directions differ"


def test_a_point_is_the_model_with_moved_weights_and_unmoved_statistics(images):
    model, task = network(), images
    d = landscape.direction(model, 0)
    (loss,), _ = landscape.along(model, task, [d], [(0.3,)], instances=0)
    with torch.no_grad():
        for p, step in zip(model.parameters(), d, strict=True):
            p.add_((0.3 * step).float())
    expected = nn.functional.cross_entropy(model.eval()(task.test[0]), task.test[1]).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_quadratic_gives_its_own_parabola(quadratic):
    task, model = quadratic
    d = landscape.direction(model, 7)
    steps = landscape.alphas(21)
    loss, metric = landscape.along(model, task, [d], [(a,) for a in steps], instances=0)
    x, y = (tensor.numpy() for tensor in task.test)
    residual, change = x @ model.weight.detach().numpy().T - y, x @ d[0].numpy().T
    slope, curvature = 2 * (residual * change).mean(), 2 * (change**2).mean()
    expected = [(residual**2).mean() + slope * a + curvature * a**2 / 2 for a in steps]
    assert loss == pytest.approx(expected, rel=1e-12) and metric == pytest.approx(expected, rel=1e-12)
    mean_square = np.mean([0.01, 0.04, 0.09, 0.16, 0.25])
    assert landscape.rise(steps, loss, 0.5) == pytest.approx(curvature / 2 * mean_square, rel=1e-9)


def test_rise_leaves_out_what_is_farther_and_the_middle():
    values = np.array([[9.0, 3.0, 1.0, 5.0, 9.0], [0.0, 2.0, 2.0, 2.0, 0.0]])
    assert list(landscape.rise(landscape.alphas(5), values, 0.5)) == [3, 0]
    assert list(landscape.rise(landscape.alphas(5), values, 1.0)) == [5.5, -1]
    with pytest.raises(ValueError, match=r"radius must be at least the distance of two points, 0\.5"):
        landscape.rise(landscape.alphas(5), values, 0.4)


def test_a_plane_holds_the_slices_of_its_two_directions(quadratic):
    task, model = quadratic
    plane = np.array(landscape.of_model(model, task, 2, "contour", points=5)["values"]["loss"])
    slices = np.array(landscape.of_model(model, task, 2, points=5)["values"]["loss"])
    assert plane[2] == pytest.approx(slices[0]) and plane[:, 2] == pytest.approx(slices[1])


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """(results_dir, the landscapes of a small cell, what was said); every landscape of this module has five points."""
    folder, said = tmp_path_factory.mktemp("results"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape, "of_model", functools.partial(landscape.of_model, points=5))
        yield folder, landscape.compute([CELL], folder, say=said.append, reference_dir=folder / "none"), said


def test_a_landscape_is_of_the_model_of_the_record_and_is_read_back_equal(computed):
    folder, (slices, plane), said = computed
    run = ec.find_run(CELL, folder)
    assert slices.data["test_error"] == slices.data["recorded_test_error"] == run.test_metric
    assert slices.data["loss"] == store.digest_of(run.data["loss"])
    assert (slices.data["kind"], plane.data["kind"]) == ("slice", "contour")
    path = folder / "landscapes/diabetes/mlp/baseline/smoke-paper/seed3.json"
    assert landscape.path_of(CELL, folder) == path
    again = landscape.read(path)
    assert again.cell == CELL and again.data == slices.data
    task = ec.load_task("diabetes")
    model, config = ec.build_model("mlp", task), ec.Config.for_cell(CELL)
    tested = ec.test_loss(run.loss, task, model, config, 3, learning_rate=0.01, keep_model=True)
    made = landscape.of_model(tested.model, task, 3)
    assert json.loads(json.dumps(made["values"])) == slices.data["values"]
    rise = landscape.rise(made["points"], made["values"]["loss"]).mean()
    assert slices.data["flatness"]["loss"] == pytest.approx(rise)
    assert sum("slice and contour, test error" in line for line in said) == 1


def test_an_existing_landscape_is_not_computed_again(computed, tmp_path, monkeypatch):
    folder, before, _ = computed
    monkeypatch.setattr(landscape, "_made", lambda *rest: pytest.fail("computed again"))
    again = landscape.compute([CELL], folder, reference_dir=folder / "none")
    assert [one.data for one in again] == [one.data for one in before]
    committed = landscape.compute([CELL], tmp_path, reference_dir=folder)
    assert [one.source for one in committed] == ["reference"] * 2 and not list(tmp_path.iterdir())


def test_force_computes_it_again_and_leaves_the_search_alone(computed):
    folder, (before, _), _ = computed
    path = landscape.path_of(CELL, folder)
    record = store.folder_of(CELL, folder) / "record.json"
    times = path.stat().st_mtime_ns, record.stat().st_mtime_ns
    (again, _) = landscape.compute([CELL], folder, force=True, say=lambda line: None)
    assert again.data["values"] == before.data["values"]
    assert path.stat().st_mtime_ns > times[0] and record.stat().st_mtime_ns == times[1]


def changed(data, **changes):
    return json.loads(json.dumps(data)) | changes


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: "{", "is damaged"),
        (lambda data: changed(data, schema=9), "it has schema 9, this version"),
        (lambda data: {k: v for k, v in data.items() if k != "points"}, "KeyError.'points'"),
        (lambda data: changed(data, points=3), "of their types, got others in points"),
        (lambda data: changed(data, points=[-1, 0.1, 1]), "points must be evenly from"),
        (lambda data: changed(data, kind="sphere"), "kind must be one of slice, contour"),
        (lambda data: changed(data, directions=[0]), "values of loss must be"),
        (
            lambda data: changed(data, flatness=data["flatness"] | {"loss": 0.0}),
            "flatness must be what the values give",
        ),
        (lambda data: changed(data, cell=data["cell"] | {"method": "evo"}), "Did you mean 'evomal'"),
        (lambda data: changed(data, cell=data["cell"] | {"seed": 4}), "is of another run, .*smoke-paper/seed4.json"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_by_name(computed, tmp_path, change, message):
    data = change(computed[1][0].data)
    path = landscape.path_of(CELL, tmp_path)
    files.write_text(path, data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(store.RecordError, match=message) as raised:
        landscape.read(path)
    assert str(path) in str(raised.value)
    found, damaged = landscape.collect(tmp_path, reference_dir=tmp_path / "none")
    assert not found and str(path) in damaged[0]


def test_an_own_file_of_another_loss_is_refused_and_a_committed_one_is_not_used(computed, tmp_path):
    folder, (slices, _), _ = computed
    files.write_json(landscape.path_of(CELL, tmp_path), slices.data | {"loss": "other"})
    made = landscape.compute([CELL], folder, reference_dir=tmp_path)
    assert made[0].source == "own"
    with pytest.raises(store.RecordError, match="is of another loss than diabetes/mlp/baseline seed 3"):
        landscape.compute([CELL], tmp_path, reference_dir=folder)


def test_a_cell_of_transfer_and_a_search_without_a_loss_have_no_landscape(tmp_path):
    with pytest.raises(ValueError, match="searches its own loss"):
        landscape.path_of(ec.Cell("boston", "mlp", "baseline", source="diabetes/mlp"), tmp_path)
    run = store.Run(CELL, "no_loss", reason="nothing was found")
    assert landscape._made(run, ["slice"], None, "cpu") is None


def made_up(method, seed, rise, error, source="own"):
    """A landscape of three points that rises by `rise` at ±1 (from 0.5) and has this test error."""
    cell, points = dataclasses.replace(CELL, method=method, seed=seed), [-1.0, 0.0, 1.0]
    values = {name: [[0.5 + rise, 0.5, 0.5 + rise], [0.5, 0.5, 0.5 + 2 * rise]] for name in ("loss", "error")}
    data = {"points": points, "values": values, "test_error": error, "recorded_test_error": error, "weight_norm": 2.0}
    return landscape.Landscape(cell, data, source)


def test_the_table_and_the_comparison_are_paired_over_seeds():
    some = [made_up("baseline", k, 1.0 + 0.1 * k, 0.3) for k in range(3)]
    some += [made_up("evomal", k, 0.8 + 0.1 * k, 0.2) for k in range(4)]
    found = flatness.table(some, radius=1)
    assert list(found["method"]) == ["baseline"] * 3 + ["evomal"] * 4
    assert list(found["rise"][:3]) == pytest.approx([1.0, 1.1, 1.2]) and set(found["loss"]) == {0.5}
    (line,) = flatness.flatter(found)
    assert line.startswith(
        "own, diabetes, mlp (smoke budget, as in the text): evomal's landscape is flatter than baseline's"
    )
    assert "difference of the rise of the task loss -0.2000, 95 % interval [-0.2000" in line and "3 of n = 3" in line
    (line,) = flatness.flatter(found, "baseline", "evomal")
    assert "baseline's landscape is sharper than evomal's" in line and "smaller in 0 of n = 3" in line
    assert flatness.flatter(found, other="random") == ["evomal and random have no seed in common yet."]
    (line,) = flatness.flatter(found[found["seed"] < 2], value="error_rise")
    assert "is open (difference of the rise of the error" in line and "no interval with fewer than 3 pairs" in line
    shown = flatness.display(found)
    assert list(shown["n"]) == [3, 4] and list(shown["rise of the loss"]) == ["1.1000", "0.9500"]


def test_a_point_that_is_not_finite_leaves_its_run_out():
    broken = made_up("evomal", 0, 1.0, 0.2)
    broken.data["values"]["loss"][0][0] = None
    assert broken.values("loss")[0, 0] == math.inf
    assert flatness.table([broken], radius=1)["rise"].isna().all()
    broken.data["values"]["loss"][0][1] = None
    assert flatness.table([broken], radius=1)["loss"].isna().all()


def test_mean_curves_average_directions_first_and_then_runs():
    some = [made_up("evomal", k, r, 0.2) for k, r in enumerate((1.0, 3.0))]
    points, mean, spread, n = flatness.curves(some)
    assert list(points) == [-1, 0, 1] and n == 2
    assert list(mean) == pytest.approx([1.5, 0.5, 3.5])  # 0.5 + half of the rise, 0.5 + 1.5 times the rise
    assert list(spread) == pytest.approx([math.sqrt(0.5), 0, math.sqrt(4.5)])
    assert np.isnan(flatness.curves(some[:1])[2]).all()


def test_rank_correlation_is_scipys_and_has_an_interval_around_it():
    generator = np.random.default_rng(3)
    x = generator.normal(size=30)
    y = x + generator.normal(size=30)
    result = flatness.rank_correlation([*x, 1.0], [*y, math.nan])
    assert result["n"] == 30 and result["rho"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert 0 < result["low"] < result["rho"] < result["high"] < 1 and result["finding"] == "together"
    assert flatness.rank_correlation(x, -x)["finding"] == "against"
    few = flatness.rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    assert few["rho"] == pytest.approx(0.9) and math.isnan(few["low"]) and few["finding"] == "open"
    assert math.isnan(flatness.rank_correlation([1, 1, 1], [1, 2, 3])["rho"])
    assert math.isnan(flatness.rank_correlation([1, 2], [1, 2])["rho"])


def test_correlations_and_words_never_pool_sources():
    some = [made_up("evomal", k, 1.0 + k, 0.1 + 0.1 * k, source) for k in range(7) for source in ("own", "reference")]
    some += [made_up("baseline", 0, 1.0, 5.0, "own")]
    found = flatness.table(some, radius=1)
    own, reference = flatness.correlations(found).sort_values("source").itertuples()
    assert (reference.n, reference.rho, reference.finding) == (7, pytest.approx(1), "together") and own.n == 8
    words = flatness.correlation_words(flatness.correlations(found))
    assert words[0] == (
        "reference, diabetes, mlp (smoke budget, as in the text): the test error is the larger, the larger the rise of the "
        "task loss (rho +1.00, 95 % interval [+1.00, +1.00], n = 7)"
    )
    assert flatness.correlation_words(flatness.correlations(found[:5])) == ["No task has six runs yet."]
    assert flatness.reproduced(found).startswith("15 of 15 models")
    found.loc[0, "recorded"] += 0.25
    assert flatness.reproduced(found).endswith("the largest difference is 0.2500")


def test_figures_have_their_panels(computed):
    some = [made_up(m, k, 1.0 + k, 0.2 + k) for m in ("baseline", "evomal") for k in range(3)]
    figure = flatness.mean_curves([*some, made_up("evomal", 0, 1.0, 0.2, "reference")])
    assert [axis.get_title() for axis in figure.axes] == ["diabetes, mlp, smoke budget"] * 2 + [
        "diabetes, mlp, smoke budget, own"
    ] * 2
    names = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert names == ["baseline, n = 3", "evomal, n = 3"]
    (axis,) = flatness.against_error(flatness.table(some, radius=1)).axes
    assert "n = 6" in axis.get_title() and len(axis.collections) == 2
    plane = computed[1][1]
    other = dataclasses.replace(plane, cell=dataclasses.replace(CELL, method="evomal"))
    alone = dataclasses.replace(plane, cell=dataclasses.replace(CELL, seed=4))
    first, second, bar = flatness.contours([other, plane, alone]).axes
    assert first.get_title().startswith("baseline, seed 3") and second.get_title().startswith("evomal, seed 3")
    assert "task loss" in bar.get_ylabel()


def test_figures_of_nothing_say_so():
    empty = flatness.table([])
    for figure in (flatness.mean_curves([]), flatness.against_error(empty), flatness.contours([])):
        assert len(figure.axes[0].texts) == 1
    assert flatness.flatter(empty) and flatness.display(empty).empty
    assert flatness.reproduced(empty).startswith("0 of 0")


def test_the_committed_landscapes_are_whole():
    for kind in landscape.KINDS:
        found, damaged = landscape.collect(report.REFERENCE / "none", kind)
        assert found and not damaged
