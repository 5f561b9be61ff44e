import io
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import fingerprint
from transforms.shards.blocks import from_blocks, split_by_shard, to_block
from transforms.shards.outputs import COUNTS, DEAD, Output

SCHEMA = pa.schema([("id", pa.string()), ("place", pa.int64())])


def table(ids):
    return pa.table({"id": ids, "place": np.arange(len(ids))}, SCHEMA)


@given(st.lists(st.text(max_size=3), max_size=30), st.integers(1, 7))
def test_a_split_loses_no_row_and_keeps_their_order(ids, num_shards):
    blocks = list(split_by_shard(table(ids), "id", num_shards))
    assert len({shard for shard, _ in blocks}) == len(blocks)
    rows = []
    for shard, block in blocks:
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
    blocks = [to_block(table(["a", "b"])), to_block(table([])), to_block(table(["c"]))]
    assert from_blocks(blocks, SCHEMA)["id"].to_pylist() == ["a", "b", "c"]
    assert from_blocks([], SCHEMA).equals(SCHEMA.empty_table())
    assert pa.ipc.open_stream(io.BytesIO(blocks[0])).schema == SCHEMA


def test_output_is_tagged_and_empty_tables_stay_behind():
    output = Output(
        {"rows": table(["a"]), "none": table([])}, (table(["b"]), table([])), {"rows.in": 1}
    )
    tags = Counter(item.tag for item in output.tagged())
    assert tags == {"rows": 1, DEAD: 1, COUNTS: 1}
