"""Tables that people have (Parquet, TSV, CSV, JSON lines) as Arrow batches.

Columns are renamed to the names that the jobs use, text stays bytes until a job
checks it, and rows that are no rows come back beside the batches.
"""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.csv as pacsv
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


@dataclasses.dataclass(frozen=True)
class BadRows:
    """Rows that could not be read: why, and their bytes."""

    reason: str
    detail: str
    payloads: list[bytes]


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
    """Names of a file's columns; of its first line for JSON lines.

    Raises:
      PhraseLensError: the file is no table, is empty or cannot be read.
    """
    format_ = table_format(path)
    try:
        if format_ == "parquet":
            with pq.ParquetFile(storage.open_input(path)) as file:
                return file.schema_arrow.names
        with _open_stream(path) as stream:
            line = stream.readline().rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf")
        if format_ == "jsonl":
            return list(json.loads(line or b"{}"))
        if format_ is None:
            raise ValueError("its name ends in none of " + ", ".join(_SUFFIXES))
        return _csv_header(line, format_)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise PhraseLensError(
            path, "a readable " + "/".join(FORMATS) + f" file ({error})", "Check the path."
        ) from error


def _csv_header(line: bytes, format_: str) -> list[str]:
    if not line:
        return []
    options = _parse_options(format_)
    return pacsv.read_csv(pa.BufferReader(line + b"\n"), parse_options=options).column_names


def check_columns(path: str, flag: str, mapping: Mapping[str, str], required: tuple[str, ...]):
    """Fails before any work when a file has not the columns that are needed.

    Raises:
      PhraseLensError: names the file, the column and the flag that maps it.
    """
    columns = columns_of(path)
    for field in required:
        if mapping[field] not in columns:
            raise PhraseLensError(
                f"column {mapping[field]!r} of {path}",
                f"a column for {field!r}, found {', '.join(columns) or 'none'}",
                f"Name it with --{flag} {field}=COLUMN.",
            )


def _open_stream(path: str):
    _, compression = _split_name(path)
    raw = storage.open_input(path)
    stream = pa.CompressedInputStream(raw, compression) if compression else raw
    return io.BufferedReader(stream, _BLOCK_BYTES)  # Arrow's streams have no readline


def _parse_options(format_: str, bad: list[bytes] | None = None) -> pacsv.ParseOptions:
    def skip(row: pacsv.InvalidRow) -> str:
        if bad is not None:
            bad.append((row.text or "").encode("utf-8", "replace"))
        return "skip"

    if format_ == "csv":
        return pacsv.ParseOptions(delimiter=",", newlines_in_values=True, invalid_row_handler=skip)
    # Exports of logs as TSV do not quote: a quotation mark is part of the query.
    return pacsv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip)


def read_table(
    path: str, mapping: Mapping[str, str], batch_size: int = 65536
) -> Iterator[pa.Table | BadRows]:
    """Streams a file.

    Args:
      path: the file; its name tells its format and compression.
      mapping: field → column; a column that the file has not is left out.
      batch_size: rows of a batch at most (Parquet, JSON lines).

    Yields:
      Tables whose columns are the mapped fields that exist. Text columns are binary, so
      that bytes which are no text reach the job's own checks. And `BadRows`.
    """
    try:
        format_ = table_format(path)
        if format_ == "parquet":
            yield from _read_parquet(path, mapping, batch_size)
        elif format_ == "jsonl":
            yield from _read_jsonl(path, mapping, batch_size)
        else:
            yield from _read_csv(path, mapping, format_ or "csv")
    except (OSError, pa.ArrowException) as error:
        yield BadRows("unreadable_file", str(error), [path.encode()])


def _present(mapping: Mapping[str, str], columns: list[str]) -> dict[str, str]:
    return {field: column for field, column in mapping.items() if column in columns}


def _read_parquet(path, mapping, batch_size):
    with pq.ParquetFile(storage.open_input(path)) as file:
        present = _present(mapping, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size, columns=list(set(present.values()))):
            table = pa.table({field: batch.column(column) for field, column in present.items()})
            yield _text_to_binary(table)


def _text_to_binary(table: pa.Table) -> pa.Table:
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.type in (pa.string(), pa.large_string(), pa.large_binary()):
            column = column.cast(pa.binary())
        columns[name] = column
    return pa.table(columns)


def _read_csv(path, mapping, format_):
    with _open_stream(path) as stream:
        header = stream.readline().rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf")
    names = _csv_header(header, format_)
    if not names:
        return
    present = _present(mapping, names)
    bad: list[bytes] = []
    with _open_stream(path) as stream:
        reader = pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=_parse_options(format_, bad),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(dict.fromkeys(present.values())),
                column_types={name: pa.binary() for name in names},
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            yield pa.table({field: batch.column(column) for field, column in present.items()})
            if bad:
                yield BadRows("bad_row", f"not {len(names)} columns", bad[:])
                bad.clear()
    if bad:
        yield BadRows("bad_row", f"not {len(names)} columns", bad)


def _read_jsonl(path, mapping, batch_size):
    rows: dict[str, list[bytes | None]] = {field: [] for field in mapping}
    bad: list[bytes] = []
    with _open_stream(path) as stream:
        for line in stream:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError):
                bad.append(line)
                continue
            for field, column in mapping.items():
                rows[field].append(_json_bytes(row.get(column)))
            if len(next(iter(rows.values()))) >= batch_size:
                yield _jsonl_table(rows)
                rows = {field: [] for field in mapping}
            if len(bad) >= batch_size:
                yield BadRows("bad_row", "no JSON object", bad)
                bad = []
    if next(iter(rows.values()), None):
        yield _jsonl_table(rows)
    if bad:
        yield BadRows("bad_row", "no JSON object", bad)


def _json_bytes(value: object) -> bytes | None:
    if value is None:
        return None
    # A lone surrogate passes here and dies in the job's check of the text.
    return str(value).encode("utf-8", "surrogatepass")


def _jsonl_table(rows: Mapping[str, list[bytes | None]]) -> pa.Table:
    columns = {field: pa.array(values, pa.binary()) for field, values in rows.items()}
    return pa.table({f: column for f, column in columns.items() if column.null_count < len(column)})
