"""Initial weights of a model of one's own: drawn anew layer by layer, or those that it came with."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .. import streams
from ..checks import check
from ..models.initialisation import Rule


def copied(model: nn.Module) -> nn.Module:
    """A copy of the user's model that can be copied again; weight and spectral normalisation have their newer form.

    Raises:
        ValueError: a model that is no module, has uninitialised weights, or cannot be copied.
    """
    check(isinstance(model, nn.Module), "model", "an nn.Module, or a function that makes one", type(model).__name__)
    lazy = any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters())
    check(not lazy, "the model's weights", "initialised: run the model once on a batch", "those of a lazy module")
    with torch.no_grad():
        for module in model.modules():  # their weight is a tensor with a graph, which cannot be copied
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    hook(module, None)
                elif isinstance(hook, SpectralNorm):
                    setattr(module, hook.name, getattr(module, hook.name).detach())
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the model cannot be copied: {error}") from error
    for module in list(twin.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
                parametrizations.weight_norm(module, hook.name, hook.dim)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                parametrizations.spectral_norm(module, hook.name, hook.n_power_iterations, hook.eps, hook.dim)
    return twin


def kept(model: nn.Module) -> Rule:
    """The rule that gives a model the weights and buffers that it has now."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return lambda adapted, generator: _load(adapted.inner, state)


def made(maker) -> Rule:
    """The rule that gives a model the weights of one that `maker()` makes, whose draws come from the generator."""

    def rule(adapted: nn.Module, generator: torch.Generator) -> None:
        with _drawing(generator), torch.enable_grad():
            _load(adapted.inner, copied(maker()).state_dict())

    return rule


def drawn(model: nn.Module) -> Rule:
    """The rule that draws weights anew: `reset_parameters` of each layer, children before parents.

    Frozen layers, and weights that no such method draws, keep the values that the model has now.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def rule(adapted: nn.Module, generator: torch.Generator) -> None:
        inner = adapted.inner
        on_cpu = all(tensor.device.type == "cpu" for tensor in (*inner.parameters(), *inner.buffers()))
        twin = inner if on_cpu else copy.deepcopy(inner).cpu()
        _load(twin, state)
        with _drawing(generator):
            for module in reversed(list(twin.modules())):
                _reset(module)
        if twin is not inner:
            _load(inner, twin.state_dict())

    return rule


def not_drawn(model: nn.Module) -> list[str]:
    """Names of trained weights that no rule draws: they begin from the values that the model has."""
    covered = {id(p) for module in model.modules() if _resetter(module) for p in module.parameters()}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered]


def _resetter(module: nn.Module):
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def _reset(module: nn.Module) -> None:
    own = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own += [p for name in module.parametrizations for p in module.parametrizations[name].parameters()]
    if _resetter(module) is None or (own and not any(p.requires_grad for p in own)):
        return
    if not parametrize.is_parametrized(module):
        _resetter(module)()
        return
    plain, names = _unparametrized(module), list(module.parametrizations)
    _resetter(plain)()
    for name, p in module.named_parameters(recurse=False):
        p.data.copy_(getattr(plain, name).data)
    for name in names:
        try:
            setattr(module, name, getattr(plain, name).detach())
        except (NotImplementedError, RuntimeError):  # no way back: such a weight keeps its value
            continue


def _unparametrized(module: nn.Module) -> nn.Module:
    """A layer of the class that a parametrised one had, with the same values; `remove_parametrizations` would change both."""
    kind = parametrize.type_before_parametrizations(module)
    plain = kind.__new__(kind)
    nn.Module.__init__(plain)
    for name, value in vars(module).items():
        if not name.startswith("_"):
            setattr(plain, name, value)
    values = dict(module.named_parameters(recurse=False)) | {
        name: getattr(module, name) for name in module.parametrizations
    }
    for name, value in values.items():
        plain.register_parameter(name, nn.Parameter(value.detach().clone()))
    if getattr(module, "bias", ...) is None:
        plain.register_parameter("bias", None)
    for name, buffer in module.named_buffers(recurse=False):
        plain.register_buffer(name, buffer.clone())
    return plain


def _load(model: nn.Module, state: dict) -> None:
    with torch.no_grad():
        model.load_state_dict(state)


@contextlib.contextmanager
def _drawing(generator: torch.Generator) -> Iterator[None]:
    """Within this block PyTorch's, NumPy's and Python's global generators draw what `generator` says."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with streams.global_generators(seed), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
