import pyarrow as pa

from schemas.datasets.shard_files import read_parquet
from schemas.runs.run import Run
from transforms.shards.outputs import write_sorted

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("keys", pa.list_(pa.string())),
        ("n", pa.int64()),
    ]
)


def test_chunks_of_a_table_do_not_show_in_its_file(tmp_path):
    """A column of 2 GiB and more is never in one chunk, whose offsets have 32 bits."""
    run = Run("mine_pairs", str(tmp_path), "f" * 64, {}, "", {}, {}, "", False)
    rows = [
        {"id": f"{n * 7 % 2500:04d}", "image": b"%d" % n, "keys": [str(n)], "n": n}
        for n in range(2500)
    ]
    whole = pa.Table.from_pylist(rows, SCHEMA)
    chunks = pa.concat_tables([whole.slice(start, 300) for start in range(0, 2500, 300)])
    assert chunks["image"].num_chunks > 1
    shards = [
        write_sorted(run, table, name, 0, num_shards=1, keys=["id"])[1]
        for name, table in (("whole", whole), ("chunks", chunks))
    ]
    assert len({shard.sha256 for shard in shards}) == 1
    found = read_parquet(run.absolute(shards[0].path))
    assert found.schema == SCHEMA
    assert found.to_pylist() == sorted(rows, key=lambda row: row["id"])
