import itertools

import pyarrow as pa
import pytest

from schemas.base.fingerprint import hash64
from transforms.duplicates.tables import DUPLICATES
from transforms.mining import images as mined_images
from transforms.mining.images import SplitShares
from transforms.mining.labels import LABELS
from transforms.shards.image_bytes import PLACED_IMAGES

SHARES = SplitShares(0.1, 0.2)
ID = "0" * 32


def table(schema, rows):
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def test_splits_have_their_shares():
    ids = [f"{hash64(str(i)) % 2**64:016x}" * 2 for i in range(20_000)]
    splits = [mined_images.split_of(image_id, SHARES) for image_id in ids]
    assert abs(splits.count("test") / len(ids) - 0.2) < 0.01
    assert abs(splits.count("validation") / len(ids) - 0.1) < 0.01
    larger = [mined_images.split_of(image_id, SplitShares(0.1, 0.3)) for image_id in ids]
    assert all(b == "test" for a, b in zip(splits, larger, strict=True) if a == "test")


def test_find_copies():
    clean = pa.Table.from_pylist(
        [{"image_id": i, "key": k} for i, k in [("x", "a"), ("y", "b"), ("x", "c")]],
        PLACED_IMAGES,
    )
    found = mined_images.find_copies(clean, table(DUPLICATES, [("y", "x")]))
    assert found.tables["copies"]["representative"].to_pylist() == ["x", "x", "x"]
    assert [tuple(r.values()) for r in found.tables["keys"].to_pylist()] == [
        ("a", "x"),
        ("b", "x"),
        ("c", "x"),
    ]


def test_join_labels():
    rows = [("a", "shoe", None), ("lost", "hat", None), ("a", "boot", "test"), ("old", "hat", None)]
    labels = table(LABELS, rows)
    keys = table(mined_images.IMAGE_KEYS, [("a", "x"), ("a", "x"), ("a", "y")])
    earlier = table(mined_images.EARLIER_KEYS, [("a",), ("old",), ("older",)])
    output = mined_images.join_labels(labels, keys, earlier)
    found = sorted(tuple(r.values())[:2] for r in output.tables["attributes"].to_pylist())
    assert found == [("x", "boot"), ("x", "shoe"), ("y", "boot"), ("y", "shoe")]
    assert not output.dead, "the label of another image is no dead row"
    assert output.counts == {
        "known_labels.in": 4,
        "known_labels.out": 2,
        "known_labels.dropped_retired_image": 1,
        "known_labels.dropped_unknown_image": 1,
        "image_keys.labelled": 1,
    }


def build(copies, attributes=()):
    return mined_images.build_images(
        table(
            mined_images.COPIES,
            [(i, k, 1, 1, source, True, "file", 0, 9, r) for i, k, source, r in copies],
        ),
        table(mined_images.ATTRIBUTES, attributes),
        SHARES,
    )


@pytest.mark.parametrize(
    ("given_splits", "expected"),
    [
        (["train"], "train"),
        (["train", "test"], "test"),
        (["validation", "train"], "validation"),
        (["validation", "test", "train"], "test"),
        ([None], mined_images.split_of(ID, SHARES)),
        ([None, "train"], "train"),
    ],
)
@pytest.mark.parametrize("step", [1, -1])
def test_copies_of_an_image_are_one_row_in_the_most_held_out_split(given_splits, expected, step):
    copies = [(ID, f"k{i}", "same", ID) for i in range(len(given_splits))]
    output = build(copies[::step], [(ID, "shoe", split) for split in given_splits])
    (row,) = output.tables["images"].to_pylist()
    assert row["split"] == expected
    assert row["keys"] == [f"k{i}" for i in range(len(given_splits))]
    assert row["labels"] == ["shoe"]
    assert output.tables["splits"].to_pylist() == [{"image_id": ID, "split": expected}]
    assert output.counts["unique_images.dropped_duplicate"] == len(given_splits) - 1


def test_near_duplicates_are_one_row_with_the_keys_of_all():
    copies = [("1" * 32, "small", "s", ID), (ID, "large", "l", ID), (ID, "again", "l", ID)]
    for order in itertools.permutations(copies):
        output = build(order)
        (row,) = output.tables["images"].to_pylist()
        assert (row["image_id"], row["source"]) == (ID, "l")
        assert row["keys"] == ["again", "large", "small"]
        assert output.counts == {
            "unique_images.in": 3,
            "unique_images.out": 1,
            "unique_images.dropped_near_duplicate": 1,
            "unique_images.dropped_duplicate": 1,
        }


def test_which_copy_is_kept_does_not_depend_on_order():
    copies = [(ID, "b", "1", ID), (ID, "a", "3", ID), (ID, "a", "2", ID)]
    kept = {
        build(order).tables["images"]["source"][0].as_py()
        for order in itertools.permutations(copies)
    }
    assert kept == {"2"}
