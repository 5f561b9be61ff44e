"""Parquet shards of any size: written in parts, with row groups of bounded bytes."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.datasets import shards
from schemas.datasets.shard_files import read_parquet

SCHEMA = pa.schema([("name", pa.string()), ("image", pa.binary())])


def table(sizes):
    return pa.table([[str(i) for i in range(len(sizes))], [b"x" * n for n in sizes]], SCHEMA)


def test_no_row_group_passes_the_bound_but_one_of_a_single_row(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_BYTES", 10_000)
    rows = table([4000] * 30 + [50_000] + [10] * 3000)
    shard = shards.write_parquet(str(tmp_path), "rows.parquet", 0, rows)
    path = tmp_path / "rows.parquet"
    assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (shard.rows, shard.bytes) == (len(rows), path.stat().st_size)
    meta = pq.ParquetFile(path).metadata
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    assert len(groups) > 10
    assert all(g.num_rows == 1 or g.total_byte_size < 50_000 for g in groups)
    assert read_parquet(str(path)).equals(rows)


@given(st.lists(st.integers(0, 50), max_size=3000), st.integers(1, 40_000))
def test_row_groups_have_each_row_once(sizes, limit):
    rows = table(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUP_BYTES", limit)
        found = list(shards.row_groups(rows))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(len(rows)))
    assert all(stop - start <= shards.GROUP_ROWS for start, stop in found)


def test_a_table_in_parts_is_the_same_file_as_in_one(tmp_path):
    rows = table([7] * 3000)
    parts = [rows.slice(start, 1024) for start in range(0, 3000, 1024)]
    one = shards.write_parquet(str(tmp_path), "one.parquet", 0, rows)
    other = shards.write_parts(str(tmp_path), "other.parquet", 0, SCHEMA, iter(parts))
    assert (one.sha256, one.rows) == (other.sha256, other.rows)
    empty = shards.write_parts(str(tmp_path), "empty.parquet", 0, SCHEMA, [])
    assert (empty.rows, read_parquet(str(tmp_path / "empty.parquet")).schema) == (0, SCHEMA)
