"""The first screen of the notebooks of figures: their answers, computed from the records."""

import pandas

import evomal_core as ec

from . import (
    calibration,
    comparisons,
    flatness,
    initialisation,
    landscape,
    luck,
    luck_plots,
    plots,
    rates,
    report,
    searches,
    shapes,
    smoothing,
)
from .answers import _and, _count, run_title
from .layout import Answer
from .searches import SAID

SEARCHING = ("taylorglo", "gp-lfl", "evomal", "random")


def fig4(records: report.Records) -> Answer:
    """Fig. 4: the searches at the full budget."""
    records = records.select(method=SEARCHING, protocol="paper")
    full = records.select(budget="paper")
    table = searches.compare_searches(report.Records(full.reference, [], []))
    early = table.query("other == 'gp-lfl' and at == 'early'")
    count = early["verdict"].value_counts()
    each = _and([f"in {row.better} seeds on {row.task} ({row.verdict})" for row in early.itertuples()])
    sentence = (
        "The published claim, that EvoMAL is better after 10 generations than GP-LFL after 50, is supported on "
        f"{count.get('supported', 0)} of {len(early)} tasks with records at the full budget: EvoMAL is better {each}."
    )
    meaning = []
    for other in ("gp-lfl", "random"):
        for point, words in (("end", "equally many candidates"), ("equal seconds", "equal seconds")):
            part = table[(table["other"] == other) & (table["at"] == point)]
            found = [f"{row.task} {report.number(row.difference, '+')} ({row.verdict})" for row in part.itertuples()]
            if found:
                text = f"EvoMAL's fitness minus that of {other} at {words}: {_and(found)}."
                meaning.append(text.replace(" -", " −"))
    meaning.append(
        "The lower the fitness, the better. *Open* means that the 95 % interval of the mean difference has 0 in it, or that "
        "there are fewer than three seeds. Only records at the full budget get a verdict."
    )
    figure = plots.fitness_curve(full, ["generation"])
    alt = f"Best fitness so far against the generation, at the full budget, a thin line a seed. {sentence}"
    return Answer(sentence, figure, alt, tuple(meaning))


def fig5(records: report.Records) -> Answer:
    """Fig. 5: what the filters spare, at the full budget."""
    methods = ["evomal", "gp-lfl", "random"]
    full = records.select(method=methods, protocol="paper", budget="paper")
    groups = searches.by_task(report.Records(full.reference, [], []))
    table = searches.filter_table(groups)
    mine = table.loc[("paper", "evomal")]
    sentence = (
        f"At the full budget {100 * mine['evaluated']:.0f} % of EvoMAL's population have their fitness evaluated and "
        f"{100 * mine['symbolic hit']:.0f} % are symbolic hits; about 25 % and 10 % are published."
    )
    rejected, gradient = (
        f"{100 * mine[f'{name}, early']:.0f} % in the first third of a search and {100 * mine[f'{name}, late']:.0f} % "
        f"in the last"
        for name in ("rejected", "gradient hit")
    )
    seconds = searches.seconds_by_phase(groups).loc["reference"].loc["paper"].loc["evomal"]
    meaning = (
        f"Rejections are {rejected}; as published, they fall.",
        f"Gradient hits are {gradient}; as published, they rise to many.",
        f"The filters themselves take {100 * seconds['filter'] / seconds.sum():.0f} % of a search's time.",
        f"The shares are means over {_count(int(mine['tasks']), 'task').lower()} and {int(mine['searches'])} searches; the "
        "published ones pool more tasks.",
    )
    tasks = list(dict.fromkeys(key[2] for key in groups))
    runs = {(m, task): groups.get(("reference", "paper", task, m), []) for m in methods[:2] for task in tasks}
    found = {f"{method}, n = {len(some)}\n{task}": some for (method, task), some in runs.items()}
    figure = plots.filter_shares(found, columns=len(tasks))
    return Answer(sentence, figure, f"Shares of the population by outcome and generation. {sentence}", meaning)


def fig6(records: report.Records) -> Answer:
    """Fig. 6: the shapes of the losses beside the task losses."""
    published = {letter: report.paper_loss(letter) for letter in "abcdefghij"}
    runs = report.best_runs(records.select(method="evomal", budget="paper", protocol="paper"))
    found = {run_title(run): run.loss for run in runs if isinstance(run.loss, ec.MetaLoss)}
    at_one = {letter: shapes.minimum(loss) for letter, loss in published.items() if loss.classification}
    right = [letter for letter, p in at_one.items() if p > 0.99]
    growths = {letter: shapes.growth(loss) for letter, loss in published.items() if not loss.classification}
    slow = [letter for letter, ratio in growths.items() if ratio is not None and ratio < 8.5]
    mine = {name: shapes.growth(loss) for name, loss in found.items() if not loss.classification}
    said = _and([f"{name} {'no rise' if g is None else f'{g:.1f}'}" for name, g in mine.items()])
    sentence = (
        f"{_count(len(right), 'published loss').replace('losss', 'losses')} for classification "
        f"({_and(right)}) and {len(slow)} for regression ({_and(slow)}) have the shapes that are claimed for them with all "
        "weights 1; the others do not without the weights that the article omits."
    )
    classes = {name: shapes.minimum(loss) for name, loss in found.items() if loss.classification}
    meaning = (
        "A curve for classification is the loss of a whole instance of ten classes against the probability p of the true "
        "class, the others sharing the rest; a loss of that shape asks for certainty if it is least at p = 1.",
        f"Least at: "
        f"{_and([f'{letter} p = {p:.2f}' if p == p else f'{letter} nowhere (constant)' for letter, p in at_one.items()])}; "
        f"found here, at the full budget: {_and([f'{name} p = {p:.2f}' for name, p in classes.items()]) or 'none'}.",
        "Squared error grows 9.0 times from an error of 1 to one of 3; "
        f"{_and([f'{letter} {ratio:.1f}' if ratio else f'{letter} does not rise' for letter, ratio in growths.items()])}.",
        f"The regression losses found here at the full budget grow: {said or 'none was found'}.",
    )
    alt = f"Loss curves beside cross-entropy, focal loss and squared error. {sentence}"
    return Answer(sentence, shapes.side_by_side(published, found), alt, meaning)


def fig7(records: report.Records) -> Answer:
    """Fig. 7: is EvoMAL's landscape flatter?"""
    found, _ = landscape.collect(None, "slice")
    found = [each for each in found if each.source == "reference" and each.cell.protocol == "paper"]
    table = flatness.table(found)
    part = table.query("model == 'logistic' and budget == 'paper'").rename(columns={"rise": "value"})
    rows = {
        other: comparisons.compare(part, "evomal", [other], "value").iloc[0]
        for other in ("baseline", "tuned", "ml3", "taylorglo", "gp-lfl", "random")
    }
    word = {"smaller": "flatter than", "larger": "sharper than", "open": "not shown to be flatter or sharper than"}
    base = rows["baseline"]
    sentence = (
        f"On MNIST with a logistic regression EvoMAL's landscapes are {word[base.finding]} the baseline's: the task "
        f"loss rises by "
        f"{report.number(base.difference, '+')} {comparisons.interval(base)} more (n = {base.n}); flatter on average is "
        "published, on CIFAR-10 with AllCNN-C."
    )
    rest = [
        f"{other} ({report.number(row.difference, '+')}, {row.finding})"
        for other, row in rows.items()
        if other != "baseline"
    ]
    corr, norm = (flatness.correlations(table, *pair) for pair in (("rise", "test_metric"), ("weight_norm", "rise")))
    corr, norm = (one.query("model == 'logistic'").iloc[0] for one in (corr, norm))
    go = {
        "together": "is the larger, the larger",
        "against": "is the smaller, the larger",
        "open": "is not shown to go with",
    }
    meaning = (
        f"The difference of the rise to other methods is: {_and(rest)}.",
        f"The test error {go[corr.finding]} the rise (ρ = {corr.rho:+.2f} [{corr.low:+.2f}, {corr.high:+.2f}], n = "
        f"{corr.n}).",
        f"The rise {go[norm.finding]} the norm of the weights (ρ = {norm.rho:+.2f} [{norm.low:+.2f}, {norm.high:+.2f}]): a "
        "loss that acts like a larger rate leads to larger weights.",
        "There is no landscape here of the two published models, AlexNet and AllCNN-C.",
    )
    some = [each for each in found if each.cell.model == "logistic"]
    alt = f"Task loss and error along random directions, by method. {sentence}"
    return Answer(sentence, flatness.mean_curves(some), alt, meaning)


def fig8(records: report.Records) -> Answer:
    """Fig. 8: EvoMAL against the baseline at its best rate."""
    row = ec.Cell("mnist", "logistic", "evomal", 0, "paper")
    usual = ec.Config.for_cell(row).base_learning_rate
    committed = report.collect(reference_dir=rates.REFERENCE)
    table = rates.tidy(report.Records(committed.reference, [], []), row)
    own = rates.at_best(table, rates.ALONE, "evomal", None)
    at_usual = rates.at_best(table, rates.ALONE, "evomal", usual)
    both = rates.at_best(table, rates.BOTH, "evomal", None)
    sentence = (
        f"On MNIST with a logistic regression EvoMAL's error at its best rate ({own['rate']:g}) is "
        f"{SAID[own['finding']]} the "
        f"baseline's at its best ({own['base']:g}): {_numbers(own)}."
    )
    high = table[
        (table["panel"] == rates.ALONE) & (table["method"] == "evomal") & (table["rate"] == table["rate"].max())
    ]
    failed = int(high["error"].isna().sum())
    meaning = (
        f"At the usual rate ({usual:g}) it is {SAID[at_usual['finding']]} the baseline's at its best: {_numbers(at_usual)}.",
        f"With the rate varied in the search, too, the difference at the best rates is {_numbers(both)}.",
        f"At the rate {table['rate'].max():g} in the test alone {failed} of EvoMAL's {len(high)} runs failed, "
        f"and the mean error of the rest is {report.number(high['error'].mean())}.",
        "As published (CIFAR-10, AllCNN-C), EvoMAL is better at small rates and at the near-optimal rate; at large ones some "
        "runs fail. Rates are chosen by validation error here.",
    )
    alt = f"Test error against the base learning rate, a dot a run. {sentence}"
    return Answer(sentence, rates.draw(table), alt, meaning)


def _numbers(row: dict) -> str:
    ends = "" if pandas.isna(row["low"]) else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
    return f"{row['difference']:+.4f}{ends}, n = {row['n']}"


def appendix_a(records: report.Records) -> Answer:
    """Appendix A: does an absolute loss smooth labels, and what follows for confidence, calibration and error?"""
    comparison = calibration.compare(calibration.read(report.REFERENCE))
    weight = comparison.query("loss == 'absolute, w = 1.1' and other == 'absolute, w = 1'")
    counts = {m: weight[weight["measure"] == m]["finding"].value_counts() for m in ("confidence", "ece", "error")}
    tasks = int(counts["confidence"].sum())
    full = records.select(dataset="mnist", model="logistic", method="evomal", budget="paper", protocol="paper")
    optima = smoothing.found_optima(report.Records(full.reference, [], []))
    sentence = (
        f"A weight of 1.1 on the absolute loss lowers the confidence on {counts['confidence'].get('smaller', 0)} of {tasks} "
        f"tasks, makes the calibration worse on {counts['ece'].get('larger', 0)}, and lowers the error on "
        f"{counts['error'].get('smaller', 0)}."
    )
    certain = int((optima["p"] > 0.999).sum())
    meaning = (
        "Loss e of Table VI is least at p = √(1 − ε)/w: with all weights 1 this is 1 within the resolution of float32, so "
        "neither ε nor the bars smooth any label, and a weight above 1 does.",
        "Below its zero it is twice cross-entropy, so it is held against twice cross-entropy here.",
        "Close to p = 0 its gradient vanishes: an instance that is wrong and confident is ignored.",
        f"{certain} of {len(optima)} losses that EvoMAL found on MNIST with a logistic regression are least at p = 1; the "
        "smoothing of labels is not what they have in common.",
        "The published claim is that such losses smooth labels implicitly (section V-C); the supplement was not at hand.",
    )
    figure = calibration.forest(comparison, "absolute, w = 1.1", "absolute, w = 1")
    return Answer(
        sentence, figure, f"Change of confidence, calibration error and test error by task. {sentence}", meaning
    )


def initialisation_(records: report.Records) -> Answer:
    """How much of a lead in fitness is luck of one draw."""
    found = luck.measured(initialisation.read(report.REFERENCE))
    rows = luck.advantage(luck.by_search(found)).query(
        "dataset == 'mnist' and method == 'evomal' and other == 'random'"
    )
    mean, median = (rows[rows["of"] == name].iloc[0] for name in (luck.WINNER, luck.MEDIAN))
    best = found.query("dataset == 'diabetes' and budget == 'paper' and method == 'evomal' and rank == 0")
    fragile = best[best["fragile"].astype(bool)]
    sentence = (
        f"On MNIST {100 * (1 - mean['mean'] / mean['seen']):.0f} % (by the mean over other starts) to "
        f"{100 * (1 - median['mean'] / median['seen']):.0f} % (by the median) of EvoMAL's lead in fitness over random "
        f"search was made by "
        f"selecting on one draw of initial weights and batches; on Diabetes {len(fragile)} of its {len(best)} best losses "
        "are fragile."
    )
    quick = found.query("dataset == 'diabetes' and budget == 'quick' and rank == 0 and method != 'baseline'")
    meaning = (
        f"On MNIST (full budget) the lead is {report.number(mean['seen'], '+')} as selected, "
        f"{report.number(mean['mean'], '+')} [{report.number(mean['mean_low'], '+')}, "
        f"{report.number(mean['mean_high'], '+')}] "
        f"from other starts by the mean, and {report.number(median['mean'], '+')} by the median (n = {mean['n']:.0f}).",
        f"On Diabetes (quick budget) {int(quick['fragile'].sum())} of {len(quick)} best losses is fragile: what is selected "
        "among few candidates holds.",
        "On Diabetes the start decides into which minimum of the loss the predictions fall, y or −y; on MNIST the "
        "error jumps "
        "during training, and the luck is whether a jump falls on the last step.",
        "A loss is *fragile* if it is worse than the task loss, or fails, from at least a tenth of the other starts. The "
        "article reports nothing to hold this against.",
    )
    alt = f"Validation error of the best loss of each search from other starts. {sentence}"
    return Answer(sentence, luck_plots.best_leaders(found), alt, meaning)
