"""The audit of the protocol: where paper and released code differ, and what each difference does to the test error."""

from collections.abc import Iterable

import pandas
from matplotlib.figure import Figure

import evomal_core as ec
from evomal_core.config import DEPARTURES, SWITCHES

from . import comparisons, plots, report

SIDES = ("paper", "released")
SAID = {"paper": "the text", "released": "the code"}
# What each side says, and which methods can notice
DESCRIPTIONS = {
    "split": (
        "60:20:20",
        "the 60 % are thrown away; the other 40 % are halved into training and validation part, and all of them are the test "
        "part, which so contains both",
        "every method",
    ),
    "elitism": ("the best 5 % survive", "none: 5 % are plain reproduction", "EvoMAL, GP-LFL"),
    "gradient_equivalence": ("filter of section III-E3", "absent", "EvoMAL, GP-LFL, random"),
    "tournament": ("by fitness", "by size, then fitness; with parsimony size 1", "EvoMAL, GP-LFL"),
    "archive": ("holds every loss seen", "only those evaluated: rejected ones are optimised again", "EvoMAL, GP-LFL"),
    "stale_best": ("–", "the best-so-far stores the last fitness computed for any individual", "EvoMAL, GP-LFL"),
    "protection": ("log(|x| + ε), √(|x| + ε)", "log(max(|x|, ε)), √(max(|x|, ε))", "EvoMAL, GP-LFL, random"),
    "taylor_roles": (
        "a is of the prediction, b of the label",
        "exchanged: squared error cannot be expressed",
        "TaylorGLO",
    ),
    "taylor_term": ("½θ7·b²·a around θ1", "its last factor is around θ0", "TaylorGLO"),
    "non_finite": ("is the worst case", "training stops, and the weights reached so far are scored", "every search"),
    "test_start": (
        "meta-testing has initial weights and batches of its own",
        "it has those of the fitness evaluation, which are its first 500 steps",
        "every method",
    ),
    "non_negative": (
        "optional",
        "absent: switched on by +non_negative=on under either protocol",
        "EvoMAL, GP-LFL, random",
    ),
    "svhn": ("10 classes; test images as they are", "100 outputs; test images cropped and flipped", "images"),
    "validation_augmentation": ("they are not augmented", "as the training images", "images"),
    "preresnet": ("PreResNet-101", "basic blocks instead of bottlenecks", "images"),
    "allcnnc": (
        "ReLU after each convolution",
        "none after the third and sixth; only the top left 6×6 are pooled",
        "images",
    ),
    "pyramidnet_outputs": ("100 outputs on CIFAR-100", "always 10: that row cannot be run", "images"),
}

AUDITED = tuple(name for name in DEPARTURES if DESCRIPTIONS[name][2] != "images")  # the others need images


def descriptions() -> pandas.DataFrame:
    """What text and released code say on each switch, and which methods can notice."""
    table = pandas.DataFrame.from_dict(DESCRIPTIONS, "index", columns=["in the text", "in the code", "acts on"])
    return table.rename_axis("switch")


def flipped(base: str, switch: str | None) -> str:
    """The protocol `base` with `switch` as the other side has it; `base` itself for None."""
    if switch is None:
        return base
    other = SWITCHES[switch].released if base == "paper" else SWITCHES[switch].paper
    return f"{base}+{switch}={other}"


def plan() -> list[tuple[str, str, str | None]]:
    """(method, side, switch or None) of each run of a seed: TaylorGLO has its own switches, EvoMAL has the others."""
    return [
        (method, base, switch)
        for base in SIDES
        for switch in (None, *AUDITED)
        for method in ("evomal", "taylorglo")
        if switch is None or switch.startswith("taylor") == (method == "taylorglo")
    ]


def rows(datasets: Iterable[str], budget: str, seeds: Iterable[int] = (0,)) -> list[ec.Cell]:
    """The cells of the audit under each seed."""
    return [
        ec.Cell(dataset, "mlp", method, seed, budget, flipped(base, switch))
        for seed in seeds
        for dataset in datasets
        for method, base, switch in plan()
    ]


def of_protocol(runs: pandas.DataFrame, dataset: str, method: str, protocol: str) -> pandas.DataFrame:
    """Runs of one protocol by seed, with the columns `error`, the test error capped at 1, and `capped`.

    A run that diverged or found no loss has the error 1, too. A search without a loss is one for every start of its test.
    """
    wanted = ec.Protocol.parse(protocol)
    mine = (runs["dataset"] == dataset) & (runs["method"] == method)
    without = (runs["status"] == "no_loss") & (runs["protocol"] == str(wanted.of_search))
    mine &= without | (runs["protocol"] == str(wanted))
    part = runs[mine].set_index("seed")
    return part.assign(error=part["test_metric"].clip(upper=1).fillna(1), capped=~(part["test_metric"] <= 1))


def effects(records: report.Records, datasets: Iterable[str]) -> pandas.DataFrame:
    """What flipping each switch changes, paired over seeds.

    Args:
        records: of one budget. An own run takes the place of the reference run of the same protocol and seed.

    Returns:
        One row for each data set, side and switch: what `comparisons.paired` says of the changes, the `changes` of the seeds,
        whether all are 0 (`same`), mean, standard deviation and number of capped errors before and after, and the mean
        change of the number of evaluations.
    """
    runs = report.runs_table(records).sort_values("source")  # own before reference
    runs = runs.drop_duplicates(["dataset", "method", "protocol", "seed"])
    rows = []
    for dataset in datasets:
        for method, base, switch in plan():
            if switch is None:
                continue
            before, after = (of_protocol(runs, dataset, method, name) for name in (base, flipped(base, switch)))
            changes = (after["error"] - before["error"]).dropna()
            row = {"dataset": dataset, "method": method, "switch": switch, "side": base, **comparisons.paired(changes)}
            row |= {"changes": changes.tolist(), "same": bool(len(changes)) and not changes.any()}
            for name, part in (("unflipped", before), ("flipped", after)):
                error = part["error"]
                row |= {name: error.mean(), f"sd {name}": error.std(), f"capped {name}": part["capped"].sum()}
            row["evaluations"] = (after["evaluated"] - before["evaluated"]).mean()
            rows.append(row)
    return pandas.DataFrame(rows)


def display_effects(table: pandas.DataFrame) -> pandas.DataFrame:
    """`effects` for reading."""
    parts = [f"{what}{name}" for name in ("unflipped", "flipped") for what in ("", "sd ", "capped ")]
    shown = table.set_index(["dataset", "method", "switch", "side"])
    shown = shown[["n", *parts, "difference", "low", "high", "evaluations"]]
    return shown.rename(columns={"difference": "change", "evaluations": "change of evaluations"}).round(3)


@plots.style()
def forest(table: pandas.DataFrame, dataset: str) -> Figure:
    """The change that each switch makes on a data set. A dot is a seed, a diamond their mean, and a bar its interval.

    The dashed line is the advantage that Table III publishes for EvoMAL.
    """
    part = table[table["dataset"] == dataset]
    names = list(dict.fromkeys(part["switch"]))
    claim = _claim(dataset)
    figure, axes = plots.grid(2, 2, (3.8, 0.29 * len(names) + 1.2), sharex=True, sharey=True)
    for axis, base in zip(axes, SIDES, strict=True):
        axis.axvline(0, color="0.4", lw=0.8)
        line = axis.axvline(claim, color=plots.PALETTE[3], lw=1.6, ls="--")
        for row in part[part["side"] == base].itertuples():
            y = names.index(row.switch)
            if row.low == row.low:
                axis.plot([row.low, row.high], [y, y], "-", lw=2, color=plots.PALETTE[0])
            (mean,) = axis.plot(row.difference, y, "D", ms=6, color=plots.PALETTE[0], ls="")
            (dots,) = axis.plot(
                row.changes, [y] * len(row.changes), "o", ms=4.5, color="0.45", mec="white", mew=0.5, ls=""
            )
        axis.set(title=f"one switch flipped, from {SAID[base]}", xlabel="change of the capped test error")
        axis.set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    marks = {"a seed": dots, "their mean, 95 % interval": mean, "published advantage of EvoMAL": line}
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=3, frameon=False)
    return figure


def baseline_levels(records: report.Records) -> list[str]:
    """The plain baseline's test error beside Table III's, a line for each data set and budget.

    Both protocols are shown, and the start of the test where it is not the protocol's own.
    """
    paper = report.paper_table("table3").query("method == 'baseline'").set_index("dataset")["mean"]
    runs = report.runs_table(records).query("method == 'baseline' and model == 'mlp'")
    runs = runs[runs["protocol"].isin([flipped(side, switch) for side in SIDES for switch in (None, "test_start")])]
    runs = runs[runs["dataset"].isin(paper.index)]
    lines = []
    for (dataset, budget), part in runs.groupby(["dataset", "budget"], sort=False):
        levels = [
            f"{report.in_words('protocol', protocol)} {report.number(group['test_metric'].mean())} "
            f"(n = {group['test_metric'].count()} of {len(group)})"
            for protocol, group in part.groupby("protocol")
        ]
        budget = report.in_words("budget", budget)
        lines.append(f"{dataset}, {budget} budget: published {paper[dataset]:.4f}; {', '.join(levels)}")
    return lines


def verdicts(table: pandas.DataFrame, dataset: str) -> list[str]:
    """What `effects` says of each switch, in words. The yardstick is the advantage that Table III claims for EvoMAL."""
    gap = _claim(dataset)
    lines = [f"{dataset}: Table III claims that EvoMAL's error differs from the baseline's by {gap:+.4f}."]
    part = table[table["dataset"] == dataset]
    for (method, switch), both in part.groupby(["method", "switch"], sort=False):
        said = [f"from {SAID[row.side]}, {_verdict(row, gap)}" for row in both.itertuples()]
        lines.append(f"`{switch}` ({method}): {'; '.join(said)}.")
    return lines


def _claim(dataset: str) -> float:
    """EvoMAL's published error minus the baseline's."""
    claims = report.paper_table("table3").pivot(index="dataset", columns="method", values="mean").loc[dataset]
    return claims["evomal"] - claims["baseline"]


def _verdict(row, gap: float) -> str:
    if row.n < 3:
        return f"{row.n} pairs are too few to say"
    if row.same:
        return f"nothing at all changes (n = {row.n})"
    size = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}], {abs(row.difference / gap):.1f} times the claim"
    sure = "no effect can be told from noise" if row.finding == "open" else f"the error gets {row.finding}"
    return f"{sure} ({size}; n = {row.n})"
