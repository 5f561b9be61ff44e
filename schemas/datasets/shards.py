"""Files of tables, written and described for the manifest."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import fingerprint, storage
from schemas.datasets.manifest import Shard

GROUP_ROWS = 1024
GROUP_BYTES = 128 << 20


def write_parquet(dataset: str, path: str, index: int, table: pa.Table, group: str = "") -> Shard:
    """Writes one Parquet shard and describes it.

    Args:
      dataset: the dataset's folder.
      path: the shard's path relative to it.
      index: the shard's index.
      table: its rows, already sorted.
      group: see `Shard`.
    """
    return write_parts(dataset, path, index, table.schema, [table], group=group)


def write_parts(
    dataset: str,
    path: str,
    index: int,
    schema: pa.Schema,
    parts: Iterable[pa.Table],
    *,
    group: str = "",
) -> Shard:
    """As `write_parquet`, of a table that comes in parts and is never whole in memory.

    Row groups have at most GROUP_ROWS rows and, but for a single row, GROUP_BYTES bytes, so that a
    shard of any size can be written and read.
    """
    columns = _parquet_columns(schema)
    rows = 0
    with storage.open_output(storage.join(dataset, path)) as file:
        hashed = _Hashed(file)
        with pq.ParquetWriter(
            pa.PythonFile(hashed, "w"),
            schema,
            # JPEG and PNG are compressed already.
            write_page_checksum=True,  # so that whoever reads a page knows it is what was written
            compression={name: "none" if name == "image" else "zstd" for name, _ in columns},
            # Numbers of vectors hardly repeat, nor do images: a dictionary is larger and slower.
            use_dictionary=[
                name
                for name, kind in columns
                if name != "image" and not (".list." in name and kind in ("FLOAT", "DOUBLE"))
            ],
        ) as writer:
            for part in parts:
                for start, stop in row_groups(part):
                    writer.write_table(part.slice(start, stop - start))
                rows += part.num_rows
            if not rows:
                writer.write_table(schema.empty_table())
    return Shard(path, index, rows, hashed.bytes, hashed.digest.hexdigest(), group)


def row_groups(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Where the row groups of a table begin and end: see `write_parts`."""
    start = 0
    while start < table.num_rows:
        rows = min(GROUP_ROWS, table.num_rows - start)
        while rows > 1 and table.slice(start, rows).nbytes > GROUP_BYTES:
            rows //= 2
        yield start, start + rows
        start += rows


class _Hashed(io.RawIOBase):
    """Hashes and counts what goes into a file."""

    def __init__(self, file: pa.NativeFile):
        self._file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._file.write(data)
        self.bytes += len(data)
        return len(data)


def _parquet_columns(schema: pa.Schema) -> list[tuple[str, str]]:
    """Name ("a.list.element" within a list) and physical type of the columns that Parquet has."""
    buffer = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), buffer)
    found = pq.ParquetFile(pa.BufferReader(buffer.getvalue())).schema
    return [(found.column(i).path, found.column(i).physical_type) for i in range(len(found))]


def write_shard(
    dataset: str, path: str, index: int, rows: int, data: bytes | pa.Buffer, *, group: str = ""
) -> Shard:
    """Writes the bytes of one shard and describes it."""
    storage.write_bytes(storage.join(dataset, path), data)
    return Shard(path, index, rows, len(data), hashlib.sha256(data).hexdigest(), group)


def describe_files(dataset: str, folder: str, names: Sequence[str], group: str = "") -> list[Shard]:
    """Describes files already written below `folder` (relative to the dataset)."""
    paths = [f"{folder}/{name}" for name in names]
    return [
        Shard(
            path,
            index,
            0,
            storage.size(storage.join(dataset, path)) or 0,
            storage.sha256(storage.join(dataset, path)),
            group,
        )
        for index, path in enumerate(paths)
    ]


def count_tfrecords(path: str) -> int:
    """Records of a TFRecord file, whose CRCs of lengths and data must hold.

    Raises:
      ValueError: a record is cut or its checksum is wrong.
    """
    import google_crc32c

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    records = 0
    with storage.open_input(path) as f:
        while header := f.read(12):
            length = int.from_bytes(header[:8], "little")
            if len(header) < 12 or masked(header[:8]) != header[8:]:
                raise ValueError(f"record {records}: bad length")
            data, footer = f.read(length), f.read(4)
            if len(data) < length or masked(data) != footer:
                raise ValueError(f"record {records}: cut or corrupt")
            records += 1
    return records


def schema_fingerprint(schema: pa.Schema) -> str:
    """Hex SHA-256 of the names and types of a schema's columns."""
    # Parquet calls the items of a list "element", Arrow "item".
    columns = [[f.name, str(f.type).replace("<element: ", "<item: ")] for f in schema]
    return fingerprint.of_json(columns)
