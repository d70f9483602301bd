"""Known losses as trees of Table I's operators, with which a search can begin (`Config.initial_losses`)."""

from ..config import Config
from . import expression

REGRESSION = {
    "squared error": "square(sub(y, f))",
    "absolute error": "abs(sub(y, f))",
    "pseudo-Huber": "sqrt(add(1, square(sub(y, f))))",
    "like log-cosh": "mul(sub(y, f), tanh(sub(y, f)))",
    "Cauchy": "log(add(1, square(sub(y, f))))",
}
# Of label y, one-hot, and softmax output f; summed over the classes
CLASSIFICATION = {
    "cross-entropy": "mul(-1, mul(y, log(f)))",
    "focal": "mul(-1, mul(mul(y, square(sub(1, f))), log(f)))",
    "like label smoothing": "abs(log(mul(y, f)))",  # its zero moves below p = 1 as a weight grows
    "Brier": "square(sub(y, f))",
    "absolute error": "abs(sub(y, f))",
}


def known_losses(classification: bool, config: Config) -> list[str]:
    """The known losses that a search begins with, if it begins with any, as far as its operators can express them."""
    if config.initial_losses == "random":
        return []
    allowed = {*expression.check_operators(config.operators), *expression.TERMINALS}
    known = [expression.parse(text) for text in (CLASSIFICATION if classification else REGRESSION).values()]
    return [str(tree) for tree in known if {expression.node_name(node) for node in tree} <= allowed]
