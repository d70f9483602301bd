"""What the notebooks share, and nothing else needs: their parameters, their tables, the style of their figures.

    from evomal_notebooks import plots, read_parameters, report

What computes and keeps results is `evomal_core`, which knows nothing of this package.
"""

from . import plots, report
from .parameters import Parameters, read_parameters
from .report import paper_loss

__all__ = ["Parameters", "paper_loss", "plots", "read_parameters", "report"]
