"""Tables that people have (Parquet, TSV, CSV, JSON lines) as Arrow batches.

Columns are renamed to the names that the jobs use, text stays bytes until a job
checks it, and rows that are no rows come back beside the batches. What a row is, and the
parsing of blocks of text, is in transforms/text_blocks.py and json_blocks.py.
"""

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import PhraseLensError
from transforms.compression import open_stream, split_name
from transforms.json_blocks import json_object, json_rows
from transforms.text_blocks import (
    BLOCK_BYTES,
    CSV,
    MAX_FIELD_BYTES,
    MAX_LINE_BYTES,
    QUOTED_BLOCK_BYTES,
    TSV,
    Dialect,
    Rows,
    count_lines,
    delimited_rows,
    line_blocks,
)

FORMATS = ("parquet", "tsv", "csv", "jsonl")
_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
DIALECTS = {"tsv": TSV, "csv": CSV}
_PROBE_BYTES = 64 << 10
_TEXT_TYPES = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.large_binary(),
    pa.binary_view(),
)


@dataclasses.dataclass(frozen=True)
class BadRows:
    """Rows that could not be read.

    Their bytes stay behind: the id of a person may stand anywhere in them.

    Attributes:
      reason: of schemas/dead_letter.py; `unreadable_file` stands for the rest of a file.
      path: the file.
      details: for each row its place in the file and what is wrong.
    """

    reason: str
    path: str
    details: list[str]


def table_format(path: str) -> str | None:
    """The format that a file's name tells, or None when it tells of no table."""
    name, _ = split_name(path)
    return next((f for suffix, f in _SUFFIXES.items() if name.endswith(suffix)), None)


def column_mapping(flag: str, values: tuple[str, ...], fields: tuple[str, ...]) -> dict[str, str]:
    """Parses `query=q,image=img` into field → column; other fields keep their own names.

    `image_id` is another name of the field that names an image: `key`, or `image` in a log.

    Raises:
      PhraseLensError: a part is no `field=column`, or names a field that is none.
    """
    mapping = {field: field for field in fields}
    for value in values:
        field, equals, column = value.partition("=")
        if field == "image_id" and field not in fields:
            field = "key" if "key" in fields else "image"
        if not equals or field not in fields:
            raise PhraseLensError(
                f"--{flag} {value}",
                f"field=column with a field of {', '.join(fields)}",
                "Write the column of your file behind the equals sign.",
            )
        mapping[field] = column
    return mapping


def columns_of(path: str, format_: str | None = None) -> list[str]:
    """Names of the columns that hold one value a row; those of the first rows for JSON lines.

    Args:
      path: the file.
      format_: of FORMATS, where the file's name does not tell.

    Raises:
      PhraseLensError: the file is no table, is empty or cannot be read.
    """
    format_ = format_ or table_format(path)
    try:
        if format_ is None:
            raise ValueError("its name ends in none of " + ", ".join(_SUFFIXES))
        if format_ == "parquet":
            with pq.ParquetFile(storage.open_input(path)) as file:
                return _flat_names(file.schema_arrow)
        with open_stream(path) as stream:
            if format_ == "jsonl":
                lines = iter(lambda: stream.readline(MAX_LINE_BYTES), b"")
                rows = [json_object(line) or {} for line in itertools.islice(lines, 100)]
                return list(dict.fromkeys(name for row in rows for name in row))
            return read_header(stream, DIALECTS[format_])[0]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise PhraseLensError(
            path, "a readable " + "/".join(FORMATS) + f" file ({error})", "Check the path."
        ) from error


def _flat_names(schema: pa.Schema) -> list[str]:
    return [f.name for f in schema if not pa.types.is_nested(f.type) or _is_image(f.type)]


def _is_image(type_: pa.DataType) -> bool:
    """Whether a column holds images as the datasets library stores them: bytes and path."""
    return pa.types.is_struct(type_) and {field.name for field in type_} == {"bytes", "path"}


def check_columns(
    path: str,
    flag: str,
    mapping: Mapping[str, str],
    required: tuple[str, ...],
    one_of: tuple[str, ...] = (),
    format_: str | None = None,
) -> None:
    """Fails before any work when a file has not the columns that are needed.

    Args:
      path: the file.
      flag: the flag that maps columns.
      mapping: field → column; a column with another name than its field was asked for.
      required: fields that must be there.
      one_of: fields of which one must be there.
      format_: of FORMATS, where the file's name does not tell.

    Raises:
      PhraseLensError: names the file, the column and the flag.
    """
    columns = columns_of(path, format_)
    found = ", ".join(columns) or "none"
    asked_for = (field for field, column in mapping.items() if column != field)
    for field in dict.fromkeys((*required, *asked_for)):
        if mapping[field] not in columns:
            raise PhraseLensError(
                f"column {mapping[field]!r} of {path}",
                f"a column for {field!r}, found {found}",
                f"Name it with --{flag} {field}=COLUMN.",
            )
    if one_of and not any(mapping[field] in columns for field in one_of):
        raise PhraseLensError(
            f"columns {' and '.join(repr(mapping[field]) for field in one_of)} of {path}",
            f"one of them, found {found}",
            f"Name it with --{flag} {one_of[0]}=COLUMN.",
        )
    for field, column in mapping.items():
        if columns.count(column) > 1:
            raise PhraseLensError(
                f"column {column!r} of {path}",
                f"one column for {field!r}, found {columns.count(column)}",
                "Rename all but one.",
            )


def read_table(
    path: str, mapping: Mapping[str, str], batch_size: int = 65536
) -> Iterator[pa.Table | BadRows]:
    """Streams a file.

    Args:
      path: the file; its name tells its format and compression.
      mapping: field → column; a column that the file has not is left out.
      batch_size: rows of a batch at most.

    Yields:
      Tables whose columns are the mapped fields that exist. Text columns are binary, so
      that bytes which are no text reach the job's own checks. And `BadRows`; where the
      file cannot be read any further, a last one with the reason `unreadable_file`.
    """
    format_ = table_format(path) or "csv"
    for batch in read_part(path, format_, mapping, batch_size=batch_size):
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
    batch_size: int = 65536,
) -> Iterator[pa.Table | BadRows]:
    """Streams a part of a file; the rows of parts that join are those of the whole.

    Args:
      path: the file; its name tells its compression.
      format_: of FORMATS, or the dialect of a delimited file.
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
        else:
            dialect = format_ if isinstance(format_, Dialect) else DIALECTS[format_]
            yield from _read_delimited(path, dialect, mapping, start, stop)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
        yield BadRows("unreadable_file", path, [str(error)])


def is_splittable(path: str, format_: str | Dialect) -> bool:
    """Whether `read_part` can read a part of a file."""
    if format_ == "parquet":
        return True
    dialect = DIALECTS.get(format_) if isinstance(format_, str) else format_
    return split_name(path)[1] is None and not (dialect is not None and dialect.quoted)


def _present(mapping: Mapping[str, str], columns: list[str]) -> dict[str, str]:
    return {field: column for field, column in mapping.items() if column in columns}


def _read_parquet(path, mapping, start, stop, batch_size):
    with pq.ParquetFile(storage.open_input(path)) as file:
        present = _present(mapping, _flat_names(file.schema_arrow))
        groups = range(file.num_row_groups)[start:stop]
        columns = list(set(present.values()))
        for batch in file.iter_batches(batch_size, row_groups=groups, columns=columns):
            found = {field: batch.column(column) for field, column in present.items()}
            for column in list(found.values()):
                if _is_image(column.type):  # of which some have bytes, and some only a path
                    found.setdefault("path", pc.struct_field(column, "path"))
            yield _text_to_binary(pa.table(found))


def _text_to_binary(table: pa.Table) -> pa.Table:
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.type in _TEXT_TYPES:
            column = column.cast(pa.binary())
        columns[name] = column
    return pa.table(columns)


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
    except csv.Error as error:
        raise OSError(f"its first line names no columns ({error})") from error
    return names, len(lines), sum(map(len, lines))


def _read_delimited(path, dialect, mapping, start, stop):
    with open_stream(path) as stream:
        names, lines, offset = read_header(stream, dialect)
        places = {f: names.index(c) for f, c in mapping.items() if c in names}
        size = QUOTED_BLOCK_BYTES if dialect.quoted else BLOCK_BYTES
        blocks = _part(stream, size, offset, start, stop)
        rows = delimited_rows(blocks, dialect, len(names), places)
        yield from _with_places(rows, path, lines, start)


def _read_jsonl(path, mapping, start, stop):
    with open_stream(path) as stream:
        blocks = _part(stream, BLOCK_BYTES, 0, start, stop)
        rows = ((json_rows(block, mapping), count_lines(block)) for block in blocks)
        yield from _with_places(rows, path, 0, start)


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
