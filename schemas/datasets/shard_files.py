"""Committed Parquet shards, read so that a damaged one is named and no byte of it is believed.

Pages carry checksums, which are compared as they are read.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import storage
from schemas.base.errors import CorruptError
from schemas.console import program


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Opens a shard.

    Raises:
      CorruptError: the file is gone, cut or changed; also while it is read within the context.
    """
    try:
        with pq.ParquetFile(storage.open_input(path), page_checksum_verification=True) as file:
            found, groups = file.metadata, range(file.metadata.num_row_groups)
            if found.num_rows != sum(found.row_group(group).num_rows for group in groups):
                raise ValueError("its row groups have not the rows that it names")
            yield file
    # A name in a damaged footer need not be text, nor a number one that memory holds.
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        damage = damage_of(path, error)
        if damage is None:
            raise
        raise damage from error


def read_parquet(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a shard, or some columns of it. Raises CorruptError."""
    with open_parquet(path) as file:
        return file.read(None if columns is None else list(columns))


def check(path: str, size: int, sha256: str) -> None:
    """Compares a shard with what its manifest says, before its rows become those of another run.

    Args:
      path: the file.
      size: bytes that it was committed with.
      sha256: hex digits of their SHA-256.

    Raises:
      CorruptError: it is gone or holds something else.
    """
    if what := _difference(path, size, sha256):
        raise _damaged(path, what)


def damage_of(path: str, error: BaseException) -> CorruptError | None:
    """What is wrong with a committed file that could not be read; None where it is as committed.

    Args:
      path: the file.
      error: what reading it raised.
    """
    dataset, _, below = path.rpartition("/runs/")
    run = storage.join(dataset, "runs", below.partition("/")[0])
    try:
        tables = json.loads(storage.read_bytes(storage.join(run, "manifest.json")))["tables"]
    except (OSError, ValueError, LookupError):
        return None  # nobody has committed it
    shards = {shard["path"]: shard for table in tables.values() for shard in table["shards"]}
    shard = shards.get(f"runs/{below}")
    what = shard and _difference(path, shard["bytes"], shard["sha256"])
    if what == _OTHER:
        what += f" ({' '.join(str(error).split())})"
    return _damaged(path, what) if what else None


_OTHER = "other bytes"


def _difference(path: str, size: int, sha256: str) -> str | None:
    """What lies there instead of what was committed; None where it is that."""
    found = storage.size(path)
    if found != size:
        return "no file" if found is None else f"{found:,} of its {size:,} bytes"
    return None if storage.sha256(path) == sha256 else _OTHER


def _damaged(path: str, what: str) -> CorruptError:
    return CorruptError(
        path,
        f"the shard that was committed, found {what}",
        f"Mend it: {program.command('verify --repair', path.rpartition('/runs/')[0])}",
    )
