"""How a loss meets a batch: shapes, labels and reductions, as PyTorch's own losses have them.

`to_python` exports the source of these functions as they stand here, so they use PyTorch alone. `element` is a function
M(y, f) of tensors of one shape.
"""

import torch


def refuse(prediction: torch.Tensor, target: torch.Tensor, needs: str) -> None:
    """Raise ValueError that says what a prediction needs as target, and what came."""
    if not prediction.is_floating_point():
        raise ValueError(f"the prediction must be of a floating type, got {prediction.dtype}")
    shape, got = tuple(prediction.shape), f"{target.dtype} {tuple(target.shape)}"
    raise ValueError(f"a prediction of shape {shape} needs {needs}, got {got}")


def widened(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def of_values(element, prediction: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """M of each value, for a prediction and a target of one shape; reduced to their mean or sum, or not ("none")."""
    if target.shape != prediction.shape or not prediction.is_floating_point():
        refuse(prediction, target, f"a target of shape {tuple(prediction.shape)}")
    f = widened(prediction)
    value = element(target.to(f.dtype), f)
    return value if reduction == "none" else getattr(value, reduction)()


def classes_last(prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target, with the classes in the last dimension.

    Classes lie in dimension 1, as PyTorch has them: (B, C), (B, C, d1, ...), or (C,) without a batch. A prediction whose
    shape fits only so may have them in the last dimension, with class indices of the shape of all others.
    """
    shape, soft, dimension = prediction.shape, target.is_floating_point(), -1
    if len(shape) > 2 and (soft or target.shape == shape[:1] + shape[2:]):
        dimension = 1
    good = target.shape == shape if soft else target.dtype != torch.bool and not target.is_complex()
    if not soft and dimension == -1:
        good = good and target.shape == shape[:-1]
    if not (good and shape and prediction.is_floating_point()):
        others = " or ".join(
            dict.fromkeys(str(tuple(s)) for s in (shape[:1] + shape[2:], shape[:-1])[len(shape) < 3 :])
        )
        refuse(prediction, target, f"integer class indices of shape {others} or probabilities of its own shape")
    if shape[dimension] < 2:
        raise ValueError(
            f"classes of a prediction must be two or more, got shape {tuple(shape)}; one logit for two classes is for "
            "loss.of_one_logit()"
        )
    if dimension == 1:
        prediction = prediction.movedim(1, -1)
        target = target.movedim(1, -1) if soft else target
    return prediction, target


def one_hot(target: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """Class indices (...) as labels 0 and 1 of the shape (..., C) of `f`."""
    try:
        return torch.zeros_like(f).scatter(-1, target.unsqueeze(-1), 1.0)
    except (RuntimeError, IndexError):
        least, most, classes = int(target.min()), int(target.max()), f.shape[-1]
        if least < 0 or most >= classes:
            raise ValueError(f"class indices must be from 0 to {classes - 1}, got {least} to {most}") from None
        raise


def of_each_class(element, f: torch.Tensor) -> torch.Tensor:
    """The loss that each class would give if it were the label, (..., C), for probabilities `f` (..., C)."""
    label, other = element(torch.ones_like(f), f), element(torch.zeros_like(f), f)
    return label + (other.sum(-1, keepdim=True) - other)


def of_classes(
    element,
    prediction: torch.Tensor,
    target: torch.Tensor,
    reduction: str = "mean",
    weight: torch.Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """M of softmax outputs and labels 0 and 1, summed over the classes; then reduced as `nn.CrossEntropyLoss` does.

    A target of probabilities, or a smoothed one, gives the mean, under it, of the losses of the classes. So M meets no
    labels but 0 and 1, and its weights of classes are those of `nn.CrossEntropyLoss`.
    """
    z, target = classes_last(prediction, target)
    z, soft, ignored = widened(z), target.is_floating_point(), None
    if weight is not None and len(weight) != z.shape[-1]:
        raise ValueError(f"weight must have one number a class, {z.shape[-1]}, got {len(weight)}")
    if soft and ignore_index is not None and ignore_index >= 0:
        raise ValueError(f"ignore_index must be negative for a target of probabilities, got {ignore_index}")
    if not soft:
        target = target.long()
        if ignore_index is not None:
            ignored = target == ignore_index
            target, z = target.masked_fill(ignored, 0), z.masked_fill(ignored.unsqueeze(-1), 0.0)
    f = torch.softmax(z, -1)
    y = target.to(f.dtype) if soft else one_hot(target, f)
    weight = None if weight is None else weight.to(f)
    if soft or label_smoothing:
        share = y * (1 - label_smoothing) + label_smoothing / f.shape[-1] if label_smoothing else y
        share = share if weight is None else share * weight
        value = (of_each_class(element, f) * share).sum(-1)
    else:
        value = element(y, f).sum(-1)
        value = value if weight is None else value * (y * weight).sum(-1)
    value = value if ignored is None else value.masked_fill(ignored, 0.0)
    if reduction != "mean":
        return value if reduction == "none" else value.sum()
    if soft or (weight is None and ignored is None):
        return value.mean()
    counted = torch.ones_like(value) if weight is None else (y * weight).sum(-1)
    return value.sum() / (counted if ignored is None else counted.masked_fill(ignored, 0.0)).sum()


def of_one_logit(two_logits, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`two_logits(prediction, target)`, a loss of two classes, on one logit z: on logits (0, z), softmax of which is
    (1 - sigmoid(z), sigmoid(z)).

    Prediction and target have one shape, or the prediction one more dimension of size 1 at the end. The target is class 0
    or 1 of an integer type or bool, or the probability of class 1.
    """
    shape = target.shape
    if prediction.shape not in (shape, (*shape, 1)) or not prediction.is_floating_point() or target.is_complex():
        refuse(prediction, target, f"a target of shape {tuple(prediction.shape)}, or that without a last 1,")
    z = widened(prediction).reshape(-1)
    z, t = torch.stack([torch.zeros_like(z), z], -1), target.reshape(-1)
    t = torch.stack([1 - t, t], -1).to(z.dtype) if t.is_floating_point() else t.long()
    value = two_logits(z, t)
    return value.reshape(shape) if value.ndim else value
