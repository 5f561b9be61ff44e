"""A committed dataset for programs: its tables as Arrow, by its manifest."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from schemas.base.errors import PhraseLensError
from schemas.datasets import dataset as dataset_lib


class Dataset:
    """A dataset as it was when it was opened, whatever is committed later.

    Files that its manifest does not name are of other runs, or were never finished: they are not
    read. A file that is cut or changed is an error, and no byte of it is believed.

    Args:
      path: its folder, local or gs://.

    Attributes:
      tables: name → rows, of the tables that can be read.
      stage: the stage that wrote it.

    Raises:
      PhraseLensError: nothing is committed there.
    """

    def __init__(self, path: str):
        self._dataset = dataset_lib.Dataset(path)
        manifest = self._dataset.manifest
        self.stage = manifest.stage
        self.tables = {n: t.rows for n, t in manifest.tables.items() if t.format == "parquet"}

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table in memory, or some of its columns.

        Raises:
          PhraseLensError: there is no such table, it has no row, or a file of it is damaged.
        """
        self._check(table)
        return self._dataset.table(table, columns)

    def batches(
        self, table: str, columns: Sequence[str] | None = None, batch_size: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """A table in pieces of at most `batch_size` rows, in the order of its files.

        Raises:
          PhraseLensError: as of `read`.
        """
        self._check(table)
        return self._dataset.batches(table, columns, batch_size)

    def _check(self, table: str) -> None:
        if table not in self.tables:
            raise PhraseLensError(
                f"table {table!r} of {self._dataset.root}",
                f"one of {', '.join(sorted(self.tables))}",
                f"{self.stage} wrote it: check the path.",
            )
