"""Losses: operators, trees, the meta-loss network, exports and files, against independent NumPy and plain Python.

`evaluate` below is the reference that other test files use, too.
"""

import ast
import builtins
import itertools
import json
import math
import random
import re
import time

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evomal_core import CrossEntropy, MetaLoss, SquaredError, formulas, load_loss, streams
from evomal_core.fast.derivatives import LossInputs, tape_of
from evomal_core.losses import export, expression, loss_from_json
from evomal_core.losses.expression import parse
from evomal_core.losses.primitives import PRIMITIVES, TABLE_I, TERMINALS
from evomal_notebooks import paper_loss

EPS = 1e-7
PROTECTIONS = ("abs", "clamp")
# height 2 to 6, from a seed
TREES = st.builds(lambda s, h: expression.grow(s, (2, h))[0], st.integers(0, 2**32), st.integers(2, 6))
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.3, -7.5, 1e-30, -1e-30, 1e30, -1e30, 3.4028235e38, -3.4028235e38])


# The reference: a printed expression is also a Python expression, so Python's own parser reads it


def operators(xp, protection: str) -> dict:
    """Table I, written out a second time; `xp` is numpy or torch."""
    absolute = xp.abs
    protect = (lambda x: absolute(x) + EPS) if protection == "abs" else (lambda x: xp.clip(absolute(x), EPS, None))
    return {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "aq": lambda a, b: a / xp.sqrt(1 + b * b),
        "min": xp.minimum,
        "max": xp.maximum,
        "sign": xp.sign,
        "square": lambda x: x * x,
        "abs": absolute,
        "log": lambda x: xp.log(protect(x)),
        "sqrt": lambda x: xp.sqrt(protect(x)),
        "tanh": xp.tanh,
    }


def evaluate(text: str, y, f, weights=None, protection: str = "abs", xp=np, replaced: dict | None = None):
    """M(y, f), recursively; every child's output times its edge's weight, edges counted in prefix order of the children."""
    table = operators(xp, protection) | (replaced or {})
    terminals = {"y": y, "f": f, "1": xp.ones_like(f), "-1": -xp.ones_like(f)}
    count = 0

    def value(node):
        nonlocal count
        count += 1
        if not isinstance(node, ast.Call):
            return terminals[ast.unparse(node)]
        arguments = []
        for child in node.args:
            edge = count - 1
            arguments.append(value(child) * (1 if weights is None else weights[edge]))
        return table[node.func.id](*arguments)

    return value(ast.parse(text, mode="eval").body)


def size(text: str) -> int:
    return sum(isinstance(n, (ast.Call, ast.UnaryOp)) for n in ast.walk(ast.parse(text))) + len(
        re.findall(r"\b(y|f)\b|(?<!-)\b1\b", text)
    )


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def random_losses(n: int, seed: int = 0, dtype=torch.float64, **options) -> list[MetaLoss]:
    """`n` random trees, weights around 1."""
    rng = np.random.default_rng(seed)
    trees = expression.grow(seed, (2, 4), n)
    return [MetaLoss(str(t), torch.tensor(rng.normal(1, 0.3, len(t) - 1), dtype=dtype), **options) for t in trees]


def data(seed: int = 0, n: int = 6, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """(prediction, target), (n, 1) each."""
    rng = np.random.default_rng(seed)
    return tuple(torch.tensor(rng.normal(size=(n, 1)), dtype=dtype) for _ in range(2))


def class_data(seed: int = 0, n: int = 6, classes: int = 3, dtype=torch.float64):
    """(logits (n, classes), labels (n,))."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(n, classes)), dtype=dtype)
    return logits, torch.tensor(rng.integers(classes, size=n))


# Operators


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("name", TABLE_I)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operator_equals_numpy(name, protection, dtype):
    rng = np.random.default_rng(0)
    x = [np.concatenate([rng.normal(0, s, 40) for s in (1e-8, 1e-3, 1, 100)] + [np.zeros(1)]) for _ in range(2)]
    x = [rng.permutation(a)[:150] for a in x][: PRIMITIVES["abs"][name].arity]
    want = operators(np, protection)[name](*x)
    tensors = [torch.tensor(a, dtype=dtype) for a in x]
    for xp, arguments in ((torch, tensors), (np, [t.numpy() for t in tensors])):
        got = PRIMITIVES[protection][name].value(xp, *arguments)
        assert got.dtype == arguments[0].dtype
        # in float32 the logarithm of nearly 1 keeps only the absolute precision of its argument
        rtol, atol = (1e-13, 1e-300) if dtype == torch.float64 else (3e-6, 1e-6 if name == "log" else 1e-12)
        np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=atol)


def test_table_holds_the_twelve_operators_and_four_terminals():
    assert list(TABLE_I) == "add sub mul aq min max sign square abs log sqrt tanh".split()
    assert [PRIMITIVES["abs"][n].arity for n in TABLE_I] == [2] * 6 + [1] * 6
    assert TERMINALS == ("y", "f", "1", "-1")


@pytest.mark.parametrize(("protection", "inner"), [("abs", 2e-7), ("clamp", 1e-7)])
def test_protection_inside_epsilon(protection, inner):
    x = torch.tensor([1e-7, -1e-7, 0.0], dtype=torch.float64)
    inside = [inner, inner, 1e-7]
    table = PRIMITIVES[protection]
    np.testing.assert_allclose(table["log"].value(torch, x), np.log(inside), rtol=1e-14)
    np.testing.assert_allclose(table["sqrt"].value(torch, x), np.sqrt(inside), rtol=1e-14)


@pytest.mark.parametrize("xp", [np, torch])
@pytest.mark.parametrize(("dtype", "largest"), [("float32", 3e38), ("float64", 1e308)])
def test_analytic_quotient_does_not_overflow_inside(xp, dtype, largest):
    a, b = (xp.asarray([v, v, 1.0], dtype=getattr(xp, dtype)) for v in (largest, -largest))
    got = PRIMITIVES["abs"]["aq"].value(xp, a, b)  # a / |b|
    assert got.dtype == a.dtype
    np.testing.assert_allclose(np.asarray(got), [1.0, 1.0, 1 / math.sqrt(2)], rtol=1e-6)


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize(
    ("name", "x", "gradient"),
    [
        ("sign", (0.0,), (0.0,)),
        ("sign", (2.0,), (0.0,)),
        ("abs", (0.0,), (0.0,)),
        ("log", (0.0,), (0.0,)),
        ("sqrt", (0.0,), (0.0,)),
        ("min", (0.5, 0.5), (0.5, 0.5)),
        ("max", (0.5, 0.5), (0.5, 0.5)),
        ("min", (0.2, 0.5), (1.0, 0.0)),
        ("max", (0.2, 0.5), (0.0, 1.0)),
    ],
)
def test_gradient_at_kinks(name, x, gradient, protection):
    x = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in x]
    operator = PRIMITIVES[protection][name]
    got = torch.autograd.grad(operator.value(torch, *x), x)
    assert [float(g) for g in got] == list(gradient)
    jets = operator.derivatives(np, *(v.detach().numpy() for v in x))[: len(x)]
    assert [float(np.asarray(d).reshape(())) for d in jets] == list(gradient)


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_clamp_has_no_gradient_inside(name):
    x = torch.tensor([5e-8, -5e-8, 3e-7, -3e-7], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(PRIMITIVES["clamp"][name].value(torch, x).sum(), x)
    outside = 1 / 3e-7 if name == "log" else 0.5 / math.sqrt(3e-7)
    np.testing.assert_allclose(got, [0, 0, outside, -outside], rtol=1e-12)


def test_one_registry_serves_every_operator_with_derivatives_that_match_differences():
    h = 1e-5
    for protection in PROTECTIONS:
        for name, operator in PRIMITIVES[protection].items():
            x = [np.array([0.7, -1.3]), np.array([0.4, 2.1])][: operator.arity]
            value, partials = operator.value(np, *x), operator.derivatives(np, *x)
            for k, partial in enumerate(partials[: operator.arity]):
                shifted = [[a + s * h * (j == k) for j, a in enumerate(x)] for s in (1, -1)]
                slope = (operator.value(np, *shifted[0]) - operator.value(np, *shifted[1])) / (2 * h)
                np.testing.assert_allclose(np.broadcast_to(partial, (2,)), slope, rtol=1e-6, atol=1e-8, err_msg=name)
            np.testing.assert_allclose(value, operator.value(np, *x), rtol=1e-15)


# Extreme input


@settings(max_examples=150)
@given(TREES, st.sampled_from(PROTECTIONS), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4), st.booleans())
def test_no_input_breaks_a_tree_and_overflow_stays_visible(tree, protection, pairs, double):
    dtype = np.float64 if double else np.float32
    y, f = (np.array([p[i] for p in pairs], dtype)[:, None] for i in range(2))
    loss = MetaLoss(tree, protection=protection, reduction="none").to(torch.float64 if double else torch.float32)
    value = loss(torch.tensor(f), torch.tensor(y)).detach()
    assert value.shape == f.shape
    assert not value.is_complex()
    with np.errstate(all="ignore"):
        hypot = {"aq": lambda a, b: a / np.hypot(dtype(1), b)}
        want = evaluate(str(tree), y, f, protection=protection, replaced=hypot)
        mean = MetaLoss(tree, protection=protection).to(loss.weights.dtype)
        tape = tape_of(mean, LossInputs(torch.tensor(f), torch.tensor(y)))
        gradient = tape.gradient(np.ones_like(f[:, 0]))
    assert want.dtype == dtype
    np.testing.assert_array_equal(value.isfinite().numpy(), np.isfinite(want))
    np.testing.assert_array_equal(np.isfinite(tape.value), np.isfinite(want[:, 0]))
    assert len(gradient) == len(tree) - 1
    if not np.isfinite(want).all():
        assert not mean(torch.tensor(f), torch.tensor(y)).isfinite()  # the mean hides nothing


def test_seven_squares_of_two_overflow_in_float32_only():
    text = "add(y, " + "square(" * 7 + "f" + "))))))))"
    two, zero = torch.full((1, 1), 2.0), torch.zeros(1, 1)
    assert MetaLoss(text)(two, zero).item() == math.inf
    assert MetaLoss(text).double()(two.double(), zero.double()).item() == 2.0**128


# Print and parse


@settings(max_examples=200)
@given(TREES)
def test_print_parse_round_trip(tree):
    again = parse(str(tree))
    assert [expression.node_name(n) for n in again] == [expression.node_name(n) for n in tree]
    assert str(again) == str(tree)
    assert size(str(tree)) == len(tree)
    assert again.height == tree.height


def test_parse_takes_white_space_and_prints_the_canonical_form():
    assert str(parse(" square (\tsub( y,f ) )\n")) == "square(sub(y, f))"
    assert str(parse("add(-1,1)")) == "add(-1, 1)"
    assert str(parse("y")) == "y"


BOMB = 10**5
BAD = {
    "empty": "",
    "blank": "  ",
    "code": "__import__('os').system('true')",
    "code inside": "square(__import__('os'))",
    "attribute": "y.__class__",
    "lambda": "(lambda: y)()",
    "unknown operator": "exp(sub(y, f))",
    "near miss": "squared(sub(y, f))",
    "unknown terminal": "sub(y, g)",
    "number": "sub(y, 2)",
    "float": "sub(y, 1.0)",
    "infix": "y - f",
    "infix number": "y -1",
    "infix inside": "add(y -1, f)",
    "trailing text": "sub(y, f) f",
    "trailing bracket": "sub(y, f))",
    "second tree": "sub(y, f), sub(y, f)",
    "open": "square(sub(y, f)",
    "no brackets": "square",
    "too few": "sub(y)",
    "too many": "square(y, f)",
    "three": "add(y, f, 1)",
    "no arguments": "square()",
    "comma first": "sub(, y, f)",
    "comma last": "sub(y, f,)",
    "comma missing": "sub(y f)",
    "doubled brackets": "square((y))",
    "terminal called": "y(f)",
    "double minus": "sub(y, --1)",
    "keyword": "sub(y=1, f=1)",
    "fullwidth digit": "sub(y, １)",
    "brackets": "(" * BOMB + ")" * BOMB,
    "deep": "square(" * BOMB + "y" + ")" * BOMB,
    "deep, open": "square(" * BOMB,
    "wide": "add(y, " * BOMB,
    "names": "square " * BOMB,
    "commas": "add(y" + ", y" * BOMB + ")",
    "closing": ")" * BOMB,
    "long name": "y" * BOMB,
}


@pytest.mark.parametrize("text", BAD.values(), ids=list(BAD))
def test_parse_refuses(text, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("text was evaluated")

    with monkeypatch.context() as patch:
        for name in ("eval", "exec", "compile"):
            patch.setattr(builtins, name, forbidden)
        start = time.perf_counter()
        with pytest.raises(ValueError) as caught:
            parse(text)
        spent = time.perf_counter() - start
    assert spent < 5
    assert len(str(caught.value)) < 2_000  # a message for a person, not the text again


@pytest.mark.parametrize("thing", [None, 3, b"square(sub(y, f))", ["y"]])
def test_parse_refuses_what_is_no_string(thing):
    with pytest.raises(ValueError, match="string"):
        parse(thing)


def test_parse_refuses_too_many_nodes_and_names_known_ones():
    full = "y"
    for _ in range(14):  # 2^15 - 1 nodes of height 14
        full = f"add({full}, {full})"
    with pytest.raises(ValueError, match="10000 nodes"):
        parse(full)
    with pytest.raises(ValueError, match="known names: add, sub"):
        parse("exp(y)")


@settings(max_examples=400)
@given(st.lists(st.sampled_from([*TABLE_I, *TERMINALS, "(", ")", ",", " ", "-", "2"]), max_size=12).map("".join))
def test_parse_gives_the_text_back_or_refuses_it(text):
    try:
        tree = parse(text)
    except ValueError:
        return
    assert re.sub(r"\s", "", str(tree)) == re.sub(r"\s", "", text)
    assert size(str(tree)) == len(tree)


# Growth, variation, correction


def names(tree) -> set[str]:
    return {expression.node_name(n) for n in tree}


def state():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (DEAP's generator)
    return random.getstate(), (kind, keys.tobytes(), *rest)


def test_grow_gives_corrected_trees_of_height_two_to_four():
    trees = expression.grow(7, (2, 4), 300)
    assert all({"y", "f"} <= names(t) for t in trees)
    heights = [t.height for t in trees]
    assert min(heights) >= 2
    assert max(heights) <= 5  # the correction may add one
    assert {2, 3, 4} <= set(heights)
    assert {n for t in trees for n in names(t)} == {*TABLE_I, *TERMINALS}
    assert [str(t) for t in expression.grow(7, (2, 4), 300)] == [str(t) for t in trees]
    assert [str(t) for t in expression.grow(8, (2, 4), 300)] != [str(t) for t in trees]


def test_correction_replaces_one_terminal_and_is_needed():
    with streams.global_generators(3):
        for text in ("y", "f", "-1", "square(y)", "add(1, -1)", "mul(sqrt(f), tanh(f))"):
            seen = set()
            for _ in range(60):
                tree = expression.correct(parse(text))
                assert {"y", "f"} <= names(tree)
                assert len(tree) == len(parse(text)) + 2
                assert str(parse(str(tree))) == str(tree)
                # undone, it is the tree it was but for one terminal
                seen.add(re.search(r"(add|sub|mul|aq)\((y, f|f, y)\)", str(tree)).group())
            assert len(seen) == 8, text  # four operators, both orders


def test_correction_leaves_a_complete_tree_alone():
    tree = parse("mul(square(sub(y, f)), -1)")
    assert str(expression.correct(tree)) == str(tree)


def test_crossover_and_mutation_are_pure():
    parents = expression.grow(11, (2, 4), 40)
    printed = [str(t) for t in parents]
    changed = 0
    with streams.global_generators(5):
        for first, second in itertools.pairwise(parents):
            for child in (expression.cross(first, second), expression.mutate(first)):
                corrected = expression.correct(child)
                assert {"y", "f"} <= names(corrected)
                assert len(parse(str(corrected))) == len(corrected)
                changed += str(child) != str(first)
    assert [str(t) for t in parents] == printed
    assert changed > 40


def test_mutation_height_bounds_the_new_subtree():
    with streams.global_generators(1):
        assert max(expression.mutate(parse("y"), (0, 2)).height for _ in range(200)) == 2
        assert {expression.mutate(parse("y"), (0, 0)).height for _ in range(50)} == {0}


def test_global_generators_are_put_back():
    before = state()
    expression.grow(1, (2, 4), 20)
    assert state() == before
    with pytest.raises(RuntimeError), streams.global_generators(4):
        random.random()
        raise RuntimeError
    assert state() == before


# The meta-loss network


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_unit_weights_give_the_tree(protection):
    f, y = data()
    for tree in expression.grow(0, (2, 4), 60):
        loss = MetaLoss(tree, protection=protection).double()
        want = evaluate(str(tree), y.numpy(), f.numpy(), protection=protection)
        np.testing.assert_allclose(loss(f, y).item(), want.mean(), rtol=1e-11, atol=1e-12, err_msg=str(tree))


def test_every_weight_acts_on_the_edge_it_names():
    f, y = data(3)
    for tree in [parse("aq(sub(y, mul(f, f)), tanh(add(f, 1)))"), *expression.grow(21, (2, 4), 12)]:
        for i in range(len(tree) - 1):
            weights = torch.ones(len(tree) - 1, dtype=torch.float64)
            weights[i] = 1.7
            got = MetaLoss(tree, weights, reduction="none")(f, y).detach().numpy()
            want = evaluate(str(tree), y.numpy(), f.numpy(), weights.tolist())
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12, err_msg=f"{tree}, weight {i}")


def test_edges_in_prefix_order_by_hand():
    f, y = torch.tensor([[3.0]]), torch.tensor([[5.0]])
    # edges: to sub, to y, to square, to f
    loss = MetaLoss.from_expression("abs(sub(y, square(f)))", [2.0, 3.0, 5.0, 7.0])
    assert loss(f, y).item() == abs(2 * (3 * 5 - 5 * (7 * 3) ** 2))


def test_reductions():
    f, y = data(1, 5)
    none = (y - f).square()
    for reduction, want in (("mean", none.mean()), ("sum", none.sum()), ("none", none)):
        got = MetaLoss("square(sub(y, f))", reduction=reduction).double()(f, y)
        torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=0)
    logits, labels = class_data()
    each = MetaLoss("square(sub(y, f))", classification=True, reduction="none").double()(logits, labels)
    assert each.shape == (6,)
    for reduction in ("mean", "sum"):
        got = MetaLoss("square(sub(y, f))", classification=True, reduction=reduction).double()(logits, labels)
        torch.testing.assert_close(got, getattr(each, reduction)())


def test_squared_error_by_name():
    f, y = data(2, dtype=torch.float32)
    torch.testing.assert_close(MetaLoss("square(sub(y, f))")(f, y), nn.MSELoss()(f, y))


def test_classification_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 1])  # p = (1/4, 3/4), (4/5, 1/5)
    loss = MetaLoss("square(sub(y, f))", classification=True).double()
    want = ((1 / 16 + 1 / 16) + (16 / 25 + 16 / 25)) / 2  # sum over the classes, mean over the batch
    assert loss(logits, labels).item() == pytest.approx(want, rel=1e-14)
    assert loss(logits[0], labels[0]).item() == pytest.approx(1 / 8, rel=1e-14)


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("non_negative", [False, True])
def test_classification_of_random_trees(protection, non_negative):
    logits, labels = class_data(4)
    p, one_hot = softmax(logits.numpy()), np.eye(3)[labels.numpy()]
    for loss in random_losses(30, 2, classification=True, protection=protection, non_negative=non_negative):
        value = evaluate(str(loss), one_hot, p, loss.weights.tolist(), protection)
        value = np.log1p(np.exp(-np.abs(value))) + np.maximum(value, 0) if non_negative else value
        np.testing.assert_allclose(
            loss(logits, labels).item(), value.sum(1).mean(), rtol=1e-10, atol=1e-12, err_msg=str(loss)
        )
        if non_negative:
            assert loss(logits, labels) >= 0


def test_half_precision_is_computed_in_float32_and_float64_is_kept():
    text = "add(square(sub(y, f)), log(mul(y, f)))"
    f, y = data(5)
    for dtype in (torch.float16, torch.bfloat16):
        low_f, low_y = f.to(dtype), y.to(dtype)
        got = MetaLoss(text)(low_f, low_y)
        assert got.dtype == torch.float32
        want = evaluate(text, low_y.float().numpy(), low_f.float().numpy()).mean()
        assert got.item() == pytest.approx(want, rel=1e-5)
        huge = torch.full((1, 1), 300.0, dtype=dtype)  # 300^2 is beyond half precision
        assert MetaLoss("square(sub(y, f))")(huge, -huge).item() == pytest.approx(600.0**2, rel=1e-2)
    for weights_dtype in (torch.float32, torch.float64):
        got = MetaLoss(text).to(weights_dtype)(f, y)
        assert got.dtype == torch.float64
        assert got.item() == pytest.approx(evaluate(text, y.numpy(), f.numpy()).mean(), rel=1e-13)
    assert MetaLoss(text).double()(f.float(), y.float()).dtype == torch.float32


def test_gradients_reach_prediction_and_weights():
    f, y = data(6)
    f.requires_grad_()
    loss = MetaLoss("square(sub(y, f))", [2.0, 3.0, 5.0]).double()
    loss(f, y).backward()
    r = 2 * (3 * y - 5 * f.detach())  # d/df (2 (3 y - 5 f))^2 = 2 r · 2 · (-5)
    torch.testing.assert_close(f.grad, 2 * r * 2 * -5 / 6)
    want = torch.stack([(2 * r * r / 2).mean(), (2 * r * 2 * y).mean(), (2 * r * 2 * -f.detach()).mean()])
    torch.testing.assert_close(loss.weights.grad, want)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ((4, 1), (4,), "needs a target of shape"),
        ((4,), (4, 1), "needs a target of shape"),
        ((4, 1), (1, 1), "needs a target of shape"),
        ((4, 2), (4, 1), "needs a target of shape"),
        ((4, 1), (), "needs a target of shape"),
    ],
)
def test_targets_that_would_broadcast(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        MetaLoss("sub(y, f)")(torch.zeros(prediction), torch.zeros(target))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool)),
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.tensor(0)),
        (torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),
        (torch.tensor(0.0), torch.tensor(0)),
    ],
)
def test_labels_that_would_be_misread(logits, labels):
    with pytest.raises(ValueError):
        MetaLoss("sub(y, f)", classification=True)(logits, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(expression="square(y)"), "lacks f"),
        (dict(expression="square(f)"), "lacks y"),
        (dict(expression="add(1, -1)"), "lacks f and y"),
        (dict(expression="sub(y, f)", weights=[1.0]), "2 weights"),
        (dict(expression="sub(y, f)", weights=[1.0, 1.0, 1.0]), "2 weights"),
        (dict(expression="sub(y, f)", weights=[[1.0, 1.0]]), "2 weights"),
        (dict(expression="sub(y, f)", protection="clip"), "protection"),
        (dict(expression="sub(y, f)", reduction="average"), "reduction"),
        (dict(expression="sub(y, q)"), "unexpected 'q'"),
    ],
)
def test_construction_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MetaLoss(**arguments)


def test_parameters_are_one_vector_and_not_shared_with_the_argument():
    given_weights = torch.tensor([2.0, 3.0])
    loss = MetaLoss("sub(y, f)", given_weights)
    given_weights.zero_()
    assert [tuple(p.shape) for p in loss.parameters()] == [(2,)]
    assert loss.weights.tolist() == [2.0, 3.0]
    assert MetaLoss("sub(y, f)", [2, 3]).weights.dtype == torch.float32
    assert str(loss) == "sub(y, f)"


# Exports


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("classification", [False, True])
def test_save_and_load_are_exact(tmp_path, protection, classification):
    x, t = class_data(1, dtype=torch.float32) if classification else data(1, dtype=torch.float32)
    for k, dtype in enumerate((torch.float32, torch.float64)):
        for non_negative in (False, True):
            options = dict(classification=classification, protection=protection, non_negative=non_negative)
            (loss,) = random_losses(1, 10 + k, dtype, reduction="sum", **options)
            path = tmp_path / "loss.json"
            loss.save(path)
            again = load_loss(path)
            assert again.weights.dtype == dtype
            assert torch.equal(again.weights, loss.weights)
            assert str(again) == str(loss)
            assert again.to_json() == loss.to_json()
            assert torch.equal(again(x, t), loss(x, t))
            assert [p.name for p in tmp_path.iterdir()] == ["loss.json"]  # no temporary file left


def test_task_losses_are_saved_too(tmp_path):
    for loss in (SquaredError(), CrossEntropy()):
        loss.save(tmp_path / "l.json")
        assert type(load_loss(tmp_path / "l.json")) is type(loss)
        assert loss.to_latex()
        assert loss._repr_latex_().startswith("$")


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("non_negative", [False, True])
def test_python_source_gives_the_same_values(protection, classification, non_negative):
    x, t = class_data(2) if classification else data(2)
    for k, reduction in enumerate(("mean", "sum", "none", "mean")):
        options = dict(classification=classification, protection=protection, non_negative=non_negative)
        for loss in random_losses(4, 40 + k, reduction=reduction, **options):
            scope: dict = {}
            source = loss.to_python()
            assert "evomal" not in source
            exec(source, scope)
            torch.testing.assert_close(scope["loss"](x, t), loss(x, t).detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_python_source_computes_half_precision_in_float32_and_takes_any_integers(dtype):
    for classification in (False, True):
        loss = MetaLoss("add(square(sub(y, f)), log(square(add(y, f))))", classification=classification)
        x, t = class_data(2) if classification else data(2)
        t = t.to(torch.uint8) if classification else t.to(dtype)
        scope: dict = {}
        exec(loss.to_python(), scope)
        found = scope["loss"](x.to(dtype), t)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(x.to(dtype), t).detach())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_class_indices_of_any_integer_type(dtype):
    x, t = class_data(2)
    loss = MetaLoss("square(sub(y, f))", classification=True).double()
    assert torch.equal(loss(x, t.to(dtype)), loss(x, t))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loss_whose_file_could_not_be_read_is_not_written(tmp_path, dtype):
    with pytest.raises(ValueError, match="dtype of a loss that is saved must be one of float32, float64; got '"):
        MetaLoss("sub(y, f)").to(dtype).save(tmp_path / "l.json")
    for name in ("classification", "non_negative"):
        with pytest.raises(ValueError, match=f"{name} must be True or False, got 'False'"):
            MetaLoss("sub(y, f)", **{name: "False"})
    assert not list(tmp_path.iterdir())


def test_python_source_of_the_highest_tree_that_can_be_parsed():
    text = "y"
    for _ in range(89):
        text = f"sqrt({text})"
    loss = MetaLoss(f"sub({text}, f)").double()
    scope: dict = {}
    exec(loss.to_python(), scope)
    x, t = data()
    torch.testing.assert_close(scope["loss"](x, t), loss(x, t).detach())


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_sympy_form_gives_the_same_values(protection):
    f, y = data(7, 8)
    symbols = sympy.symbols("y f", real=True)
    for non_negative in (False, True):
        for loss in random_losses(8, 60, protection=protection, non_negative=non_negative, reduction="none"):
            form = sympy.lambdify(symbols, loss.to_sympy(), "numpy")
            got = np.broadcast_to(form(y.numpy(), f.numpy()), f.shape)
            np.testing.assert_allclose(got, loss(f, y).detach(), rtol=1e-8, atol=1e-9, err_msg=str(loss))
    plain = MetaLoss("square(sub(y, f))", [2.0, 3.0, 4.0])
    assert sympy.simplify(plain.to_sympy(weights=False) - (symbols[0] - symbols[1]) ** 2) == 0
    assert sympy.simplify(plain.to_sympy() - 4 * (3 * symbols[0] - 4 * symbols[1]) ** 2) == 0
    assert str(MetaLoss("sub(y, mul(f, f))", [1 / 3, 1, 1, 1.23456]).to_sympy(True, 2)) == "-1.2*f**2 + 0.33*y"


def test_latex_of_random_losses():
    for protection in PROTECTIONS:
        for loss in random_losses(25, 80, protection=protection):
            text = loss.to_latex()
            assert text
            assert text.count("{") == text.count("}")
            assert loss._repr_latex_() == f"${text}$"
    assert r"f_\theta(x)" in MetaLoss("sub(y, f)").to_latex()
    assert "1.23" in MetaLoss("sub(y, f)", [1.23456, 1.0]).to_latex()
    assert "1.2346" in MetaLoss("sub(y, f)", [1.23456, 1.0]).to_latex(digits=5)
    assert "1.23" not in MetaLoss("sub(y, f)", [1.23456, 1.0]).to_latex(weights=False)
    assert r"\varepsilon" in MetaLoss("sub(y, log(f))").to_latex()


# Hostile files

GOOD = MetaLoss("square(sub(y, f))").to_json() | {"schema": 1}


# Simplified, and Table VI


@pytest.mark.parametrize(
    ("text", "weights", "expected"),
    [
        ("square(sub(y, f))", None, "(-f + y)**2"),
        ("add(square(f), add(square(y), -1))", None, "f**2"),  # the rest has no gradient on the prediction
        ("sub(abs(sub(y, f)), square(sign(f)))", None, "Abs(f - y)"),  # nor has sign
        ("sub(mul(y, f), mul(y, f))", None, "0"),
        ("add(square(f), mul(y, f))", [0.001, 1, 1, 1, 1], "f*y"),  # small beside the other term
        ("mul(tanh(1), sqrt(sub(f, y)))", None, "0.762*sqrt(Abs(f - y))"),  # constants, and eps under a root
        ("log(sub(f, mul(y, 1)))", [1, 0.9996, 1.2, 1, 1], r"log(\varepsilon + Abs(f - 1.2*y))"),
    ],
)
def test_simplified_by_hand(text, weights, expected):
    assert str(formulas.simplify(MetaLoss(text, weights))) == expected


def test_simplified_in_classification_knows_that_probabilities_are_not_negative():
    assert str(formulas.simplify(MetaLoss("abs(mul(y, f))", classification=True))) == "f*y"


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_simplification_keeps_the_gradient_and_ends(protection):
    """On random trees of every size: the same derivative in the prediction, but for kinks and what was rounded."""
    agree, seconds = [], []
    for loss in random_losses(60, seed=7, protection=protection):
        start = time.perf_counter()
        form = formulas.simplify(loss, digits=12, smallest=0)
        seconds.append(time.perf_counter() - start)
        y, f = (torch.rand(2, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1).unbind()
        f.requires_grad_()
        value = loss.elementwise(y, f) + 0 * f
        (wanted,) = torch.autograd.grad(value.sum(), f)
        function = sympy.lambdify((export.Y, export.F), form.subs(export.EPS, EPS), "numpy")
        y, f = y.numpy(), f.detach().numpy()
        found = (function(y, f + 1e-6) - function(y, f - 1e-6)) / 2e-6 + 0 * f
        agree.append(np.isclose(found, wanted.numpy(), rtol=1e-2, atol=1e-3).mean())
    assert np.mean(agree) > 0.98, agree
    assert max(seconds) < 20, "SymPy is bounded"


def test_a_long_formula_is_rounded_only(monkeypatch):
    loss = MetaLoss("add(mul(y, f), mul(1, mul(y, f)))", [1.23456, 1, 1, 1, 1, 1, 1, 1])
    assert str(formulas.simplify(loss)) == "2.23*f*y"
    monkeypatch.setattr(formulas, "MAX_OPERATIONS", 0)
    monkeypatch.setattr(sympy, "factor_terms", None)
    assert str(formulas.simplify(loss)) == "2.23*f*y"


# Table VI as printed, in NumPy; |…| with the bars restored that the print lost
PRINTED = {
    "a": lambda y, f: np.abs(np.log(np.sqrt(y * f) + EPS)),
    "b": lambda y, f: np.log(y * f) + np.sqrt(np.abs(np.log(y * f))) ** 2,
    "c": lambda y, f: ((y - f) / f) ** 4,
    "d": lambda y, f: y**3 + f**3 + f * y**2 + f**2 * y,
    "e": lambda y, f: np.abs(np.log((y * f) ** 2 + EPS)),
    "f": lambda y, f: (f - np.clip(y, -1, 1)) ** 2,
    "g": lambda y, f: np.abs(y * np.sqrt(np.abs(y / np.sqrt(1 + f**2)))),
    "h": lambda y, f: np.abs(y / (1 + np.log(np.abs(y - 1)) ** 2) - f),
    "i": lambda y, f: np.sqrt(np.abs(y * (y - f))),
    "j": lambda y, f: np.sqrt(np.abs(y - f)),
}


@pytest.mark.parametrize("letter", PRINTED)
def test_losses_of_table_6_are_what_the_paper_prints(letter):
    loss = paper_loss(letter).double()
    assert loss.classification == (letter in "abcde")
    f = torch.linspace(0.05, 0.95, 31, dtype=torch.float64)
    for y in (1.0,) if loss.classification else (-2.0, -0.4, 0.3, 1.7):
        f = f if loss.classification else torch.linspace(-3, 3, 31, dtype=torch.float64) + 0.013
        y = torch.full_like(f, y)
        found = loss.elementwise(y, f).detach().numpy()
        assert found == pytest.approx(PRINTED[letter](y.numpy(), f.numpy()), rel=1e-3, abs=2e-3)
    with pytest.raises(ValueError, match="loss of Table VI"):
        paper_loss("k")


def changed(**fields) -> str:
    return json.dumps({k: v for k, v in (GOOD | fields).items() if v is not ...})


HOSTILE = {
    "empty": "",
    "text": "not JSON",
    "half": json.dumps(GOOD)[:-5],
    "two": json.dumps(GOOD) * 2,
    "list": json.dumps([GOOD]),
    "null": "null",
    "number": "1",
    "nested": "[" * BOMB,
    "nested and closed": "[" * BOMB + "]" * BOMB,
    "nested field": changed(weights=None).replace("null", "[" * BOMB + "]" * BOMB),
    "no schema": changed(schema=...),
    "other schema": changed(schema=3),
    "schema as text": changed(schema="1"),
    "no kind": changed(kind=...),
    "unknown kind": changed(kind="pickle"),
    "kind of another type": changed(kind=["symbolic"]),
    "dunder kind": changed(kind="__class__"),
    "no expression": changed(expression=...),
    "expression with code": changed(expression="__import__('os').system('true')"),
    "expression of another type": changed(expression=["square(sub(y, f))"]),
    "expression without f": changed(expression="square(sub(y, y))"),
    "expression too deep": changed(expression="square(" * BOMB),
    "no weights": changed(weights=...),
    "null weights": changed(weights=None),
    "few weights": changed(weights=[1.0]),
    "nested weights": changed(weights=[[1.0, 1.0, 1.0]]),
    "NaN": changed(weights=[1.0, 1.0, math.nan]),
    "infinite": changed(weights=[1.0, 1.0, math.inf]),
    "overflowing literal": changed(weights=[1.0, 1.0, 7.25]).replace("7.25", "1e999"),
    "beyond float32": changed(weights=[1.0, 1.0, 1e300]),
    "integer beyond float": changed(weights=[1.0, 1.0, 10**400]),
    "bools for weights": changed(weights=[True, True, True]),
    "strings for weights": changed(weights=["1.0", "1.0", "1.0"]),
    "one string for weights": changed(weights="111"),
    "unknown field": changed(hook="x"),
    "dunder field": changed(__class__="x"),
    "dtype": changed(dtype="Tensor"),
    "dtype of another type": changed(dtype=["float32"]),
    "protection": changed(protection="none"),
    "protection of another type": changed(protection=["abs"]),
    "reduction": changed(reduction="__init__"),
    "flag as number": changed(classification=1),
    "flag as text": changed(non_negative="false"),
    "settings of a task loss": json.dumps({"schema": 1, "kind": "squared_error", "ignore_index": 1}),
    "default that is spelt out": json.dumps({"schema": 1, "kind": "squared_error", "reduction": "mean"}),
    "option": changed(label_smoothing=0.1),  # of a loss for regression
    "smoothing": changed(classification=True, label_smoothing=1.5),
    "smoothing as text": changed(classification=True, label_smoothing="0.1"),
    "class weights": changed(classification=True, class_weight=[1.0, -1.0]),
    "one class weight": changed(classification=True, class_weight=[1.0]),
    "class weights of another type": changed(classification=True, class_weight=[True, False]),
    "ignored index": changed(classification=True, ignore_index=1.0),
    "ignored index as flag": changed(classification=True, ignore_index=True),
    "one logit of one logit": json.dumps({"schema": 2, "kind": "one_logit", "loss": {"kind": "one_logit", "loss": {}}}),
    "one logit of values": json.dumps({"schema": 2, "kind": "one_logit", "loss": {"kind": "squared_error"}}),
    "one logit of a list": json.dumps({"schema": 2, "kind": "one_logit", "loss": []}),
    "bytes": b"\xff\xfe\x00\x80",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "huge": json.dumps(GOOD) + " " * 5_000_000,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "hostile.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_loss(path)
    assert time.perf_counter() - start < 5


def test_a_missing_and_an_unknown_field_are_told_from_the_right_ones():
    data = json.loads(changed(weights=..., hook="x"))
    fields = "classification, dtype, expression, non_negative, protection, reduction"
    expected = f"the fields of a symbolic loss must be {fields}, weights, got classification, dtype, expression, hook"
    with pytest.raises(ValueError, match=re.escape(expected)):
        loss_from_json(data)


def test_the_file_that_the_hostile_ones_vary_is_good(tmp_path):
    (tmp_path / "good.json").write_text(changed())
    assert str(load_loss(tmp_path / "good.json")) == "square(sub(y, f))"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_weights_are_not_saved(tmp_path, value):
    with pytest.raises(ValueError, match="non-finite"):
        MetaLoss("sub(y, f)", [1.0, value]).save(tmp_path / "l.json")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "l.json"
    MetaLoss("sub(y, f)").save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        MetaLoss("sub(y, f)", [1.0, math.nan]).save(path)
    assert path.read_bytes() == before
