"""Files that are parsed by native code or become a graph: opened only as they were committed."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from schemas.base import storage
from schemas.base.errors import CorruptError
from schemas.console import program
from schemas.datasets.dataset import Dataset

# Files of numbers and texts, gigabytes that processes map, are safe to open whatever they hold.
_DATA = (".npy", ".arrow", ".parquet", ".txt")


def checksums(dataset: Dataset, table: str) -> dict[str, str]:
    """Name within the table's folder → SHA-256, of the files that must be checked."""
    folder = dataset.folder(table).removeprefix(dataset.root.rstrip("/") + "/") + "/"
    return {
        shard.path.removeprefix(folder): shard.sha256
        for shard in dataset.shards(table)
        if not shard.path.endswith(_DATA)
    }


def check(folder: str, sums: Mapping[str, str]) -> None:
    """Compares files with their checksums.

    Args:
      folder: a local one.
      sums: see `checksums`.

    Raises:
      PhraseLensError: a file is missing, or is another than was committed.
    """
    for name, expected in sums.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or storage.sha256(path) != expected:
            raise CorruptError(
                path,
                "the file that the manifest names, found another or none",
                f"Run {program.command('verify')} on its dataset: it says how to make it again.",
            )


@contextlib.contextmanager
def local_copy(dataset: Dataset, table: str) -> Iterator[str]:
    """A local folder with a table's files, which were compared with their checksums."""
    with storage.local_copy(dataset.folder(table)) as folder:
        check(folder, checksums(dataset, table))
        yield folder
