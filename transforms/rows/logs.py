"""Click logs and captions: found by their content, cut into units, read as the fields of a log.

`plan_log` finds out what the files are, and cuts them; `read_log` reads a unit. The layouts that
public datasets have are in layouts.py, the reading of tables is in tabular.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import FileMetadata

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from transforms.files.compression import split_name
from transforms.files.file_heads import Head, foreign, read_head
from transforms.files.litter import is_mark
from transforms.files.matching import match
from transforms.files.sniffing import format_of, kind_of
from transforms.rows import moments
from transforms.rows.checked import given, milliseconds, texts_of
from transforms.rows.columns import check_columns
from transforms.rows.layouts import FORMATS, LAYOUTS, NEEDED_SIDES, WHOLE_FILES, LogUnit
from transforms.rows.tabular import BadRows, part_ranges, read_part
from transforms.rows.text_blocks import Dialect

_REQUIRED = ("query", "image")
_FIRST_TIMES = 1000
LOOKED_INTO = 64  # files of a log before any worker starts
# Each batch crosses the shuffle in as many blocks as there are shards: they must not be tiny.
LOG_BATCH_ROWS = 1 << 18


def plan_log(
    flag: str,
    patterns: Sequence[str],
    format_: str,
    mapping: dict[str, str],
    unit_bytes: int,
) -> tuple[list[LogUnit], list[FileMetadata]]:
    """Finds out what the files of a log are, and cuts them into units.

    Args:
      flag: the flag's name, for errors.
      patterns: globs, folders or files.
      format_: one of FORMATS; `auto` looks at the content. A mapping of columns makes it a
        table.
      mapping: field → column, of tables.
      unit_bytes: of text or of a row group, in a unit; a longer line is one unit.

    Returns:
      The units, and all files for their content hash.

    Raises:
      PhraseLensError: nothing matches, a file is none of the format, a column or a file
        that explains the rows is missing.
    """
    files = [file for file in match(flag, patterns) if not is_mark(file.path)]
    sizes = {file.path: file.size_in_bytes for file in files}
    if any(field != column for field, column in mapping.items()):
        if format_ not in ("auto", "table"):
            raise PhraseLensError(
                "--columns", f"no columns, as --format {format_} has fixed ones", "Leave it out."
            )
        format_ = "table"
    looked = _some(list(sizes))
    heads = {path: read_head(path) for path in looked}
    if len(looked) < len(sizes) and not _is_table(heads.values(), format_):
        heads = {path: read_head(path) for path in sizes}
    if sizes and all(head.is_empty for head in heads.values()):
        raise PhraseLensError(
            f"--{flag} {', '.join(patterns)}",
            f"files with clicks or captions, found none (empty: {', '.join(sorted(heads))})",
            "Check the export.",
        )
    # An export in parts has empty ones: they say nothing of what a file is.
    heads = {path: head for path, head in heads.items() if not head.is_empty}
    kinds = _kinds(flag, heads, format_, mapping)
    units = []
    left = [path for path in sizes if path not in heads and path not in looked]
    for path, kind in _chosen(kinds).items():
        sides = tuple(_sides(path, kind, kinds))
        columns = _columns(heads[path], kind, mapping)
        text = _text(kind)
        for start, stop in part_ranges(heads[path], text, sizes[path], unit_bytes):
            units.append(LogUnit(kind, path, columns, start, stop, sides))
    # Their workers look into the others.
    units += [LogUnit(format_, path, mapping, unit_bytes=unit_bytes) for path in left]
    if not units:
        found = ", ".join(sorted(set(kinds.values()))) or "none"
        raise PhraseLensError(
            f"--{flag} {', '.join(patterns)}",
            f"files with clicks or captions, found {found}",
            "See docs/use/formats.md for the files that a format needs.",
        )
    return units, files


def _kinds(
    flag: str, heads: Mapping[str, Head], format_: str, mapping: dict[str, str]
) -> dict[str, str]:
    """The kinds of files, by their paths. Raises PhraseLensError; see `plan_log`."""
    kinds = {path: _checked_kind(head, format_, mapping) for path, head in heads.items()}
    formats = {format_of(kind): path for path, kind in kinds.items()}
    if len(formats) > 1:
        found = ", ".join(f"{path} is {name}" for name, path in sorted(formats.items()))
        raise PhraseLensError(f"--{flag}", f"files of one format ({found})", "Mine them apart.")
    return kinds


def _some(paths: Sequence[str]) -> list[str]:
    """The first of many files, and others evenly among them."""
    count = min(LOOKED_INTO, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def _is_table(heads: Iterable[Head], format_: str) -> bool:
    """Whether all of some files are tables: what the layouts of public data need, others have."""
    kinds = [kind_of(head, format_) for head in heads if not head.is_empty]
    return bool(kinds) and all(kind and format_of(kind) == "table" for kind in kinds)


def cut(unit: LogUnit) -> Iterator[LogUnit]:
    """The units of a file that `plan_log` has not looked into; a unit is itself.

    Raises:
      PhraseLensError: it is no table, or has not the columns.
    """
    if not unit.unit_bytes:
        yield unit
        return
    head = read_head(unit.path)
    if head.is_empty:
        return
    kind = _checked_kind(head, unit.format, unit.mapping)
    if format_of(kind) != "table":
        raise PhraseLensError(
            "--log", f"files of one format ({unit.path} is {kind})", "Mine them apart."
        )
    size = storage.size(unit.path) or 0
    for start, stop in part_ranges(head, _text(kind), size, unit.unit_bytes):
        yield LogUnit(kind, unit.path, unit.mapping, start, stop)


def _checked_kind(head: Head, format_: str, mapping: dict[str, str]) -> str:
    kind = kind_of(head, format_)
    if kind is None:
        what, remedy = foreign(head) or ("", "")
        expected = "a log in one of " + ", ".join(FORMATS[1:])
        expected = expected if format_ == "auto" else f"{format_} file"
        raise PhraseLensError(
            head.path,
            expected + (f", found {what}" if what else ""),
            f"{remedy} See docs/use/formats.md for the layouts; leave out files that are none of "
            "the log.".strip(),
        )
    if format_of(kind) == "table":
        check_columns(head.path, "columns", mapping, _REQUIRED, head=head)
    elif kind == "img2dataset":
        check_columns(head.path, "", _columns(head, kind, mapping), (), head=head)
    return kind


def _chosen(kinds: dict[str, str]) -> dict[str, str]:
    """The files to read: those with clicks or captions, and none that repeats another's."""
    readable = {p: k for p, k in kinds.items() if k in LAYOUTS or k in WHOLE_FILES}
    readable |= {p: k for p, k in kinds.items() if format_of(k) == "table"}
    if "unsplash_conversions" in readable.values():
        # Searches say what people chose; keywords would drown them in what machines saw.
        return {p: k for p, k in readable.items() if k != "unsplash_keywords"}
    # A shard of images has its captions in the Parquet file beside it, too.
    tables = {p.lower().removesuffix(".parquet") for p, k in readable.items() if k == "img2dataset"}
    return {
        p: k
        for p, k in readable.items()
        if k != "webdataset" or split_name(p)[0].removesuffix(".tar") not in tables
    }


def _sides(path: str, kind: str, kinds: dict[str, str]) -> list[str]:
    if kind not in NEEDED_SIDES:
        return []
    side, name = NEEDED_SIDES[kind]
    sides = [side_path for side_path, found in kinds.items() if found == side]
    if not sides:
        raise PhraseLensError(
            path, f"a file such as {name} beside it, which explains its ids", "Add it to the log."
        )
    return sides


def _columns(head: Head, kind: str, mapping: dict[str, str]) -> dict[str, str]:
    if kind not in LAYOUTS:
        return mapping if format_of(kind) == "table" else {}
    columns = LAYOUTS[kind].columns
    if kind == "img2dataset" and "caption" not in head.columns:
        return columns | {"query": "txt"}
    return columns


def _text(kind: str) -> str | Dialect | None:
    """Format or dialect of what `read_part` reads."""
    if kind in LAYOUTS:
        return LAYOUTS[kind].text
    return kind if format_of(kind) == "table" else None


def check_times(units: Sequence[LogUnit], day: int | None) -> None:
    """Fails before any work when none of a log's first times is surely a time.

    Args:
      units: of the log.
      day: days since 1970 of times of a day alone; None where no day was named.

    Raises:
      PhraseLensError: says what is wrong with the first of them.
    """
    unit = units[0]
    text, column = _text(unit.format), unit.mapping.get("timestamp")
    if text is None or not column:
        return
    batches = read_part(
        unit.path, text, {"timestamp": column}, unit.start, unit.stop, batch_size=_FIRST_TIMES
    )
    table = next((batch for batch in batches if not isinstance(batch, BadRows)), None)
    if table is None or "timestamp" not in table.column_names:
        return
    times = table["timestamp"][:_FIRST_TIMES]
    times = times.filter(pa.array(given(times, len(times))))
    if len(times) and np.isnan(milliseconds(times, len(times), day)).all():
        reason = moments.why_not(texts_of(times[:1], 1)[0])
        raise PhraseLensError(
            f"column {column!r} of {unit.path}",
            f"times, found none in its first rows: {reason}",
            "docs/use/formats.md lists the times that are read. To do without: "
            "--columns timestamp=.",
        )


def read_log(unit: LogUnit) -> Iterator[pa.Table | BadRows]:
    """Reads a unit: tables of the fields of a log that it has, text binary, and bad rows."""
    if unit.format in WHOLE_FILES:
        yield from WHOLE_FILES[unit.format](unit.path)
        return
    text = _text(unit.format)
    assert text is not None
    layout = LAYOUTS.get(unit.format)
    rows = layout.rows if layout else None
    for batch in read_part(
        unit.path, text, unit.mapping, unit.start, unit.stop, batch_size=LOG_BATCH_ROWS
    ):
        if rows is None or isinstance(batch, BadRows):
            yield batch
        elif missing := sorted(set(_needed_columns(unit)) - set(batch.column_names)):
            # The file has changed since the job was planned.
            yield BadRows("unreadable_file", unit.path, [f"it has no column of {missing[0]}"])
            return
        else:
            yield from (b for b in rows(batch, unit) if isinstance(b, BadRows) or b.num_rows)


def _needed_columns(unit: LogUnit) -> Iterator[str]:
    """Those that the layout's rows are made of; img2dataset may leave out the status."""
    return (name for name in LAYOUTS[unit.format].columns if name != "status")
