"""Rows of some images, read from the shards where their ids lie and from no others."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet


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
        wanted = pa.array(by_shard[index], pa.string())
        with open_parquet(dataset.path(shards[index])) as file:
            for batch in file.iter_batches(1024, columns=["image_id", *columns]):
                some = batch.filter(pc.is_in(batch["image_id"], value_set=wanted))
                found |= {row["image_id"]: row for row in some.to_pylist()}
    return found
