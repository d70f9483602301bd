"""What a loss is: Table I, expression trees, the meta-loss network, its rivals; losses in files."""

from .. import files
from ..checks import check
from .base import MAX_FILE_BYTES, SCHEMA, Loss, OneLogit
from .handcrafted import CrossEntropy, SquaredError
from .meta_network import MetaLoss
from .neural import NeuralLoss
from .taylor import TaylorLoss

# kind in a loss file -> class with `from_json`
KINDS = {loss.kind: loss for loss in (MetaLoss, TaylorLoss, NeuralLoss, SquaredError, CrossEntropy, OneLogit)}


def load_loss(path):
    """Read a loss file. The file can be refused, but nothing in it is run. The loss is frozen: `Loss.trainable`.

    Raises:
        ValueError: not a loss file of this schema, or a field that is missing, unknown or out of range.
    """
    try:
        return loss_from_json(files.read_json(path, (1, SCHEMA), MAX_FILE_BYTES))
    except ValueError as error:
        raise ValueError(f"{path}: not a loss file of schema 1 or {SCHEMA}: {error}") from None


def loss_from_json(data: dict):
    """The loss that `to_json` described, frozen. Raises ValueError for anything else."""
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {str(kind)[:80]!r}")
    want, got = sorted(KINDS[kind].FIELDS), sorted(data.keys() - {"schema", "kind", "version", *KINDS[kind].OPTIONS})
    check(want == got, f"the fields of a {kind} loss", ", ".join(want) or "none", ", ".join(got)[:300] or "none")
    try:
        return KINDS[kind].from_json(data).requires_grad_(False)
    except (TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(repr(error)) from None
