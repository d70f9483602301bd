"""The audit of the protocol: its plan, and what it makes of hand-made records."""

import pytest
from test_report import folders, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_core.config import DEPARTURES
from evomal_notebooks import audit, plots, report


def test_every_switch_is_described_and_those_of_images_are_not_audited():
    assert set(audit.DESCRIPTIONS) == {*DEPARTURES, "non_negative"}
    assert set(audit.AUDITED) < set(DEPARTURES) and "non_negative" not in audit.AUDITED
    assert list(audit.descriptions().columns) == ["in the text", "in the code", "acts on"]


def test_flipping_a_switch_gives_it_the_value_of_the_other_side():
    assert audit.flipped("paper", None) == "paper"
    assert audit.flipped("paper", "elitism") == "paper+elitism=off"
    assert audit.flipped("released", "elitism") == "released+elitism=on"
    for base in audit.SIDES:
        for switch in audit.AUDITED:
            other = ec.Protocol("released" if base == "paper" else "paper")
            assert ec.Protocol.parse(audit.flipped(base, switch))[switch] == other[switch] != ec.Protocol(base)[switch]


def test_the_plan_has_26_runs_a_seed():
    plan = audit.plan()
    assert len(plan) == len(set(plan)) == 26
    assert {method for method, _, switch in plan if switch and switch.startswith("taylor")} == {"taylorglo"}
    cells = audit.rows(["diabetes", "boston"], "smoke", (3, 4))
    assert len(set(cells)) == 2 * 2 * 26 and {cell.seed for cell in cells} == {3, 4}


@pytest.fixture
def effects(folders):  # noqa: F811
    """Elitism costs 0.1 on three seeds, one of which is capped; the archive changes nothing."""
    for seed, error in enumerate((0.5, 0.6, 0.9)):
        write(folders[1], "evomal", seed, test=error, evaluated=1)
        write(folders[1], "evomal", seed, test=error + 0.1 + 50 * (seed == 2), protocol="paper+elitism=off")
        write(folders[1], "evomal", seed, test=error, protocol="paper+archive=evaluated")
    write(folders[0], "evomal", 0, test=0.4, protocol="paper+archive=evaluated")
    return audit.effects(report.collect(folders[0], reference_dir=folders[1]), ["diabetes"])


def test_effects_are_paired_and_capped(effects):
    assert len(effects) == 22
    row = effects.query("switch == 'elitism' and side == 'paper'").iloc[0]
    assert (row["n"], row["difference"], row["finding"]) == (3, pytest.approx(0.1), "larger")
    assert (row["capped unflipped"], row["capped flipped"]) == (0, 1)
    assert row["flipped"] == pytest.approx((0.6 + 0.7 + 1) / 3)
    assert row["changes"] == pytest.approx([0.1, 0.1, 0.1]) and not row["same"]
    assert effects.query("switch == 'split' and side == 'paper'")["n"].item() == 0


def test_an_own_run_takes_the_place_of_the_reference_run(effects):
    row = effects.query("switch == 'archive' and side == 'paper'").iloc[0]
    assert row["changes"] == pytest.approx([-0.1, 0, 0])


def test_verdicts_measure_by_the_claim_of_table_iii(effects):
    lines = audit.verdicts(effects, "diabetes")
    assert lines[0].endswith("differs from the baseline's by -0.0256.") and len(lines) == 12
    (elitism,) = [line for line in lines if line.startswith("`elitism`")]
    assert "from the text, the error gets larger (+0.100 [" in elitism and "3.9 times the claim; n = 3" in elitism
    assert "from the code, 0 pairs are too few to say" in elitism


def test_equal_runs_change_nothing(folders):  # noqa: F811
    for seed in range(3):
        for protocol in ("paper", "paper+archive=evaluated"):
            write(folders[1], "evomal", seed, protocol=protocol)
    effects = audit.effects(report.collect(folders[0], reference_dir=folders[1]), ["diabetes"])
    (line,) = [line for line in audit.verdicts(effects, "diabetes") if line.startswith("`archive`")]
    assert "from the text, nothing at all changes (n = 3)" in line


def test_forest_has_a_panel_a_side_and_a_row_a_switch(effects):
    figure = audit.forest(effects, "diabetes")
    assert [axis.get_title() for axis in figure.axes] == [
        f"one switch flipped, from {side}" for side in ("the text", "the code")
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(audit.AUDITED)
    assert audit.display_effects(effects).columns[0] == "n"
    assert plots.PALETTE[0] in [line.get_color() for line in figure.axes[0].lines]


def test_levels_of_the_baseline_stand_beside_table_iii(folders):  # noqa: F811
    write(folders[1], test=0.7)
    write(folders[1], status="diverged", seed=1)
    write(folders[1], test=0.4, protocol="released+test_start=fresh")
    write(folders[1], "evomal")
    (line,) = audit.baseline_levels(report.collect(folders[0], reference_dir=folders[1]))
    assert line == (
        "diabetes, quick budget: published 0.3829; as in the text 0.7000 (n = 1 of 2), "
        "as in the code+test_start=fresh 0.4000 (n = 1 of 1)"
    )
