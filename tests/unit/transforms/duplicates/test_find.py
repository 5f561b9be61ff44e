"""Which pairs of images are looked at, of all that there are."""

from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import fingerprint
from transforms.duplicates import find as duplicates
from transforms.duplicates import tables as tables_lib
from transforms.duplicates.signature import SIGNATURE_BYTES


def key_table(rows):
    return pa.Table.from_pylist(
        [dict(zip(("key", "band", "whole", "image"), row, strict=True)) for row in rows],
        tables_lib.KEYS,
    )


def expected_pairs(rows, cap):
    """The pairs of `pairs_of`, one row after the other."""
    whole = defaultdict(list)
    for key, _, is_whole, image in sorted(rows, key=lambda row: row[3]):
        if is_whole:
            whole[key].append(image)
    return {
        (min(image, other), max(image, other), band)
        for key, band, _, image in rows
        for other in whole[key][:cap]
        if image != other
    }


KEY_ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.booleans(), st.integers(-(2**40), 2**40)),
    max_size=60,
).map(lambda rows: [(10 * key + band, band, whole, image) for key, band, whole, image in rows])


class TestPairs:
    @given(KEY_ROWS, st.sampled_from([1, 3, 64]), st.sampled_from([1, 7, 1 << 22]))
    @settings(max_examples=60, deadline=None)
    def test_are_those_that_share_a_key(self, rows, cap, at_once):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duplicates, "MAX_BUCKET", cap)
            patch.setattr(duplicates, "_PAIRS_AT_ONCE", at_once)
            rows = list(set(rows))
            tables = list(duplicates.pairs_of(key_table(rows)))
        found = {tuple(row.values()) for table in tables for row in table.to_pylist()}
        assert found == expected_pairs(rows, cap)

    def test_of_a_crowded_key_are_bounded_and_hold_together(self):
        rows = [(7, 0, True, image) for image in range(1000)]
        (table,) = duplicates.pairs_of(key_table(rows))
        assert table.num_rows <= 1000 * duplicates.MAX_BUCKET
        firsts = range(duplicates.MAX_BUCKET)
        assert {row["b"] for row in table.to_pylist() if row["a"] in firsts} >= set(range(64, 1000))

    def test_need_enough_bands(self):
        ids = ["a", "b", "c"]
        images = duplicates.unique_images(image_table([(i, 10, 10) for i in ids]))
        a, b, c = (fingerprint.hash64(i) for i in ids)
        rows = [(a, b, 0), (a, b, 0), (a, c, 0), (a, c, 1)]
        pairs = pa.table([list(column) for column in zip(*rows, strict=True)], tables_lib.PAIRS)
        (found,) = duplicates.candidates(pairs, images)
        assert [(row["image_id"], row["b"]) for row in found.to_pylist()] == [("a", c)]


def image_table(rows):
    return pa.Table.from_pylist(
        [
            {"image_id": i, "width": w, "height": h, "signature": bytes(SIGNATURE_BYTES)}
            for i, w, h in rows
        ],
        tables_lib.IMAGES,
    )


def test_an_image_that_arrives_twice_is_one():
    table = duplicates.unique_images(image_table([("a", 4, 5), ("b", 1, 1), ("a", 4, 5)]))
    assert dict(zip(table["image_id"].to_pylist(), table["size"].to_pylist(), strict=True)) == {
        "a": 20,
        "b": 1,
    }
