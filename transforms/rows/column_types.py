"""Columns of any type as what a field needs: text, an id, a number, a time, or bytes.

Every type that Arrow and Parquet have is either read, so that one value is one text whatever the
type of its column, or refused by name before any work. What is read:

  text     text, bytes of text, numbers, true and false
  id       the same but for true and false, and UUID, which is written as its text; other bytes of
           a fixed length are written in hexadecimal
  number   numbers, text, true (1) and false (0)
  time     timestamps, dates, times of day, numbers, text
  bytes    bytes, and the struct of bytes and path that the datasets library writes; text is a path
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UUID_BYTES = 16
_EXACT = float(2**53)  # up to here each whole number has a double of its own

# What a field of a log, an image table, a label file or a deletion list is; all others are text.
_IDS = ("image", "user", "session", "key")
_NUMBERS = ("clicks", "impressions", "position")


def use_of(field: str, mapping: Mapping[str, str]) -> str:
    """What a field is read as: text, id, number, time or bytes."""
    if field == "image" and "path" in mapping:  # a table of images
        return "bytes"
    if field in _IDS:
        return "id"
    if field in _NUMBERS:
        return "number"
    return "time" if field == "timestamp" else "text"


def stored(type_: pa.DataType) -> pa.DataType:
    """The type of the values themselves: of a dictionary, of runs, of an extension."""
    while True:
        if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
            type_ = type_.value_type
        elif isinstance(type_, pa.BaseExtensionType) and not _is_bool8(type_):
            type_ = type_.storage_type
        else:
            return type_


def _is_bool8(type_: pa.DataType) -> bool:
    return isinstance(type_, pa.BaseExtensionType) and type_.extension_name == "arrow.bool8"


def is_image(type_: pa.DataType) -> bool:
    """Whether a column holds images as the datasets library stores them: bytes and path."""
    return pa.types.is_struct(type_) and {field.name for field in type_} == {"bytes", "path"}


def is_text(type_: pa.DataType) -> bool:
    t = pa.types
    return t.is_string(type_) or t.is_large_string(type_) or t.is_string_view(type_)


def _is_bytes(type_: pa.DataType) -> bool:
    t = pa.types
    return t.is_binary(type_) or t.is_large_binary(type_) or t.is_binary_view(type_)


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)


def why_not(type_: pa.DataType, use: str) -> str | None:
    """What to do about a column of a type that is not read; None where it is.

    Args:
      type_: of the column.
      use: as `use_of` says.
    """
    t = pa.types
    if isinstance(type_, pa.BaseExtensionType) and type_.extension_name == "arrow.json":
        return "Write the value that is meant as a column of its own, not as JSON"
    type_ = stored(type_)
    is_bool = t.is_boolean(type_) or _is_bool8(type_)
    is_plain = t.is_null(type_) or is_text(type_) or _is_bytes(type_)
    if use == "bytes":
        is_read = is_plain or is_image(type_) or t.is_fixed_size_binary(type_)
        return None if is_read else "Write the bytes of an image file"
    if t.is_nested(type_):
        if t.is_struct(type_):
            return "Name one value in it"
        return "Write one value a row"
    if is_plain or _is_number(type_):
        return None
    if use == "text":
        return None if is_bool else "Write it as text"
    if use == "id":
        return None if t.is_fixed_size_binary(type_) else "Write it as text or as a number"
    if use == "number":
        return None if is_bool else "Write it as a number"
    is_time = t.is_timestamp(type_) or t.is_date(type_) or t.is_time(type_)
    return None if is_time else "Write it as a timestamp, or as seconds since 1970"


def readable(column: pa.Array | pa.ChunkedArray, use: str) -> pa.Array | pa.ChunkedArray:
    """A column of a type that is read, as binary, numbers, booleans, timestamps, dates or times.

    Text is binary, so that bytes which are no text reach the job's own checks.
    """
    if isinstance(column, pa.ChunkedArray):
        chunks = [readable(chunk, use) for chunk in column.chunks]
        empty = pa.array([], pa.binary())
        return pa.chunked_array(chunks) if chunks else pa.chunked_array([empty])
    if pa.types.is_run_end_encoded(column.type):
        return readable(pc.run_end_decode(column), use)
    if pa.types.is_dictionary(column.type):
        return readable(column.dictionary_decode(), use)
    if isinstance(column.type, pa.BaseExtensionType):
        is_bool8 = _is_bool8(column.type)
        column = column.storage
        return pc.not_equal(column, 0) if is_bool8 else readable(column, use)
    if pa.types.is_null(column.type) or is_text(column.type) or _is_bytes(column.type):
        return column.cast(pa.binary())
    if pa.types.is_fixed_size_binary(column.type) and use == "id":
        return _hexadecimal(column)
    if pa.types.is_fixed_size_binary(column.type):
        return column.cast(pa.binary())
    return column


_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(
    -1, 2
)
_UUID_GROUPS = (0, 8, 12, 16, 20, 32)


def _hexadecimal(column: pa.FixedSizeBinaryArray) -> pa.Array:
    """Bytes as text in hexadecimal, 16 of them with the hyphens of a UUID, [n] binary."""
    width = column.type.byte_width
    data = pc.fill_null(column, bytes(width)).cast(pa.binary())
    values = np.frombuffer(b"".join(data.to_pylist()), np.uint8).reshape(len(column), width)
    digits = _HEX[values].reshape(len(column), 2 * width)
    if width == UUID_BYTES:
        hyphen = np.full((len(column), 1), ord("-"), np.uint8)
        groups = [digits[:, a:b] for a, b in itertools.pairwise(_UUID_GROUPS)]
        digits = np.hstack([part for group in groups for part in (group, hyphen)][:-1])
    offsets = np.arange(len(column) + 1, dtype=np.int32) * digits.shape[1]
    texts = pa.Array.from_buffers(
        pa.binary(), len(column), [None, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes())]
    )
    return pc.if_else(column.is_valid(), texts, None)


def as_binary(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A readable column as bytes of text: the same number is the same text, whatever its type.

    Whole numbers have no point, others as few digits as tell them apart; NaN is nothing.
    """
    type_ = column.type
    if pa.types.is_binary(type_):
        return column
    if pa.types.is_floating(type_):
        wide = column.cast(pa.float64())
        known = pc.invert(pc.is_nan(wide))
        is_whole = pc.and_(pc.equal(pc.floor(wide), wide), pc.less(pc.abs(wide), _EXACT))
        whole = pc.if_else(is_whole, wide, 0.0).cast(pa.int64()).cast(pa.string())
        texts = pc.if_else(is_whole, whole, column.cast(pa.string()))
        # Arrow writes 10000000000.5 as 1.00000000005e+10, where Python, pandas and logs do not.
        has_point = pc.and_(pc.greater_equal(pc.abs(wide), 1e10), pc.less(pc.abs(wide), _EXACT))
        far = pc.fill_null(pc.and_not(has_point, is_whole), False)
        if pc.any(far).as_py():
            if isinstance(texts, pa.ChunkedArray):
                texts, far = texts.combine_chunks(), far.combine_chunks()
            values = wide.filter(far).to_pylist()
            texts = pc.replace_with_mask(texts, far, pa.array(map(repr, values), pa.string()))
        return whole_texts(pc.if_else(known, texts, None).cast(pa.binary()))
    texts = column.cast(pa.string())
    if pa.types.is_decimal(type_):
        texts = pc.replace_substring_regex(texts, r"(\.[0-9]*?)0+$", r"\1")
        texts = pc.replace_substring_regex(texts, r"\.$", "")
        texts = pc.replace_substring_regex(texts, r"^-0$", "0")
        return whole_texts(texts.cast(pa.binary()))
    return texts.cast(pa.binary())


_WITH_POINT = r"^-?(0|[1-9][0-9]*)\.0+$"
_SCIENTIFIC = r"^-?[1-9](\.[0-9]+[eE]\+?|[eE]\+)[0-9]{1,2}$"


def whole_texts(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Ids that a program wrote as numbers with a point, as whole numbers; all others as they are.

    `12345678901.0` (pandas) and `1.2345678901E10` (Spark, Java) become `12345678901`. What does
    not come from a number stays: `007`, `1.5`, `12e3`.

    Args:
      values: [n] binary.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    with_point = pc.fill_null(pc.match_substring_regex(values, _WITH_POINT), False)
    if pc.any(with_point).as_py():
        cut = pc.replace_substring_regex(values, r"\.0+$", "")
        cut = pc.if_else(pc.equal(cut, b"-0"), b"0", cut)
        values = pc.if_else(with_point, cut, values)
    scientific = pc.fill_null(pc.match_substring_regex(values, _SCIENTIFIC), False)
    if pc.any(scientific).as_py():
        found = values.filter(scientific).to_pylist()
        values = pc.replace_with_mask(values, scientific, pa.array(map(_whole, found), pa.binary()))
    return values


def whole_text(text: str) -> str:
    """One id as `whole_texts` has it."""
    if not text[-1:].isdigit() or not text.isascii():
        return text
    return whole_texts(pa.array([text.encode()]))[0].as_py().decode()


def _whole(value: bytes) -> bytes:
    number = Decimal(value.decode())
    return str(int(number)).encode() if number == int(number) else value


def leaves(type_: pa.DataType, name: str) -> list[str]:
    """What can be named in a column: itself, or the values in a struct as `name.value`."""
    if not pa.types.is_struct(type_) or is_image(type_):
        return [name]
    return [leaf for field in type_ for leaf in leaves(field.type, f"{name}.{field.name}")]


def cuts(path: str) -> Iterator[tuple[str, str]]:
    """The ways to take a path such as `a.b.c` for a name and what is in it: a, b.c; a.b, c."""
    for match in re.finditer(r"\.", path):
        yield path[: match.start()], path[match.end() :]


def field_at(fields: pa.Schema | pa.StructType, path: str) -> tuple[list[str], pa.DataType] | None:
    """The names from a column down to the value that a path names, and the value's type.

    A column that is called like the whole path goes first. None where there is no such value.
    """
    named = {field.name: field.type for field in fields}
    if path in named:
        return [path], named[path]
    for name, rest in cuts(path):
        if pa.types.is_struct(named.get(name, pa.null())):
            found = field_at(named[name], rest)
            if found is not None:
                return [name, *found[0]], found[1]
    return None
