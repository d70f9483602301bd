"""Checks of what comes from outside: each error says what must be what, and what came."""

import difflib
import math
from typing import Any

import numpy as np

NUMBER, NONE = (int, float), type(None)  # of `check_fields`
MAYBE = (*NUMBER, NONE)


def native(value):
    """A NumPy scalar as the Python number that it is; tuples and lists of them likewise, anything else as it is."""
    if type(value) in (tuple, list):
        return type(value)(map(native, value))
    return value.item() if isinstance(value, np.generic) else value


def check_choice(kind: str, value: Any, choices) -> Any:
    """Return `value` if it is one of `choices`; else raise ValueError with the near miss."""
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{kind} must be one of {', '.join(map(str, choices))}; got {value!r}.{hint}")


def check(true, what: str, expected, got) -> None:
    """Raise ValueError that says what must be what, and what came, unless `true`."""
    if not true:
        raise ValueError(f"{what} must be {expected}, got {got}")


def check_fields(what: str, data, kinds: dict, others: tuple = ()) -> None:
    """Raise ValueError unless an object has these names, each of one of its types, numbers finite and not negative.

    Args:
        others: types of all other names; none given: any.
    """
    check(isinstance(data, dict), what, "an object", type(data).__name__)
    for name in {*kinds, *(data if others else ())}:
        value, allowed = data.get(name, ...), kinds.get(name, others)
        number = type(value) in NUMBER
        expected = " or ".join("null" if kind is NONE else kind.__name__ for kind in allowed)
        right = type(value) in allowed and (not number or 0 <= value < math.inf)
        got = "nothing" if value is ... else repr(value)[:80]
        check(right, f"{name} of {what}", f"{expected}{', finite and not negative' if number else ''}", got)
