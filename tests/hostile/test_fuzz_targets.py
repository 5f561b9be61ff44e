"""A short, repeatable share of fuzzing: the seeds, and damage that hypothesis does to them."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import NAMES
from tests.fuzz.targets import TARGETS


@functools.cache
def target(name):
    return TARGETS[name]()


def test_every_target_has_its_share():
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_seeds(name):
    for seed in target(name).seeds:
        target(name).run(seed)


@st.composite
def damaged(draw, seeds):
    """A seed with bytes changed, cut out or repeated, or with a part of another seed."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(1, max(1, len(data) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "repeat", "splice", "end"]))
        if kind == "change":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        elif kind == "splice":
            other = draw(st.sampled_from(seeds))
            start = draw(st.integers(0, len(other)))
            data[place:place] = other[start : start + 200]
        else:
            del data[place:]
    return bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, about the damage
@pytest.mark.parametrize("name", NAMES)
def test_damage_never_crashes(name):
    @settings(max_examples=100, derandomize=True, database=None)
    @given(damaged(target(name).seeds))
    def run(data):
        target(name).run(data)

    run()
