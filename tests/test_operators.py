"""An operator is one row: what a user registers works everywhere, and what breaks a rule is refused."""

import contextlib

import numpy as np
import pytest
import sympy
import torch
from torch import nn

import evomal_core as ec
from evomal_core.fast import tape
from evomal_core.losses import expression
from evomal_core.losses.primitives import PRIMITIVES, TABLE_I, TERMINALS

CLIP = dict(
    name="clip1",
    arity=1,
    value=lambda xp, x: xp.clip(x, -1, 1),
    derivatives=lambda xp, x: (0.5 * (x > -1) + 0.5 * (x >= -1) - 0.5 * (x > 1) - 0.5 * (x >= 1), 0),
    sympy=lambda e, x: sympy.Min(1, sympy.Max(-1, x)),
    source="torch.clip({}, -1, 1)",
)


def soft_derivatives(xp, a, b):
    h = xp.hypot(xp.ones_like(a), xp.hypot(a, b))
    s, t = a / h, b / h
    return 2 * s / h, 2 * t / h, (2 - 4 * s * s) / h / h, -4 * s * t / h / h, (2 - 4 * t * t) / h / h


SOFT = dict(  # smooth, binary: log(1 + a^2 + b^2)
    name="soft",
    arity=2,
    value=lambda xp, a, b: 2 * xp.log(xp.hypot(xp.ones_like(a), xp.hypot(a, b))),
    derivatives=soft_derivatives,
    sympy=lambda e, a, b: sympy.log(1 + a**2 + b**2),
    source="torch.log(1 + {}**2 + {}**2)",
)
SINE = dict(
    name="sine",
    arity=1,
    value=lambda xp, x: xp.sin(x),
    derivatives=lambda xp, x: (xp.cos(x), -xp.sin(x)),
    sympy=lambda e, x: sympy.sin(x),
    source="torch.sin({})",
)


@contextlib.contextmanager
def registered(**row):
    """An operator for the time of a block."""
    made = ec.register_operator(**row)
    try:
        yield made
    finally:
        tape.program.cache_clear()
        for table in PRIMITIVES.values():
            del table[row["name"]]


def test_table_i_is_unchanged_by_a_registration():
    with registered(**CLIP):
        assert TABLE_I == tuple("add sub mul aq min max sign square abs log sqrt tanh".split())
        assert [*PRIMITIVES["abs"]] == [*TABLE_I, "clip1"] == [*PRIMITIVES["clamp"]]
    assert [*PRIMITIVES["abs"]] == [*TABLE_I]
    with pytest.raises(ValueError, match="unexpected 'clip1'"):
        ec.MetaLoss("clip1(sub(y, f))")


TREES = {
    "clip1": "mul(clip1(mul(4, f)), y)".replace("4", "1"),
    "soft": "sub(soft(y, mul(f, f)), f)",
    "sine": "sine(sub(y, f))",
}


@pytest.mark.parametrize("row", [CLIP, SOFT, SINE], ids=lambda row: row["name"])
def test_module_tapes_sympy_and_source_agree(row, tmp_path):
    with registered(**row):
        rng = np.random.default_rng(0)
        y, f, u = (torch.from_numpy(a) for a in rng.normal(0, 2, (3, 50, 1)))
        f[0], y[0] = 4.0, 1.0
        loss = ec.MetaLoss(TREES[row["name"]]).double()
        with torch.no_grad():
            loss.weights.mul_(torch.linspace(0.7, 1.4, len(loss.weights)))
        z = f.clone().requires_grad_()
        value = loss.elementwise(y, z)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        (mixed,) = torch.autograd.grad((slope * u).sum(), loss.weights)
        for xp, to in ((np, lambda t: t.detach().numpy().reshape(-1)), (torch, lambda t: t.detach().reshape(-1))):
            kind = np.dtype("float64") if xp is np else torch.float64
            listed = tape.program(str(loss), "abs", False, 2, xp, kind)
            got = tape.Tape(listed, list(to(loss.weights)), to(y), to(f), xp.ones_like(to(y)))
            np.testing.assert_allclose(np.asarray(got.value), to(value), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(np.asarray(got.derivative), to(slope), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose([float(g) for g in got.gradient(to(u))], to(mixed), rtol=1e-8, atol=1e-12)
        scope: dict = {}
        exec(loss.to_python(), scope)
        torch.testing.assert_close(scope["loss"](f, y), loss(f, y), rtol=1e-6, atol=1e-9)
        form = loss.to_sympy()
        for k in range(3):
            at = form.subs({s: {"y": y[k].item(), "f": f[k].item()}[s.name] for s in form.free_symbols})
            assert float(at) == pytest.approx(float(value[k]), rel=1e-6)
        assert loss.to_latex()
        loss.save(tmp_path / "loss.json")
        again = ec.load_loss(tmp_path / "loss.json")
        assert str(again) == str(loss)
        torch.testing.assert_close(again(f, y), loss(f, y))


def test_the_case_that_trained_on_other_numbers():
    """clip(x, -1, 1) of 4 is 1, in the module and on both tapes."""
    with registered(**CLIP):
        loss = ec.MetaLoss("mul(y, clip1(f))").double()
        four, one = torch.full((1, 1), 4.0).double(), torch.ones(1, 1).double()
        assert loss(four, one) == 1
        for xp, four_, one_ in ((np, np.array([4.0]), np.array([1.0])), (torch, four[0], one[0])):
            listed = tape.program(str(loss), "abs", False, 1, xp, np.dtype("float64") if xp is np else torch.float64)
            got = tape.Tape(listed, [one_[0]] * 3, one_, four_, one_)
            assert got.value.tolist() == [1] and got.derivative.tolist() == [0]


REFUSED = {
    "taken name": (CLIP | {"name": "tanh"}, "a name that is not taken"),
    "terminal": (CLIP | {"name": "y"}, "a name that is not taken"),
    "no identifier": (CLIP | {"name": "a b"}, "a Python identifier"),
    "arity 3": (CLIP | {"arity": 3}, "arity must be 1 or 2, got 3"),
    "wrong arity": (CLIP | {"arity": 2}, "value must take 3 arguments by position"),
    "NaN at 0": (CLIP | {"value": lambda xp, x: x / x}, "no NaN"),
    "infinite at 0": (CLIP | {"value": lambda xp, x: 1 / x}, "finite up to 30"),
    "NaN of the derivative": (CLIP | {"derivatives": lambda xp, x: (x / x, 0)}, "derivative 1 on finite arguments"),
    "wrong first derivative": (
        SINE | {"derivatives": lambda xp, x: (xp.sin(x), -xp.sin(x))},
        "derivative 1 must be the central",
    ),
    "wrong second derivative": (
        SINE | {"derivatives": lambda xp, x: (xp.cos(x), xp.sin(x))},
        "derivative 2 must be the central",
    ),
    "too few derivatives": (SINE | {"derivatives": lambda xp, x: (xp.cos(x),)}, "derivatives must be 2 results, got 1"),
    "mixed derivative": (
        SOFT | {"derivatives": lambda xp, a, b: (*soft_derivatives(xp, a, b)[:3], 0, soft_derivatives(xp, a, b)[4])},
        "derivative 4 must be the central",
    ),
    "wrong SymPy": (SINE | {"sympy": lambda e, x: sympy.cos(x)}, "SymPy form"),
    "broken source": (SINE | {"source": "torch.sin({}"}, "source must be an expression"),
    "source without placeholder": (
        SINE | {"source": "torch.sin(x)"},
        "source must be an expression with 1 placeholder",
    ),
    "keyword argument": (CLIP | {"value": lambda xp, x: xp.clip(x, max=1, min=-1)}, "by position"),
    "unknown function": (SINE | {"value": lambda xp, x: xp.sine(x)}, "'sine'"),
    "of NumPy alone": (SINE | {"value": lambda xp, x: xp.fabs(x)}, "fabs"),
    "branch": (
        SINE | {"value": lambda xp, x: xp.sin(x) if x is None or xp.sin(x).sum() > 0 else -xp.sin(x)},
        "operator 'sine'",
    ),
    "no function": (SINE | {"value": 3}, "value must be a function, got int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_a_rule_is_refused_and_leaves_nothing(name):
    row, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        ec.register_operator(**row)
    assert "operator" in str(caught.value)
    assert [*PRIMITIVES["abs"]] == [*TABLE_I] == [*PRIMITIVES["clamp"]]


def names_of(trees) -> set[str]:
    return {expression.node_name(node) for tree in trees for node in tree}


def test_trees_are_made_of_the_operators_named_and_no_others():
    with registered(**CLIP):
        named = ("add", "square", "clip1")
        trees = expression.grow(0, (2, 4), 200, named)
        assert names_of(trees) == {*named, *TERMINALS}
        assert all({"y", "f"} <= names_of([tree]) for tree in trees)
        with ec.streams.global_generators(1):
            assert names_of(expression.mutate(tree, (0, 2), named) for tree in trees) <= {*named, *TERMINALS}
        assert "clip1" not in names_of(expression.grow(0, (2, 4), 200))
    only = expression.grow(0, (2, 4), 50, ("min", "tanh"))  # none of the usual corrections is among them
    assert names_of(only) == {"min", "tanh", *TERMINALS}
    for wrong, message in ((("tanh", "abs"), "at least one of two arguments"), (("add", "tan"), "Did you mean 'tanh'")):
        with pytest.raises(ValueError, match=message):
            expression.grow(0, (2, 4), 5, wrong)


def test_a_search_uses_the_operators_that_its_configuration_names():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    part = (x, x.sum(1, keepdim=True))
    problem = (ec.Task("sum", part, part, part, False), nn.Linear(3, 1))
    counts = dict(population=6, generations=2, meta_steps=2, fitness_steps=5, rejection_steps=5, batch_size=16)
    with registered(**SINE):
        config = ec.Config(operators=("sub", "mul", "sine"), **counts)
        state = ec.search([problem], config, 0).state
        used = names_of(expression.parse(tree) for tree in state.memory.archive)
        assert "sine" in used and used <= {"sub", "mul", "sine", *TERMINALS}
    cell = ec.Cell("diabetes", "mlp", "evomal", 0, "smoke+operators=sub,square")
    assert cell.budget == "smoke+operators=sub,square" and ec.Config.for_cell(cell).operators == ("sub", "square")
    with pytest.raises(ValueError, match="Did you mean 'square'"):
        ec.search([problem], ec.Config(operators=("sub", "sqare"), **counts), 0)
