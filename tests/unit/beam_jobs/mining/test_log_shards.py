"""How many shards a run has, and which of them share rows with those of another."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.mining.log import shards_for


@given(size=st.integers(0, 2**60), shard_bytes=st.integers(1 << 10, 1 << 30))
def test_no_shard_is_larger_than_it_may_be_and_none_is_in_vain(size, shard_bytes):
    shards = shards_for(size, shard_bytes)
    assert shards & (shards - 1) == 0
    assert size <= shards * shard_bytes
    assert shards <= max(4, 2 * (size / shard_bytes + 1))


@given(st.integers(1, 10_000))
def test_what_is_asked_for_is_rounded_up(wanted):
    shards = shards_for(1 << 50, 1 << 20, wanted)
    assert wanted <= shards < 2 * wanted
    assert shards & (shards - 1) == 0


@given(st.integers(1, 500), st.integers(1, 500))
def test_days_nest(one, other):
    """Each shard of the larger run has its rows in one shard of the smaller."""
    few, many = sorted(shards_for(0, 1, wanted) for wanted in (one, other))
    hashes = np.arange(4 * many, dtype=np.uint64)
    pairs = {(int(h % many), int(h % few)) for h in hashes.tolist()}
    assert len(pairs) == many
