"""Tables that people have (Parquet, TSV, CSV, JSON lines) as Arrow batches.

Columns are renamed to the names that the jobs use, text stays bytes until a job
checks it, and rows that are no rows come back beside the batches. What a row is, and the
parsing of blocks of text, is in transforms/rows/text_blocks.py and json_blocks.py.
"""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.base.errors import PhraseLensError
from transforms.files.encodings import open_text
from transforms.files.file_heads import Head, open_parquet, read_head, table_kind
from transforms.rows.column_types import (
    field_at,
    is_image,
    is_text,
    readable,
    stored,
    use_of,
    why_not,
)
from transforms.rows.json_blocks import json_rows, object_blocks, value_of
from transforms.rows.text_blocks import (
    BLOCK_BYTES,
    DIALECTS,
    MAX_FIELD_BYTES,
    QUOTED_BLOCK_BYTES,
    Dialect,
    Rows,
    count_lines,
    delimited_rows,
    line_blocks,
)

_PROBE_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True)
class BadRows:
    """Rows that could not be read.

    Their bytes stay behind: the id of a person may stand anywhere in them.

    Attributes:
      reason: of schemas/tables/dead_letters.py; `unreadable_file` stands for the rest of a file.
      path: the file.
      details: for each row its place in the file and what is wrong.
    """

    reason: str
    path: str
    details: list[str]


def read_table(
    path: str, mapping: Mapping[str, str], batch_size: int = 65536
) -> Iterator[pa.Table | BadRows]:
    """Streams a file.

    Args:
      path: the file; its beginning tells its format, encoding and compression.
      mapping: field → column; a column that the file has not is left out.
      batch_size: rows of a batch at most.

    Yields:
      Tables whose columns are the mapped fields that exist. Text columns are binary, so
      that bytes which are no text reach the job's own checks. And `BadRows`; where the
      file cannot be read any further, a last one with the reason `unreadable_file`.
    """
    try:
        head = read_head(path)
    except PhraseLensError as error:
        yield BadRows("unreadable_file", path, [error.expected])
        return
    if head.is_empty:
        return
    kind = table_kind(head) or "csv"
    for batch in read_part(path, kind, mapping, batch_size=batch_size):
        if isinstance(batch, BadRows) or batch.num_rows <= batch_size:
            yield batch
        else:
            for start in range(0, batch.num_rows, batch_size):
                yield batch.slice(start, batch_size)


def read_part(
    path: str,
    format_: str | Dialect,
    mapping: Mapping[str, str],
    start: int = 0,
    stop: int | None = None,
    *,
    batch_size: int = 65536,
) -> Iterator[pa.Table | BadRows]:
    """Streams a part of a file; the rows of parts that join are those of the whole.

    Args:
      path: the file; its beginning tells its encoding and compression.
      format_: as `table_kind` tells, or the dialect of a delimited file.
      mapping: field → column; a column that the file has not is left out.
      start, stop: row groups of Parquet, or bytes of uncompressed text: a line belongs to the
        part that its first byte is in. Quoted text has no parts, as a line end may stand
        inside of a field.
      batch_size: rows of a batch of Parquet, which may hold images; text comes in blocks.

    Yields:
      As `read_table`.
    """
    try:
        if format_ == "parquet":
            yield from _read_parquet(path, mapping, start, stop, batch_size)
        elif format_ == "jsonl":
            yield from _read_jsonl(path, mapping, start, stop)
        elif format_ == "json":
            yield from _read_json_document(path, mapping)
        else:
            dialect = format_ if isinstance(format_, Dialect) else DIALECTS[format_]
            yield from _read_delimited(path, dialect, mapping, start, stop)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
        yield BadRows("unreadable_file", path, [str(error)])


def part_ranges(
    head: Head, format_: str | Dialect | None, size: int, part_bytes: int
) -> list[tuple[int, int | None]]:
    """Where the parts of a file start and stop, for `read_part`; no row is read.

    Args:
      head: the beginning of the file.
      format_: as of `read_part`; None for what has no parts.
      size: bytes of the file.
      part_bytes: of text, or of row groups, in a part; a larger row group is one part.
    """
    if format_ is None or not _is_splittable(head, format_):
        return [(0, None)]
    if format_ == "parquet":
        sizes = [group.total_byte_size for group in row_groups(head.path)]
        return ranges_of_groups(sizes, part_bytes)
    return byte_ranges(size, part_bytes)


def byte_ranges(size: int, part_bytes: int) -> list[tuple[int, int | None]]:
    """Where parts of so many bytes start and stop; the last one goes on to the end."""
    starts = list(range(0, size, part_bytes)) or [0]
    return list(zip(starts, [*starts[1:], None], strict=True))


def ranges_of_groups(weights: Sequence[int], most: int) -> list[tuple[int, int | None]]:
    """As `byte_ranges`, of row groups: so many as weigh no more than `most`, but one at least."""
    starts, held = [0], 0
    for number, weight in enumerate(weights):
        if held and held + weight > most:
            starts.append(number)
            held = 0
        held += weight
    return list(zip(starts, [*starts[1:], None], strict=True))


def row_groups(path: str) -> list[pq.RowGroupMetaData]:
    """What the footer of a Parquet file says of its row groups."""
    with open_parquet(path) as file:
        return [file.metadata.row_group(number) for number in range(file.num_row_groups)]


def _is_splittable(head: Head, format_: str | Dialect) -> bool:
    if format_ == "parquet":
        return True
    if format_ == "json" or not head.is_plain:
        return False
    dialect = DIALECTS.get(format_) if isinstance(format_, str) else format_
    return dialect is None or not dialect.quoted


def _read_parquet(path, mapping, start, stop, batch_size):
    with open_parquet(path) as file:
        schema = file.schema_arrow
        places = {
            field: found[0]
            for field, column in mapping.items()
            if (found := field_at(schema, column) if column else None) is not None
            and why_not(found[1], use_of(field, mapping)) is None
        }
        groups = range(file.num_row_groups)[start:stop]
        columns = list({".".join(names) for names in places.values()})
        for batch in file.iter_batches(batch_size, row_groups=groups, columns=columns):
            table = pa.Table.from_batches([batch])
            yield pa.table(dict(_values(table, places, mapping)))


def _values(
    table: pa.Table, places: Mapping[str, list[str]], mapping: Mapping[str, str]
) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The fields of a batch of Parquet."""
    for field, names in places.items():
        column, use = value_of(table[names[0]], names[1:]), use_of(field, mapping)
        if is_image(column.type):  # of which some have bytes, and some only a path
            if "path" not in places:
                yield "path", readable(pc.struct_field(column, "path"), "text")
            column = pc.struct_field(column, "bytes")
        elif use == "bytes" and is_text(stored(column.type)) and "path" not in places:
            yield "path", readable(column, "text")
            column = pa.chunked_array([pa.nulls(len(column), pa.binary())])
        yield field, readable(column, use)


def read_header(stream: io.BufferedReader, dialect: Dialect) -> tuple[list[str], int, int]:
    """Names of the columns, and the lines and bytes before the first row.

    Raises:
      OSError: no header can be read.
    """
    if dialect.names is not None:
        return list(dialect.names), 0, 0
    csv.field_size_limit(MAX_FIELD_BYTES)
    lines: list[bytes] = []

    def texts() -> Iterator[str]:
        while line := stream.readline(MAX_FIELD_BYTES + 1):
            if len(line) > MAX_FIELD_BYTES:
                raise OSError(f"its first line has more than {MAX_FIELD_BYTES} bytes")
            lines.append(line)
            yield line.decode("utf-8-sig" if len(lines) == 1 else "utf-8", "surrogateescape")

    try:
        rows = (
            csv.reader(texts(), delimiter=dialect.delimiter)
            if dialect.quoted
            else csv.reader(texts(), delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE)
        )
        names = next((row for row in rows if row), [])
        if _is_separator(lines):
            names = next((row for row in rows if row), [])
    except csv.Error as error:
        raise OSError(f"its first line names no columns ({error})") from error
    return [name.strip() for name in names], len(lines), sum(map(len, lines))


def _is_separator(lines: list[bytes]) -> bool:
    """Whether the one line that was read is `sep=;`, by which Excel tells itself what separates."""
    return len(lines) == 1 and lines[0].removeprefix(b"\xef\xbb\xbf")[:4] == b"sep="


def _read_delimited(path, dialect, mapping, start, stop):
    with open_text(path, _is_part(start, stop)) as stream:
        names, lines, offset = read_header(stream, dialect)
        places = {f: names.index(c) for f, c in mapping.items() if c and c in names}
        size = QUOTED_BLOCK_BYTES if dialect.quoted else BLOCK_BYTES
        blocks = _part(stream, size, offset, start, stop)
        rows = delimited_rows(blocks, dialect, len(names), places)
        yield from _with_places(rows, path, lines, start)


def _read_jsonl(path, mapping, start, stop):
    mapping = {field: column for field, column in mapping.items() if column}
    with open_text(path, _is_part(start, stop)) as stream:
        blocks = _part(stream, BLOCK_BYTES, 0, start, stop)
        rows = ((json_rows(block, mapping), count_lines(block)) for block in blocks)
        yield from _with_places(rows, path, 0, start)


def _read_json_document(path, mapping):
    mapping = {field: column for field, column in mapping.items() if column}
    objects = 0
    with open_text(path) as stream:
        for block in object_blocks(stream, BLOCK_BYTES):
            rows = json_rows(block, mapping)
            if rows.table is not None and rows.table.num_rows:
                yield rows.table
            if rows.bad:
                details = [f"object {objects + line}: {what}" for line, what in rows.bad]
                yield BadRows("bad_row", path, details)
            objects += count_lines(block)


def _is_part(start: int, stop: int | None) -> bool:
    """Whether a part is asked for, which only a file that is neither compressed nor encoded has."""
    return start > 0 or stop is not None


def _part(
    stream: io.BufferedReader, size: int, offset: int, start: int, stop: int | None
) -> Iterator[bytes]:
    """Blocks of the lines that begin in bytes start to stop, behind a header of `offset` bytes."""
    if start == 0 and stop is None:
        blocks = line_blocks(stream, size)
    else:
        end = None if stop is None else _line_start(stream, stop)
        begin = max(offset, _line_start(stream, start))
        stream.seek(begin)
        blocks = line_blocks(stream, size, None if end is None else max(0, end - begin))
    for number, block in enumerate(blocks):
        is_first = number == 0 and start == 0 and offset == 0
        yield block.removeprefix(b"\xef\xbb\xbf") if is_first else block


def _line_start(stream: io.BufferedReader, place: int) -> int:
    """The first byte at or behind a place that begins a line."""
    if place == 0:
        return 0
    stream.seek(place - 1)
    while piece := stream.read(_PROBE_BYTES):
        newline = piece.find(b"\n")
        if newline >= 0:
            return stream.tell() - len(piece) + newline + 1
    return stream.tell()


def _with_places(
    parts: Iterator[tuple[Rows, int]], path: str, lines: int, start: int
) -> Iterator[pa.Table | BadRows]:
    """Tables, and bad rows by their place; no part knows how many lines there are before it."""
    behind = f" behind byte {start}" if start else ""
    for rows, count in parts:
        if rows.table is not None and rows.table.num_rows:
            yield rows.table
        if rows.bad:
            details = [f"line {lines + line}{behind}: {what}" for line, what in rows.bad]
            yield BadRows("bad_row", path, details)
        lines += count
