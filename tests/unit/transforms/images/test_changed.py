"""Images taken from an earlier run are what decoding them again would give."""

import io
import tempfile
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.tables import mined as tables
from transforms.duplicates.tables import DUPLICATES
from transforms.images import changed as known_images
from transforms.images import read as images
from transforms.images.clean import ImageLimits, clean_image
from transforms.images.units import RAW_IMAGES
from transforms.mining import images as mined_images
from transforms.shards import image_bytes

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
LIMITS = ImageLimits(10**6, 24)
SHARES = mined_images.SplitShares(0.1, 0.2)


def picture(number, format_="PNG", side=16):
    """`number` decides the picture; GIF and BMP of it are other files with the same pixels."""
    grey = np.random.default_rng(number).integers(0, 255, (side, side), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format_)
    return buffer.getvalue()


# Clean as it came; to be encoded again, of equal pixels; to be shrunk; broken.
FILES = [
    *(picture(n, f) for n in range(3) for f in ("PNG", "BMP", "GIF")),
    *(picture(n, side=40) for n in range(3, 6)),
    picture(6)[:60],
    b"",
]
KEYS = [f"key{i}" for i in range(8)]
# key → file, and which pictures stand for which: 3, 4 and 5 are copies of one another.
COLLECTIONS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(FILES))


def raw_of(collection):
    rows = [{"key": key, "image": data} for key, data in sorted(collection.items())]
    return pa.Table.from_pylist(rows, RAW_IMAGES)


def mine(clean):
    """One shard of images and sources, as mine_pairs writes them."""
    with tempfile.TemporaryDirectory() as folder:
        built = build(image_bytes.spill_images(clean, 4, folder))
        data = image_bytes.ImageBytes(folder)
        images = pa.concat_tables([tables.IMAGES.empty_table(), *data.images(built["images"])])
        sources = pa.concat_tables([tables.SOURCES.empty_table(), *data.sources(built["sources"])])
    return {"images": images.combine_chunks(), "sources": sources.combine_chunks()}


def build(clean):
    ids = sorted({clean_image(f, LIMITS).image_id for f in FILES[9:12]})
    present = [i for i in ids if i in clean["image_id"].to_pylist()]
    rows = [{"image_id": i, "representative": present[0]} for i in present[1:]]
    duplicates = pa.Table.from_pylist(rows, DUPLICATES)
    copies = mined_images.find_copies(clean, duplicates).tables["copies"]
    return mined_images.build_images(copies, mined_images.ATTRIBUTES.empty_table(), SHARES).tables


def write(folder, mined):
    paths = []
    for name, keys in (("sources", ["image_id", "source"]), ("images", ["image_id"])):
        paths.append(str(folder / name))
        pq.write_table(mined[name].sort_by([(k, "ascending") for k in keys]), paths[-1])
    return tuple(paths)


@settings(max_examples=40)
@given(days=st.lists(COLLECTIONS, min_size=2, max_size=4))
def test_days_in_a_row_give_what_each_gives_by_itself(tmp_path_factory, days):
    folder = tmp_path_factory.mktemp("days")
    known, seen = tables.SOURCES.empty_table(), set()
    for collection in days:
        raw = raw_of(collection)
        alone = images.clean_images(raw, STAGE, LIMITS)
        named = known_images.name_sources(raw).tables["raw"]
        output = known_images.clean_changed_images(named, known, STAGE, LIMITS, frozenset())
        assert output.tables["clean"].equals(alone.tables["clean"])
        assert [t.to_pylist() for t in output.dead] == [t.to_pylist() for t in alone.dead]
        reused = output.counts.pop("reused.rows", 0)
        assert output.counts == alone.counts
        # Exactly those are decoded that the day before did not have.
        good = alone.tables["clean"]["source"].to_pylist()
        assert reused == sum(source in seen for source in good)
        mined = mine(output.tables["clean"])
        assert mined["images"].equals(mine(alone.tables["clean"])["images"])
        assert sorted(mined["sources"]["source"].to_pylist()) == sorted(set(good))
        parts = list(known_images.earlier_sources(write(folder, mined)))
        known, seen = pa.concat_tables([tables.SOURCES.empty_table(), *parts]), set(good)


def test_no_image_that_is_known_is_decoded(tmp_path, monkeypatch):
    collection = dict(zip(KEYS, FILES[:8], strict=True))
    first = images.clean_images(raw_of(collection), STAGE, LIMITS).tables["clean"]
    parts = known_images.earlier_sources(write(tmp_path, mine(first)))
    known = pa.concat_tables(list(parts))
    decoded, clean_safely = [], images.clean_safely

    def counting(data, *args):
        decoded.append(data)
        return clean_safely(data, *args)

    monkeypatch.setattr(images, "clean_safely", counting)
    collection[KEYS[3]] = FILES[11]
    named = known_images.name_sources(raw_of(collection)).tables["raw"]
    output = known_images.clean_changed_images(named, known, STAGE, LIMITS, frozenset())
    assert decoded == [FILES[11]]
    assert output.counts["reused.rows"] == 7
    assert output.counts["images.out"] == 8


def test_only_bytes_that_lie_nowhere_else_are_stored():
    collection = dict(zip(KEYS, (FILES[i] for i in (0, 1, 3, 4, 9, 10, 11)), strict=False))
    clean = images.clean_images(raw_of(collection), STAGE, LIMITS).tables["clean"]
    mined = mine(clean)
    stored = {r["source"]: r for r in mined["sources"].to_pylist()}
    assert len(stored) == 7
    for row in stored.values():
        assert (row["image"] is None) == (row["original"] or row["written"])
    assert sum(row["written"] for row in stored.values()) == mined["images"].num_rows == 3


@pytest.mark.parametrize("forgotten", [frozenset(), frozenset([KEYS[0]])])
def test_what_is_forgotten_is_in_no_source(forgotten):
    raw = raw_of(dict(zip(KEYS, FILES[:3], strict=False)))
    clean = images.clean_images(raw, STAGE, LIMITS, forgotten=forgotten).tables["clean"]
    names = set(mine(clean)["sources"]["source"].to_pylist())
    assert (images.source_of(FILES[0]) in names) == (not forgotten)
