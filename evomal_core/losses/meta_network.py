"""From tree to trainable network (section III-C, "transitional procedure"; Fig. 2): `MetaLoss`."""

import torch

from ..checks import check_choice
from . import export
from . import expression as trees
from .elementwise import ElementwiseLoss
from .primitives import PRIMITIVES, SOFTPLUS


class MetaLoss(export.Displayed, ElementwiseLoss):
    """The meta-loss network M^T_phi of an expression tree M: the same loss with one trainable weight an edge.

    A node's output is multiplied by the weight of its outgoing edge before the parent reads it, so a tree of n nodes has
    n - 1 weights; the weight of the edge above node i (prefix order) is `weights[i - 1]`. With all weights 1 the network
    is the tree. Use it like `nn.CrossEntropyLoss` or `nn.MSELoss`; see `ElementwiseLoss` for shapes and errors.

    Attributes:
        expression: the tree as text, without weights.

    Args:
        expression: a tree as text, or one of `expression.py`.
        weights: None for all 1, or n - 1 numbers.
        protection: of log and sqrt, "abs" (|x| + eps) or "clamp" (max(|x|, eps)).
        classification, non_negative, reduction: as in `ElementwiseLoss`.

    Raises:
        ValueError: an expression that cannot be read or lacks `y` or `f`, or weights of wrong number.
    """

    kind = "symbolic"
    FIELDS = (*ElementwiseLoss.FIELDS, "expression", "protection")
    to_sympy, to_latex, element_source = export.to_sympy, export.to_latex, export.element_source

    def __init__(
        self,
        expression: str | trees.Tree,
        weights=None,
        classification: bool = False,
        non_negative: bool = False,
        protection: str = "abs",
        reduction: str = "mean",
    ):
        tree = expression if isinstance(expression, trees.Tree) else trees.parse(expression)
        names = [trees.node_name(node) for node in tree]
        if missing := {"y", "f"} - set(names):
            raise ValueError(f"a loss must hold both y and f; {tree} lacks {' and '.join(sorted(missing))}")
        n = len(names) - 1
        super().__init__(torch.ones(n) if weights is None else weights, n, classification, non_negative, reduction)
        self.tree, self.expression = tree, str(tree)
        self.protection = check_choice("protection", protection, PRIMITIVES)
        self._names, self._children = names, trees.children(tree)

    @classmethod
    def from_expression(cls, text: str, weights=None, **options) -> "MetaLoss":
        """Compile an expression such as `"square(sub(y, f))"`; arguments as for the class."""
        return cls(text, weights, **options)

    def elementwise(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        weights = self.weights.unbind()
        one = f.new_ones(())
        values = [{"y": y, "f": f, "1": one, "-1": -one}.get(name) for name in self._names]
        for i, arguments in reversed(list(enumerate(self._children))):  # children stand behind their parent
            if arguments:
                operator = PRIMITIVES[self.protection][self._names[i]]
                values[i] = operator.value(torch, *(values[c] * weights[c - 1] for c in arguments))
        value = values[0].to(f.dtype)
        return SOFTPLUS.value(torch, value) if self.non_negative else value

    def __str__(self) -> str:
        return self.expression
