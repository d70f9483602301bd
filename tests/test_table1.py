"""The checks of Table I pass for the operators and fail for an operator with a mistake."""

import dataclasses

import pytest

from evomal_core.losses.primitives import PRIMITIVES, TABLE_I
from evomal_notebooks import operators


def test_every_operator_is_listed_and_drawn():
    lines = operators.listing().splitlines()
    assert len(lines) == 2 + len(TABLE_I) + 2
    assert all(line.count("|") == 5 for line in lines[:-2]), "bars of absolute values would end a column"
    assert len(operators.curves().axes) == 14


def test_the_operators_pass():
    checks = operators.checks(0)
    assert len(checks) == 2 * 12 and checks[["finite", "never NaN"]].all(axis=None)
    shown = operators.display_checks(checks)
    assert set(shown["second"]) == {"< 1e-06"} and set(shown["finite"]) == {"yes"}


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        ({"derivatives": lambda xp, x: (1.1 * xp.cos(x), 0 * x)}, {"differences", "autograd", "second"}),
        ({"value": lambda xp, x: xp.tanh(x) + 1e-3}, {"SymPy"}),
        ({"value": lambda xp, x: x / x}, {"SymPy", "differences", "autograd", "never NaN", "finite"}),
    ],
)
def test_a_mistake_is_seen(change, columns):
    row = operators.properties(dataclasses.replace(PRIMITIVES["abs"]["tanh"], **change), 0)
    wrong = {name for name, bound in operators.BOUNDS.items() if not row[name] < bound}
    wrong |= {name for name in ("finite", "never NaN") if not row[name]}
    assert wrong == columns
