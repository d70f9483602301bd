"""A forest plot: one row a method, a dot a run, a hollow diamond with a whisker for the published mean and deviation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import plots

MARKS = ("o", "s", "^")  # of the kinds of runs, in their order
PUBLISHED = {"color": "0.15", "marker": "D", "mfc": "white", "mew": 1.6, "ms": 7, "lw": 1.6}


@dataclass(frozen=True)
class Row:
    """One row of a panel.

    Attributes:
        name: what stands beside it.
        runs: kind of run, such as "split as in the text" -> the values of its runs; NaN and infinity are runs that failed.
        published: mean and standard deviation (NaN where none is printed), or None.
        own: values of the reader's own runs.
    """

    name: str
    runs: Mapping[str, Sequence[float]]
    published: tuple[float, float] | None = None
    own: Sequence[float] = field(default_factory=tuple)

    @property
    def values(self) -> list[float]:
        """All values of the row, published or not."""
        return [v for runs in (*self.runs.values(), self.own) for v in runs] + list(self.published or ())[:1]


@plots.style()
def forest(panels: Mapping[str, Iterable[Row]], label: str, columns: int = 3, width: float = 3.4) -> Figure:
    """Draw a panel for each title; rows of one name stand side by side.

    A value far from the others (beyond three times the largest that is published, or three times the median) and a run that
    failed have no place on the axis, and are counted at its right end.

    Args:
        label: of the axis, such as "test error".
        width: of a panel, in inches.
    """
    panels = {title: list(rows) for title, rows in panels.items()}
    most = max(map(len, panels.values()))
    figure, axes = plots.grid(len(panels), columns, (width, 0.4 * most + 0.95), sharey=True)
    kinds = list(dict.fromkeys(kind for rows in panels.values() for row in rows for kind in row.runs))
    away = own = False
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        top = _top(rows)
        for y, row in enumerate(rows):
            if row.published:
                mean, spread = row.published
                spread = [[0.0 if math.isnan(spread) else spread]] * 2
                axis.errorbar([mean], [y + 0.22], xerr=spread, capsize=3, zorder=2, **PUBLISHED)
            for kind, values in row.runs.items():
                place = y - 0.18 + 0.17 * (kinds.index(kind) - (len(kinds) - 1) / 2)
                inside = [v for v in values if v <= top]
                how = {"color": plots.PALETTE[kinds.index(kind)], "ms": 6, "mew": 0.6, "mec": "white"}
                axis.plot(inside, [place] * len(inside), MARKS[kinds.index(kind)], zorder=3, **how)
                if gone := len(values) - len(inside):
                    axis.text(0.995, place, f"{gone} ▸", **_end(axis, how["color"]))
                    away = True
            if row.own:
                axis.plot(
                    [v for v in row.own if v <= top], [y - 0.18] * sum(v <= top for v in row.own), "kx", ms=8, mew=2
                )
                own = True
            if not row.own and not any(len(values) for values in row.runs.values()):
                axis.text(0.995, y - 0.18, "no run", **_end(axis, "0.45"))
        axis.set(title=title, xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        low, high = axis.get_xlim()
        axis.set_xlim(low, high + 0.12 * (high - low))
        axis.set_yticks(range(len(rows)), [row.name for row in rows])
        axis.grid(False, axis="y")
    published = any(row.published for rows in panels.values() for row in rows)
    _legend(figure, kinds, published, own, away)
    return figure


def _end(axis, colour) -> dict:
    """How a text stands at the right end of a row."""
    place = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "center"}
    return place | {"color": colour, "fontsize": "small"}


def _top(rows: Iterable[Row]) -> float:
    """The end of the axis: three times the largest published mean, or three times the median of the finite values."""
    finite = sorted(v for row in rows for v in row.values if math.isfinite(v))
    published = [row.published[0] for row in rows if row.published]
    return 3 * max([*published, finite[len(finite) // 2] if finite else 1.0])


def _legend(figure: Figure, kinds: list[str], published: bool, own: bool, away: bool) -> None:
    """One legend below all panels."""
    marks = [
        Line2D([], [], ls="", marker=MARKS[n], color=plots.PALETTE[n], ms=6, label=kind or "a run")
        for n, kind in enumerate(kinds)
    ]
    if published:
        marks.append(Line2D([], [], label="published ± deviation", **PUBLISHED))
    if own:
        marks.append(Line2D([], [], ls="", marker="x", color="black", ms=8, mew=2, label="your own run"))
    if away:
        marks.append(Line2D([], [], ls="", marker=">", color="0.3", ms=6, label="failed, or far to the right"))
    figure.legend(handles=marks, loc="outside lower center", ncols=3 if len(marks) == 5 else 4, frameon=False)
