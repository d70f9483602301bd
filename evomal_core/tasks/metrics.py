"""Performance metrics L_P (section III-A): the lower, the better. They stay on the device; the host does not wait."""

from torch import Tensor

from ..checks import check


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """L_P of regression: the mean squared error of outputs and values (B, 1), a 0-d tensor."""
    fits = prediction.ndim == 2 and target.shape == prediction.shape
    got = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
    check(fits, "mean squared error: prediction and target", "(B, 1) and (B, 1)", got)
    return (prediction - target).square().mean()


def error_rate(prediction: Tensor, target: Tensor) -> Tensor:
    """L_P of classification: 1 − accuracy of raw outputs (B, C) for class indices (B,), a 0-d tensor.

    A class cannot be read off a NaN, so predictions that hold one have the error rate NaN, not a fair-looking one.
    """
    fits = prediction.ndim == 2 and target.shape == prediction.shape[:1]
    got = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
    check(fits, "error rate: prediction and target", "(B, C) and (B,)", got)
    wrong = (prediction.argmax(1) != target).to(prediction.dtype)  # (B,)
    return wrong.masked_fill(prediction.isnan().any(1), float("nan")).mean()
