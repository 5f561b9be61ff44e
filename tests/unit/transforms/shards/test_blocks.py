import io
import os
from collections import Counter

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import fingerprint
from transforms.shards import blocks
from transforms.shards.blocks import GroupShards, Together, from_blocks, split_by_shard, to_block
from transforms.shards.outputs import COUNTS, DEAD, Output

SCHEMA = pa.schema([("id", pa.string()), ("place", pa.int64())])


def table(ids):
    return pa.table({"id": ids, "place": np.arange(len(ids))}, SCHEMA)


@given(st.lists(st.text(max_size=3), max_size=30), st.integers(1, 7))
def test_a_split_loses_no_row_and_keeps_their_order(ids, num_shards):
    found = list(split_by_shard(table(ids), "id", num_shards))
    assert len({shard for shard, _ in found}) == len(found)
    rows = []
    for shard, block in found:
        part = from_blocks([block], SCHEMA)
        assert part.num_rows
        assert part["place"].to_pylist() == sorted(part["place"].to_pylist())
        assert set(fingerprint.shard_of(part["id"], num_shards)) == {shard}
        rows += part.to_pylist()
    assert sorted(rows, key=lambda row: row["place"]) == table(ids).to_pylist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(1, 1000))
def test_the_shard_of_a_row_follows_from_its_id_alone(ids, num_shards):
    shards = fingerprint.shard_of(pa.array(ids), num_shards)
    assert all(0 <= shard < num_shards for shard in shards)
    alone = [fingerprint.shard_of(pa.array([i]), num_shards)[0] for i in ids]
    assert shards.tolist() == alone == [i % 2**64 % num_shards for i in ids]


def test_blocks_carry_tables():
    found = [to_block(table(["a", "b"])), to_block(table([])), to_block(table(["c"]))]
    assert from_blocks(found, SCHEMA)["id"].to_pylist() == ["a", "b", "c"]
    assert from_blocks([], SCHEMA).equals(SCHEMA.empty_table())
    assert pa.ipc.open_stream(io.BytesIO(found[0])).schema == SCHEMA


def test_output_is_tagged_and_empty_tables_stay_behind():
    output = Output(
        {"rows": table(["a"]), "none": table([])}, (table(["b"]), table([])), {"rows.in": 1}
    )
    tags = Counter(item.tag for item in output.tagged())
    assert tags == {"rows": 1, DEAD: 1, COUNTS: 1}


def test_tables_of_a_bundle_wait_in_few_files(tmp_path, monkeypatch):
    """An object for each table and shuffle was 30 KB on average, and deleted one by one."""
    monkeypatch.setattr(blocks, "SPILL_BYTES", 1 << 10)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 0)
    size = 200 * table(["0"] * 100).nbytes
    monkeypatch.setattr(Together.__init__, "__defaults__", (size // 4,))
    spill = str(tmp_path / "spill")

    def rows(shard):
        index, found = shard
        part = from_blocks(found["rows"], SCHEMA)
        assert set(fingerprint.shard_of(part["id"], 8)) == {index}
        return [place.as_py() for place in part["place"]]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        numbers = (
            {
                "rows": pipeline
                | beam.Create(range(200))
                | beam.Map(lambda n: table([f"{n}-{i}" for i in range(100)]))
                | beam.Map(lambda rows: rows).with_output_types(pa.Table)
            }
            | GroupShards({"rows": "id"}, 8, spill)
            | beam.FlatMap(rows)
            | beam.combiners.Count.PerElement()
        )
        expected = [(n, 200) for n in range(100)]
        assert_that(numbers, equal_to(expected))
    assert 1 < len(os.listdir(spill)) < 10


def test_files_of_blocks_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "FILE_BYTES", 10_000)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 0)
    rows = table([str(n) for n in range(5000)])
    found = dict(split_by_shard(rows, "id", 50, str(tmp_path)))
    assert len(found) == 50
    assert all(os.path.getsize(path) < 20_000 for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) > 3
    places = from_blocks(found.values(), SCHEMA)["place"].to_pylist()
    assert sorted(places) == list(range(5000))


def test_small_blocks_cross_as_they_are(tmp_path):
    """Where there are many shards each has little of a table: a request for each costs more."""
    rows = table([str(n) for n in range(50_000)])
    found = [block for _, block in split_by_shard(rows, "id", 2000, str(tmp_path))]
    assert all(isinstance(block, bytes) for block in found)
    assert not list(tmp_path.iterdir())
    large = [block for _, block in split_by_shard(rows, "id", 20, str(tmp_path))]
    assert not any(isinstance(block, bytes) for block in large)
    assert len(list(tmp_path.iterdir())) == 1
