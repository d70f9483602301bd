"""What holds for every test: one thread per process, and property tests that draw the same examples each time."""

import os

# The networks here are too small to gain from threads, and the workers of pytest-xdist would fight over the cores. The
# variable has to be set before numpy and torch are loaded; subprocesses and notebook kernels inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)

# No deadline: the first call of a torch function can take seconds. Derandomized: a failure must come back next time.
settings.register_profile("evomal", deadline=None, derandomize=True)
settings.load_profile("evomal")
