"""Fitness over other starts: what is measured, kept and gone on with, and what is said of it, against answers by hand."""

import math

import numpy as np
import pandas
import pytest
import scipy.stats
import torch

import evomal_core as ec
from evomal_notebooks import Parameters, initialisation, luck, luck_plots, report

CELL = ec.Cell("diabetes", "mlp", "random", 3, "smoke+population=6")
REST = {"budget": "quick", "protocol": "paper", "steps": 100, "n": 88, "seconds": 1.0, "hardware": "a", "torch": "b"}


@pytest.fixture(scope="module")
def measured_once(tmp_path_factory):
    """(folder, what `compute` gives for a search and two other starts)."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, initialisation.compute([CELL], 2, results_dir=folder, say=lambda line: None)


def row(method="evomal", seed=0, rank=0, errors=(0.5, 0.6, 0.7), trivial=1.0, expression="square(sub(y, f))", **more):
    """A row as `initialisation.read` gives it."""
    weights = "" if method == "baseline" else "1 1 1"
    return {
        "dataset": "diabetes", "model": "mlp", "method": method, "seed": seed, "rank": rank, "expression": expression,
        "weights": weights, "fitness": errors[0], "trivial": trivial, "errors": tuple(errors), "commit": "c", **REST, **more,
    }  # fmt: skip


def table(*rows):
    return pandas.DataFrame(rows, columns=initialisation.COLUMNS)


def test_start_0_is_the_fitness_of_the_search_and_other_starts_are_trials_of_their_own(measured_once):
    folder, found = measured_once
    run = ec.find_run(CELL, folder)
    assert list(found["method"]) == ["baseline"] + ["random"] * len(run.leaders) and len(run.leaders) > 1
    assert [len(errors) for errors in found["errors"]] == [3] * len(found)
    leaders = found[found["method"] == "random"]
    assert list(leaders["rank"]) == list(range(len(leaders)))
    assert [errors[0] for errors in leaders["errors"]] == pytest.approx(leaders["fitness"].to_list(), rel=1e-5)
    task = ec.load_task("diabetes")
    problem, config = (task, ec.build_model("mlp", task)), ec.Config.for_cell(CELL)
    problem = ec.training.Problem.of(problem, config)
    for start in (1, 2):
        ((outcome,),) = ec.run_trial([run.leaders[1].loss], problem, config, 3, ec.Trial("fitness", 5, (0, start)))
        assert leaders["errors"].iloc[1][start] == pytest.approx(outcome.errors["validation"], rel=1e-5)
    assert len({errors[1] for errors in found["errors"]} | {errors[2] for errors in found["errors"]}) > len(found)
    assert found[["n", "steps", "hardware", "torch", "seconds"]].notna().all(axis=None)


def test_trivial_predictor_by_hand(measured_once):
    _, found = measured_once
    task = ec.load_task("diabetes")
    wanted = ((task.validation[1] - task.train[1].mean()) ** 2).mean().item()
    assert found["trivial"].to_list() == pytest.approx([wanted] * len(found), rel=1e-6)
    x, y = torch.zeros(5, 2), torch.tensor([2, 2, 0, 1, 2])
    classes = ec.Task("made", (x, y), (x[:4], y[1:]), (x, y), classification=True, outputs=3)
    assert initialisation.trivial(classes) == 0.5


def test_a_measurement_goes_on_and_is_not_made_again(measured_once, monkeypatch, tmp_path):
    folder, found = measured_once
    pandas.testing.assert_frame_equal(initialisation.read(folder)[initialisation.COLUMNS], found)
    asked, run_trial = [], ec.run_trial

    def counted(losses, problem, config, seed, trial):
        asked.append((len(losses), trial.index))
        return run_trial(losses, problem, config, seed, trial)

    monkeypatch.setattr(ec, "run_trial", counted)
    say = lambda line: None  # noqa: E731
    again = initialisation.compute([CELL], 1, results_dir=folder, say=say)
    assert not asked and len(again) == len(found)
    killed = found.assign(
        errors=[errors[:1] if rank else errors for rank, errors in zip(found["rank"], found["errors"], strict=True)]
    )
    initialisation.write(killed, folder)
    went_on = initialisation.compute([CELL], 3, results_dir=folder, say=say)
    waiting = int((found["rank"] > 0).sum())
    assert asked == [(waiting, (0, 1)), (waiting, (0, 2)), (len(found), (0, 3))]
    assert [errors[:3] for errors in went_on["errors"]] == found["errors"].to_list(), "as if it had not been killed"
    other = found.assign(weights=["" if w == "" else "1 " + w for w in found["weights"]])
    initialisation.write(other, folder)
    asked.clear()
    best = initialisation.compute([CELL], 2, 1, folder, say=say)
    assert list(best["rank"]) == [0, 0] and asked == [(1, (0,)), (1, (0, 1)), (1, (0, 2))], (
        "the best leader of another search"
    )
    asked.clear()
    initialisation.compute([CELL], 2, None, folder, say=say)
    leaders = int((found["method"] == "random").sum())
    assert asked == [(leaders - 1, (0,)), (leaders - 1, (0, 1)), (leaders - 1, (0, 2))], "and the others of it"
    initialisation.write(found, folder)


def test_nothing_asked_for_is_an_empty_table(tmp_path):
    nothing = initialisation.compute([], 2, results_dir=tmp_path)
    assert nothing.empty and list(nothing) == initialisation.COLUMNS
    assert initialisation.read_trajectories(tmp_path).empty


def test_a_plan_counts_what_is_not_measured_and_computes_nothing(measured_once, capsys, tmp_path):
    folder, found = measured_once
    asked = {"seed": 3, "budget": CELL.budget, "methods": ("random",), "starts": 4}
    p = Parameters(results_dir=str(folder), plan=True, **asked)
    trainings, hours = initialisation.expected(p.cells(), p)
    assert trainings == len(found) * 5 - len(found) * 3 and hours > 0
    assert initialisation.announced(p) == []
    assert f"Trainings to measure: {trainings}, expected" in capsys.readouterr().out
    p = Parameters(results_dir=str(tmp_path), plan=True, **asked)
    assert initialisation.announced(p) == []
    text = capsys.readouterr().out
    assert f"Trainings to measure: {(1 + ec.Config().leaders) * 5}, expected" in text, (
        "a search may find so many leaders"
    )
    assert "Runs asked for: 1; of these 0 have a record already" in text and "Nothing was computed" in text
    assert not list(tmp_path.iterdir())
    assert initialisation.announced(Parameters(starts=4)) == []
    assert "No seed was asked for" in capsys.readouterr().out


def test_a_loss_is_read_back_as_it_was(measured_once):
    folder, found = measured_once
    leaders = ec.find_run(CELL, folder).leaders
    y, z = torch.randn(2, 7, 1, generator=torch.Generator().manual_seed(0)).unbind()
    for line in found[found["method"] == "random"].itertuples():
        loss, wanted = initialisation.loss_of(line), leaders[line.rank].loss
        assert str(loss) == str(wanted) and torch.equal(loss(z, y), wanted(z, y))
    assert isinstance(initialisation.loss_of(found.iloc[0]), ec.SquaredError)
    assert isinstance(initialisation.loss_of(found.iloc[0].replace("diabetes", "mnist")), ec.CrossEntropy)


def test_a_trajectory_passes_through_the_fitness_evaluation(measured_once, tmp_path):
    _, found = measured_once
    steps = initialisation.trajectories(found.iloc[:2], [0, 2], tmp_path)
    assert steps["step"].max() == initialisation.LONGER * 5 and set(steps["start"]) == {0, 2}
    for line in found.iloc[:2].itertuples():
        for start in (0, 2):
            at = steps.query("method == @line.method and start == @start and step == 5")
            assert at["error"].to_list() == pytest.approx([line.errors[start]], rel=1e-5)
    again = initialisation.trajectories(found.iloc[:2], [2], tmp_path)
    assert 2 * len(again) == len(steps) == 2 * 2 * steps["step"].nunique()
    assert len(initialisation.read_trajectories(tmp_path)) == len(steps), "measured again, kept once"


def test_a_failure_is_a_divergence_or_an_error_above_the_trivial_one():
    errors = (0.5, *[0.6] * 17, 0.9, 1.5, math.inf)
    found = luck.measured(table(row(errors=errors), row("baseline", errors=(0.7, *[0.8] * 20)))).iloc
    assert (found[0]["seen"], found[0]["others"], found[0]["diverged"], found[0]["failed"]) == (0.5, 20, 0.05, 0.1)
    assert (found[0]["low"], found[0]["median"], found[0]["high"]) == (0.6, 0.6, 1.5)
    assert found[0]["mean"] == pytest.approx((17 * 0.6 + 0.9 + 2 * 1.0) / 20), (
        "a failure counts as the trivial predictor"
    )
    assert found[0]["worse"] == 0.15 and found[0]["better"] and found[0]["fragile"]
    assert found[1]["worse"] == 0 and not found[1]["better"] and not found[1]["fragile"]
    assert luck.measured(table(row("baseline", errors=(0.5,)))).empty, "nothing is known but what the search saw"


def test_what_the_search_saw_is_what_its_record_says():
    rows = [row("baseline", errors=(0.7, 0.8), fitness=math.nan), row(errors=(0.62, 0.6), fitness=0.5), row(rank=1)]
    found = luck.measured(table(*rows))
    assert found["seen"].to_list() == [0.7, 0.5, 0.5]
    assert luck.not_repeated(found) == [
        "diabetes, mlp, quick, evomal, seed 0, rank 0: 0.6200 instead of 0.5000",
        "1 of 2 leaders repeat their recorded fitness to 0.001",
    ]


def test_a_loss_is_fragile_that_loses_its_advantage_from_a_tenth_of_the_starts():
    baseline = row("baseline", errors=(0.7, *[0.5, 0.8] * 10))
    often, seldom, never_better = (0.6, *[0.6, 0.6] * 10), (0.6, 0.6, 0.6, *[0.4, 0.6] * 9), (0.7, *[0.6, 0.6] * 10)
    rows = [row(rank=rank, errors=errors) for rank, errors in enumerate((often, seldom, never_better))]
    found = luck.measured(table(baseline, *rows)).set_index(["method", "rank"]).loc["evomal"]
    assert found["worse"].to_list() == [0.5, 0.05, 0.5], "compared from the same start"
    assert found["fragile"].to_list() == [True, False, False]


@pytest.fixture
def found():
    """Two seeds: EvoMAL's best leader is 0.2 below random's as seen and 0.05 below from other starts."""
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.1)):
        rows.append(row("baseline", seed, errors=[0.7 + shift] * 5))
        rows.append(row("evomal", seed, 0, [0.4 + shift, *[0.6 + shift] * 4]))
        rows.append(row("evomal", seed, 1, [0.5 + shift, *[0.55 + shift] * 3, 2.0], expression="mul(y, f)"))
        rows.append(row("random", seed, 0, [0.6 + shift, *[0.65 + shift] * 4]))
    return luck.measured(table(*rows))


def test_searches_by_hand(found):
    line = luck.by_search(found).query("method == 'evomal' and seed == 0").iloc[0]
    assert (line["leaders"], line["fragile"]) == (2, 1)
    assert (line["seen"], line["mean"]) == pytest.approx((0.4, 0.6))
    second = (3 * 0.55 + 1) / 4
    assert (line["leaders_seen"], line["leaders_mean"]) == pytest.approx((0.45, (0.6 + second) / 2))
    assert np.isnan(line["rho"]), "a rank correlation of two is none"
    three = table(
        row("baseline"), *(row(rank=k, errors=(0.1 * k, e, e)) for k, e in enumerate((0.5, 0.6, 0.4), 1)), row()
    )
    assert luck.by_search(luck.measured(three)).iloc[1]["rho"] == pytest.approx(
        scipy.stats.spearmanr([0.1, 0.2, 0.3, 0.5], [0.5, 0.6, 0.4, 0.65]).statistic
    )


def test_the_winners_curse_by_hand(found):
    rows = luck.curse(luck.by_search(found)).set_index("method")
    assert rows.loc["evomal", "rise"] == pytest.approx(0.2) and rows.loc["random", "rise"] == pytest.approx(0.05)
    assert rows.loc["evomal", "n"] == 2 and (rows["task_rise"].abs() < 1e-12).all()
    assert rows.loc["evomal", "own"] == pytest.approx(0.2)
    shown = luck.display_curse(luck.curse(luck.by_search(found)))
    assert shown.loc[("diabetes, mlp, quick", "evomal"), "rise"].startswith("+0.2000 [+")


def test_the_advantage_as_selected_and_from_other_starts(found):
    rows = luck.advantage(luck.by_search(found))
    assert list(zip(rows["method"], rows["other"], rows["of"], strict=True)) == [
        ("evomal", "random", luck.WINNER),
        ("evomal", "random", luck.MEDIAN),
    ]
    first = rows.iloc[0]
    assert (first["n"], first["seen"], first["mean"], first["lost"]) == pytest.approx((2, -0.2, -0.05, 0.15))
    (line, _) = luck.advantage_words(rows)
    assert "n = 2, best leader, mean: evomal − random is -0.2000 [" in line and "made up 75% of it" in line


def test_leaders_are_compared_where_several_were_measured():
    rows = [row(m, 0, rank, (seen, *[elsewhere] * 4)) for m, rank, seen, elsewhere in (
        ("evomal", 0, 0.3, 0.5), ("evomal", 1, 0.5, 0.5), ("random", 0, 0.5, 0.6), ("random", 1, 0.7, 0.8)
    )]  # fmt: skip
    rows += [row(m, 1, 0, (0.3, 0.5, 0.5)) for m in ("evomal", "random")]
    rows += [row("baseline", seed, 0, (0.3, 0.5, 0.5)) for seed in (0, 1)]
    line = luck.advantage(luck.by_search(luck.measured(table(*rows)))).query("of == @luck.LEADERS").iloc[0]
    assert (line["n"], line["seen"], line["mean"]) == pytest.approx((1, 0.4 - 0.6, 0.5 - 0.7))


def test_t_intervals_are_those_of_the_textbook():
    found = luck.t_interval([1.0, 2.0, 3.0])
    assert (found["n"], found["mean"]) == (3, 2)
    assert (found["low"], found["high"]) == pytest.approx(
        (2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4
    )
    assert np.isnan(luck.t_interval([1.0])["low"]) and np.isnan(luck.t_interval([])["mean"])


def test_choosing_again_is_judged_on_starts_that_did_not_choose():
    first = row(rank=0, errors=(0.4, 0.6, 0.6, 0.5, 0.5))
    second = row(rank=1, errors=(0.5, 0.3, 0.3, 0.7, 0.7))
    baseline = row("baseline", errors=[0.5] * 5)
    line = luck.chosen_again(luck.measured(table(baseline, first, second))).iloc[0]
    assert (line["selected"], line["chosen"], line["difference"]) == pytest.approx((0.5, 0.7, 0.2))


def test_shares_of_fragile_losses_by_operator_and_shape(found):
    leaders = luck.of_searches(found)
    shares = luck.operators(leaders)
    assert list(shares.loc["mul"]) == ["100% of 2 (2)", "0% of 4 (4)"]
    assert list(shares.loc["square"]) == ["0% of 4 (4)", "100% of 2 (2)"]
    assert list(shares.loc["tanh"]) == ["–", "33% of 6 (4)"]
    by_shape = luck.loss_shapes(
        leaders.assign(weights=["1 " * (text.count("(") + text.count(",")) for text in leaders["expression"]])
    )
    assert by_shape.loc["does not rise with the error", "with"] == "100% of 2 (2)"
    assert luck.fragile_leaders(leaders, 1) == [
        "evomal, seed 0, rank 1: 0.5000 as seen, median 0.5500, worse from 1 of 4 starts: mul(y, f)"
    ]


@pytest.mark.parametrize(
    ("text", "classification", "several", "at_the_label"),
    [
        ("square(sub(y, f))", False, 1, True),
        ("square(sub(square(y), square(f)))", False, 2, False),
        ("mul(y, f)", False, 1, False),
        ("mul(-1, mul(y, log(f)))", True, 1, True),
        ("abs(log(mul(y, add(f, f))))", True, 1, False),
    ],
)
def test_shapes_of_known_losses(text, classification, several, at_the_label):
    loss = ec.MetaLoss(text, None, classification)
    assert luck.minima(loss) == several
    found = luck.features(loss)
    assert found["more than one minimum"] == (several > 1) and not found["more than 10 nodes"]
    away = next(value for name, value in found.items() if name.startswith("least"))
    assert away == (not at_the_label)


def test_trajectories_are_of_the_leader_that_fails_most_and_of_its_best_and_worst_start(found):
    rows, starts = luck.telling(found)
    assert list(rows["method"]) == ["evomal", "baseline"] and rows["rank"].iloc[0] == 1 and starts == [0, 1, 4]


def test_searches_that_found_no_loss_leave_tables_empty(tmp_path):
    alone = luck.measured(table(row("baseline")))
    searches = luck.by_search(alone)
    assert list(luck.display_searches(searches).index) == [("diabetes, mlp, quick", "baseline", 0)]
    for rows in (luck.curse(searches), luck.advantage(searches), luck.chosen_again(alone)):
        assert rows.empty
    assert luck.display_curse(luck.curse(searches)).empty and luck.display_advantage(luck.advantage(searches)).empty
    steps = initialisation.trajectories(*luck.telling(alone), tmp_path)
    assert steps.empty and not list(tmp_path.iterdir())
    for draw in (luck_plots.best_leaders, luck_plots.distributions, luck_plots.regression):
        draw(alone)
    luck_plots.paths(steps, alone)


def test_figures_have_a_panel_a_task(found):
    assert len(luck_plots.best_leaders(found).axes) == 1
    assert [axis.get_title() for axis in luck_plots.distributions(found).axes] == ["diabetes, mlp, quick\nevomal"]
    assert luck_plots.distributions(found[found["rank"] == 0]).axes[0].get_ylabel() == "no search with several leaders"
    assert len(luck_plots.regression(found).axes) == 1
    steps = [
        {"start": s, "step": t, "error": e} for s in (0, 4) for t, e in ((5, 0.9), (10, 0.5 if not s else math.inf))
    ]
    steps = pandas.DataFrame([row() | {"rank": 1} | step for step in steps])
    (axis,) = luck_plots.paths(steps, found).axes
    assert "start 0, seen by the search" in [text.get_text() for text in axis.get_legend().get_texts()]


def test_reference_measurements_are_whole():
    kept = initialisation.read(report.REFERENCE)
    assert len(kept) and not kept.duplicated(initialisation.KEY).any()
    assert kept[["n", "steps", "trivial", "seconds", "hardware", "torch", "commit"]].notna().all(axis=None)
    assert (kept["errors"].map(len) > 10).all(), "start 0 and at least ten others"
    lines = luck.not_repeated(luck.measured(kept))
    assert len(lines) - 1 < 0.1 * len(luck.of_searches(kept)), "start 0 repeats the fitness of nearly all searches"
