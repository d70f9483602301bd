"""Checks of what comes from outside: each error says what must be what, and what came."""

import difflib
from typing import Any


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
