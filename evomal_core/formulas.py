"""A loss's formula, simplified as Table VI prints one."""

import sympy

from .losses.export import EPS, F, Y, as_text, large, to_sympy
from .losses.primitives import EPSILON

MAX_OPERATIONS = 80  # nothing is tried on a longer formula


def simplify(loss, weights: bool = True, digits: int = 3, smallest: float = 0.01) -> sympy.Expr:
    """A loss as Table VI prints one, simplified so that its gradient on the prediction stays (to rounding).

    Algebraically: SymPy's automatic rules, `factor_terms` and `expand_mul`, of whose results the shortest is taken; in
    classification y and f are not negative. Nothing that searches, and above MAX_OPERATIONS neither of the two, because
    SymPy's `simplify` can take hours. Numerically: constants are evaluated; eps is left out directly under a root (an error
    of 3e-4 at most); so are, in a sum, terms whose coefficient is below `smallest` of the largest, and in the outermost sum
    those without gradient on the prediction; numbers are rounded to `digits`. A loss without any gradient becomes 0. A tree
    that SymPy would be long at (`losses.export.large`) becomes a symbol that shows the tree.

    Args:
        loss: one with `to_sympy`.
        weights: False sets them to 1 beforehand, the paper's "parameters omitted"; terms can cancel that the weights keep.
    """
    if large(loss):
        return as_text(loss)
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
