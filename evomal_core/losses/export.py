"""A loss for people and for other projects: SymPy, LaTeX, the plain Python source of its element, from its tree."""

import sympy

from . import expression
from .primitives import EPSILON, PRIMITIVES, SOFTPLUS, TABLE_I

Y, F = sympy.symbols("y f", real=True)
MAX_DISPLAYED_NODES, MAX_DISPLAYED_HEIGHT, MAX_DISPLAYED_TEXT = 100, 30, 1_000
EPS = sympy.Symbol(r"\varepsilon", positive=True)


class Displayed:
    """What a loss with `to_sympy(weights, digits)` offers for display, in notebooks too."""

    def to_latex(self, weights: bool = True, digits: int = 3) -> str:
        """The loss as LaTeX, coefficients rounded to `digits` significant digits."""
        return latex(self.to_sympy(weights, digits))

    def _repr_latex_(self) -> str:
        return f"${self.to_latex()}$"


def to_sympy(loss, weights: bool = True, digits: int | None = None, epsilon=EPSILON) -> sympy.Expr:
    """SymPy form of a loss's element, for display and simplification. `epsilon` replaces 1e-7, as a symbol for display."""
    operators = PRIMITIVES[loss.protection]
    terminals = {"y": Y, "f": F, "1": sympy.Integer(1), "-1": sympy.Integer(-1)}
    numbers = [sympy.Float(w, digits) if weights and w != 1 else sympy.Integer(1) for w in loss.weights.tolist()]
    values: list = [None] * len(loss.tree)
    for i, arguments in reversed(list(enumerate(expression.children(loss.tree)))):
        name = expression.node_name(loss.tree[i])
        x = [numbers[c - 1] * values[c] for c in arguments]
        values[i] = operators[name].sympy(epsilon, *x) if x else terminals[name]
    return SOFTPLUS.sympy(epsilon, values[0]) if loss.non_negative else values[0]


def to_latex(loss, weights: bool = True, digits: int = 3) -> str:
    """LaTeX of `to_sympy`, with eps as a symbol; of a tree that SymPy would be long at, the tree itself."""
    return latex(as_text(loss) if large(loss) else to_sympy(loss, weights, digits, EPS))


def large(loss) -> bool:
    """Is a loss's tree one that SymPy would take more than some seconds for? Its time grows with a power of the size."""
    tree = getattr(loss, "tree", ())
    return len(tree) > MAX_DISPLAYED_NODES or (len(tree) > 0 and tree.height > MAX_DISPLAYED_HEIGHT)


def as_text(loss) -> sympy.Symbol:
    """A loss's tree, not its weights, as a symbol that is displayed as text, the end of a long one left out."""
    text = str(loss).replace("_", r"\_")
    more = rf"\ldots\text{{ ({len(loss.tree)} nodes)}}" if len(text) > MAX_DISPLAYED_TEXT else ""
    return sympy.Symbol(rf"\texttt{{{text[:MAX_DISPLAYED_TEXT]}}}{more}")


def latex(form: sympy.Expr) -> str:
    """LaTeX in the paper's notation: f is the base model's output."""
    return sympy.latex(form, symbol_names={F: r"f_\theta(x)"})


def element_source(loss) -> list[str]:
    """Source of `element(y, f)`, compiled from the tree, and of the functions that it needs."""
    names = [expression.node_name(node) for node in loss.tree]
    terminals = {"y": "y", "f": "f", "1": "one", "-1": "(-one)"}
    values = [terminals.get(name, f"v{i}") for i, name in enumerate(names)]
    weighted = zip(loss.finite_weights(), values[1:], strict=True)
    edges = ["", *(f"{w!r} * {value}" for w, value in weighted)]  # the one above each node
    steps = []  # one line a node, so that no tree is nested too deeply for the parser
    for i, arguments in reversed(list(enumerate(expression.children(loss.tree)))):
        if arguments:
            row, given = PRIMITIVES[loss.protection][names[i]], [edges[c] for c in arguments]
            given = given if row.name in TABLE_I else [f"({edge})" for edge in given]  # a user's source has no brackets
            steps.append(f"v{i} = {row.source.format(*given)}")
    inside = f"x.abs().clamp(min={EPSILON})" if loss.protection == "clamp" else f"x.abs() + {EPSILON}"
    value = SOFTPLUS.source.format("v0") if loss.non_negative else "v0"
    functions = {"protect(x)": [f"return {inside}"], "aq(a, b)": ["return a / torch.hypot(torch.ones_like(b), b)"]}
    functions["sign(x)"] = ["return torch.where(x.isnan(), x, torch.sign(x))"]
    functions["element(y, f)"] = [f'"""{loss.tree}"""', "one = f.new_ones(())", *steps, f"return {value}"]
    return [f"def {head}:\n" + "".join(f"    {line}\n" for line in lines) for head, lines in functions.items()]
