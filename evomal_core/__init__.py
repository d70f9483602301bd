"""EvoMAL: symbolic loss functions by genetic programming and unrolled differentiation (Raymond et al., TPAMI 2023).

    import evomal_core as ec

    run = ec.run_cell(ec.Cell("diabetes", "mlp", "evomal", seed=3, budget="quick"))
    run.test_metric, run.loss, run.history

See the README for a tour, `notebooks/quickstart.ipynb` for one that runs.
"""

from . import streams, training
from .config import BUDGETS, DATASETS, MODELS, Config, Protocol
from .experiments.cell import METHODS, Cell, find_run, run_cell
from .experiments.grid import run_grid
from .experiments.store import RecordError, Run
from .losses import load_loss
from .losses.export import latex, simplify
from .losses.handcrafted import CrossEntropy, SquaredError
from .losses.meta_network import MetaLoss
from .models import build_model
from .search import SearchState, search
from .tasks import DataUnavailable, Task, load_task
from .training import meta_gradient
