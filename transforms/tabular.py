"""Tables that people have (Parquet, TSV, CSV, JSON lines) as Arrow batches.

Columns are renamed to the names that the jobs use, text stays bytes until a job
checks it, and rows that are no rows come back beside the batches.
"""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import PhraseLensError

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
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BLOCK_BYTES = 8 << 20
_MAX_FIELD_CHARS = 4 << 20  # so that an open quotation mark does not swallow a whole file
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


def _split_name(path: str) -> tuple[str, str | None]:
    for suffix, compression in _COMPRESSIONS.items():
        if path.endswith(suffix):
            return path.removesuffix(suffix), compression
    return path, None


def table_format(path: str) -> str | None:
    """The format that a file's name tells, or None when it tells of no table."""
    name, _ = _split_name(path.lower())
    return next((f for suffix, f in _SUFFIXES.items() if name.endswith(suffix)), None)


def column_mapping(flag: str, values: tuple[str, ...], fields: tuple[str, ...]) -> dict[str, str]:
    """Parses `query=q,image=img` into field → column; other fields keep their own names.

    Raises:
      PhraseLensError: a part is no `field=column`, or names a field that is none.
    """
    mapping = {field: field for field in fields}
    for value in values:
        field, equals, column = value.partition("=")
        if not equals or field not in fields:
            raise PhraseLensError(
                f"--{flag} {value}",
                f"field=column with a field of {', '.join(fields)}",
                "Write the column of your file behind the equals sign.",
            )
        mapping[field] = column
    return mapping


def columns_of(path: str) -> list[str]:
    """Names of the columns that hold one value a row; those of the first rows for JSON lines.

    Raises:
      PhraseLensError: the file is no table, is empty or cannot be read.
    """
    format_ = table_format(path)
    try:
        if format_ is None:
            raise ValueError("its name ends in none of " + ", ".join(_SUFFIXES))
        if format_ == "parquet":
            with pq.ParquetFile(storage.open_input(path)) as file:
                return _flat_names(file.schema_arrow)
        with open_stream(path) as stream:
            if format_ == "jsonl":
                rows = [_json_object(line) or {} for line in itertools.islice(stream, 100)]
                return list(dict.fromkeys(name for row in rows for name in row))
            return next(_csv_rows(stream, format_), (1, []))[1]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise PhraseLensError(
            path, "a readable " + "/".join(FORMATS) + f" file ({error})", "Check the path."
        ) from error


def _flat_names(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if not pa.types.is_nested(field.type)]


def check_columns(
    path: str,
    flag: str,
    mapping: Mapping[str, str],
    required: tuple[str, ...],
    one_of: tuple[str, ...] = (),
) -> None:
    """Fails before any work when a file has not the columns that are needed.

    Args:
      path: the file.
      flag: the flag that maps columns.
      mapping: field → column; a column with another name than its field was asked for.
      required: fields that must be there.
      one_of: fields of which one must be there.

    Raises:
      PhraseLensError: names the file, the column and the flag.
    """
    columns = columns_of(path)
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


def open_stream(path: str) -> io.BufferedReader:
    """A reader of a file's bytes, decompressed where its name says that they are compressed."""
    _, compression = _split_name(path.lower())
    raw = storage.open_input(path)
    stream = pa.CompressedInputStream(raw, compression) if compression else raw
    return io.BufferedReader(stream, _BLOCK_BYTES)  # Arrow's streams have no readline


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
    try:
        format_ = table_format(path)
        if format_ == "parquet":
            yield from _read_parquet(path, mapping, batch_size)
        elif format_ == "jsonl":
            yield from _read_jsonl(path, mapping, batch_size)
        else:
            yield from _read_csv(path, mapping, format_ or "csv", batch_size)
    except (OSError, pa.ArrowException) as error:
        yield BadRows("unreadable_file", path, [str(error)])


def _present(mapping: Mapping[str, str], columns: list[str]) -> dict[str, str]:
    return {field: column for field, column in mapping.items() if column in columns}


def _read_parquet(path, mapping, batch_size):
    with pq.ParquetFile(storage.open_input(path)) as file:
        present = _present(mapping, _flat_names(file.schema_arrow))
        for batch in file.iter_batches(batch_size, columns=list(set(present.values()))):
            table = pa.table({field: batch.column(column) for field, column in present.items()})
            yield _text_to_binary(table)


def _text_to_binary(table: pa.Table) -> pa.Table:
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.type in _TEXT_TYPES:
            column = column.cast(pa.binary())
        columns[name] = column
    return pa.table(columns)


def _csv_rows(stream: io.BufferedReader, format_: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every row but the blank ones; [] for what is no row."""
    csv.field_size_limit(_MAX_FIELD_CHARS)
    # Bytes that are no UTF-8 pass as surrogates and come out as they were.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="\n")
    # Exports of logs as TSV do not quote: a quotation mark is part of the query.
    rows = (
        csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if format_ == "tsv"
        else csv.reader(text)
    )
    while True:
        try:
            if row := next(rows):
                yield rows.line_num, row
        except StopIteration:
            return
        except csv.Error:
            yield rows.line_num, []


def _read_csv(path, mapping, format_, batch_size):
    with open_stream(path) as stream:
        lines = _csv_rows(stream, format_)
        _, names = next(lines, (1, []))
        places = {f: names.index(c) for f, c in mapping.items() if c in names}
        rows: list[list[str]] = []
        bad: list[str] = []
        for number, row in lines:
            if len(row) != len(names):
                bad.append(f"line {number}: {len(row)} columns, not {len(names)}")
            else:
                rows.append(row)
            if len(rows) >= batch_size:
                yield _csv_table(rows, places)
                rows = []
            if len(bad) >= batch_size:
                yield BadRows("bad_row", path, bad)
                bad = []
    if rows:
        yield _csv_table(rows, places)
    if bad:
        yield BadRows("bad_row", path, bad)


def _csv_table(rows: list[list[str]], places: Mapping[str, int]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {field: _binary(columns[place], "surrogateescape") for field, place in places.items()}
    )


def _binary(values: Sequence[str | None], errors: str) -> pa.Array:
    """Text as UTF-8; surrogates become bytes that are none, which the job's own check finds."""
    try:
        return pa.array(values, pa.string()).cast(pa.binary())
    except UnicodeEncodeError:
        encoded = [value if value is None else value.encode("utf-8", errors) for value in values]
        return pa.array(encoded, pa.binary())


def _json_object(line: bytes) -> dict | None:
    try:
        value = json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_jsonl(path, mapping, batch_size):
    rows: list[dict] = []
    bad: list[str] = []
    with open_stream(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            row = _json_object(line)
            if row is None:
                bad.append(f"line {number}: no JSON object")
            else:
                rows.append(row)
            if len(rows) >= batch_size:
                yield _jsonl_table(rows, mapping)
                rows = []
            if len(bad) >= batch_size:
                yield BadRows("bad_row", path, bad)
                bad = []
    if rows:
        yield _jsonl_table(rows, mapping)
    if bad:
        yield BadRows("bad_row", path, bad)


def _jsonl_table(rows: list[dict], mapping: Mapping[str, str]) -> pa.Table:
    def texts(column: str) -> list[str | None]:
        values = (row.get(column) for row in rows)
        return [value if value is None else str(value) for value in values]

    return pa.table(
        {field: _binary(texts(column), "surrogatepass") for field, column in mapping.items()}
    )
