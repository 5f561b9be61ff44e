"""The columns of tables that people have: which file has which, and whether fields can be read.

Checked before any work, on the beginnings of the files: an error names the file, the column, its
type, and what to do. The reading itself is in tabular.py.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas.base.errors import PhraseLensError
from transforms.files.encodings import open_text
from transforms.files.file_heads import (
    Head,
    check_is_table,
    looks_like_a_row,
    read_head,
    table_kind,
)
from transforms.rows.column_types import field_at, is_image, leaves, use_of, why_not
from transforms.rows.json_blocks import json_object, object_blocks, value_at
from transforms.rows.tabular import read_header
from transforms.rows.text_blocks import DIALECTS

_USES = {
    "text": "one text a row",
    "id": "one id a row",
    "number": "one number a row",
    "time": "one time a row",
    "bytes": "the bytes of an image",
}
_FEW_NAMES = 10  # of a document whose rows may lie deeper


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
    *,
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
            _check_type(head, flag, field, mapping)
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
        check_columns(head.path, flag, mapping, required, one_of, head=head)


def _has(head: Head, columns: Mapping[str, _Column], column: str) -> bool:
    if not column:
        return False
    if head.schema is not None:
        return field_at(head.schema, column) is not None
    return column in columns or any(column in found.leaves for found in columns.values())


def _check_type(head: Head, flag: str, field: str, mapping: Mapping[str, str]) -> None:
    """Fails where the column of a field holds what no field can be read from."""
    column = mapping[field]
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
