"""Where the accelerated forms of `evomal_core.fast` are hung up, and how they are switched off together.

Training is written plainly. At the few places where the same numbers can be had sooner it asks `accelerated(name)` for
another form. The room `fast` knows training and puts its forms here; training does not know that room.

Names of the forms:
    layers           model -> the same model with layers that are faster on a CPU; `usual_layers` goes the other way
    sessions         (losses, problem, config) -> sessions that train under all of these losses, or None
    output_gradients (losses, outputs, target) -> dL_k/dz of each loss, (K, B, C)
    jvp, gram        engines of the meta-gradient; `choose` names the one for a problem
"""

import contextlib
import os
from collections.abc import Callable, Iterator

FORMS: dict[str, Callable] = {}
_switched_off = 0  # depth of `plain()`


def enabled() -> bool:
    """Are the accelerated forms used? They are not inside of `plain()` or with the environment variable EVOMAL_PLAIN=1."""
    return not _switched_off and os.environ.get("EVOMAL_PLAIN", "") in ("", "0")


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within this block every acceleration of this process is off; results are the same to rounding."""
    global _switched_off
    _switched_off += 1
    try:
        yield
    finally:
        _switched_off -= 1


def accelerated(name: str) -> Callable | None:
    """The accelerated form of that name, or None where the plain one is to be used."""
    return FORMS.get(name) if enabled() else None
