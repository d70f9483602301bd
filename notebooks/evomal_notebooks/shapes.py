"""The shapes of losses (Table VI, Fig. 6): where a loss is least, how it grows, and curves of several side by side."""

from collections.abc import Iterable, Mapping
from math import nan

import numpy as np
import pandas
import sympy
import torch
from matplotlib.figure import Figure

import evomal_core as ec
from evomal_core.losses.export import large

from . import report
from .plots import LINES, PALETTE, elementwise, grid, png, style

SIZE = {"paper": 0, "quick": 1, "pocket": 2}  # budgets from the largest to the smallest
LABEL = 0.5  # of the regression losses side by side
COLUMNS = ["records", "classification", "task", "budget", "method", "seed", "fitness", "test", "expression"]
COLUMNS += ["omitted", "kept", "minimum", "minimum, weights 1", "gradient", "latex"]


def with_weights_one(loss: ec.MetaLoss) -> ec.MetaLoss:
    """The same tree with all weights 1."""
    return ec.MetaLoss(loss.tree, None, loss.classification, loss.non_negative, loss.protection)


def gradient_kept(loss: ec.MetaLoss, form: sympy.Expr) -> float:
    """The median relative difference of the gradient in the prediction between a loss and its simplified formula.

    The loss's gradient is autograd's, the formula's is by differences, both at 500 random points. Points at which the loss's
    gradient vanishes do not count. NaN of a tree that is too large to be simplified.
    """
    if large(loss):
        return nan
    loss = ec.MetaLoss(loss.tree, loss.weights.double(), loss.classification, loss.non_negative, loss.protection)
    generator = torch.Generator().manual_seed(0)
    y, f = (torch.rand(2, 500, generator=generator, dtype=torch.float64) * 3 - 1.5).unbind()
    if loss.classification:
        y, f = (y > 0).double(), (f / 3 + 0.5)
    f.requires_grad_()
    (raw,) = torch.autograd.grad((loss.elementwise(y, f) + 0 * f).sum(), f)
    symbols = sympy.symbols("y f", real=True)
    function = sympy.lambdify(symbols, form.subs(sympy.Symbol(r"\varepsilon", positive=True), 1e-7))
    y, f, raw, h = y.numpy(), f.detach().numpy(), raw.numpy(), 1e-6
    slope = (function(y, f + h) - function(y, f - h)) / (2 * h) + 0 * f
    moving = abs(raw) > 1e-6
    return float(pandas.Series(abs(slope[moving] / raw[moving] - 1)).median()) if moving.any() else 0.0


@torch.no_grad()
def minimum(loss: torch.nn.Module) -> float:
    """Where a loss is least.

    In regression this is the mean distance from y of the prediction with the least loss, for six labels from −1.5 to 1.5 and
    predictions from −4 to 4. In classification it is the probability of the true class with the least loss of an instance
    of ten classes, the other nine of which share the rest; NaN if the loss is constant.
    """
    if loss.classification:
        true = torch.linspace(0.001, 0.999, 999)
        values = instance(loss, true)
        return true[values.argmin()].item() if values.max() - values.min() > 1e-4 else float("nan")
    f = torch.linspace(-4, 4, 1601)
    labels = [-1.5, -0.9, -0.3, 0.3, 0.9, 1.5]
    return sum(abs(f[elementwise(loss, y, f).argmin()].item() - y) for y in labels) / len(labels)


def growth(loss: torch.nn.Module) -> float | None:
    """(M(y + 3e) − M(y)) / (M(y + e) − M(y)), the mean over e = ±1 and three labels y.

    It is None if on one side the loss at an error of 1 is not above that at an error of 0.
    """
    errors = torch.tensor([0.0, 1.0, -1.0, 3.0, -3.0])
    rise = np.mean([elementwise(loss, y, y + errors) for y in (-1.0, 0.5, 2.0)], axis=0)
    rise = rise - rise[0]
    return rise[3:].mean() / rise[1:3].mean() if rise[1:3].min() > 1e-3 else None


def growth_words(loss: torch.nn.Module) -> str:
    """`growth` in words."""
    ratio = growth(loss)
    return "does not rise with the error" if ratio is None else f"grows {ratio:.1f} times from error 1 to 3"


def math(form: sympy.Expr) -> str:
    """A formula for a table of Markdown, in which a bar would end the column."""
    return f"${ec.latex(form)}$".replace("|", r"\vert ") if form != 0 else "no gradient"


def printed_losses() -> str:
    """The paper's ten losses as a table of Markdown: as printed, as a tree, simplified, their minimum, and a remark."""
    lines = ["| | as printed | tree | simplified | minimum | remark |", "|---|---|---|---|---|---|"]
    for row in report.paper_table("table6").itertuples():
        loss = report.paper_loss(row.loss)
        printed, form = row.printed.replace("|", r"\vert "), math(ec.simplify(loss))
        found = f"p = {minimum(loss):.2f}" if row.classification else f"distance {minimum(loss):.2f}"
        found = found.replace("p = nan", "constant")
        lines.append(f"| {row.loss} | ${printed}$ | `{row.expression}` | {form} | {found} | {row.remark} |")
    return "\n".join(lines)


def found_losses(records: report.Records) -> pandas.DataFrame:
    """One row for each run that found a symbolic loss, with its formulas (weights omitted and kept), minima and gradient.

    "gradient" is what `gradient_kept` gives for the formula with the weights kept.
    """
    rows = []
    for source in report.SOURCES:
        for run in getattr(records, source):
            if not isinstance(loss := run.loss, ec.MetaLoss):
                continue
            cell, kept = run.cell, ec.simplify(loss)
            row = {"records": source, "classification": loss.classification, "task": f"{cell.dataset}, {cell.model}"}
            row |= {"budget": cell.budget, "method": cell.method, "seed": cell.seed, "fitness": run.data["fitness"]}
            row |= {"test": run.test_metric, "expression": str(loss), "kept": kept, "latex": ec.latex(kept)}
            row |= {"omitted": ec.simplify(loss, weights=False), "gradient": gradient_kept(loss, kept)}
            rows.append(row | {"minimum": minimum(loss), "minimum, weights 1": minimum(with_weights_one(loss))})
    return pandas.DataFrame(rows, columns=COLUMNS)


def best_losses(table: pandas.DataFrame) -> pandas.DataFrame:
    """The row of the best fitness of each source, task, budget and method."""
    groups = table.dropna(subset="fitness").groupby(["records", "task", "budget", "method"], sort=False)
    return table.loc[groups["fitness"].idxmin()]


def of_each_task(best: pandas.DataFrame, method: str = "evomal") -> pandas.DataFrame:
    """Of rows as `best_losses` gives them, a method's at the largest budget of each task; own before reference."""
    mine = best[best["method"] == method].assign(
        small=[SIZE.get(name, 3) for name in best[best["method"] == method]["budget"]]
    )
    return mine.sort_values(["small", "records"], kind="stable").drop_duplicates("task").sort_index()


def display_losses(best: pandas.DataFrame, runs: Iterable) -> str:
    """Rows of `found_losses` as a table of Markdown: the task, a small plot with the learned weights, errors, the formula.

    Args:
        runs: those that the rows are of, for their losses.
    """
    losses = {(f"{r.cell.dataset}, {r.cell.model}", r.cell.budget, r.cell.method, r.cell.seed): r.loss for r in runs}
    lines = ["| task | curve | fitness, test error | formula, weights omitted |", "|---|---|---|---|"]
    for row in best.itertuples():
        where = f"{report.in_words('budget', row.budget)} budget, seed {row.seed}" + (
            " (own)" if row.records == "own" else ""
        )
        loss = losses[row.task, row.budget, row.method, row.seed]
        size = len(loss.tree)
        form = math(row.omitted) if len(ec.latex(row.omitted)) < 260 else f"a tree of {size} nodes, see `table6.csv`"
        errors = f"{report.number(row.fitness)}, {report.number(row.test)}"
        lines.append(f"| {row.task}<br>{where} | {spark(loss, f'Loss found on {row.task}')} | {errors} | {form} |")
    return "\n".join(lines) if len(best) else "no record of a search that found a loss"


def spark(loss: torch.nn.Module, alt: str) -> str:
    """A loss as a picture within a line: against p of an instance, or against f at y = 0.5 (dotted)."""
    figure = Figure(figsize=(1.3, 0.6))
    axis = figure.add_axes((0.02, 0.03, 0.96, 0.94))
    x = torch.linspace(0.001, 0.999, 301) if loss.classification else torch.linspace(LABEL - 2.5, LABEL + 2.5, 301)
    axis.plot(
        x, scaled(instance(loss, x) if loss.classification else elementwise(loss, LABEL, x)), color=PALETTE[0], lw=2
    )
    if not loss.classification:
        axis.axvline(LABEL, color="0.3", lw=1, ls=":")
    axis.set(xticks=[], yticks=[], ylim=(-0.08, 1.08), xlim=(x[0], x[-1]))
    data, width, height = png(figure)
    return f'<img alt="{alt}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'


def asking_for_the_label(table: pandas.DataFrame) -> list[str]:
    """How many regression losses of the reference have their minimum within 0.1 of y, and their four commonest operators.

    There is a line for each budget and method, and a last one with the number of losses and the sum of their fitness.
    """
    reference = table[(table["records"] == "reference") & ~table["classification"].astype(bool)]
    lines = []
    for (budget, method), losses in reference.groupby(["budget", "method"], sort=False):
        near = int((losses["minimum"] < 0.1).sum())
        counts = losses["expression"].str.findall(r"[a-z]{2,}").explode().value_counts()
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
        used = ", ".join(f"{name} {count}" for name, count in common)
        lines.append(
            f"{report.in_words('budget', budget)} budget, {method}: {len(losses)} losses, {near} with the minimum at y; "
            f"operators: {used}"
        )
    return [*lines, f"{len(reference)} losses of regression, fitness in all {reference['fitness'].sum():.3f}"]


def gradient_shares(table: pandas.DataFrame) -> pandas.DataFrame:
    """Count, median and maximum of the relative difference of the simplified gradient, by source, budget and method."""
    groups = table.astype({"gradient": float}).groupby(["records", "budget", "method"], sort=False)["gradient"]
    return groups.agg(["count", "median", "max"])


def scaled(values: np.ndarray) -> np.ndarray:
    """A curve of 301 points scaled to 0 … 1 over the central nine tenths of its axis; a constant becomes 0."""
    low, high = np.nanmin(values[15:-15]), np.nanmax(values[15:-15])
    flat = high - low < 1e-5 * max(1, abs(high))
    return np.zeros_like(values) if flat else (values - low) / (high - low)


def instance(loss: torch.nn.Module, p: torch.Tensor) -> np.ndarray:
    """The loss of a whole instance of ten classes against the probability p of the true class, (n,); nine share the rest."""
    return elementwise(loss, 1.0, p) + 9 * elementwise(loss, 0.0, (1 - p) / 9)


def yardsticks(classification: bool, x: torch.Tensor) -> dict[str, np.ndarray]:
    """The usual losses of a kind at the points x: cross-entropy and focal loss (γ = 2), or squared error at y = 0.5."""
    if classification:
        cross_entropy = -torch.log(x)
        return {"cross-entropy": cross_entropy.numpy(), "focal, γ = 2": ((1 - x) ** 2 * cross_entropy).numpy()}
    return {"squared error": elementwise(ec.SquaredError(), LABEL, x)}


def draw(axis, losses: Mapping[str, torch.nn.Module], classification: bool, lines: Iterable = LINES) -> None:
    """Draw the scaled curves of losses of one kind and their yardsticks: of an instance against p, or against f."""
    x = torch.linspace(0.001, 0.999, 301) if classification else torch.linspace(LABEL - 2.5, LABEL + 2.5, 301)
    for (name, values), line in zip(yardsticks(classification, x).items(), ("-", "--"), strict=False):
        axis.plot(x, scaled(values), color="0.55", ls=line, lw=5 if line == "-" else 3, label=name)
    widths = np.linspace(2.6, 1.2, max(2, len(losses)))  # a curve that hides another is the thinner one
    for (name, loss), colour, line, width in zip(losses.items(), PALETTE, lines, widths, strict=False):
        values = instance(loss, x) if classification else elementwise(loss, LABEL, x)
        axis.plot(x, scaled(values), color=colour, ls=line, lw=width, label=name)
    if not losses:
        axis.text(0.5, 0.9, "no record", ha="center", va="center", transform=axis.transAxes)
    if not classification:
        axis.axvline(LABEL, color="0.3", lw=1, ls=":")
    axis.set(ylim=(-0.08, 1.08), xlabel="p of the true class" if classification else "prediction f (the label is 0.5)")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")


def name_of(run) -> str:
    """What a curve of a run's loss is called."""
    return f"{run.cell.dataset}, {run.cell.model}: {run.cell.method}, {report.in_words('budget', run.cell.budget)}"


@style()
def side_by_side(published: Mapping[str, torch.nn.Module], found: Mapping[str, torch.nn.Module]) -> Figure:
    """The published losses above, up to eight found ones below; classification left, regression right; scaled."""
    figure, axes = grid(4, 2, (4.6, 2.0))
    for column, (kind, word) in enumerate(((True, "classification"), (False, "regression"))):
        draw(axes[column], {n: loss for n, loss in published.items() if loss.classification == kind}, kind)
        axes[column].set_title(f"{word}: published, all weights 1")
        mine = {n: loss for n, loss in found.items() if loss.classification == kind}
        draw(axes[2 + column], dict(list(mine.items())[:8]), kind, LINES * 2)
        axes[2 + column].set_title(f"{word}: found here")
    return figure


@style()
def one_by_one(losses: Mapping[str, torch.nn.Module], columns: int = 5, size: tuple = (1.9, 1.9)) -> Figure:
    """A panel for each of `losses`, title -> loss, without scaling: against p for two targets, or against f − y for three."""
    figure, axes = grid(len(losses), columns, size)
    for axis, (title, loss) in zip(axes, losses.items(), strict=False):
        x = torch.linspace(0.001, 0.999, 301) if loss.classification else torch.linspace(-3, 3, 301)
        targets = (1.0, 0.0) if loss.classification else (-1.0, 0.5, 2.0)
        values = [elementwise(loss, y, x if loss.classification else x + y) for y in targets]
        for y, curve, colour, line in zip(targets, values, PALETTE, LINES, strict=False):
            axis.plot(x, curve, ls=line, color=colour, label=f"y = {y:g}".replace("-", "−"))
        top, low, high = np.quantile(values, 0.9), np.min(values), np.max(values)
        if high > 20 * top > 0:
            axis.set_ylim(min(0, low), 1.2 * top)
        elif high - low < 1e-5:
            axis.set_ylim(low - 1, low + 1)
        axis.set_title(title, fontsize="small")
        axis.set_xlabel("p" if loss.classification else "f − y")
    for kind, name, side in ((True, "classification", "left"), (False, "regression", "right")):
        first = next((a for a, loss in zip(axes, losses.values(), strict=False) if loss.classification == kind), None)
        if first is not None:
            how = {"ncols": 3, "fontsize": "small", "frameon": False, "title": name, "title_fontsize": "small"}
            figure.legend(*first.get_legend_handles_labels(), loc=f"outside lower {side}", **how)
    return figure
