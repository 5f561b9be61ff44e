"""Blocks of JSON lines → Arrow tables of bytes and numbers, and the lines that are no object.

Arrow parses what it reads as Python's json does, which defines what a row is; the lines
around one that it does not (a lone surrogate, a number among texts) go through Python.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from transforms.rows.column_types import as_binary, cuts
from transforms.rows.text_blocks import MAX_LINE_BYTES, Rows, encoded

# What a job reads as a number may come as one.
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
      mapping: field → name of its value, or a path such as `query.text`.

    Returns:
      Columns of all fields, null where a row has no such value. Text is binary; values of
      NUMBER_FIELDS may be int64 or float64. Other values are text as JSON writes them; rows
      with an object or a list where a value should be are bad.
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
        tables = [pa.table({c: as_binary(table[c]) for c in mapping}) for table in tables]
    bad = [*first.bad, *((lines + line, what) for line, what in second.bad)]
    return Rows(pa.concat_tables(tables) if tables else None, bad)


def value_at(row: dict, path: str) -> tuple[list[str], Any] | None:
    """The names down to the value that a path names in an object, and the value; or None."""
    if path in row:
        return [path], row[path]
    for name, rest in cuts(path):
        if isinstance(row.get(name), dict) and (found := value_at(row[name], rest)) is not None:
            return [name, *found[0]], found[1]
    return None


def _arrow_json(data: bytes, mapping: Mapping[str, str]) -> pa.Table | None:
    """The block as Arrow reads it, or None where Arrow and Python might differ."""
    found = _json_schema(data, mapping)
    if found is None:
        return None
    schema, places = found
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
    columns = {field: value_of(table[names[0]], names[1:]) for field, names in places.items()}
    return pa.table({f: c if f in NUMBER_FIELDS else as_binary(c) for f, c in columns.items()})


def value_of(column: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    """The value within a struct that some names lead to."""
    return pc.struct_field(column, names) if names else column


def _json_schema(
    data: bytes, mapping: Mapping[str, str]
) -> tuple[pa.Schema, dict[str, list[str]]] | None:
    """Types of the columns as the first lines show them, and the names that lead to each field.

    None where only Python can tell.
    """
    types: dict[str, set[type]] = {column: set() for column in mapping.values()}
    places: dict[str, list[str]] = {}
    start = 0
    for _ in range(_SAMPLE_LINES):
        stop = data.find(b"\n", start) + 1 or len(data)
        row = json_object(data[start:stop]) or {}
        for column, seen in types.items():
            if (found := value_at(row, column)) is None:
                continue
            if places.setdefault(column, found[0]) != found[0]:
                return None
            if found[1] is not None:
                seen.add(type(found[1]))
        start = stop
    tree: dict[str, Any] = {}
    for field, column in mapping.items():
        names = places.setdefault(column, [column])
        # The same value may have a name with a point in another row.
        if "." in column and (len(names) == 1 or _has_dotted_name(data, column)):
            return None
        found_types = types[column]
        if found_types <= {str}:
            leaf = pa.binary()
        elif found_types == {int}:
            leaf = pa.int64()
        elif field in NUMBER_FIELDS and found_types <= {int, float}:
            leaf = pa.float64()
        else:
            return None
        branch = tree
        for name in names[:-1]:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                return None
        if isinstance(branch.get(names[-1]), dict):
            return None
        branch[names[-1]] = leaf
    return pa.schema(_fields(tree)), {field: places[column] for field, column in mapping.items()}


def _has_dotted_name(data: bytes, path: str) -> bool:
    names = path.split(".")
    spans = [".".join(names[a:b]) for a in range(len(names)) for b in range(a + 2, len(names) + 1)]
    return any(f'"{span}"'.encode() in data for span in spans)


def _fields(tree: dict[str, Any]) -> list[pa.Field]:
    return [
        pa.field(name, pa.struct(_fields(leaf)) if isinstance(leaf, dict) else leaf)
        for name, leaf in tree.items()
    ]


def _python_json(data: bytes, mapping: Mapping[str, str]) -> Rows:
    columns: dict[str, list[str | None]] = {field: [] for field in mapping}
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        row = json_object(line)
        if row is None:
            bad.append((number, "no JSON object"))
            continue
        values = {f: found[1] for f, c in mapping.items() if (found := value_at(row, c))}
        nested = [f for f, value in values.items() if isinstance(value, dict | list)]
        if nested:
            bad.append((number, nested_value(nested[0], mapping[nested[0]], values[nested[0]])))
            continue
        for field, column in columns.items():
            column.append(_text(values.get(field)))
    table = pa.table({field: encoded(texts) for field, texts in columns.items()})
    return Rows(table if table.num_rows else None, bad)


def nested_value(field: str, column: str, value: dict | list) -> str:
    """What is wrong with a value that is several."""
    if isinstance(value, list):
        return f"{column} is a list, not one value: write one value a row"
    return f"{column} is an object, not one value: name one in it, as in {field}={column}.NAME"


def _text(value: Any) -> str | None:
    """A value as text; a whole number is the same text with a point as without."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if value != value:  # NaN, as pandas writes for what is missing
            return None
        if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
    return json.dumps(value)


def object_blocks(stream: io.BufferedReader, size: int) -> Iterator[bytes]:
    """The objects of one JSON document as blocks of JSON lines of about `size`.

    Args:
      stream: an array of objects, or objects one behind the other, with any white space.

    Raises:
      OSError, pa.ArrowException: of the stream; or what comes is no JSON, after all before it.
    """
    decoder = json.JSONDecoder()
    text, is_end, wanted = "", False, size
    lines: list[bytes] = []
    held = 0
    utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    while True:
        while not is_end and len(text) < wanted:
            piece = stream.read1(size)
            is_end = not piece
            text += utf8.decode(piece, is_end)
        place = 0
        while True:
            place = _SEPARATORS.match(text, place).end()  # type: ignore[union-attr]
            try:
                value, stop = decoder.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                failure: Exception | None = error
                break
            failure = None
            if not isinstance(value, dict):
                failure = ValueError("a value that is no object")
                is_end = True
                break
            line = re.sub(r"[\r\n]", " ", text[place:stop])
            lines.append(line.encode("utf-8", "surrogateescape"))
            held += len(line)
            place = stop
        text = text[place:]
        if lines and (is_end or held >= size):
            yield b"\n".join(lines) + b"\n"
            lines, held = [], 0
        if is_end:
            if text.strip():
                raise OSError(f"no JSON objects behind its beginning ({failure})")
            return
        # A long object must not be parsed again with every piece of it.
        wanted = size if len(text) < size else 2 * len(text)
        if len(text) > MAX_LINE_BYTES:
            raise OSError(f"a JSON object of more than {MAX_LINE_BYTES} bytes")


_SEPARATORS = re.compile(r"[\s,\[\]]*")
