"""The filters that save most of a search's cost (section III-E): rejection protocol and gradient equivalence.

The third, symbolic equivalence, is a look-up in the archive of `evaluate.py`. All work on one untrained network's raw
outputs on the first instances of the training part, the same for all candidates of a run.
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..config import Config
from ..models.random_layers import seeded
from ..training import heartbeat
from ..training.output_gradients import output_gradients
from ..training.problem import Problem

HEARTBEAT_EVERY = 25  # steps of the rejection protocol
EXACT = 7  # digits of the norms in a key of which "within" is asked: those of float32


@dataclass(frozen=True)
class Probe:
    """What the filters look at: raw outputs `prediction` (B, C) of an untrained network and their labels."""

    prediction: torch.Tensor
    target: torch.Tensor
    metric: object  # (prediction, target) -> ()

    @classmethod
    def of(cls, problem, config: Config, seed: int) -> "Probe":
        """The first min(100, n) training instances [R], through a fresh network in training mode."""
        problem = Problem.of(problem, config)
        x, y = (part[: config.rejection_batch] for part in problem.task.train)
        x, y = problem.task.inputs(x), problem.task.targets(y)
        problem.initialise(seed, "filter")
        with torch.no_grad(), seeded(problem.layer_seed(seed, "filter", 0), x.device):
            prediction = problem.model.train()(x)
        return cls(prediction.clone(), y, problem.task.filter_metric)


def improvement(losses: Sequence[nn.Module], probe: Probe, config: Config) -> list[float]:
    """g of the rejection protocol (eq. 10) for each loss: what minimising it directly on the outputs gains in the metric.

    Adam at the base learning rate on the outputs [R]. A loss is to be rejected unless g > 0 (so also if g is NaN).
    """
    if not losses:
        return []
    in_memory = probe.prediction.mT.repeat(len(losses), 1, 1)  # (K, C, B), as `LossInputs` likes it
    outputs = in_memory.mT
    adam = torch.optim.Adam([in_memory], lr=config.base_learning_rate, fused=True)
    gradients = output_gradients(probe.target)
    for step in range(config.rejection_steps):
        if step % HEARTBEAT_EVERY == 0:
            heartbeat.beat()
        in_memory.grad = gradients(losses, outputs).mT.contiguous()
        adam.step()
    before = probe.metric(probe.prediction, probe.target)
    gains = []
    for k in range(len(losses)):
        finite = outputs[k].isfinite().all()
        gains.append(float(before - probe.metric(outputs[k], probe.target)) if finite else math.nan)
    return [len(probe.target) * gain for gain in gains]


def gradient_key(loss: nn.Module, probe: Probe, digits: int) -> str | None:
    """Key of gradient equivalence (section III-E3, eq. 12): each instance's gradient norm, to `digits` significant digits.

    None if a norm is not finite: such a loss equals no other.
    """
    (gradient,) = output_gradients(probe.target)([loss], probe.prediction)  # (B, C)
    norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1) * len(gradient)  # (B,)
    if not norms.isfinite().all():
        return None
    return " ".join(np.char.mod(f"%.{digits - 1}e", norms.cpu().numpy().astype(np.float64)))


class Neighbours:
    """Keys of gradient equivalence, in which one that agrees with another on every instance is found without a scan.

    Norms within a tolerance have means of their logarithms within it, so that only a window of the keys, sorted by this
    mean, is compared.

    Args:
        keys: as `gradient_key` makes them.
        tolerance: relative, 0.01 for one per cent.
    """

    def __init__(self, keys: Iterable[str], tolerance: float):
        self.tolerance = math.log1p(tolerance)
        self.logarithms = {key: _logarithms(key) for key in keys}
        self.sorted = sorted((float(logarithms.mean()), key) for key, logarithms in self.logarithms.items())

    def find_or_add(self, key: str) -> str:
        """One of the keys that agree with this one; else this one, which is added."""
        own = _logarithms(key)
        mean, margin = float(own.mean()), self.tolerance + 1e-9
        for other_mean, other in self.sorted[bisect.bisect_left(self.sorted, (mean - margin, "")) :]:
            if other_mean > mean + margin:
                break
            if np.abs(self.logarithms[other] - own).max() <= self.tolerance:
                return other
        bisect.insort(self.sorted, (mean, key))
        self.logarithms[key] = own
        return key


def _logarithms(key: str) -> np.ndarray:
    """The logarithms of a key's norms, (B,); a norm of 0 counts as tiny."""
    return np.log(np.maximum(np.array(key.split(), dtype=np.float64), 1e-30))
