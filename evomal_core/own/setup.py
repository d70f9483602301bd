"""From a model and data of one's own to a `Problem`: casts that are obvious, and errors that say what was expected."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import check, check_choice
from ..config import Config
from ..tasks.metrics import error_rate, mean_squared_error
from ..tasks.task import Task
from ..training.problem import Problem
from . import weights
from .adapt import TASKS, Adapted, Judge, OwnTask, Restored, Shapes, Store, run
from .data import Data, leaves, mapped
from .optimisers import Optimiser

MOST_SCALE = 100.0  # of regression targets: outputs begin near 0 and move by the learning rate
PROBED = 2  # instances on which the model is run before anything is computed
PLAIN_LAYERS = "torch.nn.modules"


@dataclass(frozen=True, eq=False)
class Own:
    """What `search_loss` works on.

    Attributes:
        problem: task and model as training sees them.
        shapes: of the user's outputs and targets.
        task_loss: the user's, called in the user's shapes.
        trivial: the metric of the trivial predictor on the part that judges.
        judged: "test" where there is a test part, else "validation".
        notes: what the user should know of how the model was taken.
    """

    problem: Problem
    shapes: Shapes
    task_loss: nn.Module
    trivial: float
    judged: str
    notes: tuple[str, ...] = ()


def settle(
    model,
    parts: dict[str, Data],
    task: str,
    config: Config,
    *,
    metric,
    task_loss,
    optimiser: Optimiser | None,
    keep: bool,
    forward: Callable | None,
    ignore_index: int | None,
    device: torch.device,
) -> Own:
    """The problem of a model and data of one's own; raises ValueError before anything is computed."""
    check_choice("task", task, TASKS)
    task_loss = copy.deepcopy(_as_module(task_loss))  # moved to the device, which the user's own is not
    maker = None if isinstance(model, nn.Module) or not callable(model) else model
    model = weights.copied(maker() if maker else model).to(device)
    dtype = _dtype(model)
    parts = {name: _cast(data, parts["train"], dtype, device, name) for name, data in parts.items()}
    z = _probed(model, parts["train"], forward)
    task, parts, shapes = _shaped(z, parts, task, ignore_index, task_loss, dtype)
    if task == "regression":
        _check_scale(parts["train"].y)
    own_loss = task_loss or _usual(task, shapes.ignore_index)
    notes = []
    if not keep and not maker and (names := weights.not_drawn(model)):
        kept = f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        notes.append(f"weights that no layer draws begin from the values that they have: {kept}")
    judged = "test" if "test" in parts else "validation"
    parts = {"test": parts["validation"]} | parts
    if _plain(model, parts["train"], shapes, forward, keep or maker):
        pairs = {name: (data.x, data.y) for name, data in parts.items()}
        classes = {"classification": task == "multiclass", "outputs": shapes.classes}
        made = Task("own", **pairs, **classes, task_loss=task_loss, metric=_judge(metric, shapes, plain=True))
        base: nn.Module = model
    else:
        store = Store({name: parts[name] for name in ("train", "validation", "test")}, device)
        pairs = {name: (rows, store.y[rows]) for name, rows in store.rows.items()}
        canonical = Restored(own_loss, shapes) if task_loss is not None else _canonical(task)
        made = OwnTask(
            "own",
            **pairs,
            classification=task != "regression",
            outputs=shapes.classes,
            task_loss=canonical,
            metric=_judge(metric, shapes),
            dtype=dtype,
            store=store,
            shapes=shapes,
        )
        base = Adapted(model, store, shapes, forward, keep)
        if maker:
            base.initialisation = weights.made(maker)
    made.task_loss.to(device, dtype)
    check(any(p.requires_grad for p in model.parameters()), "the model", "one with weights to train", "none")
    problem = Problem(made, base, config, optimiser)
    return Own(problem, shapes, own_loss, _trivial(made, shapes, parts, judged), judged, tuple(notes))


def _dtype(model: nn.Module) -> torch.dtype:
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    expected = "of one type, float32 or float64 (for bfloat16 use float32 weights and budget 'quick+autocast=True')"
    check(len(kinds) == 1 and kinds <= {torch.float32, torch.float64}, "the model's weights", expected, kinds or "none")
    return kinds.pop()


def _cast(data: Data, like: Data, dtype: torch.dtype, device: torch.device, name: str) -> Data:
    """Inputs of the model's floating-point type; whole numbers (tokens, bytes) stay."""
    forms = [[(tuple(t.shape[1:]), t.is_floating_point()) for t in leaves(d.x)] for d in (data, like)]
    check(
        type(data.x) is type(like.x) and forms[0] == forms[1],
        f"{name} x",
        f"instances like those of train, {forms[1]}",
        forms[0],
    )
    return Data(
        mapped(lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device), data.x), data.y.to(device)
    )


@torch.no_grad()
def _probed(model: nn.Module, train: Data, forward: Callable | None) -> Tensor:
    """The model's outputs for the first instances."""
    x = mapped(lambda t: t[:PROBED], train.x)
    shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}".replace("torch.", "") for t in leaves(x))
    training = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            z = run(model.eval(), x, forward)
    except Exception as error:
        raise ValueError(f"the model cannot be run on x {shapes}: {error}") from error
    finally:
        for module, mode in training.items():
            module.training = mode
    is_tensor = isinstance(z, Tensor) and z.is_floating_point() and z.ndim >= 1
    got = f"{tuple(z.shape)} {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
    check(
        is_tensor, "the model's output", "one floating-point tensor (`forward=lambda model, x: …` can choose it)", got
    )
    count = len(leaves(x)[0])
    check(len(z) == count, "the model's output", f"one a row: ({count}, …)", got)
    return z


def _shaped(z: Tensor, parts: dict[str, Data], task: str, ignore_index, task_loss, dtype):
    """(task, parts with their targets cast, shapes)."""
    out, y = tuple(z.shape[1:]), parts["train"].y
    given = tuple(y.shape[1:])
    if task == "binary" and math.prod(out) == 2 * math.prod(given) and len(out) == len(given) + 1:
        task = "multiclass"  # two logits
    if task == "regression":
        fits = math.prod(out) == math.prod(given) and (out == given or {out, given} == {(), (1,)})
        check(fits, "train y", f"of the outputs' shape (N, {', '.join(map(str, out))})", _shape(y))
        cast = {name: Data(d.x, d.y.to(dtype).reshape(-1, *out)) for name, d in parts.items()}
        check(all(bool(d.y.isfinite().all()) for d in cast.values()), "y", "finite", "a NaN or an infinity")
        return task, cast, Shapes(task, 1, out)
    if ignore_index is None and task_loss is not None:
        used = getattr(task_loss, "ignore_index", -1)
        ignore_index = used if bool((y == used).any()) else None
    last = False
    if task == "binary":
        fits = math.prod(out) == math.prod(given) and (out == given or {out, given} == {(), (1,)})
        check(fits, "train y", f"0 and 1, one a logit, (N, {', '.join(map(str, out))})", _shape(y))
        target, classes = out, 2
    else:
        check(len(out) >= 1, "the model's output of multiclass", "(B, C) or (B, C, …)", tuple(z.shape))
        given = () if given == (1,) and len(out) == 1 else given
        last = given != out[1:] and given == out[:-1]
        check(given == out[1:] or last, "train y", f"class indices (N, {', '.join(map(str, out[1:]))})", _shape(y))
        target, classes = given, out[-1] if last else out[0]
        check(classes >= 2, "the model's outputs of multiclass", "at least 2 (one logit is task='binary')", classes)
    cast = {
        name: Data(d.x, _classes(d.y, classes, ignore_index, name).reshape(-1, *target)) for name, d in parts.items()
    }
    return task, cast, Shapes(task, classes, target, last, ignore_index)


def _classes(y: Tensor, classes: int, ignore_index: int | None, name: str) -> Tensor:
    whole = not y.is_floating_point() or bool((y == y.round()).all())
    check(whole, f"{name} y", f"class indices from 0 to {classes - 1}", "numbers that are not whole")
    y = y.long()
    counted = y if ignore_index is None else y[y != ignore_index]
    check(len(counted), f"{name} y", "at least one target that counts", f"{ignore_index} alone")
    low, high = int(counted.min()), int(counted.max())
    check(0 <= low and high < classes, f"{name} y", f"class indices from 0 to {classes - 1}", f"{low} to {high}")
    return y


def _check_scale(y: Tensor) -> None:
    mean, std = float(y.double().mean()), float(y.double().std(correction=0))
    what = "regression targets"
    todo = f"standardised: pass (y - {mean:.6g}) / {std or 1:.6g}, and undo it on the outputs"
    check(std > 0, what, "different from one another", f"one value, {mean:.6g}")
    check(
        abs(mean) <= MOST_SCALE and 1 / MOST_SCALE <= std <= MOST_SCALE,
        what,
        todo,
        f"mean {mean:.6g}, standard deviation {std:.6g}",
    )


def _usual(task: str, ignore_index: int | None) -> nn.Module:
    if task == "multiclass" and ignore_index is not None:
        return nn.CrossEntropyLoss(ignore_index=ignore_index)
    return {"binary": nn.BCEWithLogitsLoss, "multiclass": nn.CrossEntropyLoss, "regression": nn.MSELoss}[task]()


def _canonical(task: str) -> nn.Module:
    return nn.MSELoss() if task == "regression" else nn.CrossEntropyLoss()


def _as_module(loss) -> nn.Module | None:
    if loss is None or isinstance(loss, nn.Module):
        return loss
    check(callable(loss), "task_loss", "a function of (outputs, targets)", repr(loss))
    return _Function(loss)


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function, self.__name__ = function, getattr(function, "__name__", type(function).__name__)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.function(outputs, targets)


def _judge(metric, shapes: Shapes, plain: bool = False):
    if metric is None:
        return None if plain else _standard(shapes)
    check(callable(metric), "metric", "a function of (outputs, targets)", repr(metric))
    return Judge(metric, shapes)


def _standard(shapes: Shapes):
    return mean_squared_error if shapes.task == "regression" else error_rate


def _plain(model: nn.Module, train: Data, shapes: Shapes, forward, keep) -> bool:
    """Does the package's own `Task` take it as it is? Then the fastest engines serve it."""
    x = train.x
    tensor = isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 2
    here = {"multiclass": (), "regression": (1,)}.get(shapes.task) == shapes.target and shapes.ignore_index is None
    layers = [m for m in model.modules() if m is not model]
    known = type(model) is nn.Sequential and all(type(m).__module__.startswith(PLAIN_LAYERS) for m in layers)
    kernels = any(isinstance(m, (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)) for m in layers)
    return bool(tensor and here and known and not kernels and not forward and not keep and not weights.not_drawn(model))


@torch.no_grad()
def _trivial(task, shapes: Shapes, parts: dict[str, Data], judged: str) -> float:
    """The metric of the best constant on a part: the training targets' mean, or the classes' log frequencies."""
    y, there = task.targets(parts["train"].y), task.targets(parts[judged].y)
    if shapes.task == "regression":
        constant = parts["train"].y.mean(0, keepdim=True).expand(len(parts[judged]), *shapes.target).reshape(-1, 1)
    else:
        counts = torch.bincount(y, minlength=shapes.classes).to(task.dtype)
        constant = (counts / counts.sum()).clamp_min(1e-12).log().expand(len(there), -1)
    try:
        return float(task.metric(constant, there))
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the metric must take (outputs, targets) and give a number, the lower the better; got {got}"
        ) from error


def _shape(y: Tensor) -> str:
    return f"{tuple(y.shape)} {str(y.dtype).removeprefix('torch.')}"
