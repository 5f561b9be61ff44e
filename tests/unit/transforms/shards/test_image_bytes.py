"""Copies of a picture travel as rows; its bytes are written once for each file and read once."""

import os

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.datasets import shards as shards_lib
from schemas.runs.run import Run
from transforms.images.read import CLEAN_IMAGES
from transforms.mining import images as mined_images
from transforms.shards import blocks, image_bytes
from transforms.shards.blocks import GroupShards, Spilled

SHARES = mined_images.SplitShares(0.1, 0.2)
COPIES, PICTURES, NUM_SHARDS = 3000, 60, 4
PLACEHOLDER = np.random.default_rng(0).bytes(100_000)
BATCH = 100


def clean_rows(batch: int) -> pa.Table:
    """Rows of CLEAN_IMAGES: copies of one placeholder, and in each batch some other pictures."""
    rows = []
    for i in range(batch * BATCH, (batch + 1) * BATCH):
        n = i % (COPIES // PICTURES)
        number = i // (COPIES // PICTURES) + 1 if n == 0 else 0
        rows.append(
            {
                "image_id": f"{number * 2**118:032x}",
                "key": f"key{i:05d}",
                "width": 1,
                "height": 1,
                "image": f"picture {number} {'x' * number}".encode() if number else PLACEHOLDER,
                "signature": bytes([number]) * 1536,
                "source": f"{number:032x}",
                "original": number % 2 == 0,
            }
        )
    return pa.Table.from_pylist(rows, CLEAN_IMAGES)


@pytest.fixture
def low_bounds(monkeypatch):
    monkeypatch.setattr(image_bytes, "FILE_BYTES", 25 << 20)
    monkeypatch.setattr(image_bytes, "PART_BYTES", 60_000)
    monkeypatch.setattr(blocks, "SPILL_BYTES", 1 << 12)
    monkeypatch.setattr(shards_lib, "GROUP_BYTES", 1 << 14)


def sizes_of(shard) -> int:
    _, found = shard
    return sum(
        block.size if isinstance(block, Spilled) else len(block)
        for name in found.values()
        for block in name
    )


def test_thousands_of_copies_of_one_placeholder(tmp_path, low_bounds):
    run = Run("mine_pairs", str(tmp_path), "f" * 64, {}, "", {}, {}, "", False)
    group = GroupShards(
        {"copies": "representative", "attributes": "image_id"}, NUM_SHARDS, run.spill
    )
    groups = tmp_path / "groups"
    groups.mkdir()

    def noted(shard):
        (groups / str(shard[0])).write_text(str(sizes_of(shard)))
        return shard

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        copies = (
            pipeline
            | beam.Create(range(COPIES // BATCH))
            | beam.Map(clean_rows).with_output_types(pa.Table)
            | image_bytes.SpillImages(NUM_SHARDS, run.spill)
            | mined_images.NameOnlyCopies()
        )
        none = pipeline | "None" >> beam.Create([]).with_output_types(pa.Table)
        (
            {"copies": copies.copies, "attributes": none}
            | group
            | beam.Map(noted)
            | mined_images.BuildImages(run, SHARES, NUM_SHARDS)
        )
    # 300 MB of bytes came; each file has the placeholder once, the group none of it.
    spilled = [os.path.getsize(f"{run.spill}/{name}") for name in os.listdir(run.spill)]
    assert 10 < len(spilled) < 30
    assert sum(spilled) < 20 * (len(PLACEHOLDER) + 100 * 2000)
    largest = max(int(path.read_text()) for path in groups.iterdir())
    assert largest < COPIES * 250
    rows = {name: read(run, name) for name in ("images", "sources")}
    assert [len(rows[name]) for name in ("images", "sources")] == [PICTURES + 1, PICTURES + 1]
    for row in rows["images"]:
        number = int(row["image_id"], 16) // 2**118
        expected = PLACEHOLDER if not number else f"picture {number} {'x' * number}".encode()
        assert row["image"] == expected
        assert len(row["keys"]) == (1 if number else COPIES - PICTURES)
        assert row["keys"] == sorted(row["keys"])
    assert all(
        row["signature"] == bytes([int(row["source"], 16)]) * 1536 for row in rows["sources"]
    )


def read(run, name):
    folder = run.absolute(run.folder(name))
    paths = [f"{folder}/{path}" for path in sorted(os.listdir(folder))]
    for path in paths:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            assert meta.num_rows == 1 or meta.total_byte_size < 1 << 16
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist()


def test_copies_whose_bytes_lie_nowhere_else_are_read_too(tmp_path):
    """One picture in two files that were encoded again: the second's bytes are in `sources`."""
    row = {"width": 1, "height": 1, "original": False, "signature": b"s" * 1536}
    rows = [
        row | {"image_id": "0" * 32, "key": key, "source": source, "image": image}
        for key, source, image in [("a", "1", b"one"), ("b", "2", b"two"), ("c", "1", b"one")]
    ]
    placed = image_bytes.spill_images(
        pa.Table.from_pylist(rows, CLEAN_IMAGES), NUM_SHARDS, str(tmp_path)
    )
    assert sum(os.path.getsize(tmp_path / name) for name in os.listdir(tmp_path)) == 2 * 1539
    copies = placed.append_column("representative", placed["image_id"])
    built = mined_images.build_images(copies, mined_images.ATTRIBUTES.empty_table(), SHARES).tables
    data = image_bytes.ImageBytes(str(tmp_path))
    (images,) = data.images(built["images"])
    (sources,) = data.sources(built["sources"])
    assert images["image"].to_pylist() == [b"one"]
    found = {r["source"]: (r["written"], r["image"], r["signature"]) for r in sources.to_pylist()}
    assert found == {"1": (True, None, b"s" * 1536), "2": (False, b"two", b"s" * 1536)}
