"""The same numbers sooner: the accelerated forms, which hang themselves up in `training.acceleration` when imported.

    file           what it is                                        its plain form
    tape           derivatives of an expression tree                 autograd through `MetaLoss.elementwise`
    derivatives    of several losses on one batch                    autograd through the loss's `forward`
    sessions       base training of one loss                         `training.session.Session`
    stacked        base training of several losses as one            the same, one by one
    chain          forward and backward of Linear chains             autograd through `nn.Sequential`
    jvp            meta-gradient by forward-mode products            `training.unroll.higher_engine`
    gram           meta-gradient of chains without weight-sized gradients   the same
    linearise      several forward-mode products at one point        `torch.func.jvp`
    layers         Tanh and pooling on a CPU                         `nn.Tanh`, `nn.AvgPool2d`
    private        private functions of PyTorch                      the fallbacks beside them

`training.acceleration.plain` switches all of them off; tests hold each to its plain form.
"""

import torch

from ..config import Config
from ..training.acceleration import FORMS, enabled, plain
from . import gram, jvp, layers, sessions, stacked
from .derivatives import OutputGradients

__all__ = ["copies", "enabled", "plain"]


def copies(config: Config, problem) -> int:
    """K, the number of copies of the model that are trained as one; 1 where accelerations are off."""
    return stacked.copies(config, problem) if enabled() else 1


def choose(engine: str, model: torch.nn.Module, config: Config) -> str:
    """The engine of the meta-gradient that `auto` stands for: the fastest exact one that serves the model."""
    reason = gram.applies(model, config)
    if engine == "auto":
        return "jvp" if reason else "gram"
    if engine == "gram" and reason:
        raise ValueError(f"engine 'gram' cannot be used here: {reason}; use 'jvp' or 'auto'")
    return engine


FORMS.update(layers=layers.faster, usual_layers=layers.usual, sessions=sessions.sessions, copies=copies)
FORMS.update(output_gradients=OutputGradients, choose=choose, jvp=jvp.jvp_engine, gram=gram.gram_engine)
