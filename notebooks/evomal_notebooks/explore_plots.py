"""The pictures of notebooks/explore.ipynb: what an `Explorer` gives, drawn as PNG with a text that stands for it."""

import base64
import functools
import html
import io
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import shapes
from .explore import Shape, Training, where_it_should_be
from .plots import LINES, PALETTE, SHADES, colour, draw_network, grid, outcome_shares, style

DPI, SHOWN = 150, 0.5  # drawn at, and shown at this share of the size in pixels
WRONG, RIGHT = "#c1121f", "0.25"  # of a minimum that is not where it should be, and of one that is
_DRAWING = threading.RLock()  # matplotlib's settings belong to the process, and callbacks may run in several threads


@dataclass(frozen=True)
class Picture:
    """A PNG, its size as shown, in pixels, and the text that stands for it where it cannot be seen."""

    png: bytes
    width: int
    height: int
    alt: str

    def html(self, width: int | None = None, height: int | None = None) -> str:
        """An <img> with the picture inside, shrunk to fit into `width` and `height`, never enlarged."""
        scale = min(1, (width or self.width) / self.width, (height or self.height) / self.height)
        source = base64.b64encode(self.png).decode()
        size = f'width="{round(scale * self.width)}" height="{round(scale * self.height)}"'
        return f'<img {size} alt="{html.escape(self.alt)}" src="data:image/png;base64,{source}">'

    def bundle(self) -> tuple[dict, dict]:
        """(data, metadata) for IPython's `display(data, metadata=metadata, raw=True)`."""
        facts = {"width": self.width, "height": self.height, "alt": self.alt}
        return {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}, {"image/png": facts}


def drawn(function: Callable[..., Figure]) -> Callable[..., Picture]:
    """A function that gives a figure becomes one that gives a `Picture`; its last argument is the picture's text."""

    @functools.wraps(function)
    def picture(*given, alt: str = "", **named) -> Picture:
        with _DRAWING, style():
            return render(function(*given, **named), alt)

    return picture


def render(figure: Figure, alt: str = "") -> Picture:
    """A figure as a picture with few colours."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    canvas.draw()
    return _few(PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), alt)


def _few(image: PIL.Image.Image, alt: str) -> Picture:
    small = io.BytesIO()
    image.quantize(palette=_palette(), dither=PIL.Image.Dither.NONE).save(small, format="png", optimize=True)
    return Picture(small.getvalue(), int(SHOWN * image.width), int(SHOWN * image.height), alt)


@functools.cache
def _palette() -> PIL.Image.Image:
    """The colours of the pictures: greys, and each colour that a curve or bar has, at full strength and mixed with white."""
    full = [*PALETTE[:4], colour("evomal"), *SHADES, to_rgb(WRONG)]
    colours = [(grey / 7,) * 3 for grey in range(8)]
    colours += [tuple(1 - strength * (1 - part) for part in c) for c in full for strength in (1, 0.5)]
    image = PIL.Image.new("P", (1, 1))
    image.putpalette([round(255 * part) for c in colours for part in c])
    return image


def beside(pictures: Iterable[Picture], height: int = 330) -> Picture:
    """Pictures side by side as one, the higher ones shrunk to `height`."""
    images = [PIL.Image.open(io.BytesIO(picture.png)).convert("RGB") for picture in pictures]
    for i, image in enumerate(images):
        scale = min(1, height / SHOWN / image.height)
        images[i] = image.resize(
            (round(scale * image.width), round(scale * image.height)), PIL.Image.Resampling.LANCZOS
        )
    whole = PIL.Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    x = 0
    for image in images:
        whole.paste(image, (x, (whole.height - image.height) // 2))
        x += image.width
    return _few(whole, " ".join(picture.alt for picture in pictures))


@drawn
def network(loss) -> Figure:
    """The loss as the network that it is, with its weights (Fig. 2)."""
    return draw_network(loss, digits=3)


@drawn
def shape(found: Shape, name: str = "this loss") -> Figure:
    """The curves of a loss beside those of the well-known ones, each scaled to 0 … 1, with the minima marked."""
    figure = Figure(figsize=(6.0, 3.9))
    axis = figure.subplots(
        gridspec_kw={"left": 0.11, "right": 0.985, "top": 0.92, "bottom": 0.27}
    )  # no layout to compute
    for (other, values), line in zip(found.references.items(), ("--", ":"), strict=False):
        axis.plot(found.x, shapes.scaled(values), color="0.55", ls=line, lw=1.4, label=other)
    for k, (label, values) in enumerate(found.curves.items()):
        curve, text = shapes.scaled(values), f"{name}, {label}" if label else name
        axis.plot(found.x, curve, color=PALETTE[k], ls=LINES[k], lw=2, label=text)
        _mark(axis, found, found.minima[label], curve)
    goal = 1.0 if found.classification else 0.0
    axis.axvline(goal, color=RIGHT, lw=0.8)
    low, high = found.x[0], found.x[-1]
    axis.set(ylim=(-0.08, 1.08), xlim=(low, high + 0.02 * (high - low)), ylabel="loss, scaled to 0 … 1")
    axis.set_xlabel("p of the true class" if found.classification else "f − y")
    place = "p = 1" if found.classification else "f = y"
    verdict = f"least at {place}" if found.asks else f"NOT least at {place}"
    axis.set_title(verdict, color="black" if found.asks else WRONG, fontsize="medium", fontweight="bold")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize="small")
    return figure


def _mark(axis, found: Shape, intervals: list[tuple[float, float]], curve: np.ndarray) -> None:
    """Mark where a curve is least: a dark dot where it should be, a red cross elsewhere."""
    for low, high in intervals:
        right = where_it_should_be([(low, high)], found.classification)
        chosen, symbol = (RIGHT, "o") if right else (WRONG, "X")
        inside = (found.x >= low) & (found.x <= high)
        axis.plot(found.x[inside], curve[inside], color=chosen, lw=4, zorder=4)
        middle = (low + high) / 2
        axis.plot(middle, np.interp(middle, found.x, curve), symbol, color=chosen, ms=8, zorder=5, clip_on=False)


@drawn
def training(found: Training) -> Figure:
    """Validation error against step, under both losses; the axis ends at twice the largest error under the task loss."""
    figure, (axis,) = grid(1, 1, (6.0, 3.2))
    for (name, errors), shade, line in zip(found.curves.items(), (colour("evomal"), "0.4"), ("-", "--"), strict=True):
        errors = np.where(np.isfinite(errors), errors, np.nan)
        axis.plot(found.steps, errors, color=shade, ls=line, lw=2, label=name)
    usual = [error for error in list(found.curves.values())[1] if np.isfinite(error)]
    if usual:
        axis.set_ylim(0, 2 * max(usual))
    axis.set(xlim=(0, found.steps[-1]), xlabel="step", ylabel=f"validation {found.metric}")
    axis.set_title(f"{found.task}, start {found.start}", fontsize="medium")
    axis.legend(fontsize="small")
    return figure


@drawn
def history(rows: list[dict], generation: int) -> Figure:
    """The best fitness so far and the median above, how the candidates came by a fitness below; a line at one generation."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _fitness(upper, rows, len(rows))
    best = [row["best_so_far"] for row in rows if row["best_so_far"] is not None]
    upper.set_ylim(0, 1.3 * max(best) if best and max(best) > 0 else None)
    upper.legend(fontsize="small")
    shares = outcome_shares([_Searched(rows)])
    bottoms = shares.cumsum(axis=1) - shares
    for outcome, shade in zip(shares, SHADES, strict=True):
        lower.bar(shares.index, shares[outcome], 1, bottoms[outcome], color=shade, lw=0, label=outcome)
    lower.set(ylim=(0, 1), xlabel="generation", ylabel="share")
    lower.grid(False)
    figure.legend(*lower.get_legend_handles_labels(), reverse=True, loc="outside right lower", fontsize="small")
    for axis in (upper, lower):
        axis.axvline(generation, color=WRONG, lw=1.2)
    return figure


@dataclass(frozen=True)
class _Searched:
    history: list[dict]


@drawn
def live(rows: list[dict], generations: int, baseline: float, title: str) -> Figure:
    """A search under way, on axes that stay as they are: all generations, and errors up to twice the baseline's."""
    figure, (axis,) = grid(1, 1, (6.0, 3.2))
    axis.axhline(baseline, color="0.4", ls="--", lw=1.4, label="task loss (baseline)")
    _fitness(axis, rows, generations)
    axis.set(xlabel="generation", ylim=(0, 2 * baseline if np.isfinite(baseline) and baseline > 0 else None))
    axis.set_title(title, fontsize="medium")
    axis.legend(loc="upper right", fontsize="small")
    return figure


def _fitness(axis, rows: list[dict], generations: int) -> None:
    """Best so far and median of each generation, on an axis of all generations that begins at 0."""
    x = [row["generation"] + 1 for row in rows]
    for name, line, shade in (("best_so_far", "o-", colour("evomal")), ("median", "o--", "0.6")):
        values = [np.nan if row[name] is None else row[name] for row in rows]
        axis.plot(x, values, line, ms=3.5, color=shade, label=name.replace("_", " "))
    axis.set(xlim=(0.5, generations + 0.5), ylabel="fitness (validation)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
