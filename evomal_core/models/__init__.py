"""The base models, one file an architecture."""

import torch
from torch import nn

from ..checks import check_choice
from ..config import Protocol
from ..registry import MODELS
from ..tasks.task import Task
from .alexnet import alexnet
from .allcnnc import allcnnc
from .initialisation import initialise
from .lenet5 import lenet5
from .logistic import logistic
from .mlp import mlp
from .preresnet101 import preresnet101
from .pyramidnet110_48 import pyramidnet110_48
from .resnet18 import resnet18
from .squeezenet import squeezenet
from .vgg16 import vgg16
from .wideresnet28_10 import wideresnet28_10

# name -> function of (input_shape, outputs); the model's attribute `initialisation` draws its weights
ARCHITECTURES = (mlp, logistic, lenet5, alexnet, vgg16, allcnnc, resnet18)
ARCHITECTURES += (preresnet101, wideresnet28_10, squeezenet, pyramidnet110_48)
MODELS.update({build.__name__: build for build in ARCHITECTURES})


# model -> (switch of a protocol, its value that asks for the released code's form)
RELEASED = {"preresnet101": ("preresnet", "basic"), "allcnnc": ("allcnnc", "released")}
RELEASED["pyramidnet110_48"] = ("pyramidnet_outputs", "10")


def build_model(name: str, task: Task, protocol="paper") -> nn.Module:
    """Build a base model for a task: its input shape, outputs, device and dtype; x (B, *input_shape) -> z (B, C).

    The weights are always the same ones; `initialise` draws others. Global generators are left alone.

    Args:
        protocol: text or `Protocol`, whose switches choose the released code's form of three models.

    Raises:
        ValueError: an unknown name, or a model that does not take such inputs.
    """
    check_choice("model", name, MODELS)
    with torch.random.fork_rng(devices=[]):  # the layers' constructors draw weights, too
        model = MODELS[name](task.input_shape, task.outputs, **_form(name, Protocol.parse(protocol)))
    model = model.to(device=task.device, dtype=task.dtype)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def _form(name: str, protocol: Protocol) -> dict[str, bool]:
    switch, released = RELEASED.get(name, (None, None))
    return {"released": True} if switch and protocol[switch] == released else {}
