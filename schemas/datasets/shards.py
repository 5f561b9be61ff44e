"""Files of tables, written and described for the manifest."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import fingerprint, storage
from schemas.datasets.manifest import Shard


def write_parquet(dataset: str, path: str, index: int, table: pa.Table, group: str = "") -> Shard:
    """Writes one Parquet shard and describes it.

    Args:
      dataset: the dataset's folder.
      path: the shard's path relative to it.
      index: the shard's index.
      table: its rows, already sorted.
      group: see `Shard`.
    """
    buffer = pa.BufferOutputStream()
    columns = _parquet_columns(table.schema)
    pq.write_table(
        table,
        buffer,
        row_group_size=1024,
        # JPEG and PNG are compressed already.
        write_page_checksum=True,  # so that whoever reads a page knows that it is what was written
        compression={name: "none" if name == "image" else "zstd" for name, _ in columns},
        # Numbers of vectors hardly repeat, nor do images: a dictionary is larger and slower.
        use_dictionary=[
            name
            for name, kind in columns
            if name != "image" and not (".list." in name and kind in ("FLOAT", "DOUBLE"))
        ],
    )
    return write_shard(dataset, path, index, table.num_rows, buffer.getvalue(), group=group)


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
