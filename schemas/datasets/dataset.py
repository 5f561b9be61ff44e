"""A committed dataset, opened for reading: its tables, shards and folders."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from schemas.base import storage
from schemas.base.errors import (
    PhraseLensError,
)
from schemas.datasets import shard_files
from schemas.datasets.manifest import FILE_NAME, Shard, read, root_of, run_folder
from schemas.datasets.shard_files import open_parquet
from schemas.datasets.shards import schema_fingerprint


class Dataset:
    """A committed dataset, opened for reading.

    Args:
      root: its folder, or the folder of one of its runs.
      run_id: the run to read, if not the last one.

    Raises:
      PhraseLensError: nothing is committed there.
    """

    def __init__(self, root: str, run_id: str = ""):
        manifest = read(root, run_id)
        if manifest is None:
            raise PhraseLensError(
                run_folder(root, run_id) if run_id else root,
                f"a committed dataset ({FILE_NAME})",
                "Run the stage that writes it, or check the path.",
            )
        self.root = root_of(root, manifest)
        self.manifest = manifest

    def shards(self, table: str, group: str = "") -> list[Shard]:
        """The shards of a table, by index; of one group when `group` is given."""
        if table not in self.manifest.tables:
            raise PhraseLensError(
                f"table {table!r} of {self.root}",
                f"one of {sorted(self.manifest.tables)}",
                f"This dataset was written by {self.manifest.stage}; check the path.",
            )
        shards = self.manifest.tables[table].shards
        return sorted((s for s in shards if group in ("", s.group)), key=lambda s: s.index)

    def path(self, shard: Shard) -> str:
        return storage.join(self.root, shard.path)

    def check(self, shard: Shard) -> None:
        """Compares a shard with its size and checksum. Raises CorruptError."""
        shard_files.check(self.path(shard), shard.bytes, shard.sha256)

    def folder(self, table: str) -> str:
        """The folder that holds a table's files."""
        return storage.join(self.run_folder, table)

    @property
    def run_folder(self) -> str:
        """Opens this very run for ever, whatever is committed later."""
        return run_folder(self.root, self.manifest.run_id)

    def batches(
        self, table: str, columns: Sequence[str] | None = None, batch_size: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """Streams a Parquet table in the order of its shards."""
        for shard in self.shards(table):
            with open_parquet(self.path(shard)) as file:
                expected = self.manifest.tables[table].schema
                if expected and schema_fingerprint(file.schema_arrow) != expected:
                    raise ValueError("its schema is not the table's")  # named, where it is damaged
                rows = 0
                for batch in file.iter_batches(batch_size, columns=columns):
                    rows += batch.num_rows
                    yield batch
                if rows != shard.rows:  # no checksum covers the footer, which says how many
                    raise ValueError(f"it has {rows:,} rows and not {shard.rows:,}")

    def table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole Parquet table in memory.

        Raises:
          PhraseLensError: the dataset holds no row of it.
        """
        batches = list(self.batches(table, columns, batch_size=65536))
        if not batches:
            raise PhraseLensError(
                f"table {table!r} of {self.root}", "at least one row", "Check the stage's input."
            )
        return pa.Table.from_batches(batches)
