"""What trains: base models under losses (Algorithm 2), loss weights by unrolled differentiation (Algorithm 1)."""

from .acceleration import plain
from .fitness import fitness
from .problem import Problem
from .trial import Outcome, Trial, evaluate, run_trial, train
from .unroll import choose, meta_gradient, optimise_losses
