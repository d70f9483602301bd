"""Diagrams of the method for docs/method.md, drawn by code; `python -m evomal_notebooks.diagrams` writes docs/figures.

`two_levels` has the search around the training of loss weights (Fig. 1), `to_network` the way from a tree to a network
(Fig. 2), and `meta_step` one step of loss optimisation (Algorithm 1).
"""

import io
import itertools
from pathlib import Path

import PIL.Image
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from evomal_core import Config, MetaLoss, machine
from evomal_core.losses import expression

from . import plots

FOLDER = machine.ROOT / "docs" / "figures"
OUTER, INNER, BOTH = "#e3edf7", "#fdf0dc", "#e6f2e6"  # the search, the training of loss weights, what is given
BACKWARD = plots.PALETTE[3]
EXAMPLE = "aq(square(sub(y, f)), tanh(f))"


class Canvas:
    """A figure without axes, in inches from the lower left, with boxes and arrows between them."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width, height))
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set(xlim=(0, width), ylim=(0, height))
        self.axis.axis("off")

    def box(
        self, x: float, y: float, text: str, colour: str = "white", size: float = 9.0, shape: str = "round,pad=0.4"
    ):
        """A box with its centre at (x, y); returns its patch, for `arrow`."""
        style = {"boxstyle": shape, "fc": colour, "ec": "0.35", "lw": 0.9}
        drawn = self.axis.text(x, y, text, ha="center", va="center", fontsize=size, bbox=style, linespacing=1.35)
        return (x, y), drawn.get_bbox_patch()

    def arrow(self, start, end, bend: str = "arc3", colour="0.35", dashed: bool = False) -> None:
        """From one box to another."""
        style = {
            "arrowstyle": "-|>",
            "color": colour,
            "lw": 1.2,
            "ls": "--" if dashed else "-",
            "shrinkA": 2,
            "shrinkB": 2,
        }
        style |= {"patchA": start[1], "patchB": end[1], "connectionstyle": bend}
        self.axis.annotate("", end[0], start[0], arrowprops=style)

    def frame(self, x: float, y: float, width: float, height: float, text: str, colour: str, indent=0.1) -> None:
        """A coloured field behind boxes, with its name at the upper left."""
        corner = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "fc": colour, "ec": "none", "zorder": -1}
        self.axis.add_patch(_rounded(x, y, width, height, corner))
        self.axis.text(
            x + indent, y + height - 0.08, text, ha="left", va="top", fontsize=9, weight="bold", color="0.25"
        )

    def label(self, x: float, y: float, text: str, **how) -> None:
        """A few words beside an arrow."""
        self.axis.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 8, "color": "0.3"} | how)


def _rounded(x, y, width, height, style):
    return FancyBboxPatch((x, y), width, height, **style)


def two_levels() -> Figure:
    """The search over expressions (outer level) and the training of loss weights and of models (inner level)."""
    c, config = Canvas(9.6, 4.3), Config()
    c.frame(0.1, 2.3, 9.4, 1.9, "outer level: expressions, by genetic programming", OUTER)
    c.frame(0.1, 0.1, 9.4, 2.05, "inner level: what each candidate passes through", INNER, 2.3)
    start = c.box(1.1, 3.2, "random trees\n(generation 0)")
    repair = c.box(3.2, 3.2, "correction: each tree\nhas y and f")
    breed = c.box(5.75, 3.2, "tournament, crossover,\nmutation, elitism")
    best = c.box(8.4, 3.2, "best loss $\\mathcal{M}_\\phi^\\top$")
    stages = [
        (1.0, "symbolic\nequivalence"),
        (2.75, "loss optimisation\nof the weights φ"),
        (4.65, "rejection\nprotocol"),
        (6.35, "gradient\nequivalence"),
        (8.35, f"fitness: a model\ntrained for {config.fitness_steps} steps"),
    ]
    row = [c.box(x, 1.1, text) for x, text in stages]
    c.arrow(start, repair)
    c.arrow(breed, repair)
    c.arrow(repair, row[0])
    for a, b in itertools.pairwise(row):
        c.arrow(a, b)
    c.arrow(row[-1], breed)
    c.arrow(row[-1], best)
    c.label(4.5, 3.55, "next generation")
    c.label(8.95, 2.22, f"after {config.generations}\ngenerations", fontsize=7.5)
    shortcuts = (
        (1.0, "seen tree:\nfitness is known"),
        (4.65, "no gain:\nworst fitness"),
        (6.35, "seen gradients:\nfitness is known"),
    )
    for x, text in shortcuts:
        c.label(x, 0.42, text, fontsize=7.5, style="italic")
    return c.figure


def _places(loss: MetaLoss) -> tuple[list[str], list, list[tuple[float, float]]]:
    """Names, children and places of a tree's nodes: depth below the root, and the mean of the leaves' places."""
    names, children = [expression.node_name(node) for node in loss.tree], expression.children(loss.tree)
    depth, across = [0] * len(names), [0.0] * len(names)
    for parent, arguments in enumerate(children):
        for child in arguments:
            depth[child] = depth[parent] + 1
    leaves = [node for node in range(len(names)) if not children[node]]
    for node in reversed(range(len(names))):
        inner = [across[child] for child in children[node]]
        across[node] = sum(inner) / len(inner) if inner else float(leaves.index(node))
    return names, children, list(zip(across, depth, strict=True))


def to_network(text: str = EXAMPLE) -> Figure:
    """A tree, the same with its edges turned round, and the network with a weight an edge."""
    loss = MetaLoss(text)
    names, children, places = _places(loss)
    c = Canvas(9.6, 3.7)
    titles = ("1  expression tree", "2  edges turned round", "3  a weight an edge: $\\mathcal{M}_\\phi^\\top(y, f)$")
    for panel, title in enumerate(titles):
        left = 0.1 + 3.15 * panel
        c.frame(left, 0.1, 3.05, 3.5, title, (OUTER, BOTH, INNER)[panel])
        where = [(left + 0.65 + 0.85 * across, 2.85 - 0.72 * depth) for across, depth in places]
        boxes = [
            _node(c, place, name, bool(children[k])) for k, (place, name) in enumerate(zip(where, names, strict=True))
        ]
        for parent, arguments in enumerate(children):
            for child in arguments:
                c.arrow(*((boxes[parent], boxes[child]) if panel == 0 else (boxes[child], boxes[parent])))
                if panel == 2:
                    x, y = ((a + b) / 2 for a, b in zip(where[parent], where[child], strict=True))
                    side = -0.2 if where[child][0] < where[parent][0] else 0.2
                    c.label(x + side, y + 0.03, f"$\\phi_{{{child}}}$", fontsize=10, color="0.1")
    return c.figure


def _node(c: Canvas, place: tuple[float, float], name: str, inner: bool):
    colours = {"y": (*plots.PALETTE[1], 0.55), "f": (*plots.PALETTE[0], 0.45)}
    shape = "round,pad=0.3" if inner else "circle,pad=0.3"
    return c.box(*place, plots.SYMBOLS.get(name, name), colours.get(name, "white"), 9.5, shape)


def meta_step() -> Figure:
    """One meta step with one inner step: forward to the task loss, and backward to the loss weights."""
    c = Canvas(9.6, 3.9)
    c.frame(0.1, 0.1, 5.55, 3.7, "inner step, on a batch of the training part", OUTER)
    c.frame(5.75, 0.1, 3.75, 3.7, "judged on a batch of the validation part", BOTH)
    theta = c.box(0.95, 2.6, "fresh weights θ")
    model = c.box(2.75, 2.6, "model\n$f_\\theta(x)$")
    loss = c.box(2.75, 1.0, "learned loss\n$\\mathcal{M}_\\phi^\\top(y, f_\\theta(x))$", INNER)
    phi = c.box(0.95, 1.0, "loss weights φ", INNER)
    new = c.box(4.72, 2.6, "$\\theta_{new} = \\theta - \\alpha\\nabla_\\theta \\mathcal{M}$", size=9.5)
    again = c.box(7.0, 2.6, "model\n$f_{\\theta_{new}}(x)$")
    task = c.box(8.65, 2.6, "task loss\n$\\mathcal{L}_\\mathcal{T}$")
    for a, b in ((theta, model), (model, loss), (phi, loss), (loss, new), (new, again), (again, task)):
        c.arrow(a, b)
    c.arrow(model, new)
    back = {"colour": BACKWARD, "dashed": True}
    c.arrow(task, new, "arc3,rad=0.45", **back)
    c.arrow(new, phi, "arc3,rad=-0.62", **back)
    c.label(6.9, 3.28, "$h = \\partial\\mathcal{L}_\\mathcal{T}/\\partial\\theta_{new}$", color=BACKWARD, fontsize=9)
    update = "φ ← φ − η ∂$\\mathcal{L}_\\mathcal{T}$/∂φ, by Adam;\nthen the next step, from other fresh weights"
    c.label(7.6, 0.75, update, color=BACKWARD, fontsize=9)
    return c.figure


DIAGRAMS = {"two_levels": two_levels, "to_network": to_network, "meta_step": meta_step}


def save(folder=FOLDER) -> list[Path]:
    """Write all diagrams as PNG of few colours; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in DIAGRAMS.items():
        drawn = io.BytesIO()
        draw().savefig(drawn, format="png", dpi=130)
        few = PIL.Image.open(drawn).convert("RGB").quantize(64, dither=PIL.Image.Dither.NONE)
        few.save(path := folder / f"{name}.png", format="png", optimize=True, dpi=(130, 130))
        paths.append(path)
    return paths


if __name__ == "__main__":
    print(*save(), sep="\n")
