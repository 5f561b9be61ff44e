"""TFRecord shards."""

import contextlib
import hashlib
from typing import Any

from apache_beam.io.tfrecordio import _TFRecordUtil

from schemas.base import storage
from schemas.datasets import manifest
from schemas.runs.run import Run


class RecordWriter:
    """Writes one TFRecord shard as its records come, so that memory is that of one record.

    A context manager. Without a record there is no file.

    Args:
      run: the run.
      path: the shard's path relative to the dataset.
      index: the shard's index.
      group: see `manifest.Shard`.
    """

    def __init__(self, run: Run, path: str, index: int, group: str = ""):
        self._run, self._path, self._index, self._group = run, path, index, group
        self._stack = contextlib.ExitStack()
        self._file: Any = None
        self._rows = self._bytes = 0
        self._digest = hashlib.sha256()

    def add(self, record: bytes) -> None:
        if self._file is None:
            path = self._run.absolute(self._path)
            self._file = self._stack.enter_context(storage.open_output(path))
        _TFRecordUtil.write_record(self, record)
        self._rows += 1

    def write(self, data: bytes) -> None:
        """Takes the framed bytes of a record from Beam."""
        self._digest.update(data)
        self._bytes += len(data)
        self._file.write(data)

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    @property
    def shards(self) -> list[manifest.Shard]:
        """What was written, after the last record: one shard, or none."""
        if not self._rows:
            return []
        digest = self._digest.hexdigest()
        return [
            manifest.Shard(self._path, self._index, self._rows, self._bytes, digest, self._group)
        ]
