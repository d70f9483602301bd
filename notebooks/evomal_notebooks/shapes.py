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
from .plots import LINES, PALETTE, elementwise, grid, style

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
        values = elementwise(loss, 1.0, true) + 9 * elementwise(loss, 0.0, (1 - true) / 9)
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


def display_losses(best: pandas.DataFrame) -> str:
    """Rows of `found_losses` as a table of Markdown."""
    lines = ["| | fitness, test | tree | parameters omitted | parameters kept |", "|---|---|---|---|---|"]
    for row in best.itertuples():
        name = f"{row.task}, {row.method}, seed {row.seed}" + ("" if row.records == "reference" else " (own)")
        errors = f"{report.number(row.fitness)}, {report.number(row.test)}"
        forms = f"{math(row.omitted)} | {math(row.kept)}"
        lines.append(f"| {name}, {row.budget} | {errors} | `{row.expression}` | {forms} |")
    return "\n".join(lines) if len(best) else "no record of a search that found a loss"


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
        lines.append(f"{budget}, {method}: {len(losses)} losses, {near} with the minimum at y; operators: {used}")
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


def draw(axis, losses: Mapping[str, torch.nn.Module], lines: Iterable = LINES) -> None:
    """Draw the scaled curves of losses of one kind: against p at y = 1, or against f at y = 0.5."""
    if not losses:
        axis.text(0.5, 0.5, "no record", ha="center", va="center", transform=axis.transAxes)
        axis.set(ylim=(-0.08, 1.08))
        return
    classification = next(iter(losses.values())).classification
    x = torch.linspace(0.001, 0.999, 301) if classification else torch.linspace(LABEL - 2.5, LABEL + 2.5, 301)
    widths = np.linspace(3, 1.2, max(2, len(losses)))  # a curve that hides another is the thinner one
    for (name, loss), colour, line, width in zip(losses.items(), PALETTE, lines, widths, strict=False):
        values = scaled(elementwise(loss, 1.0 if classification else LABEL, x))
        axis.plot(x, values, color=colour, ls=line, lw=width, label=name)
    if not classification:
        axis.axvline(LABEL, color="0.3", lw=1, ls=":")
    axis.set(ylim=(-0.08, 1.08), xlabel="p" if classification else "f")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, frameon=False, fontsize="small")


def name_of(run) -> str:
    """What a curve of a run's loss is called."""
    return f"{run.cell.dataset}, {run.cell.model}: {run.cell.method}, {run.cell.budget}"


@style()
def side_by_side(paper: Mapping[str, torch.nn.Module], found: Iterable) -> Figure:
    """The paper's losses above, EvoMAL's losses of up to eight runs below; classification left, regression right."""
    figure, axes = grid(4, 2, (4.4, 2.9))
    found = [run for run in found if run.cell.method == "evomal"]
    for column, (kind, word) in enumerate(((True, "classification"), (False, "regression"))):
        draw(axes[column], {letter: loss for letter, loss in paper.items() if loss.classification == kind})
        axes[column].set_title(f"the paper's, {word}, weights 1")
        runs = [run for run in found if run.loss.classification == kind]
        draw(axes[2 + column], {name_of(run): run.loss for run in runs[:8]}, LINES * 2)
        axes[2 + column].set_title(f"found by EvoMAL, {word}")
    return figure


@style()
def one_by_one(losses: Mapping[str, torch.nn.Module], columns: int = 5) -> Figure:
    """A panel for each of `losses`, title -> loss, without scaling: against p for two targets, or against f − y for three."""
    figure, axes = grid(len(losses), columns, (1.9, 1.8))
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
