"""The comparison of remedies: its cells, and what it makes of hand-made records."""

import math

import pytest
from test_report import DIABETES, folders, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_core.config import Config
from evomal_notebooks import plots, remedies

ROW = ec.Cell(*DIABETES, "evomal", 0, "quick")


def named(name: str) -> dict:
    cell = remedies.of_remedy(ROW, name)
    return {"budget": cell.budget, "protocol": cell.protocol}


def test_each_remedy_is_one_search_of_its_own_but_for_the_contest_and_the_text():
    cells = {name: remedies.of_remedy(ROW, name) for name in remedies.REMEDIES}
    assert len(set(cells.values())) == len(cells)
    assert cells[remedies.TEXT] == ROW and cells[remedies.CONTEST].search == ROW
    assert len({cell.search for cell in cells.values()}) == len(cells) - 2
    together = Config.for_cell(cells[remedies.TOGETHER])
    assert (together.fitness_starts, together.racing, together.selection) == (3, True, "halving")
    assert (together.fitness_start, together.initial_losses) == ("generation", "known")


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper", "quick+generations=10"])
def test_the_generations_of_a_remedy_are_a_multiple_of_those_of_the_row(budget):
    row = ec.Cell("mnist", "logistic", "evomal", 0, budget)
    factors = remedies.FACTORS["paper" if budget == "paper" else "quick"]
    for name, factor in factors.items():
        got = Config.for_cell(remedies.of_remedy(row, name)).generations
        assert got == max(1, round(Config.for_cell(row).generations * factor)) and got >= 1


def test_every_loss_and_the_task_loss_are_tested_from_equal_starts():
    cells = remedies.cells([ec.Cell(*DIABETES, "evomal", 7, "quick")], 3)
    for name in remedies.REMEDIES:
        mine = [
            cell
            for cell in cells
            if cell.method == "evomal" and (cell.budget, cell.protocol) == tuple(named(name).values())
        ]
        assert sorted(cell.seed for cell in mine) == [0, 1, 7] and {cell.search.seed for cell in mine} == {7}
    for method in ("baseline", "tuned"):
        assert sorted(cell.seed for cell in cells if cell.method == method) == [0, 1, 7]
    assert len(cells) == 3 * (len(remedies.REMEDIES) + 2)


@pytest.fixture
def found(folders):  # noqa: F811
    """Known losses are better by 0.1 on three seeds; three starts fail once; the contest has one start that no other has."""
    reference = folders[1] / "remedies"
    for seed in range(3):
        write(reference, "baseline", seed, test=0.8)
        for start in range(2):
            source = None if start == seed else f"diabetes/mlp/{seed}"
            error = 0.6 + 0.01 * start + 0.02 * seed
            write(
                reference,
                "evomal",
                start,
                test=error,
                source=source,
                **named(remedies.LONGER),
                seconds={"total": 60.0 + seed},
            )
            write(reference, "evomal", start, test=error - 0.1, source=source, **named("known losses"))
            status = "diverged" if (seed, start) == (1, 1) else "complete"
            write(reference, "evomal", start, test=0.7, status=status, source=source, **named("mean of 3 starts"))
    write(folders[1], "evomal", 0, test=0.5, protocol="robust")
    write(folders[1], "evomal", 9, test=0.1, protocol="robust", source="diabetes/mlp/0")
    write(folders[0], "evomal", 0, test=0.4, **named("known losses"))
    return folders


def test_differences_are_those_of_equal_starts_to_the_longer_search(found):
    table = remedies.table(remedies.trainings([ROW], found[0], found[1], own=False)).set_index("remedy")
    known = table.loc["known losses"]
    assert (known["losses"], known["trainings"], known["failed"]) == (3, 6, 0)
    assert known["difference"] == pytest.approx(-0.1) and known["finding"] == "smaller"
    assert known["mean"] == pytest.approx(0.525) and known["std"] == pytest.approx(0.02)
    assert table.loc[remedies.LONGER, "seconds"] == pytest.approx(61.0)
    contest = table.loc[remedies.CONTEST]
    assert (contest["trainings"], contest["mean"]) == (1, 0.5), "a start without a counterpart does not count"
    assert table.loc["task loss", "losses"] == 0 and table.loc["task loss", "trainings"] == 2
    assert remedies.TEXT not in table.index


def test_a_training_that_failed_is_worse_than_any_other(found):
    table = remedies.table(remedies.trainings([ROW], found[0], found[1], own=False)).set_index("remedy")
    three = table.loc["mean of 3 starts"]
    assert (three["failed"], three["worst"], three["finding"]) == (1, math.inf, "open")
    assert math.isnan(three["difference"]) and three["mean"] == pytest.approx(0.7)


def test_an_own_record_takes_the_place_of_a_committed_one(found):
    ours = remedies.trainings([ROW], found[0], found[1]).query(
        "remedy == 'known losses' and loss_seed == 0 and start_seed == 0"
    )
    assert ours["error"].tolist() == [0.4]


def test_verdicts_name_what_is_better_what_fails_and_what_is_best(found):
    (line,) = remedies.verdicts(remedies.table(remedies.trainings([ROW], found[0], found[1], own=False)))
    assert line.startswith(
        "Diabetes, mlp, quick budget (n = 3, or fewer): known losses has less error than as in the text"
    )
    assert "The least mean error over all seeds is that of known losses, 0.5250." in line
    assert line.endswith("Trainings fail under mean of 3 starts (1 of 6).")


def test_a_table_for_reading_and_a_figure(found):
    trainings = remedies.trainings([ROW], found[0], found[1], own=False)
    shown = remedies.display(remedies.table(trainings)).droplevel(["dataset", "model", "budget"])
    assert shown.loc["known losses", "test error"] == "0.5250 ± 0.0200 (3 losses, 6 trainings)"
    assert shown.loc["mean of 3 starts", "minus the longer search's"] == "a training failed: open"
    assert shown.loc["mean of 3 starts", "worst training"] == "failed"
    figure = remedies.figure(trainings)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(remedies.REMEDIES)
    assert [text.get_text() for text in axis.texts] == ["1 ▸"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert {line.get_color() for line in dots} == {plots.colour("evomal")}
    assert sum(len(line.get_xdata()) for line in dots) == 6 + 6 + 5 + 1
