"""Thousands of hostile inputs; benchmarks/fuzz.py does hundreds of thousands."""

import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import evomal_core as ec
from evomal_core import files
from evomal_core.losses import expression, loss_from_json

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import fuzz


def test_changed_inputs_are_refused_or_read():
    found = fuzz.run(4_000, seed=7)
    assert sum(sum(counts.values()) for counts in found.values()) == 4_000
    for kind in ("expressions", "loss files", "records", "tests", "checkpoints", "cells"):
        assert found[kind]["refused"] > 0.6 * sum(found[kind].values()), kind


NAMES = st.sampled_from(["add", "mul", "log", "y", "f", "1", "-1", "(", ")", ",", " ", "sine", "é", "0x1", "\n"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=1_000)
@given(st.lists(NAMES, max_size=25).map("".join) | st.text(max_size=40))
def test_a_text_is_an_expression_that_prints_as_itself_or_is_refused(text):
    try:
        tree = expression.parse(text)
    except ValueError:
        return
    assert str(expression.parse(str(tree))) == str(tree)


@settings(max_examples=1_000)
@given(st.dictionaries(st.sampled_from(["kind", "weights", "dtype", "schema", "expression", "x"]), JSON, max_size=6))
def test_an_object_is_a_loss_or_is_refused(data):
    try:
        loss = loss_from_json(data)
    except ValueError:
        return
    assert loss.to_json()["kind"] == data["kind"]


@settings(max_examples=500)
@given(
    st.dictionaries(
        st.sampled_from(["population", "dtype", "operators", "initial_height", "elitism"]), JSON, max_size=3
    )
)
def test_a_configuration_is_made_or_refused(changes):
    try:
        config = ec.Config(**changes)
    except ValueError:
        return
    assert all(getattr(config, name) is not None for name in changes)


@settings(max_examples=500)
@given(JSON)
def test_any_data_keeps_its_digest(data):
    kept = files.sealed({"schema": 1, "data": data})
    assert files.unsealed(kept)["data"] == data
    assert (
        files.short("x" * 500) != files.short("x" * 501) and len(files.short("é" * 500).encode()) <= files.LONGEST_NAME
    )
