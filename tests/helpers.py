"""What several test files use."""

from evomal_core import training
from evomal_core.training import Trial


def train(losses, problem, config, seed, purpose, steps, index=(), milestones=()):
    """The models that a trial trains, None where the training diverged."""
    return training.train(losses, problem, config, seed, Trial(purpose, steps, tuple(index), milestones=milestones))
