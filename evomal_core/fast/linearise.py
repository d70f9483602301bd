"""Forward-mode products of a chain of layers, several at one point: what does not depend on the direction is kept."""

import torch
from torch import Tensor, nn

from . import private
from .chain import plain_layers
from .layers import HalvingPool, Tanh

KEPT = (nn.Flatten, nn.Identity, nn.AvgPool2d, HalvingPool, nn.AdaptiveAvgPool2d)  # linear: their own derivatives
# (tangent, output) -> tangent, which may lie in the memory of the first: nobody else holds it
ELEMENTWISE = {nn.ReLU: private.gate_relu, nn.Sigmoid: private.sigmoid_backward}
ELEMENTWISE |= dict.fromkeys((nn.Tanh, Tanh), private.tanh_backward)


class Linearisation:
    """l -> J l (B, C) at the weights of `model` and the inputs x, for directions l in weight space.

    The plain form is `torch.func.jvp`, which computes the outputs anew with every product. A layer W a + b has the tangent
    dW a + db + W da.
    """

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> "Linearisation | None":
        """The linearisation, or None where the model is no `nn.Sequential` of layers known here, all of them trained."""
        layers = plain_layers(model, (nn.Linear, nn.Conv2d, *KEPT, *ELEMENTWISE))
        if layers is None or any(getattr(layer, "padding_mode", "zeros") != "zeros" for layer in layers):
            return None
        return cls(model, x)

    @torch.no_grad()
    def __init__(self, model: nn.Sequential, x: Tensor):
        self.layers = []  # (layer, input, output)
        for layer in model:
            before, x = x, layer(x)
            self.layers.append((layer, before, x))

    @torch.no_grad()
    def __call__(self, directions) -> Tensor:
        """J l; `directions` one tensor a parameter, in the order of `model.parameters()`."""
        directions, tangent = iter(directions), None  # None: zero
        for layer, x, a in self.layers:
            if type(layer) in (nn.Linear, nn.Conv2d):
                weight = next(directions)
                here = _affine(layer, x, weight, None if layer.bias is None else next(directions))
                tangent = here if tangent is None else here.add_(_affine(layer, tangent, layer.weight, None))
            elif tangent is not None:
                tangent = ELEMENTWISE[type(layer)](tangent, a) if type(layer) in ELEMENTWISE else layer(tangent)
        return tangent


def _affine(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer gives with another weight and bias."""
    if type(layer) is nn.Linear:
        return nn.functional.linear(x, weight, bias)
    return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
