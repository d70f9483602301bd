"""A loss for people and for other projects: SymPy, simplified, LaTeX, plain Python source, compiled from its tree."""

import sympy

from . import expression
from .primitives import EPSILON, PRIMITIVES, SOFTPLUS, TABLE_I

Y, F = sympy.symbols("y f", real=True)
EPS = sympy.Symbol(r"\varepsilon", positive=True)
MAX_OPERATIONS = 80  # `simplify` tries nothing on a longer formula


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
    """LaTeX of `to_sympy`, with eps as a symbol."""
    return latex(to_sympy(loss, weights, digits, EPS))


def latex(form: sympy.Expr) -> str:
    """LaTeX in the paper's notation: f is the base model's output."""
    return sympy.latex(form, symbol_names={F: r"f_\theta(x)"})


def simplify(loss, weights: bool = True, digits: int = 3, smallest: float = 0.01) -> sympy.Expr:
    """A loss as Table VI prints one, simplified so that its gradient on the prediction stays (to rounding).

    Algebraically: SymPy's automatic rules, `factor_terms` and `expand_mul`, of whose results the shortest is taken; in
    classification y and f are not negative. Nothing that searches, and above MAX_OPERATIONS neither of the two, because
    SymPy's `simplify` can take hours. Numerically: constants are evaluated; eps is left out directly under a root (an error
    of 3e-4 at most); so are, in a sum, terms whose coefficient is below `smallest` of the largest, and in the outermost sum
    those without gradient on the prediction; numbers are rounded to `digits`. A loss without any gradient becomes 0.

    Args:
        loss: one with `to_sympy`.
        weights: False sets them to 1 beforehand, the paper's "parameters omitted"; terms can cancel that the weights keep.
    """
    form = to_sympy(loss, weights, epsilon=EPS) if hasattr(loss, "tree") else loss.to_sympy(weights)
    signs = {s: sympy.Symbol(s.name, nonnegative=True) for s in (Y, F)} if loss.classification else {}
    form = form.subs(signs)
    f = signs.get(F, F)
    form = form.replace(lambda e: e.is_Pow and abs(e.exp) == sympy.S.Half, lambda e: _without_eps(e.base) ** e.exp)
    form = form.replace(_constant, lambda e: e.subs(EPS, EPSILON).evalf())
    variants = [form]
    if form.count_ops() <= MAX_OPERATIONS:
        variants += [sympy.factor_terms(form), sympy.expand_mul(form)]
    form = min((_prune(variant, f, smallest) for variant in variants), key=sympy.count_ops)
    numbers = {n: _rounded(n, digits) for n in form.atoms(sympy.Float)}
    return form.xreplace(numbers | {v: k for k, v in signs.items()}).doit()


def _constant(form: sympy.Expr) -> bool:
    return form.free_symbols <= {EPS} and form != EPS and not form.is_Number


def _without_eps(base: sympy.Expr) -> sympy.Expr:
    kept = [x for x in base.args if x != EPS]
    return base.func(*kept) if isinstance(base, (sympy.Add, sympy.Max)) else base


def _prune(form: sympy.Expr, f: sympy.Symbol, smallest: float) -> sympy.Expr:
    """Leave out small terms of every sum, and of the outermost those whose derivative in `f` is zero (sign has 0)."""

    def large(total):
        sizes = [EPSILON if x == EPS else abs(x.as_coeff_Mul()[0]) for x in total.args]
        return total.func(*(x for x, size in zip(total.args, sizes, strict=True) if size >= smallest * max(sizes)))

    form = form.replace(lambda e: e.is_Add and EPS not in e.args, large)
    moving = [x for x in sympy.Add.make_args(form) if f in x.replace(sympy.sign, lambda _: sympy.Dummy()).free_symbols]
    return sympy.Add(*moving)


def _rounded(number: sympy.Float, digits: int) -> sympy.Number:
    text = f"{float(number):.{digits}g}"
    return sympy.Integer(float(text)) if float(text).is_integer() else sympy.Float(text, digits)


def to_python(loss) -> str:
    """Source of `loss(prediction, target)`, for a project that does not use this package. Compiled from the tree."""
    weights = loss.weights.tolist()
    names = [expression.node_name(node) for node in loss.tree]
    terminals = {"y": "y", "f": "f", "1": "one", "-1": "(-one)"}
    values = [terminals.get(name, f"v{i}") for i, name in enumerate(names)]
    edges = ["", *(f"{w!r} * {value}" for w, value in zip(weights, values[1:], strict=True))]  # the one above each node
    steps = []  # one line a node, so that no tree is nested too deeply for the parser
    for i, arguments in reversed(list(enumerate(expression.children(loss.tree)))):
        if arguments:
            row, given = PRIMITIVES[loss.protection][names[i]], [edges[c] for c in arguments]
            given = given if row.name in TABLE_I else [f"({edge})" for edge in given]  # a user's source has no brackets
            steps.append(f"v{i} = {row.source.format(*given)}")
    inside = f"x.abs().clamp(min={EPSILON})" if loss.protection == "clamp" else f"x.abs() + {EPSILON}"
    one_hot = "torch.nn.functional.one_hot(target.long(), prediction.shape[-1]).to(f.dtype)"
    prepare = ["prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))"]
    prepare += (
        ["f = torch.softmax(prediction, -1)", f"y = {one_hot}"]
        if loss.classification
        else ["y, f = target.to(prediction.dtype), prediction"]
    )
    value = SOFTPLUS.source.format("v0") if loss.non_negative else "v0"
    reduce = (".sum(-1)" if loss.classification else "") + {"none": ""}.get(loss.reduction, f".{loss.reduction}()")
    body = [*prepare, "one = f.new_ones(())", *steps, f"return ({value} + torch.zeros_like(f)){reduce}"]
    lines = [
        "import torch\n\n",
        "def protect(x):",
        f"    return {inside}\n\n",
        "def aq(a, b):",
        "    return a / torch.hypot(torch.ones_like(b), b)\n\n",
        "def loss(prediction, target):",
        f'    """{loss.tree}"""',
        *(f"    {line}" for line in body),
    ]
    return "\n".join(lines) + "\n"
