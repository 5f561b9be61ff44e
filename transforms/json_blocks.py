"""Blocks of JSON lines → Arrow tables of bytes and numbers, and the lines that are no object.

Arrow parses what it reads as Python's json does, which defines what a row is; the lines
around one that it does not (a lone surrogate, a number among texts) go through Python.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from transforms.text_blocks import Rows, encoded

# What a job reads as a number may come as one; in all else 7 and 7.0 are two texts.
NUMBER_FIELDS = ("clicks", "impressions", "position", "timestamp")
_PYTHON_BYTES = 64 << 10
_SAMPLE_LINES = 100
_NEWLINE, _RETURN = 10, 13


def json_object(line: bytes) -> dict | None:
    """The object of a line of JSON, or None where it is none."""
    try:
        value = json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_rows(data: bytes, mapping: Mapping[str, str]) -> Rows:
    """Parses a block of JSON lines.

    Args:
      data: whole lines.
      mapping: field → name of its value.

    Returns:
      Columns of all fields, null where a row has no such value. Text is binary; values of
      NUMBER_FIELDS may be int64 or float64. Other values are text as JSON writes them.
    """
    table = _arrow_json(data, mapping)
    if table is not None:
        return Rows(table, [])
    middle = data.rfind(b"\n", 0, len(data) // 2) + 1
    if len(data) <= _PYTHON_BYTES or not middle:
        return _python_json(data, mapping)
    # One bad line must not make Python parse them all.
    first, second = json_rows(data[:middle], mapping), json_rows(data[middle:], mapping)
    lines = data.count(b"\n", 0, middle)
    tables = [rows.table for rows in (first, second) if rows.table is not None]
    if len(tables) == 2 and tables[0].schema != tables[1].schema:
        tables = [pa.table({c: as_text(table[c]) for c in mapping}) for table in tables]
    bad = [*first.bad, *((lines + line, what) for line, what in second.bad)]
    return Rows(pa.concat_tables(tables) if tables else None, bad)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text and numbers as binary."""
    return column if pa.types.is_binary(column.type) else column.cast(pa.string()).cast(pa.binary())


def _arrow_json(data: bytes, mapping: Mapping[str, str]) -> pa.Table | None:
    """The block as Arrow reads it, or None where Arrow and Python might differ."""
    schema = _json_schema(data, mapping)
    if schema is None:
        return None
    # Arrow would take two objects in a line, and one in two lines.
    text = np.frombuffer(data, np.uint8)
    stops = np.flatnonzero(text == _NEWLINE)
    if not data.endswith(b"\n"):
        stops = np.append(stops, len(data))
    starts = np.concatenate([[0], stops[:-1] + 1])
    starts, stops = starts[starts < stops], stops[starts < stops]
    last = stops - 1
    last = last - (text[last] == _RETURN)
    if not len(starts) or (text[starts] != ord("{")).any() or (text[last] != ord("}")).any():
        return None
    try:
        table = pajson.read_json(
            pa.BufferReader(data),
            pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    if table.num_rows != len(starts):
        return None
    columns = {field: table[column] for field, column in mapping.items()}
    return pa.table({f: c if f in NUMBER_FIELDS else as_text(c) for f, c in columns.items()})


def _json_schema(data: bytes, mapping: Mapping[str, str]) -> pa.Schema | None:
    """Types of the columns as the first lines show them; None where only Python can tell."""
    types: dict[str, set[type]] = {column: set() for column in mapping.values()}
    place = 0
    for _ in range(_SAMPLE_LINES):
        stop = data.find(b"\n", place) + 1 or len(data)
        for column, value in (json_object(data[place:stop]) or {}).items():
            if column in types and value is not None:
                types[column].add(type(value))
        place = stop
    fields = {}
    for field, column in mapping.items():
        found = types[column]
        if found <= {str}:
            fields[column] = pa.binary()
        elif found == {int}:
            fields[column] = pa.int64()
        elif field in NUMBER_FIELDS and found <= {int, float}:
            fields[column] = pa.float64()
        else:
            return None
    return pa.schema(list(fields.items()))


def _python_json(data: bytes, mapping: Mapping[str, str]) -> Rows:
    rows: list[dict] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        row = json_object(line)
        if row is None:
            bad.append((number, "no JSON object"))
        else:
            rows.append(row)

    def texts(column: str) -> list[str | None]:
        values = (row.get(column) for row in rows)
        return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]

    columns = {field: encoded(texts(column)) for field, column in mapping.items()}
    return Rows(pa.table(columns) if rows else None, bad)
