"""Tables from hand-made records: what is averaged, what is left out and counted, what is never pooled."""

import dataclasses
import json
import math
import statistics

import numpy
import pandas
import pytest

import evomal_core as ec
from evomal_core.experiments import store
from evomal_notebooks import comparisons, report

DIABETES = ("diabetes", "mlp")


def history(*best, **counts):
    """Rows of a history with these best-so-far values."""
    outcomes = dict.fromkeys(("elite", "symbolic", "rejected", "equivalent", "evaluated", "non_finite"), 0)
    outcomes |= dict.fromkeys(("seconds_optimise", "seconds_filter", "seconds_fitness"), 0.0) | counts
    return [{"generation": g, "best_so_far": b, "best": b, "median": b, **outcomes} for g, b in enumerate(best)]


def write(folder, method="baseline", seed=0, test=0.5, status="complete", budget="quick", protocol="paper", **more):
    """Write the records of a search and its test as `run_cell` would, without running anything."""
    cell = ec.Cell(more.pop("dataset", "diabetes"), "mlp", method, seed, budget, protocol, more.pop("source", None))
    seconds = dict(more.pop("seconds", {"total": 60.0}))
    of_test, total = seconds.pop("test", 0.0), seconds.pop("total", 0.0)
    found = None if status == "no_loss" else more.pop("loss", {"kind": "squared_error"})
    facts = {"schema": store.SCHEMA, "cell": dataclasses.asdict(cell)}
    facts |= {"config": dataclasses.asdict(ec.Config.for_cell(cell)), "reason": None if found else "because"}
    facts |= {"started": "2026-01-01T00:00:00Z", "versions": {}, "commit": None}
    facts |= {"hardware": {"cpu": "a CPU", "cores": 2, "device": "cpu"}}
    search = facts | {
        "status": "complete" if found else "no_loss",
        "fitness": None,
        "learning_rate": None,
        "loss": found,
        "leaders": [],
        "history": [],
        "resumed": 0,
        "engine": "gram",
        "seconds": {"search": total - of_test} | seconds,
        **more,
    }
    path = store.folder_of(cell, folder)
    store.write_search(path, search)
    if found:
        complete = status == "complete"
        record = facts | {
            "search": {"cell": facts["cell"], "loss": store.digest_of(found)},
            "status": status,
            "reason": None if complete else "because",
            "metric": "mean squared error",
            "train_metric": 0.3 if complete else None,
            "validation_metric": 0.4 if complete else None,
            "test_metric": test if complete else None,
            "start": ec.Config.for_cell(cell).test_start,
            "steps": 2_000,
            "milestones": [],
            "learning_rate": 0.01,
            "seconds": {"test": of_test},
        }
        store.write_test(path, cell, record)
    return path / "record.json"


@pytest.fixture
def folders(tmp_path):
    """(results_dir, reference_dir), both empty."""
    return tmp_path / "runs", tmp_path / "reference"


def summarise(folders, **keywords):
    runs = report.collect(folders[0], reference_dir=folders[1])
    return report.summary(runs, report.paper_table("table3"), **keywords)


def row(table, method="baseline", protocol="paper", budget="quick"):
    return table.loc[(*DIABETES, protocol, budget, method)]


def test_mean_and_sample_standard_deviation_beside_the_paper(folders):
    values = [0.71, 0.74, 0.80]
    for seed, value in enumerate(values):
        write(folders[0], seed=seed, test=value)
    own = row(summarise(folders))
    assert own["own", "mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert own["own", "std"] == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert own["own", "n"] == 3
    assert own["paper", "mean"] == 0.3829
    assert own["paper", "std"] == 0.0065
    assert math.isnan(own["own", "difference"]), "neither the budget nor the split is that of the published level"


def test_differences_to_the_published_are_of_like_with_like(folders):
    for protocol in ("paper", "released"):
        for budget in ("quick", "paper"):
            write(folders[0], test=0.4, protocol=protocol, budget=budget)
    differences = summarise(folders)["own", "difference"].droplevel(["dataset", "model", "method"]).dropna()
    assert dict(differences) == {("released", "paper"): pytest.approx(0.4 - 0.3829)}
    assert report.alike("mnist", "paper", "paper") and not report.alike("mnist", "paper", "quick")


def test_a_mean_that_says_nothing_gives_way_to_the_median(folders):
    for seed, test in enumerate((0.65, 1.85, 87.7)):
        write(folders[0], "evomal", seed, test=test)
    shown = report.display_summary(summarise(folders)).iloc[0]
    assert shown["own runs"] == "median 1.8500, 0.6500 to 87.7 (n = 3)"


def test_diverged_and_lossless_runs_are_counted_and_left_out_of_the_mean(folders):
    write(folders[0], seed=0, test=0.7)
    write(folders[0], seed=1, status="diverged")
    write(folders[0], seed=2, status="no_loss")
    write(folders[0], seed=3, status="diverged")
    table = summarise(folders)
    own = row(table)
    assert (own["own", "mean"], own["own", "n"]) == (0.7, 1)
    assert math.isnan(own["own", "std"])
    assert own["own", "left_out"] == "2 diverged, 1 no_loss"
    shown = report.display_summary(table).loc[("diabetes", "as in the text", "quick", "baseline")]
    assert shown["own runs"] == "0.7000 (n = 1; 2 diverged, 1 no_loss)"


def test_a_row_of_nothing_but_failures_says_so(folders):
    write(folders[0], status="diverged")
    shown = report.display_summary(summarise(folders)).iloc[0]
    assert shown["own runs"] == "1 diverged"
    assert "own − published" not in shown


def test_budgets_and_protocols_are_never_pooled(folders):
    variants = [("quick", "paper"), ("paper", "paper"), ("quick", "released"), ("quick+generations=3", "paper")]
    variants.append(("quick", "paper+elitism=off"))
    for value, (budget, protocol) in enumerate(variants):
        write(folders[0], test=float(value), budget=budget, protocol=protocol)
    table = summarise(folders)
    assert len(table) == len(variants)
    for value, (budget, protocol) in enumerate(variants):
        assert row(table, protocol=protocol, budget=budget)["own", "mean"] == value
    assert set(table["own", "n"]) == {1}


def test_reference_and_own_runs_are_columns_of_their_own(folders):
    write(folders[0], seed=0, test=0.9)
    write(folders[1], seed=0, test=0.7)
    write(folders[1], seed=1, test=0.8)
    both = row(summarise(folders))
    assert (both["own", "mean"], both["own", "n"]) == (0.9, 1)
    assert (both["reference", "mean"], both["reference", "n"]) == (pytest.approx(0.75), 2)


def test_rows_without_a_record_and_without_a_number_in_the_paper(folders):
    cells = [ec.Cell(*DIABETES, "random"), ec.Cell("california", "mlp", "evomal")]
    shown = report.display_summary(summarise(folders, rows=cells))
    assert list(shown["own runs"]) == ["no record", "no record"]
    assert list(shown["published"]) == ["–", "0.1723 ± 0.0048"]


def test_rows_stand_in_the_order_of_the_paper(folders):
    for method in ("random", "evomal", "baseline", "gp-lfl"):
        for protocol in ("released", "paper"):
            write(folders[0], method, protocol=protocol)
    keys = [(protocol, method) for _, _, protocol, _, method in summarise(folders).index]
    assert keys == [(p, m) for p in ("paper", "released") for m in ("baseline", "gp-lfl", "evomal", "random")]


def test_a_damaged_record_is_named_and_the_others_are_read(folders):
    write(folders[0], seed=0)
    write(folders[0], seed=1).write_text('{"schema": 1, "cell": ')
    not_a_number = write(folders[0], seed=2).parent / "tests" / "fresh.json"
    not_a_number.write_text(not_a_number.read_text().replace('"test_metric": 0.5', '"test_metric": NaN'))
    runs = report.collect(folders[0], reference_dir=folders[1])
    assert [run.cell.seed for run in runs.own] == [0]
    assert len(runs.problems) == 2
    assert all(f"seed{seed}" in message for seed, message in zip((1, 2), runs.problems, strict=True))


def test_what_could_not_be_run_stands_in_its_row(folders):
    lost = store.Run(ec.Cell("boston", "mlp", "evomal"), "unavailable", reason="put boston_housing.csv into data/")
    runs = report.collect(folders[0], also=[lost], reference_dir=folders[1])
    assert report.display_summary(report.summary(runs))["own runs"].tolist() == ["1 unavailable"]
    assert "boston_housing.csv" in runs.problems[0]


def test_empty_records_give_an_empty_table(folders):
    table = summarise(folders)
    assert len(table) == 0
    assert len(report.display_summary(table)) == 0
    assert (
        len(comparisons.display_comparison(comparisons.compare(report.collect(folders[0], reference_dir=folders[1]))))
        == 0
    )


def test_runs_table_has_one_tidy_row_a_run_in_full_precision(folders):
    loss = {"schema": 1, **ec.MetaLoss.from_expression("abs(sub(y, f))").to_json()}
    rows = history(0.9, 0.6, evaluated=3, rejected=5)
    write(folders[0], "evomal", test=0.123456789012345, loss=loss, history=rows, fitness=0.6)
    table = report.runs_table(report.collect(folders[0], reference_dir=folders[1]))
    assert len(table) == 1
    only = table.iloc[0]
    assert only["test_metric"] == 0.123456789012345
    assert (only["expression"], only["candidates"], only["evaluated"]) == ("abs(sub(y, f))", 16, 6)
    assert (only["source"], only["fitness"], only["seconds"]) == ("own", 0.6, 60.0)


def test_a_row_for_each_part_of_what_a_run_cost(folders):
    seconds = {"optimise": 5.0, "filter": 1.0, "fitness": 3.0, "search": 10.0, "test": 2.0, "total": 12.0}
    write(folders[0], "evomal", seconds=seconds, hardware={"cpu": "a CPU", "device": "cpu"})
    write(folders[0], "random", seconds=seconds, hardware={"cpu": "a CPU", "device": "cuda", "gpu": "a GPU"})
    table = report.runs_table(report.collect(folders[0], reference_dir=folders[1]))
    found = table[[f"seconds_{phase}" for phase in report.PHASES]].iloc[0]
    assert list(found) == [5.0, 1.0, 3.0, 2.0]
    assert list(table["seconds"]) == [12.0, 12.0]
    assert list(table["hardware"]) == ["a CPU", "a GPU"]


def test_summary_of_another_column_counts_the_runs_that_have_it(folders):
    for seed, fitness in enumerate((0.5, 0.7, None)):
        write(folders[0], "random", seed, fitness=fitness, status="complete" if fitness else "no_loss")
    found = row(summarise(folders, value="fitness"), "random")["own"]
    assert found["mean"] == pytest.approx(0.6)
    assert found["std"] == pytest.approx(math.sqrt(0.02))
    assert (found["n"], found["left_out"]) == (2, "1 no_loss")


def test_best_runs_have_the_lowest_fitness(folders):
    for seed, (test, fitness) in enumerate([(0.40, 0.9), (0.36, 0.8), (0.30, 0.85)]):
        write(folders[1], "evomal", seed, test=test, fitness=fitness)
    write(folders[1], "evomal", 3, status="diverged", fitness=0.1)
    write(folders[1], "baseline", protocol="released", seed=2)
    runs = report.collect(folders[0], reference_dir=folders[1])
    assert [run.data["fitness"] for run in report.best_runs(runs)] == [0.8]
    assert [run.cell.seed for run in runs.select(protocol="released", seed=(1, 2)).reference] == [2]


# --- which are best, and by how much ---


def test_bold_are_the_best_mean_and_those_within_its_standard_deviation(folders):
    tests = {"baseline": (0.50, 0.52), "gp-lfl": (0.40, 0.44), "evomal": (0.43, 0.46), "random": (0.3, 0.7)}
    for method, values in tests.items():
        for seed, test in enumerate(values):
            write(folders[0], method, seed, test=test)
    write(folders[0], "baseline", test=0.1, protocol="released")  # alone in its block: nothing to be best of
    write(folders[0], "tuned", status="diverged")
    table = summarise(folders)
    best = table["own", "best"]
    assert set(best[best].index.get_level_values("method")) == {"gp-lfl", "evomal"}  # 0.42 ± 0.028, and 0.445
    shown = report.display_summary(table, "<b>{}</b>")["own runs"]
    assert [text.startswith("<b>") for text in shown] == list(best)
    assert not report.display_summary(table)["own runs"].str.contains("<b>").any()


def test_bold_in_the_paper_is_over_its_own_methods(folders):
    rows = [ec.Cell(*DIABETES, method) for method in ("baseline", "evomal", "random")]
    table = summarise(folders, rows=[*rows, ec.Cell("california", "mlp", "evomal", protocol="released")])
    # Table III, Diabetes: 0.3573 ± 0.0198 is the best, 0.3829 not within; california: evomal's 0.1723 is the best
    assert list(table["paper", "best"]) == [False, True, False, True]


def test_pairs_are_of_common_seeds_of_one_source_budget_and_protocol_and_failures_are_worst(folders):
    first, second = {0: 0.5, 1: 0.4, 2: 0.7, 3: 0.2, 5: None}, {0: 0.6, 1: 0.7, 2: 0.6, 3: None, 4: 0.1, 5: None}
    for method, values in (("evomal", first), ("random", second)):
        for seed, test in values.items():
            write(folders[1], method, seed, test=test, status="complete" if test else "diverged")
    write(folders[0], "random", 0, test=9.0)
    write(folders[1], "random", 0, test=9.0, protocol="released")
    records = report.collect(folders[0], reference_dir=folders[1])
    only = comparisons.compare(records, "evomal").iloc[0]
    assert (only["other"], only["source"], only["n"], only["lower"]) == ("random", "reference", 5, 3)
    assert (only["method_failed"], only["other_failed"]) == (1, 2)
    assert math.isnan(only["difference"]) and math.isnan(only["low"]) and only["finding"] == "open"
    table = comparisons.compare(records.select(seed=(0, 1, 2)), "evomal")
    assert len(table) == 1
    only = table.iloc[0]
    assert only["difference"] == pytest.approx(-0.1)
    half = 4.302653 * 0.2 / math.sqrt(3)  # the quantile 0.975 of t with 2 degrees of freedom
    assert (only["low"], only["high"]) == pytest.approx((-0.1 - half, -0.1 + half), rel=1e-6)
    assert (only["finding"], only["reason"]) == ("open", "fewer than 6 pairs")
    shown = comparisons.display_comparison(table).iloc[0]
    assert shown["95 % interval"] == "[-0.5968, +0.3968]"
    assert (shown["smaller in"], shown["Wilcoxon p"]) == ("2 of 3", "–")


def test_comparison_agrees_with_what_is_computed_by_hand():
    differences = numpy.random.default_rng(0).normal(0.5, 1.0, 12)
    found = comparisons.paired(differences)
    half = 2.200985 * differences.std(ddof=1) / math.sqrt(12)  # the quantile 0.975 of t with 11 degrees of freedom
    assert [found["low"], found["high"]] == pytest.approx([differences.mean() - half, differences.mean() + half])
    signed = numpy.argsort(numpy.argsort(abs(differences))) + 1.0  # ranks; their sign patterns are equally likely
    signs = 1 - 2 * (numpy.arange(2**12)[:, None] >> numpy.arange(12) & 1)
    mean, sums = signed.sum() / 2, (signed * (signs > 0)).sum(axis=1)
    observed = signed[differences > 0].sum()
    assert found["p"] == pytest.approx((abs(sums - mean) >= abs(observed - mean)).mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("differences", "finding", "p_known"),
    [
        ([-1.0], "open", False),
        ([-1.0, -2.0], "open", False),
        ([-1.0, -2.0, -3.0], "open", False),
        ([-1.0, -2.0, -1.5], "smaller", False),
        ([-1.0, -2.0, -1.5, -math.inf], "open", False),
        ([-0.1, -0.2, -0.3, -0.1, -0.2, -math.inf], "smaller", True),
        ([-0.1, -0.2, -0.3, -0.1, 0.2, math.inf], "open", True),
        ([0.1] * 5, "larger", False),
        ([0.0] * 6, "open", False),
        ([-0.1, 0.1, -0.2, 0.2, 0.3, -0.3], "open", True),
    ],
)
def test_what_few_or_equal_pairs_can_say(differences, finding, p_known):
    found = comparisons.paired(differences)
    assert found["finding"] == finding
    failed = math.inf in map(abs, differences)
    assert math.isnan(found["low"]) == (len(differences) < 3 or failed)
    assert math.isnan(found["p"]) != p_known
    assert bool(found["reason"]) == (not p_known or failed)


def test_exports_are_tidy_csv_and_booktabs(folders, tmp_path):
    for seed, test in enumerate((0.1234567890123, 0.2)):
        write(folders[0], "evomal", seed, test=test, budget="paper", protocol="released")
    write(folders[0], "random", status="no_loss", budget="paper", protocol="released")
    write(folders[0], "baseline", test=0.7, budget="paper", protocol="released")
    records = report.collect(folders[0], reference_dir=folders[1])
    csv, tex = report.export(records, summarise(folders), tmp_path / "new" / "table")
    table = pandas.read_csv(csv)
    assert len(table) == 4
    assert table.query("method == 'evomal' and seed == 0")["test_metric"].item() == 0.1234567890123
    text = tex.read_text(encoding="utf-8")
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\textbf{0.1617 $\pm$ 0.0541 (n = 2)}",
        r"1 no\_loss",
        "$-$0.1956",
    ):
        assert part in text, part
    assert text.isascii()


@pytest.mark.parametrize(
    ("value", "shown"), [(0.38294, "0.3829"), (-0.5, "-0.5000"), (97.43061, "97.43"), (math.nan, "–")]
)
def test_four_digits_are_shown(value, shown):
    assert report.number(value) == shown


def test_paper_table_is_the_published_one():
    table = report.paper_table("table3")
    assert table.shape == (15, 6)
    assert table.query("dataset == 'california' and method == 'evomal'")["mean"].item() == 0.1723
    with pytest.raises(ValueError, match="Did you mean 'table3'"):
        report.paper_table("tabel3")


def test_records_written_here_are_those_that_the_package_reads(folders):
    """The helper of this file and `run_cell` must not drift apart."""
    run = ec.run_cell(ec.Cell(*DIABETES, "baseline", 0, "smoke+test_steps=1"), results_dir=folders[0])
    real = json.loads((run.path / "record.json").read_text())
    made = json.loads(write(folders[0], seed=1).read_text())
    assert set(made) <= set(real)
    table = report.runs_table(report.collect(folders[0], reference_dir=folders[1]))
    assert set(table["test_metric"]) == {run.test_metric, 0.5}


def test_what_differs_from_the_published_configuration_is_a_table_of_nothing_else():
    assert report.differences(ec.Cell(*DIABETES, "evomal", 0, "paper")) == "All settings are the published ones."
    quick = [line.split() for line in report.differences(ec.Cell(*DIABETES, "evomal", 0, "quick")).splitlines()]
    assert quick[0] == ["setting", "here", "published"]
    assert ["population", "8", "25"] in quick and ["test_steps", "2000", "10000"] in quick
    assert {row[0] for row in quick[1:]} <= set(ec.config.COUNTS)
    released = report.differences(ec.Cell(*DIABETES, "evomal", 0, "paper", "released"))
    lines = [line.split() for line in released.splitlines()]
    assert ["elitism", "False", "True"] in lines and ["split", "overlapping", "honest"] in lines
    mnist = report.differences(ec.Cell("mnist", "mlp", "evomal", 0, "quick"))
    assert "rejection_steps" not in mnist, "the published one of MNIST is 100, too"
    assert "engine" not in report.differences(ec.Cell(*DIABETES, "evomal", 0, "quick", source="boston/mlp"))


def test_layout_of_table_ii_has_a_line_for_the_paper_and_for_each_kind_of_record(folders):
    write(folders[0], "evomal", 0, test=0.5)
    write(folders[0], "evomal", 1, test=0.7)
    write(folders[1], "baseline", 0, test=0.4, budget="paper")
    order = [("boston", "mlp"), DIABETES]
    rows = [ec.Cell(*row, method) for row in order for method in ec.METHODS]
    table = report.summary(report.collect(folders[0], reference_dir=folders[1]), report.paper_table("table3"), rows)
    wide = report.paper_layout(table, order, "*{}*")
    assert list(wide.columns) == list(ec.METHODS)
    assert list(wide.index) == [
        (*DIABETES, "published"),
        (*DIABETES, "your own, quick budget, as in the text, from fresh weights"),
        (*DIABETES, "full budget, as in the text, from fresh weights"),
    ]
    assert wide.loc[(*DIABETES, "published"), "evomal"] == "*0.3573 ± 0.0198*"
    assert wide.loc[(*DIABETES, "published"), "glo"] == "–"
    own = wide.loc[(*DIABETES, "your own, quick budget, as in the text, from fresh weights")]
    assert own["evomal"] == "0.6000 ± 0.1414 (n = 2)" and own["glo"] == own["baseline"] == "–"


def test_means_runs_above_one_and_findings_in_lines(folders):
    for seed, errors in enumerate(((0.5, 0.9), (0.5, 1.1), (0.5, 1.0))):
        write(folders[1], "evomal", seed, test=errors[0])
        write(folders[1], "baseline", seed, test=errors[1])
    write(folders[1], "glo", 3, status="diverged")
    records = report.collect(folders[0], reference_dir=folders[1])
    line = "test_metric, diabetes, mlp, as in the text, quick: baseline 1.0000 (3), evomal 0.5000 (3)"
    assert report.means(records) == [line] and report.means(records, "fitness") == []
    worst = "diabetes, mlp, as in the text, quick, baseline: 1.1000 (seed 1, reference)"
    assert report.above(records) == [worst, "1 of 6 complete runs"]
    (found,) = comparisons.findings(comparisons.compare(records, "evomal"))
    said = "(quick budget, as in the text, smaller with 3 of 3 seeds)"
    assert found == f"reference: EvoMAL's error against baseline: smaller on diabetes {said}"
    write(folders[1], "tuned", 0, test=0.4)
    write(folders[1], "tuned", 1, test=0.6)
    records = report.collect(folders[0], reference_dir=folders[1])
    assert comparisons.counts(records, ("baseline", "tuned")) == [], "tuned has two seeds"
    write(folders[1], "tuned", 2, test=0.7)
    records = report.collect(folders[0], reference_dir=folders[1])
    assert comparisons.counts(records, ("baseline", "tuned")) == ["3 and 2 of 3 on diabetes/mlp (quick)"]
    nothing = comparisons.compare(report.Records([], [], []), "evomal")
    assert comparisons.findings(nothing) == ["No two methods have a seed in common yet."]


def test_ranks_are_averaged_over_seeds_before_data_sets_are_compared(folders):
    errors = {"baseline": 0.3, "evomal": 0.2, "random": 0.1}
    for dataset in ("diabetes", "boston", "california"):
        for seed in (0, 1):
            for method, error in errors.items():
                failed = (dataset, seed, method) == ("boston", 1, "random")
                cell_of = {"status": "diverged"} if failed else {"test": error}
                write(folders[1], method, seed, dataset=dataset, **cell_of)
    (row,) = comparisons.ranks(report.collect(folders[0], reference_dir=folders[1])).to_dict("records")
    assert row["rows"] == 3
    assert row["baseline"] == pytest.approx((3 + 2.5 + 3) / 3)  # Boston: 3 and 2
    assert row["random"] == pytest.approx((1 + 2 + 1) / 3)  # Boston: 1 and 3
    assert row["critical difference"] == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 3)), rel=1e-3)  # Demšar, Table 5
    assert 0 < row["Friedman p"] < 0.2
