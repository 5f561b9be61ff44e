"""Tables that people have (Parquet, TSV, CSV, JSON lines) as Arrow batches.

Columns are renamed to the names that the jobs use, text stays bytes until a job
checks it, and rows that are no rows come back beside the batches. What a row is, and the
parsing of blocks of text, is in transforms/rows/text_blocks.py and json_blocks.py.
"""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.base.errors import PhraseLensError
from transforms.files.encodings import open_text
from transforms.files.file_heads import (
    Head,
    check_is_table,
    looks_like_a_row,
    named_format,
    open_parquet,
    read_head,
    table_kind,
)
from transforms.rows.column_types import (
    field_at,
    is_image,
    is_text,
    leaves,
    readable,
    stored,
    use_of,
    why_not,
)
from transforms.rows.json_blocks import json_object, json_rows, object_blocks, value_at, value_of
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


def table_format(path: str) -> str | None:
    """The format that a file's name tells, or None when it tells of no table."""
    return named_format(path)


def column_mapping(flag: str, values: tuple[str, ...], fields: tuple[str, ...]) -> dict[str, str]:
    """Parses `query=q,image=img` into field → column; other fields keep their own names.

    `image_id` is another name of the field that names an image: `key`, or `image` in a log. A
    field with nothing behind its equals sign is not read.

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


def columns_of(path: str, head: Head | None = None) -> list[str]:
    """Names of the columns of a table, of the first rows for JSON; values in a struct as `a.b`.

    Args:
      path: the file.
      head: its beginning, where it has been read.

    Raises:
      PhraseLensError: the file is no table or cannot be read.
    """
    return [leaf for column in _columns(head or read_head(path)).values() for leaf in column.leaves]


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of a table.

    Attributes:
      leaves: what can be named in it.
      count: how many columns have its name.
    """

    leaves: list[str]
    count: int = 1


def _columns(head: Head) -> dict[str, _Column]:
    """The columns of a table by their names, in their order."""
    check_is_table(head)
    kind = table_kind(head)
    if head.schema is not None:
        names = head.schema.names
        return {f.name: _Column(leaves(f.type, f.name), names.count(f.name)) for f in head.schema}
    if kind in ("json", "jsonl"):
        found: dict[str, dict[str, None]] = {}
        for row in _first_objects(head, kind):
            for name, value in row.items():
                found.setdefault(name, {}).update(dict.fromkeys(_json_leaves(name, value)))
        return {name: _Column(list(leaves_)) for name, leaves_ in found.items()}
    try:
        with open_text(head.path) as stream:
            names = read_header(stream, DIALECTS[kind or "csv"])[0] if kind != "parquet" else []
    except (OSError, pa.ArrowException) as error:
        raise PhraseLensError(
            head.path, f"a readable table ({error})", "Check the file."
        ) from error
    if kind == "parquet":
        raise PhraseLensError(
            head.path, "a readable Parquet file, found other content", "Check the file."
        )
    return {name: _Column([name], names.count(name)) for name in names}


def _first_objects(head: Head, kind: str) -> list[dict]:
    if kind == "jsonl":
        return [row for line in head.lines if (row := json_object(line)) is not None]
    blocks = object_blocks(io.BufferedReader(io.BytesIO(head.data)), len(head.data) + 1)  # type: ignore[arg-type]
    lines: list[bytes] = []
    try:
        for block in blocks:
            lines += block.splitlines()
    except OSError:
        pass  # the last object of the beginning is cut
    return [row for line in lines if (row := json_object(line)) is not None]


def _json_leaves(name: str, value: Any) -> list[str]:
    if not isinstance(value, dict) or not value:
        return [name]
    return [leaf for key, inner in value.items() for leaf in _json_leaves(f"{name}.{key}", inner)]


def check_columns(
    path: str,
    flag: str,
    mapping: Mapping[str, str],
    required: tuple[str, ...],
    one_of: tuple[str, ...] = (),
    head: Head | None = None,
) -> None:
    """Fails before any work when a file has not the columns that are needed, or of other types.

    Args:
      path: the file.
      flag: the flag that maps columns; "" where they have fixed names.
      mapping: field → column; a column with another name than its field was asked for.
      required: fields that must be there.
      one_of: fields of which one must be there.
      head: the file's beginning, where it has been read.

    Raises:
      PhraseLensError: names the file, the column, its type, and what to do.
    """
    head = head or read_head(path)
    columns = _columns(head)
    names = [leaf for column in columns.values() for leaf in column.leaves]
    for field, column in mapping.items():
        if column:
            _check_type(head, columns, flag, field, column, mapping)
    asked_for = (field for field, column in mapping.items() if column not in (field, ""))
    for field in dict.fromkeys((*required, *asked_for)):
        if not _has(head, columns, mapping[field]):
            raise PhraseLensError(
                f"column {mapping[field]!r} of {path}",
                f"a column for {field!r}, found {', '.join(names) or 'none'}",
                _advice(head, names, flag, [field, *required], mapping),
            )
    if one_of and not any(_has(head, columns, mapping[field]) for field in one_of):
        raise PhraseLensError(
            f"columns {' and '.join(repr(mapping[field]) for field in one_of)} of {path}",
            f"one of them, found {', '.join(names) or 'none'}",
            _advice(head, names, flag, list(one_of[:1]), mapping),
        )
    for field, column in mapping.items():
        if column in columns and columns[column].count > 1:
            raise PhraseLensError(
                f"column {column!r} of {path}",
                f"one column for {field!r}, found {columns[column].count}",
                "Rename all but one.",
            )


def check_tables(
    paths: Sequence[str],
    flag: str,
    mapping: Mapping[str, str],
    required: tuple[str, ...],
    one_of: tuple[str, ...] = (),
) -> None:
    """`check_columns` of the parts of a table; empty ones among them are passed over.

    Raises:
      PhraseLensError: of a part; or all of them are empty.
    """
    heads = [read_head(path) for path in paths]
    for head in [head for head in heads if not head.is_empty] or heads:
        check_columns(head.path, flag, mapping, required, one_of, head)


def _has(head: Head, columns: Mapping[str, _Column], column: str) -> bool:
    if not column:
        return False
    if head.schema is not None:
        return field_at(head.schema, column) is not None
    return column in columns or any(column in found.leaves for found in columns.values())


def _check_type(
    head: Head,
    columns: Mapping[str, _Column],
    flag: str,
    field: str,
    column: str,
    mapping: Mapping[str, str],
) -> None:
    """Fails where a column holds what no field can be read from."""
    if head.schema is not None:
        found = field_at(head.schema, column)
        if found is None:
            return
        type_ = found[1]
        remedy = why_not(type_, use_of(field, mapping))
        if remedy is None:
            return
        what, inner = str(type_), leaves(type_, column)
    else:
        kind = table_kind(head)
        if kind not in ("json", "jsonl"):
            return
        for row in _first_objects(head, kind):
            value = value_at(row, column)
            if value is not None and isinstance(value[1], dict | list):
                break
        else:
            return
        is_list = isinstance(value[1], list)
        what = "a list" if is_list else "an object"
        remedy = "Write one value a row" if is_list else "Name one value in it"
        inner = [column] if is_list else _json_leaves(column, value[1])
    if head.schema is not None and is_image(type_) and flag:
        remedy = f"Name the column of the key with --{flag} image_id=COLUMN"
    elif flag and inner != [column]:
        remedy += f": --{flag} {field}={inner[0]}"
    elif flag:
        remedy += f", or name another column with --{flag} {field}=COLUMN"
    if flag and field not in ("query", "image", "key"):
        remedy += f"; to do without it, --{flag} {field}="
    raise PhraseLensError(
        f"column {column!r} of {head.path}",
        f"{_USES[use_of(field, mapping)]} for {field!r}, found {what}",
        remedy + ".",
    )


_USES = {
    "text": "one text a row",
    "id": "one id a row",
    "number": "one number a row",
    "time": "one time a row",
    "bytes": "the bytes of an image",
}


def _advice(
    head: Head, names: Sequence[str], flag: str, fields: Sequence[str], mapping: Mapping[str, str]
) -> str:
    """What to do about a file that has not a column."""
    if head.is_empty:
        return "The file is empty: leave it out."
    fields = [field for field in dict.fromkeys(fields) if mapping[field] not in names]
    alike = {name.strip().lower().replace(" ", "_"): name for name in names}
    if flag and all(field.lower() in alike for field in fields):
        pairs = ",".join(f"{field}={alike[field.lower()]}" for field in fields)
        return f"Name it with --{flag} '{pairs}'."
    kind = table_kind(head)
    if kind in DIALECTS and looks_like_a_row(list(names)):
        return (
            "Its first line looks like a row: write the names of the columns above it, such as "
            + DIALECTS[kind].delimiter.join(mapping)
            + "."
        )
    if kind == "jsonl" and not names:
        return "None of its first lines is a JSON object."
    if kind in ("json", "jsonl") and len(names) <= _FEW_NAMES:
        for row in _first_objects(head, kind)[:1]:
            for name, value in row.items():
                if isinstance(value, list) and value and isinstance(value[0], dict):
                    return f"The rows are within {name!r}: write each of them as a line of its own."
    if kind in (*DIALECTS, None) and len(names) == 1:
        return "Only one column was found: separate them by tabs, commas, semicolons or bars."
    return f"Name it with --{flag} {fields[0]}=COLUMN." if flag else "Name its columns so."


_FEW_NAMES = 10


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


def is_splittable(head: Head, format_: str | Dialect) -> bool:
    """Whether `read_part` can read a part of a file."""
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
