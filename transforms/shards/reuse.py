"""What earlier runs made of the same content, found by its hash: it is not made again.

A row is taken over when its key is equal: the content hash, and the fingerprints of the models
and settings that made it. Nothing else counts: not the code, not the manifest, not the shard.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet

# Row groups that stay in memory: rows that are asked for together lie together.
ROW_GROUPS = 16


class Earlier:
    """Rows of some Parquet files, by id, of which only a hash for each stays in memory.

    Args:
      paths: the files.
      key: the column of ids, string.
      columns: what is read of a row that is found.
      where: column → the value that a row must have.
    """

    def __init__(
        self,
        paths: Sequence[str],
        key: str,
        columns: Sequence[str],
        where: Mapping[str, str] | None = None,
    ):
        self._paths, self._key, self._columns = list(paths), key, list(columns)
        places = [_places(file, path, key, where or {}) for file, path in enumerate(self._paths)]
        found = np.concatenate([np.zeros((0, 4), np.int64), *places])
        self._places = found[np.argsort(found[:, 0], kind="stable")]
        self._row_group = functools.lru_cache(ROW_GROUPS)(self._read)

    def _read(self, file: int, group: int) -> pa.Table:
        with open_parquet(self._paths[file]) as parquet:
            return parquet.read_row_group(group, columns=[self._key, *self._columns])

    def take(self, ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, pa.Table | None]:
        """Finds rows.

        Args:
          ids: [n] string.

        Returns:
          [n] bool, which of the ids have a row; and those rows in the order of the ids, the key
          among their columns, or None where there is none.
        """
        none = np.zeros(len(ids), bool), None
        if not len(self._places) or not len(ids):
            return none
        hashes = fingerprint.hash64_array(ids)
        at = np.searchsorted(self._places[:, 0], hashes).clip(max=len(self._places) - 1)
        rows = np.flatnonzero(self._places[at, 0] == hashes)
        if not len(rows):
            return none
        places = self._places[at[rows], 1:]
        parts, order = [], []
        for file, group in np.unique(places[:, :2], axis=0).tolist():
            mine = np.flatnonzero((places[:, 0] == file) & (places[:, 1] == group))
            parts.append(self._row_group(file, group).take(pa.array(places[mine, 2])))
            order.append(mine)
        found = pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order))))
        # Equal hashes of unequal ids are as good as impossible, and wrong rows as bad as can be.
        same = pc.equal(found[self._key], ids.take(pa.array(rows)))
        known = none[0].copy()
        known[rows] = same.to_numpy(zero_copy_only=False)
        return known, found.filter(same).combine_chunks()


def _places(file: int, path: str, key: str, where: Mapping[str, str]) -> np.ndarray:
    """[rows, 4] int64: hash of the id, file, row group and place in it, of the rows that fit."""
    parts = [np.zeros((0, 4), np.int64)]
    with open_parquet(path) as parquet:
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=[key, *where])
            fits = np.ones(table.num_rows, bool)
            for column, value in where.items():
                equal = pc.fill_null(pc.equal(table[column], value), False)
                fits &= equal.to_numpy(zero_copy_only=False)
            within = np.flatnonzero(fits)
            hashes = fingerprint.hash64_array(table[key])[within]
            constants = [np.full(len(within), value) for value in (file, group)]
            parts.append(np.stack([hashes, *constants, within], axis=1))
    return np.concatenate(parts)


def shards_by_index(dataset: Dataset, table: str, num_shards: int) -> dict[int, list[str]]:
    """Where the rows of each shard lie in an earlier run, which may have another number of them.

    Args:
      dataset: the earlier run, partitioned by `fingerprint.shard_of`.
      table: its table.
      num_shards: shards of today's run.

    Returns:
      Shard of today → paths of the earlier shards that may hold its rows.
    """
    # h ≡ i (mod n) and h ≡ j (mod m) have a common h only where i ≡ j (mod gcd(n, m)).
    common = math.gcd(num_shards, dataset.manifest.num_shards or 1)
    paths: list[list[str]] = [[] for _ in range(common)]
    for shard in dataset.shards(table):
        paths[shard.index % common].append(dataset.path(shard))
    return {index: paths[index % common] for index in range(num_shards)}


def first_of_each(table: pa.Table, column: str) -> pa.Table:
    """The first row of each value of a column."""
    values = table[column].combine_chunks()
    return table.take(pc.index_in(pc.unique(values), value_set=values))


IMAGE_COLUMNS = ("image_id", "split", "labels", "width", "height", "image")


def read_images(
    path: str, earlier: Earlier, wanted: pa.Array | None = None
) -> Iterator[tuple[pa.Table, pa.Array, pa.Table | None]]:
    """Reads a shard of images, and of those that an earlier run has embedded no pixels.

    Args:
      path: rows of tables.IMAGES.
      earlier: the earlier run's rows, by image_id.
      wanted: the images to read; None for all.

    Yields:
      Rows of IMAGE_COLUMNS (image is null where known); which of them are known,
      bool; and the rows of those in the earlier run, or None.
    """
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[c for c in IMAGE_COLUMNS if c != "image"])
            keep = pc.is_in(table["image_id"], value_set=wanted) if wanted is not None else None
            table = table if keep is None else table.filter(keep)
            known, found = earlier.take(table["image_id"])
            images = pa.nulls(table.num_rows, pa.binary())
            if not known.all():
                stored = file.read_row_group(group, columns=["image"])["image"]
                stored = stored if keep is None else stored.filter(keep)
                images = pc.if_else(pa.array(known), pa.scalar(None, pa.binary()), stored)
            yield table.append_column("image", images), pa.array(known), found
