"""Rows of some images, read from the shards where their ids lie and from no others."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import fingerprint, storage
from schemas.manifest import Dataset


def read_rows(
    dataset: Dataset, table: str, image_ids: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Image id → its row, of those ids that the table has.

    Args:
      dataset: partitioned by image_id, as mined data and features are.
      table: its name.
      image_ids: the images.
      columns: what is read beside image_id.
    """
    shards = {shard.index: shard for shard in dataset.shards(table)}
    by_shard: dict[int, list[str]] = {}
    indices = fingerprint.shard_of(pa.array(image_ids, pa.string()), dataset.manifest.num_shards)
    for image_id, index in zip(image_ids, indices.tolist(), strict=True):
        by_shard.setdefault(index, []).append(image_id)
    found: dict[str, dict[str, Any]] = {}
    for index in by_shard.keys() & shards.keys():
        with storage.open_input(dataset.path(shards[index])) as file:
            rows = pq.read_table(
                file,
                columns=["image_id", *columns],
                filters=[("image_id", "in", by_shard[index])],
            )
        found |= {row["image_id"]: row for row in rows.to_pylist()}
    return found
