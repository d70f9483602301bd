"""The yardstick: EvoMAL's three phases as they are usually written, with one candidate after another and autograd everywhere.

The meta-gradient is that of `higher`; a DataLoader is iterated afresh for every batch, with transforms for each image; the
optimiser is `torch.optim.SGD`; the metric is kept at every step, and the error rate is counted in Python. The released code
is built like this. The loop computes what the package computes (tests/test_benchmarks.py).
"""

import copy

import higher
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from evomal_core import streams
from evomal_core.models import initialise
from evomal_core.search.filters import Probe


class Images(Dataset):
    """Images as bytes, each turned into a tensor and normalised when it is asked for."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, low: float, high: float):
        from torchvision import transforms

        scale = high - low
        self.pixels, self.labels = ((x - low) / scale * 255).round().to(torch.uint8), y
        normalise = transforms.Normalize(-low / scale, 1 / scale)
        self.transform = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor(), normalise])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(self.pixels[i]), int(self.labels[i])


class Naive:
    """One problem. The initial weights are those that the package has for `seed`; the batches are the loader's."""

    def __init__(self, task, model, config, seed: int = 0):
        self.task, self.model, self.config, self.seed = task, copy.deepcopy(model), config, seed
        low, high = float(task.train[0].min()), float(task.train[0].max())
        self.loaders = {}
        for part in ("train", "validation"):
            x, y = getattr(task, part)
            data = Images(x.cpu(), y.cpu(), low, high) if x.ndim == 4 else TensorDataset(x.cpu(), y.cpu())
            self.loaders[part] = DataLoader(data, min(config.batch_size, len(data)), shuffle=True, drop_last=True)
        self.probe = Probe.of((task, self.model), config, seed)
        self.history: list[float] = []

    def batch(self, part: str, purpose: str, *index: int):
        """A random batch of a part. Only the tests use purpose and index, which name it."""
        x, y = next(iter(self.loaders[part]))
        return x.to(self.task.train[0]), y.to(self.task.device)  # of its dtype and device

    def reset(self, purpose: str, *index: int) -> None:
        initialise(self.model, streams.torch_generator(self.seed, purpose, 0, *index))

    def sgd(self) -> torch.optim.SGD:
        return torch.optim.SGD(self.model.parameters(), **self.config.sgd)

    def optimise(self, loss, steps: int) -> None:
        """Algorithm 1 with one inner step: Adam changes the weights of the loss in place."""
        adam = torch.optim.Adam(loss.parameters(), lr=self.config.meta_learning_rate)
        self.model.train()
        for t in range(steps):
            self.reset("meta-init", t)
            adam.zero_grad()
            with higher.innerloop_ctx(self.model, self.sgd(), copy_initial_weights=False) as (unrolled, differentiable):
                x, y = self.batch("train", "meta-train", t, 0)
                differentiable.step(loss(unrolled(x), y))
                x, y = self.batch("validation", "meta-validation", t)
                z = unrolled(x)
                self.task.task_loss(z, y).backward()
                self.history.append(self.metric(z, y))
            adam.step()

    def improvement(self, loss, steps: int) -> float:
        """The rejection protocol's g (eq. 10)."""
        target = self.probe.target
        outputs = self.probe.prediction.clone().requires_grad_()
        adam = torch.optim.Adam([outputs], lr=self.config.base_learning_rate)
        for _ in range(steps):
            adam.zero_grad()
            loss(outputs, target).backward()
            adam.step()
        return len(target) * (self.metric(self.probe.prediction, target) - self.metric(outputs, target))

    def train(self, loss, steps: int) -> None:
        """Algorithm 2 without the evaluation: the model is trained in place."""
        self.reset("fitness-init")
        self.model.train()
        optimiser = self.sgd()
        for t in range(steps):
            x, y = self.batch("train", "fitness-batch", t)
            optimiser.zero_grad()
            z = self.model(x)
            value = loss(z, y)
            if not torch.isfinite(value):
                break
            value.backward()
            optimiser.step()
            self.history.append(self.metric(z, y))

    @torch.no_grad()
    def evaluate(self) -> float:
        """The metric on the validation part."""
        self.model.eval()
        total, count = 0.0, 0
        for x, y in DataLoader(self.loaders["validation"].dataset, 128):
            z = self.model(x.to(self.task.train[0]))
            total += self.metric(z, y.to(self.task.device)) * len(y)
            count += len(y)
        return total / count

    def metric(self, z, target) -> float:
        if not self.task.classification:
            return torch.nn.functional.mse_loss(z, target).item()
        wrong = 0
        for scores, label in zip(z, target, strict=True):
            if torch.argmax(scores) != label:
                wrong += 1
        return wrong / len(target)
