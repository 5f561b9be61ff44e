"""Which rows name an image that is there, and when hardly any do."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from transforms.mining import key_match

KEYS = st.sampled_from("abcdefgh")


@given(
    st.lists(st.tuples(KEYS, st.integers(1, 9)), max_size=20),
    st.lists(KEYS, max_size=6),
    st.lists(KEYS, max_size=6),
)
def test_rows_that_name_an_image_are_known_and_all_are_counted(rows, images, earlier):
    named, weights = zip(*rows, strict=True) if rows else ((), ())
    found = key_match.match(
        pa.chunked_array([named], pa.string()),
        pa.chunked_array([images], pa.string()),
        "clicks",
        found="in_log",
        weights=pa.chunked_array([weights], pa.int64()),
        earlier=pa.chunked_array([earlier], pa.string()),
    )
    assert found.is_known.to_pylist() == [key in images for key in named]
    lost, retired = Counter(), Counter()
    for key, rows_of_key in rows:
        if key not in images:
            (retired if key in earlier else lost)[key] += rows_of_key
    assert found.counts == {
        "clicks.in": sum(weights),
        "clicks.out": sum(weights) - lost.total() - retired.total(),
        "clicks.dropped_retired_image": retired.total(),
        "clicks.dropped_unknown_image": lost.total(),
        "image_keys.in_log": len(set(images) & set(named)),
    }
    heaviest = sorted(((n, key) for key, n in lost.items()), reverse=True)[:3]
    assert found.notes["clicks.dropped_unknown_image"] == heaviest
    assert [key for _, key in found.notes["image_keys.all"]] == sorted(set(images))[:3]


@pytest.mark.parametrize(
    ("rows", "matched", "images", "named", "refused"),
    [
        (100, 0, 100, 0, True),
        (100, 4, 100, 4, True),
        (100, 5, 100, 1, False),  # few images are in the log
        (10_000, 5, 100, 5, False),  # the log is of a larger collection
        (10_000, 4, 100, 4, True),
        (0, 0, 100, 0, False),
        (100, 0, 0, 0, False),  # no image is good, which is told elsewhere
    ],
)
@pytest.mark.parametrize(("kind", "found"), [("clicks", "in_log"), ("known_labels", "labelled")])
def test_hardly_any_match_on_both_sides_is_an_error(
    kind, found, rows, matched, images, named, refused
):
    counters = {f"{kind}.in": rows, f"{kind}.out": matched}
    counters |= {"image_keys.all": images, f"image_keys.{found}": named}
    notes = {f"{kind}.dropped_unknown_image": [(9, "p1.jpg")], "image_keys.all": [(0, "p1")]}
    key_match.check_matches(counters, notes, 0.0)
    if not refused:
        key_match.check_matches(counters, notes, 0.05)
        return
    with pytest.raises(PhraseLensError, match=r"such as 'p1'; not known are 'p1\.jpg'"):
        key_match.check_matches(counters, notes, 0.05)
