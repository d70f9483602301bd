"""What every loss of the package offers beside being called: copies with other options, files, source for others."""

import copy
import inspect
import operator
from numbers import Real

import torch
from torch import nn

from .. import files
from ..checks import check, check_choice
from ..machine import version
from . import conventions

SCHEMA, MAX_FILE_BYTES = 2, 4_000_000  # of loss files; schema 1 has no version
KEEP = type("Keep", (), {"__repr__": lambda self: "KEEP"})()  # an option that is to stay as it is


class Loss:
    """What every loss offers. It is a module of PyTorch's, also for PyTorch's own tools, each checked by tests:
    `torch.export.export(loss, (z, y))`, `torch.jit.trace(loss, (z, y))`, `torch.onnx.export(loss, (z, y), path,
    dynamo=True)` if onnx and onnxscript are installed, `torch.compile(loss)`, `torch.func.vmap(torch.func.grad(loss))` for
    the gradient of each instance, and `torch.func.hessian(loss)`.
    """

    kind: str  # in a loss file
    classification: bool
    FIELDS: tuple[str, ...] = ()  # of a loss file
    OPTIONS: dict = {}  # further fields, which a file has where they are not this  # noqa: RUF012
    CLASS_WEIGHT = "class_weight"  # the buffer that holds it

    def trainable(self):
        """A copy whose weights require gradients, for `meta_gradient` or an optimiser.

        A loss that was searched for or loaded is frozen: an optimiser that is given all parameters of a module in which
        the loss sits would train the loss to zero.
        """
        return copy.deepcopy(self).requires_grad_(True)

    def with_options(self, *, reduction=KEEP, weight=KEEP, ignore_index=KEEP, label_smoothing=KEEP):
        """A copy with other options, which mean what they mean in `nn.CrossEntropyLoss`; those left out stay as they are.

        Args:
            reduction: "mean", "sum" or "none".
            weight: one number a class, not negative, or None. The loss of an instance is multiplied by that of its class,
                and the mean over class indices is over the sum of these; over probabilities it is over the instances.
            ignore_index: class index of instances that do not count, or None. The mean of none is NaN.
            label_smoothing: from 0 to 1, the share of the label that is spread over all classes.

        Raises:
            ValueError: a value that is none of these, or any option but `reduction` of a loss for regression.
        """
        given = {"reduction": reduction, self.CLASS_WEIGHT: weight, "ignore_index": ignore_index}
        given = {k: v for k, v in (given | {"label_smoothing": label_smoothing}).items() if v is not KEEP}
        check(
            self.classification or given.keys() <= {"reduction"}, "options of a loss for regression", "reduction", given
        )
        result = copy.deepcopy(self)
        for name, value in given.items():
            setattr(result, name, result._checked(name, value))
        return result

    def _checked(self, name: str, value):
        """The value of an option as it is kept."""
        if name == "reduction":
            return check_choice("reduction", value, ("mean", "sum", "none"))
        if name == "label_smoothing":
            number = isinstance(value, Real) and not isinstance(value, bool)
            check(number and 0 <= value <= 1, name, "a number from 0 to 1", repr(value))
            return float(value)
        if value is None:
            return self.OPTIONS["ignore_index"] if name == "ignore_index" else None
        if name == "ignore_index":
            whole = hasattr(value, "__index__") and not isinstance(value, bool)
            check(whole, name, "a whole number or None", repr(value))
            return operator.index(value)
        weight = numbers("weight", value).to(getattr(self, "weights", torch.ones(())))
        good = weight.ndim == 1 and len(weight) > 1 and weight.isfinite().all() and (weight >= 0).all()
        check(good, "weight", "a finite number a class, not negative", str(value)[:200])
        return weight

    def of_one_logit(self) -> "OneLogit":
        """This loss of two classes, with the same weights, for models that give one logit, like `nn.BCEWithLogitsLoss`."""
        return OneLogit(self)

    def options(self) -> dict:
        """The options that are not the default, as a file has them."""
        found = {name: getattr(self, self.CLASS_WEIGHT if name == "class_weight" else name) for name in self.OPTIONS}
        if found.get("class_weight") is not None:
            found["class_weight"] = found["class_weight"].tolist()
        return {name: value for name, value in found.items() if value != self.OPTIONS[name]}

    @classmethod
    def with_read_options(cls, loss: "Loss", data: dict) -> "Loss":
        """The loss with those options that a file has. Raises ValueError."""
        found = {name: data[name] for name in cls.OPTIONS if name in data}
        for name, value in found.items():
            check(value != cls.OPTIONS[name], name, "left out where it is the default", value)
        if "class_weight" in found:
            check_numbers("class_weight", found["class_weight"])
            found["weight"] = found.pop("class_weight")
        return loss.with_options(**found) if found else loss

    def to_python(self) -> str:
        """Source of `loss(prediction, target)`, which needs PyTorch alone, for a project without this package."""
        return "\n\n".join(["import torch\n", *self.sources("loss")])

    def sources(self, name: str) -> list[str]:
        """Source of the definitions that the function `name`, the last of them, needs."""
        raise NotImplementedError

    def save(self, path) -> None:
        """Write the loss as JSON (no pickle); `load_loss` reads it."""
        files.write_json(path, in_file(self))


class OneLogit(Loss, nn.Module):
    """A loss of two classes on one logit z, the sigmoid inside: that of the logits (0, z).

    Call it like `nn.BCEWithLogitsLoss`: prediction (B,) or (B, 1) or of any shape, and a target of this shape, or (B,) for
    (B, 1). The target is 0 or 1 of any type; a floating one is the probability of class 1, and its mean is over all
    instances, whatever their weights.

    Args:
        loss: one with classification=True. Its options are this one's, `weight` for classes 0 and 1.
    """

    kind, classification, FIELDS = "one_logit", True, ("loss",)

    def __init__(self, loss: Loss):
        super().__init__()
        good = isinstance(loss, Loss) and loss.classification and not isinstance(loss, OneLogit)
        check(good, "a loss on one logit", "one of this package with classification=True on two", repr(loss)[:200])
        self.loss = loss

    @property
    def reduction(self) -> str:
        return self.loss.reduction

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return conventions.of_one_logit(self.loss, prediction, target)

    def with_options(self, **options) -> "OneLogit":
        """As of any loss."""
        return OneLogit(self.loss.with_options(**options))

    def sources(self, name: str) -> list[str]:
        inner = self.loss.sources("two_logits")
        shared = [inspect.getsource(function) for function in (conventions.refuse, conventions.widened)]
        own = [text for text in shared if text not in inner] + [inspect.getsource(conventions.of_one_logit)]
        return [
            *inner,
            *own,
            f"def {name}(prediction, target):\n    return of_one_logit(two_logits, prediction, target)\n",
        ]

    def to_json(self) -> dict:
        """What `load_loss` rebuilds the loss from."""
        return {"kind": self.kind, "loss": self.loss.to_json()}

    @classmethod
    def from_json(cls, data: dict) -> "OneLogit":
        """The loss of what `to_json` wrote. Raises ValueError."""
        from . import loss_from_json  # which knows this class

        inner = data["loss"]
        check(isinstance(inner, dict) and inner.get("kind") != cls.kind, "loss", "one on two logits", str(inner)[:80])
        return cls(loss_from_json(inner))

    def to_sympy(self, weights: bool = True, digits: int | None = None):
        """The inner loss's element M(y, f), with f the probability of one of the two classes."""
        return self.loss.to_sympy(weights, digits)

    def to_latex(self, weights: bool = True, digits: int = 3) -> str:
        """`to_sympy` as LaTeX."""
        return self.loss.to_latex(weights, digits)

    def __str__(self) -> str:
        return f"one_logit({self.loss})"


def numbers(what: str, values) -> torch.Tensor:
    """Real numbers of any kind (a list, NumPy's, a tensor) as a floating tensor of their own; float32 for integers."""
    try:
        found = torch.as_tensor(values).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be numbers, got {str(values)[:200]} ({error})") from None
    check(not found.is_complex() and found.dtype != torch.bool, what, "real numbers", found.dtype)
    return found if found.is_floating_point() else found.float()


def check_numbers(what: str, values) -> None:
    """Raise ValueError unless this is a list of numbers, as JSON has them."""
    right = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    check(right, what, "a list of numbers", f"{str(values)[:80]}")


def in_file(loss) -> dict:
    """What a loss file holds: the version of the package that wrote it, and the loss."""
    return {"schema": SCHEMA, "version": version(), **loss.to_json()}
