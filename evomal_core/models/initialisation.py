"""Fresh weights from a generator: the rules of the released code [R], and one for any module."""

import copy
import functools
import math
from collections.abc import Callable

import torch
from torch import nn

Rule = Callable[[nn.Module, torch.Generator], None]
Kinds = tuple[type[nn.Module], ...]
LAYERS: Kinds = (nn.Linear, nn.Conv2d)


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw fresh weights in place, always in the same order, and reset the buffers of the normalisation layers.

    A module may carry a rule as its attribute `initialisation`, a function of (model, generator), as this package's
    models do. Without one, the `reset_parameters` of its submodules are called, children before parents.

    Args:
        model: a model on any device.
        generator: a generator of the CPU, so that the weights do not depend on the device. It moves on.

    Raises:
        ValueError: a weight that no rule reaches, which would stay as it is.
    """
    rule = getattr(model, "initialisation", None)
    if rule is not None:
        with torch.no_grad():
            rule(model, generator)
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    on_cpu = all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))
    twin = model if on_cpu else copy.deepcopy(model).cpu()
    # `reset_parameters` draws from the global generator; of the global ones only the CPU's is touched, and put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        _reset(twin, type(model).__name__)
    if twin is not model:
        model.load_state_dict(twin.state_dict())


def _reset(module: nn.Module, name: str, covered: bool = False) -> None:
    # MultiheadAttention and Transformer call theirs `_reset_parameters`.
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    covered = covered or reset is not None
    if not covered and next(module.parameters(recurse=False), None) is not None:
        raise ValueError(
            f"{name} has weights of its own but no rule to draw them: give {type(module).__name__} a method"
            " reset_parameters(), or the model an attribute initialisation, a function of (model, generator)"
        )
    for child_name, child in module.named_children():
        _reset(child, f"{name}.{child_name}", covered)
    if reset is not None:
        reset()


def chain(rule: Rule, *layers: nn.Module) -> nn.Sequential:
    """The layers one behind another, as a model whose weights `rule` draws."""
    model = nn.Sequential(*layers)
    model.initialisation = rule
    return model


def xavier_uniform(model: nn.Module, generator: torch.Generator, kinds: Kinds = LAYERS) -> None:
    """Weights U(−a, a) with a = sqrt(6 / (fan in + fan out)); biases 0; BatchNorm weight 1, bias 0."""
    for weight, fan_in, fan_out in _weights(model, kinds):
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        weight.uniform_(-bound, bound, generator=generator)


def kaiming_normal(model: nn.Module, generator: torch.Generator, kinds: Kinds = LAYERS) -> None:
    """Weights N(0, 2 / fan in); biases 0; BatchNorm weight 1, bias 0."""
    for weight, fan_in, _ in _weights(model, kinds):
        weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)


def fan_out_normal(linear: Callable) -> Rule:
    """The rule that draws the weights of convolutions from N(0, 2 / fan out), and then those of Linear by the rule `linear`.

    Biases 0; BatchNorm weight 1, bias 0.
    """
    return functools.partial(_fan_out_normal, linear)  # can be pickled, which a local function cannot


def _fan_out_normal(linear: Callable, model: nn.Module, generator: torch.Generator) -> None:
    for weight, _, fan_out in _weights(model, (nn.Conv2d,)):
        weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
    linear(model, generator, (nn.Linear,))


def _weights(model: nn.Module, kinds: Kinds):
    """Yield (weight, fan in, fan out) of each layer of these kinds, in the order of `modules()`; reset what is not drawn.

    The caller fills the weight before it goes on. What does not lie contiguously on the CPU is filled there in a tensor of
    its own and copied: the same numbers everywhere.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()  # draws nothing, and resets the running statistics
        elif isinstance(module, kinds):
            if module.bias is not None:
                module.bias.zero_()
            weight = module.weight
            field = math.prod(weight.shape[2:])  # 1 of Linear
            in_place = weight.device.type == "cpu" and weight.is_contiguous()
            drawn = weight if in_place else torch.empty(weight.shape, dtype=weight.dtype)
            yield drawn, weight.shape[1] * field, weight.shape[0] * field
            weight.copy_(drawn)  # nothing to do where it was filled in place
