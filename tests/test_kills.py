"""Runs that are really killed, at random moments, for every method; benchmarks/kills.py does hundreds."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import kills


@pytest.fixture(scope="module")
def nursery():
    with kills.Nursery() as made:
        yield made


@pytest.mark.parametrize("method", kills.METHODS)
def test_a_cell_that_is_killed_again_and_again_has_the_record_of_an_undisturbed_one(method, nursery, tmp_path):
    draw, total = random.Random(method), 0
    while total < 3:
        total += kills.until_recorded(nursery, tmp_path, method, draw, most=3)
