"""A planned run of a stage that does not exist, and what it would commit."""

import dataclasses

import pyarrow as pa

from schemas.console.flags import flag
from schemas.datasets import shards as shards_lib
from schemas.datasets.manifest import Table
from schemas.runs import run as run_lib

ROWS = pa.table({"id": ["a", "b", "c"]})


@dataclasses.dataclass(frozen=True)
class Config:
    output: str = flag("Dataset.", role="runtime")
    size: int = flag("Size.", default=1)


def plan(root, size=1):
    return run_lib.plan("job", Config(root, size), [], {}, {})


def work(planned, rows=ROWS):
    """Writes two shards and describes them."""
    shards = tuple(
        shards_lib.write_parquet(
            planned.output, planned.shard_path("rows", i, 2, "parquet"), i, rows.slice(i * 2, 2)
        )
        for i in range(2)
    )
    table = Table("parquet", shards_lib.schema_fingerprint(rows.schema), shards)
    counters = {"rows.in": 4, "rows.out": 3, "rows.dropped_bad_row": 1}
    return planned.manifest({"rows": table}, counters, 2)
