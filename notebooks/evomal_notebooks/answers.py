"""The first screen of each notebook: its answer, computed from the records (tables here, figures in `answers_figures`).

Sentences have their numbers from the records, so that they stay true when records are added. Numbers are held against the
published ones only where `report.alike` says that they measure the same.
"""

import math
from collections.abc import Iterable, Sequence

import numpy
import pandas

import evomal_core as ec
from evomal_core.registry import METHODS

from . import audit, comparisons, contests, conventions, costs, operators, report, shapes
from .forests import Row, forest
from .layout import Answer
from .searches import SAID

TEXT, FROM_SEARCH, CODE = "split as in the text", "as in the text, from the search's weights", "split as in the code"
WORDS = {"smaller": "less error", "larger": "more error", "open": "no difference is shown"}


def errors(records: report.Records, source: str = "reference", **wanted) -> list[float]:
    """Test errors of the runs of one source whose cells have these values; infinity for a run that failed."""
    runs = getattr(records.select(**wanted), source)
    failed = [math.inf for run in runs if run.status in comparisons.FAILED]
    return [run.test_metric for run in runs if run.test_metric is not None] + failed


def level(values: Sequence[float]) -> str:
    """Values in words: mean and deviation, median and range where a run failed or the deviation exceeds the mean."""
    if not values:
        return "no run"
    n, mean = f"(n = {len(values)})", float(numpy.mean(values))
    if len(values) == 1:
        return f"{report.number(mean) if math.isfinite(mean) else 'a failed run'} {n}"
    failed = sum(not math.isfinite(v) for v in values)
    if failed or numpy.std(values, ddof=1) > abs(mean):
        ends = "a failed run" if failed else report.number(max(values))
        return f"{report.number(min(values))} to {ends} {n}"
    return f"{report.number(mean)} ± {report.number(float(numpy.std(values, ddof=1)))} {n}"


def difference(row) -> str:
    """The mean difference of a row of `comparisons.compare`, its interval and the number of pairs."""
    ends = comparisons.interval(row)
    return f"{report.number(row.difference, '+')}{'' if ends == '–' else f' {ends}'}, n = {row.n}"


def _published(paper: pandas.DataFrame, dataset: str, model: str, method: str) -> tuple[float, float] | None:
    found = paper.query("dataset == @dataset and model == @model and method == @method")
    return (float(found["mean"].iloc[0]), float(found["std"].iloc[0])) if len(found) else None


def _row(runs: list, other: str) -> pandas.Series | None:
    found = comparisons.compare(runs, "evomal", [other])
    return found.iloc[0] if len(found) else None


def table2(records: report.Records) -> Answer:
    """Table II: the row that was run in full, MNIST with a logistic regression."""
    paper, row = report.paper_table("table2"), {"dataset": "mnist", "model": "logistic"}
    at_full = records.select(budget="paper", protocol="paper")
    full = at_full.select(**row)
    found = {method: errors(full, method=method) for method in METHODS}
    rows = [
        Row(method, {"": values}, _published(paper, "mnist", "logistic", method), errors(full, "own", method=method))
        for method, values in found.items()
        if values or _published(paper, "mnist", "logistic", method)
    ]
    base, tuned = (_row(full.reference, other) for other in ("baseline", "tuned"))
    said = {other: _row(full.reference, other) for other in ("ml3", "taylorglo", "gp-lfl", "random")}
    open_ = [name for name, one in said.items() if one is not None and one.finding == "open"]
    thirteen = list(paper[["dataset", "model"]].drop_duplicates().itertuples(index=False, name=None))
    at = {
        pair: {r.cell.budget for r in records.reference if (r.cell.dataset, r.cell.model) == pair} for pair in thirteen
    }
    sentence = (
        f"On MNIST with a logistic regression EvoMAL's losses have the test error {level(found['evomal'])} and cross-entropy "
        f"has {level(found['baseline'])}; the published errors are {rows_value(rows, 'evomal')} and "
        f"{rows_value(rows, 'baseline')}."
    )
    seconds = conventions.of_convention(records.select(**row, budget="paper"), conventions.SEARCHS)
    same = _row(seconds.select(protocol="paper").reference, "baseline")
    rest, text = thirteen[1:], records.select(protocol="paper").reference
    elsewhere = [run for run in text if (run.cell.dataset, run.cell.model) in rest]
    rows_full, rows_any = (sum(test(b) for b in at.values()) for test in (lambda b: "paper" in b, bool))
    rates = [
        f"{level(mine)} on {'/'.join(pair)} (published for EvoMAL: {_value(*_published(paper, *pair, 'evomal'))})"
        for pair in rest
        if (mine := errors(at_full, dataset=pair[0], model=pair[1], method="tuned"))
    ]
    meaning = (
        f"From fresh weights EvoMAL's error is {SAID[base.finding]} cross-entropy's ({difference(base)}). From the search's "
        f"weights, with which the released code tests, it is {SAID[same.finding]} cross-entropy's ({difference(same)}).",
        f"From fresh weights it is {SAID[tuned.finding]} that of cross-entropy with a tuned rate ({difference(tuned)}).",
        f"It is not shown to differ from that of {_and(open_)}; random search has {level(found['random'])}.",
        f"Cross-entropy with a tuned rate has {_and(rates) or 'no other record'} at the full budget.",
        f"{rows_full} of thirteen rows have records at the full budget, and {rows_any} at any; the others are listed with "
        f"their commands and expected hours. Seeds with which EvoMAL's error is below cross-entropy's, and below that of its "
        f"tuned rate: {'; '.join(comparisons.counts(elsewhere, ('baseline', 'tuned'))) or 'no record'}.",
    )
    alt = f"Test error by method on MNIST with a logistic regression at the full budget, each run a dot. {sentence}"
    return Answer(
        sentence, forest({"MNIST, logistic regression, full budget": rows}, "test error rate", 1, 8.2), alt, meaning
    )


def rows_value(rows: Iterable[Row], name: str) -> str:
    """The published mean of a row, with its deviation."""
    return _value(*next(row.published for row in rows if row.name == name))


def _value(mean: float, spread: float) -> str:
    return f"{mean:.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _count(n: int, word: str) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    text = words[n] if n < len(words) else str(n)
    return f"{text.capitalize()} {word}{'' if n == 1 else 's'}"


def _have(n: int) -> str:
    return "has" if n == 1 else "have"


def table3(records: report.Records) -> Answer:
    """Table III: the three tables at the full budget, under both splits."""
    paper, full = report.paper_table("table3"), records.select(budget="paper", model="mlp")
    kinds = {TEXT: ("paper", conventions.FRESH), FROM_SEARCH: ("paper", conventions.SEARCHS)}
    kinds |= {CODE: ("released", conventions.FRESH)}
    parts = {
        kind: conventions.of_convention(full.select(), name).select(protocol=p) for kind, (p, name) in kinds.items()
    }

    def of(kind: str, dataset: str, method: str) -> list[float]:
        return errors(parts[kind], dataset=dataset, method=method)

    methods = ("baseline", "tuned", "ml3", "taylorglo", "gp-lfl", "evomal")
    panels = {
        report.DATASET[dataset]: [
            Row(
                method,
                {kind: of(kind, dataset, method) for kind in kinds},
                _published(paper, dataset, "mlp", method),
                errors(parts[TEXT], "own", dataset=dataset, method=method),
            )
            for method in methods
        ]
        for dataset in report.TABULAR
    }
    text, code = of(TEXT, "diabetes", "baseline"), of(CODE, "diabetes", "baseline")
    published = {
        m: paper.query("dataset == 'diabetes' and method == @m")["mean"].item() for m in ("baseline", "evomal")
    }
    sentence = (
        f"The split decides the level of Table III: on Diabetes squared error has {report.number(numpy.mean(code))} with the "
        f"split as in the code and {report.number(numpy.mean(text))} with the split as in the text, and the published "
        f"error is {published['baseline']:.4f}."
    )
    mine, theirs = of(TEXT, "diabetes", "evomal"), of(FROM_SEARCH, "diabetes", "evomal")
    base = of(FROM_SEARCH, "diabetes", "baseline")
    meaning = (
        "The split as in the code tests on all data that it trains and validates on, so its errors are too low; "
        "numbers of one "
        "split say nothing about those of the other.",
        f"From the search's weights EvoMAL's losses have {level(theirs)} on Diabetes, and squared error has {level(base)} "
        "(split as in the text).",
        f"From fresh weights the same losses have {level(mine)}: see [robust](robust.ipynb).",
        f"The published advantage on Diabetes is {published['evomal'] - published['baseline']:+.4f}; with the split "
        f"as in the "
        f"code EvoMAL has {level(of(CODE, 'diabetes', 'evomal'))} and squared error {level(code)}, so it is open.",
        f"On Boston squared error has {level(of(CODE, 'boston', 'baseline'))} with the split as in the code, and "
        f"{rows_value(panels['Boston'], 'baseline')} is published; on California it diverges in "
        f"{sum(math.isinf(v) for v in of(TEXT, 'california', 'baseline') + of(CODE, 'california', 'baseline'))} of "
        f"{len(of(TEXT, 'california', 'baseline') + of(CODE, 'california', 'baseline'))} runs from fresh weights.",
    )
    alt = f"Test mean squared error by method on three data sets at the full budget, each run a mark. {sentence}"
    return Answer(sentence, forest(panels, "test mean squared error", 3, 3.4), alt, meaning)


def table4(records: report.Records) -> Answer:
    """Table IV: what was transferred, beside the published row of the same model."""
    paper = report.paper_table("table4").query("model == 'allcnnc'")
    both = {"dataset": "cifar100", "model": "allcnnc"}
    moved = report.collect(reference_dir=report.REFERENCE, transferred=True).select(**both)
    methods = ("baseline", "ml3", "taylorglo", "gp-lfl", "evomal")
    found = {method: errors(moved, method=method) for method in methods}
    rows = [Row(m, {"pocket budget": found[m]}, _published(paper, *both.values(), m)) for m in methods]
    wide = report.paper_table("table4").pivot(index="model", columns="method", values="mean")
    best = int((wide["evomal"] == wide.min(axis=1)).sum())
    sentence = (
        "Table IV is not reproduced: losses were moved from CIFAR-10 to CIFAR-100 at the pocket budget alone, where EvoMAL's "
        f"loss has the error {level(found['evomal'])} and GP-LFL's has {level(found['gp-lfl'])}; the published errors "
        f"at the full "
        f"budget are {rows_value(rows, 'evomal')} and {rows_value(rows, 'gp-lfl')}."
    )
    steps = [ec.Config.for_cell(ec.Cell("cifar100", "allcnnc", "evomal", 0, b)).test_steps for b in ("pocket", "paper")]
    meaning = (
        f"The pocket budget trains for {steps[0]:,} steps where the full budget has {steps[1]:,}; a constant guess has the "
        "error 0.99. The two budgets are not comparable, and no difference is formed.",
        "There is no baseline on CIFAR-100 at that budget, so no loss is shown to keep an advantage.",
        f"As published, EvoMAL's mean is the best on {best} of {len(wide)} models.",
        "Any pair of tasks can be run with `-p source` and `-p target`; the digits of scikit-learn take seconds.",
    )
    alt = f"Test error by method on CIFAR-100 with AllCNN-C. {sentence}"
    return Answer(sentence, forest({"CIFAR-10 to CIFAR-100, AllCNN-C": rows}, "test error rate", 1, 8.2), alt, meaning)


def table5(records: report.Records) -> Answer:
    """Table V: how many times GP-LFL's search EvoMAL's takes, published and recorded at the full budget."""
    paper = report.paper_table("table5").set_index(["dataset", "model", "method"])["hours"]
    runs = costs.timed(conventions.searches(records), paper).query("source == 'reference' and protocol == 'paper'")
    panels, ratios = {}, {}
    for dataset, model in dict.fromkeys(key[:2] for key in paper.index):
        part = runs.query("dataset == @dataset and model == @model")
        times = {
            f"{budget} budget": _ratios(part.query("budget == @key"))
            for key, budget in (("paper", "full"), ("quick", "quick"))
        }
        if any(times.values()):
            there = paper[dataset, model, "evomal"] / paper[dataset, model, "gp-lfl"]
            where = f"{report.DATASET[dataset]}, {model}"
            panels[where] = Row(where, times, (there, math.nan))
            ratios[f"{report.DATASET[dataset]} ({model})"] = (times["full budget"], there)
    full = {name: (float(numpy.median(mine)), there) for name, (mine, there) in ratios.items() if mine}
    said = _and([f"{mine:.1f} times on {name} (published: {there:.1f})" for name, (mine, there) in full.items()])
    sentence = f"At the full budget a search of EvoMAL takes longer than one of GP-LFL: {said}; medians over seeds."
    spent = runs.query("method == 'evomal' and budget == 'paper'")[costs.PHASES].sum()
    wide = costs.seconds_or_hours(costs.timed(conventions.searches(records), paper), paper)
    both = wide["evomal"].dropna()
    hours = [
        f"{r.recorded:.2f} hours on {report.DATASET[key[0]]} (published: {r.published:.2f})"
        for key, r in zip(both.index, both.itertuples(), strict=True)
    ]
    meaning = (
        "GP-LFL is EvoMAL without the learning of weights, so the ratio is what the learning costs.",
        f"Learning weights is {100 * spent['seconds_optimise'] / spent['seconds_search']:.0f} % of EvoMAL's time at "
        f"the full budget.",
        f"A search of EvoMAL takes {_and(hours)}. The published hours are those of an RTX A5000, those here of CPU "
        f"cores that "
        "had other work beside; only the ratio compares methods.",
        "The ratio depends on the budget: the quick budget has 0.8 steps of learning to one of fitness, the full budget 0.5.",
        "The table below has the expected hours of all sixteen rows.",
    )
    figure = forest(
        {"EvoMAL's seconds of search, as a multiple of GP-LFL's": list(panels.values())}, "times GP-LFL's", 1, 8.2
    )
    return Answer(sentence, figure, f"Ratio of search times by task, a dot a seed. {sentence}", meaning)


def _ratios(runs: pandas.DataFrame) -> list[float]:
    """EvoMAL's seconds of search over GP-LFL's, of each seed that both have on the same hardware."""
    wide = runs.pivot_table(index=["seed", "hardware"], columns="method", values="seconds_search")
    return (wide["evomal"] / wide["gp-lfl"]).dropna().to_list() if {"evomal", "gp-lfl"} <= set(wide) else []


def protocol(records: report.Records) -> Answer:
    """The audit: what each difference between text and code does, from both sides."""
    audited = report.collect(reference_dir=report.REFERENCE / "protocol")
    effects = audit.effects(report.Records(audited.reference, [], []), ["diabetes"])
    split = effects.query("switch == 'split' and side == 'released'").iloc[0]
    others = effects.query("switch != 'split'")
    sure = others[others["finding"] != "open"]
    same = effects.groupby("switch")["same"].all()
    paper = report.paper_table("table3").query("dataset == 'diabetes' and method in ('evomal', 'baseline')")
    paper = paper.set_index("method")["mean"]
    levels = {
        p: errors(records, dataset="diabetes", method="baseline", budget="paper", protocol=p)
        for p in ("paper", "released")
    }
    claim = abs(split.difference / (paper["evomal"] - paper["baseline"]))
    sentence = (
        "The split is the difference between text and released code that decides the level: undoing it raises EvoMAL's error "
        f"on Diabetes by {split.difference:.3f} [{split.low:.3f}, {split.high:.3f}], {claim:.0f} times the published "
        f"advantage."
    )
    shown = _and(
        [f"{row.switch} from the side of {audit.SAID[row.side]} ({row.difference:+.3f})" for row in sure.itertuples()]
    )
    meaning = (
        f"Squared error has {level(levels['released'])} on Diabetes at the full budget with the split as in the code and "
        f"{level(levels['paper'])} with the split as in the text; {paper['baseline']:.4f} is published.",
        f"{_count(len(set(others['switch'])), 'other difference')} were flipped from both sides; an effect is shown "
        f"for {shown or 'none'}.",
        f"Nothing at all changes with {_and([name for name, all_same in same.items() if all_same])}.",
        f"The runs are small (8 candidates, 8 generations) with {split.n} seeds, so a large search may tell more.",
    )
    alt = f"Change of EvoMAL's test error by switch, from both sides; a dot a seed, a diamond the mean. {sentence}"
    return Answer(sentence, audit.forest(effects, "diabetes"), alt, meaning)


def robust(records: report.Records) -> Answer:
    """The same losses from the search's weights and from fresh ones."""
    found = conventions.trainings(reference_dir=report.REFERENCE)
    found = found[(found["source"] == "reference") & (found["protocol"] == "paper")]
    every, found = conventions.with_contest(found), found[found["budget"] == "paper"]
    mine = found.query("method == 'evomal'")

    def against(name: str, other: str, dataset: str):
        rows = conventions.against(found, name, other)
        return next((row for row in rows.itertuples() if row.dataset == dataset), None)

    fresh, tuned = (against(conventions.FRESH, other, "mnist") for other in ("baseline", "tuned"))
    robust, early = (against(conventions.ROBUST, other, "mnist") for other in ("baseline", "early"))
    held = mine[(mine["dataset"] == "mnist") & (mine["convention"] == conventions.ROBUST)]
    search = against(conventions.SEARCHS, "baseline", "diabetes")
    one = mine[(mine["dataset"] == "diabetes") & (mine["convention"] == conventions.FRESH)]
    base = found.query("dataset == 'diabetes' and method == 'baseline'")
    worst = base[base["convention"] == conventions.FRESH]["error"].max()
    worse = one.groupby("loss_seed")["error"].mean() > worst
    sentence = (
        f"On MNIST EvoMAL's error minus cross-entropy's is {report.number(fresh.difference, '+')} "
        f"{comparisons.interval(fresh)} "
        f"from fresh weights, too ({fresh.n} losses); on Diabetes it is {report.number(search.difference, '+')} "
        f"{comparisons.interval(search)} from the search's weights, and {int(worse.sum())} of {len(worse)} losses "
        f"{'is' if worse.sum() == 1 else 'are'} worse "
        "than squared error from fresh ones."
    )
    meaning = (
        "Every candidate of a search is judged from the same initial weights and batches. The released code tests the winner "
        "from these, too; the text does not say where a test begins.",
        f"On MNIST the losses also do better than cross-entropy with a tuned rate: {difference(tuned)} losses."
        if tuned.finding == "smaller"
        else f"Against cross-entropy with a tuned rate the difference on MNIST is open: {difference(tuned)} losses.",
        "A remedy stands beside: the *robust* loss wins a contest of the search's leaders over fresh starts, in which the "
        "task loss takes part ([halving.py](../evomal_core/remedies/halving.py)). On MNIST "
        f"{int(numpy.isinf(held['error']).sum())} of its {len(held)} trainings diverged, and its error minus that of "
        f"cross-entropy is {difference(robust)} losses.",
        "The robust losses' error minus that of cross-entropy with rate and stopping step chosen by validation (`early`) is "
        f"{difference(early)} losses: {WORDS[early.finding]}.",
        *filter(None, [contests.changed(every)]),
    )
    alt = f"Test error of trainings under EvoMAL's losses by where they begin, a dot a training. {sentence}"
    return Answer(sentence, conventions.figure(every, conventions.panels(every)), alt, meaning)


def table1(records: report.Records) -> Answer:
    """Table I: closure of the operators."""
    checks = operators.checks(0)
    good = checks[["finite", "never NaN"]].all(axis=1).groupby(level=0).all()
    sentence = (
        f"{int(good.sum())} of {len(good)} operators of Table I are finite with their first derivatives on every input up to "
        "10¹⁸ and never undefined, as closure demands."
    )
    meaning = (
        "Closure means that every tree is a loss that can be trained under; it is the claim of Table I.",
        "The printed log(x + ε) and √(x + ε) are undefined below −ε, because the printed text has lost the bars: "
        "this package "
        "reads |x| + ε (`abs`), and the released code has max(|x|, ε) (`clamp`). Both are checked, with ε = 10⁻⁷.",
        f"Hand-written derivatives differ from autograd's by at most {checks['autograd'].astype(float).max():.0e}.",
    )
    alt = f"Value and derivative of each operator. {sentence}"
    return Answer(sentence, operators.curves(), alt, meaning)


def table6(records: report.Records) -> Answer:
    """Table VI: the best losses found at the full budget, with plots."""
    table = shapes.found_losses(report.Records(records.select(method="evomal", protocol="paper").reference, [], []))
    regression = table[~table["classification"].astype(bool)]
    near = int((regression["minimum"] < 0.1).sum())
    best = {row.task: row for row in shapes.best_losses(table.query("budget == 'paper'")).itertuples()}
    printed = {str(ec.simplify(report.paper_loss(letter))): letter for letter in report.paper_table("table6")["loss"]}
    again = sorted({printed[str(form)] for form in table["omitted"] if str(form) in printed})
    sentence = (
        f"{near} of {len(regression)} regression losses that EvoMAL found here ask for the label (they are least "
        f"within 0.1 of "
        f"it), and {f'the published formula {_and(again)}' if again else 'none of the ten published formulas'} came "
        f"out again."
    )
    meaning = tuple(
        f"The best loss on {task} at the full budget is ${ec.latex(row.omitted)}$ with its weights omitted, as the "
        f"article prints "
        f"losses: fitness {report.number(row.fitness)}, test error {report.number(row.test)}."
        for task, row in best.items()
        if len(ec.latex(row.omitted)) < 120
    )[:4]
    meaning += (
        "The published formulas leave out the learned weights, and with all weights 1 some of them ask for what nobody wants "
        "(b, d and g). So the omitted weights matter, and shapes are compared in [fig6](fig6.ipynb).",
    )
    alt = f"Curves of the best loss of each task at the full budget. {sentence}"
    full = report.best_runs(records.select(method="evomal", budget="paper", protocol="paper"))
    losses = {run_title(run): run.loss for run in full}
    return Answer(sentence, shapes.one_by_one(losses, columns=4, size=(2.5, 2.1)), alt, meaning)


def run_title(run) -> str:
    """Task of a run, for a panel."""
    return f"{report.DATASET.get(run.cell.dataset, run.cell.dataset)}, {run.cell.model}"
