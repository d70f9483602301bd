"""The notebooks share their parameters, their tables and statistics, and the style of their figures.

    from evomal_notebooks import plots, read_parameters, report

`python -m evomal_notebooks.rebuild [NAME …]` runs notebooks anew and keeps their outputs.

`evomal_core` computes and keeps the results, and knows nothing of this package.
"""

from . import (
    audit,
    calibration,
    comparisons,
    conventions,
    costs,
    flatness,
    initialisation,
    landscape,
    layout,
    luck,
    luck_plots,
    operators,
    own_model,
    planning,
    plots,
    rates,
    remedies,
    report,
    searches,
    shapes,
    smoothing,
    transfer,
)
from .first import show_answer
from .layout import show_lines, show_settings, show_table
from .parameters import Parameters, read_parameters
from .report import paper_loss

__all__ = [
    "Parameters",
    "audit",
    "calibration",
    "comparisons",
    "conventions",
    "costs",
    "flatness",
    "initialisation",
    "landscape",
    "layout",
    "luck",
    "luck_plots",
    "operators",
    "own_model",
    "paper_loss",
    "planning",
    "plots",
    "rates",
    "read_parameters",
    "remedies",
    "report",
    "searches",
    "shapes",
    "show_answer",
    "show_lines",
    "show_settings",
    "show_table",
    "smoothing",
    "transfer",
]
