"""A `MetaLoss` for people and for other projects: SymPy, LaTeX, plain Python source, compiled from its tree."""

import sympy

from . import expression
from .primitives import EPSILON, PRIMITIVES

Y, F = sympy.symbols("y f", real=True)


def to_sympy(loss, weights: bool = True, epsilon=None, digits: int | None = None) -> sympy.Expr:
    """SymPy form of a loss's element, for display and simplification. `epsilon` replaces 1e-7, as a symbol for display."""
    epsilon = sympy.Float(EPSILON) if epsilon is None else epsilon
    operators = PRIMITIVES[loss.protection]
    terminals = {"y": Y, "f": F, "1": sympy.Integer(1), "-1": sympy.Integer(-1)}
    numbers = [sympy.Float(w, digits) if weights and w != 1 else sympy.Integer(1) for w in loss.weights.tolist()]
    values: list = [None] * len(loss.tree)
    for i, arguments in reversed(list(enumerate(expression.children(loss.tree)))):
        name = expression.node_name(loss.tree[i])
        x = [numbers[c - 1] * values[c] for c in arguments]
        values[i] = operators[name].sympy(epsilon, *x) if x else terminals[name]
    return sympy.log(1 + sympy.exp(values[0])) if loss.non_negative else values[0]


def to_latex(loss, weights: bool = True, digits: int = 3) -> str:
    """LaTeX of `to_sympy`, with eps as a symbol."""
    form = to_sympy(loss, weights, sympy.Symbol(r"\varepsilon", positive=True), digits)
    return sympy.latex(form, symbol_names={F: r"f_\theta(x)"})


_PYTHON = {
    **{"add": "{} + {}", "sub": "{} - {}", "mul": "{} * ({})", "square": "torch.square({})"},
    **{"aq": "aq({}, {})", "min": "torch.minimum({}, {})", "max": "torch.maximum({}, {})"},
    **{name: f"torch.{name}({{}})" for name in ("sign", "abs", "tanh")},
    **{name: f"torch.{name}(protect({{}}))" for name in ("log", "sqrt")},
}


def to_python(loss) -> str:
    """Source of `loss(prediction, target)`, for a project that does not use this package. Compiled from the tree."""
    weights = loss.weights.tolist()
    names = [expression.node_name(node) for node in loss.tree]
    terminals = {"y": "y", "f": "f", "1": "one", "-1": "(-one)"}
    values = [terminals.get(name, f"v{i}") for i, name in enumerate(names)]
    steps = []  # one line a node, so that no tree is nested too deeply for the parser
    for i, arguments in reversed(list(enumerate(expression.children(loss.tree)))):
        if arguments:
            steps.append(
                f"v{i} = " + _PYTHON[names[i]].format(*(f"{weights[c - 1]!r} * {values[c]}" for c in arguments))
            )
    inside = f"x.abs().clamp(min={EPSILON})" if loss.protection == "clamp" else f"x.abs() + {EPSILON}"
    prepare = ["y, f = target, prediction"]
    if loss.classification:
        prepare = [
            "f = torch.softmax(prediction, -1)",
            "y = torch.nn.functional.one_hot(target, prediction.shape[-1]).to(f.dtype)",
        ]
    value = "torch.nn.functional.softplus(v0)" if loss.non_negative else "v0"
    reduce = (".sum(-1)" if loss.classification else "") + {"none": ""}.get(loss.reduction, f".{loss.reduction}()")
    lines = [
        "import torch\n\n",
        "def protect(x):",
        f"    return {inside}\n\n",
        "def aq(a, b):",
        "    return a / torch.hypot(torch.ones_like(b), b)\n\n",
        "def loss(prediction, target):",
        f'    """{loss.tree}"""',
        *(f"    {line}" for line in prepare),
        "    one = f.new_ones(())",
        *(f"    {line}" for line in steps),
        f"    return ({value} + torch.zeros_like(f)){reduce}",
    ]
    return "\n".join(lines) + "\n"
