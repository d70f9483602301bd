"""EvoMAL: symbolic loss functions by genetic programming and unrolled differentiation (Raymond et al., TPAMI 2023).

    import evomal_core as ec

    run = ec.run_cell(ec.Cell("diabetes", "mlp", "evomal", seed=3, budget="quick"))
    run.test_metric, run.loss, run.history

See the README for a tour, `notebooks/quickstart.ipynb` for one that runs.
"""

from . import portable

portable.check_environment()  # before anything loads NumPy or PyTorch, which read it

from . import fast, streams, training
from .config import BUDGETS, Config, Protocol
from .cost_model import estimate
from .experiments.cell import Cell
from .experiments.grid import run_grid
from .experiments.run import find_run, run_cell, test_loss
from .experiments.store import RecordError, Run
from .formulas import simplify
from .losses import OneLogit, load_loss
from .losses.export import latex
from .losses.handcrafted import CrossEntropy, SquaredError
from .losses.meta_network import MetaLoss
from .models import build_model
from .operators import register_operator
from .own import search_loss
from .registry import DATASETS, METHODS, MODELS
from .search import Leader, Result, SearchState, search
from .tasks import DataUnavailable, Task, load_task
from .training import Trial, meta_gradient, plain, run_trial
