"""Click logs and captions in the layouts that public datasets have, as the fields of a log.

`plan_log` finds out what the files are, by their content, and cuts them into units;
`read_log` reads a unit. docs/formats.md shows an example of every layout, and says what
becomes query, image and clicks. Sources of the layouts:

  clickture            Hua et al., "Clickage", ACM Multimedia 2013, section 3: triads of image
                       key, query and click count
  unsplash             unsplash/datasets, DOCS.md; how-to/psql loads its TSV files as quoted
  wit                  google-research-datasets/wit, DATA.md; quoted as in TensorFlow Datasets
  conceptual_captions  google-research-datasets/conceptual-captions, README.md
  coco_captions        cocodataset.org, Data format
  webvision            data.vision.ee.ethz.ch/cvl/webvision/README.txt
  open_images          openimages/dataset, README.md, Data Formats
  img2dataset          rom1504/img2dataset, README.md and img2dataset/writer.py
"""

import contextlib
import csv
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import FileMetadata

from schemas.base.errors import PhraseLensError
from transforms.files.compression import split_name
from transforms.files.encodings import open_text
from transforms.files.file_heads import Head, foreign, open_parquet, read_head
from transforms.files.litter import is_mark
from transforms.files.matching import match
from transforms.files.sniffing import format_of, kind_of
from transforms.files.webdataset import read_captions
from transforms.rows import moments
from transforms.rows.checked import given, milliseconds, texts_of
from transforms.rows.coco import read_coco
from transforms.rows.tabular import BadRows, check_columns, is_splittable, read_part
from transforms.rows.text_blocks import MAX_FIELD_BYTES, Dialect

FORMATS = (
    "auto",
    "table",
    "clickture",
    "unsplash",
    "wit",
    "conceptual_captions",
    "coco_captions",
    "webvision",
    "open_images",
    "img2dataset",
)
_QUOTED_TSV = Dialect("\t", quoted=True)
_REQUIRED = ("query", "image")


@dataclasses.dataclass(frozen=True)
class LogUnit:
    """A piece of a log that is read at once.

    Attributes:
      format: kind of the file.
      path: the file.
      mapping: field → column.
      start, stop: row groups of Parquet, or bytes of uncompressed text: a line belongs to
        the unit that its first byte is in. Compressed and quoted text is one unit.
      sides: files that explain the rows.
    """

    format: str
    path: str
    mapping: dict[str, str]
    start: int = 0
    stop: int | None = None
    sides: tuple[str, ...] = ()


_Batches = Iterator[pa.Table | BadRows]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a kind of file is written.

    Attributes:
      text: format or dialect for `read_part`.
      columns: field, or name for `rows`, → column.
      rows: makes rows of a log of a batch; None where they are such already.
    """

    text: str | Dialect
    columns: dict[str, str]
    rows: Callable[[pa.Table, LogUnit], _Batches] | None = None


def _wit_rows(table: pa.Table, unit: LogUnit) -> _Batches:
    """Each text of an image as a query; one that has none keeps its row, with an empty query."""
    is_main = pc.equal(table["is_main"], b"true")
    texts = [
        (table["reference"], pc.not_equal(table["reference"], b"")),
        (table["alt"], pc.not_equal(table["alt"], b"")),
        (table["title"], pc.and_(is_main, pc.not_equal(table["title"], b""))),
    ]
    is_any = functools.reduce(pc.or_, (is_given for _, is_given in texts))
    rest = table.select(["image", "language"])
    for place, (text, is_given) in enumerate(texts):
        wanted = pc.or_(is_given, pc.invert(is_any)) if place == 0 else is_given
        yield rest.append_column("query", text).filter(wanted)


def _only_where(table: pa.Table, is_chosen: pa.ChunkedArray, name: str) -> pa.Table:
    """Clicks and impressions of 1 where a row stands for a choice, else 0: a row without effect."""
    ones = is_chosen.cast(pa.int64())
    return (
        table.drop_columns([name]).append_column("clicks", ones).append_column("impressions", ones)
    )


def _suggested_rows(table: pa.Table, unit: LogUnit) -> _Batches:
    """A photographer's keyword is a choice; what a machine saw in the photo is none."""
    is_suggested = pc.is_in(table["suggested"], pa.array([b"t", b"true", b"1"]))
    yield _only_where(table, is_suggested, "suggested")


def _downloaded_rows(table: pa.Table, unit: LogUnit) -> _Batches:
    """Captions of images; there is no image where the download failed."""
    if "status" not in table.column_names:
        yield table
    else:
        yield _only_where(table, pc.equal(table["status"], b"success"), "status")


def _labelled_rows(table: pa.Table, unit: LogUnit) -> _Batches:
    """The label's name as query, seen once: a label that was denied is an image not chosen."""
    seen = table.append_column("impressions", pa.repeat(1, table.num_rows))
    yield from _looked_up(seen, "label", _class_names(unit.sides), unit, "class description")


def _query_rows(table: pa.Table, unit: LogUnit) -> _Batches:
    """The query that found an image: the folder of the image names it."""
    parts = pc.extract_regex(
        table["path"].cast(pa.binary()),
        r"^(?:.*/)?(?P<source>[^/]*)/q0*(?P<query>[0-9]+)/(?P<stem>[^/]+?)(?:\.[^./]*)?$",
    )
    is_good = pc.is_valid(parts)
    bad = pc.sum(pc.invert(is_good)).as_py() or 0
    if bad:
        details = ["a path without the folder of a query, such as google/q0001/name.jpg"] * bad
        yield BadRows("bad_row", unit.path, details)
    parts = pa.chunked_array(parts.filter(is_good)).combine_chunks()
    ids = pc.binary_join_element_wise(parts.field("source"), parts.field("query"), b"/")
    found = pa.table({"image": parts.field("stem"), "id": ids})
    yield from _looked_up(found, "id", _query_texts(unit.sides), unit, "query")


def _looked_up(
    table: pa.Table, column: str, texts: Mapping[bytes, bytes], unit: LogUnit, what: str
) -> _Batches:
    """Queries by id; rows of an id that nothing explains are bad."""
    encoded = table[column].combine_chunks().dictionary_encode()
    values = [texts.get(value) for value in encoded.dictionary.to_pylist()]
    queries = pa.array(values, pa.binary()).take(encoded.indices)
    known = pc.is_valid(queries)
    unknown = table[column].filter(pc.invert(known)).to_pylist()
    if unknown:
        details = [f"{value.decode(errors='replace')} has no {what}" for value in unknown]
        yield BadRows("bad_row", unit.path, details)
    yield table.drop_columns([column]).append_column("query", queries).filter(known)


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Without a file that explains ids, no row of the log can be told."""
    try:
        yield
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise PhraseLensError(
            path, f"a readable file that explains the ids of a log ({error})", "Get it again."
        ) from error


@functools.lru_cache(maxsize=4)
def _class_names(paths: tuple[str, ...]) -> dict[bytes, bytes]:
    """Label → its name, of Open Images' class descriptions (some 20,000)."""
    names: dict[bytes, bytes] = {}
    csv.field_size_limit(MAX_FIELD_BYTES)
    for path in paths:
        with _explaining(path), open_text(path) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            for row in csv.reader(text):
                if len(row) >= 2:
                    label, name = (value.encode("utf-8", "surrogateescape") for value in row[:2])
                    names[label] = name
    return names


@functools.lru_cache(maxsize=4)
def _query_texts(paths: tuple[str, ...]) -> dict[bytes, bytes]:
    """`google/1` → the query, of WebVision's query lists: lines of number and text."""
    texts: dict[bytes, bytes] = {}
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        sources = [source for source in ("google", "flickr") if source in name]
        with _explaining(path), open_text(path) as stream:
            for line in iter(functools.partial(stream.readline, MAX_FIELD_BYTES), b""):
                if found := re.fullmatch(rb"0*(\d+)\s+(.*\S)\s*", line):
                    for source in sources or ("google", "flickr"):
                        texts[source.encode() + b"/" + found[1]] = found[2]
    return texts


_LAYOUTS = {
    "clickture": _Layout(
        Dialect("\t", quoted=False, names=("key", "query", "clicks")),
        {"image": "key", "query": "query", "clicks": "clicks"},
    ),
    "unsplash_conversions": _Layout(
        _QUOTED_TSV,
        {
            "query": "keyword",
            "image": "photo_id",
            "user": "anonymous_user_id",
            "timestamp": "converted_at",
        },
    ),
    "unsplash_keywords": _Layout(
        _QUOTED_TSV,
        {"query": "keyword", "image": "photo_id", "suggested": "suggested_by_user"},
        _suggested_rows,
    ),
    "wit": _Layout(
        _QUOTED_TSV,
        {
            "image": "image_url",
            "language": "language",
            "reference": "caption_reference_description",
            "alt": "caption_alt_text_description",
            "title": "page_title",
            "is_main": "is_main_image",
        },
        _wit_rows,
    ),
    "conceptual_captions": _Layout(
        Dialect("\t", quoted=False, names=("caption", "url")), {"query": "caption", "image": "url"}
    ),
    "webvision": _Layout(
        Dialect(" ", quoted=False, names=("path", "label")), {"path": "path"}, _query_rows
    ),
    "open_images_labels": _Layout(
        "csv", {"image": "ImageID", "label": "LabelName", "clicks": "Confidence"}, _labelled_rows
    ),
    "img2dataset": _Layout(
        "parquet", {"query": "caption", "image": "key", "status": "status"}, _downloaded_rows
    ),
}
_WHOLE_FILES = {"coco_captions": read_coco, "webdataset": read_captions}
# What the rows of a kind cannot do without: a kind, and how it is called.
_NEEDED_SIDES = {
    "webvision": ("webvision_queries", "queries_google.txt"),
    "open_images_labels": ("open_images_classes", "class-descriptions.csv"),
}


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
    heads = {path: read_head(path) for path in sizes}
    if sizes and all(head.is_empty for head in heads.values()):
        raise PhraseLensError(
            f"--{flag} {', '.join(patterns)}",
            f"files with clicks or captions, found none (empty: {', '.join(sorted(heads))})",
            "Check the export.",
        )
    # An export in parts has empty ones: they say nothing of what a file is.
    heads = {path: head for path, head in heads.items() if not head.is_empty}
    kinds = {path: _checked_kind(head, format_, mapping) for path, head in heads.items()}
    formats = {format_of(kind): path for path, kind in kinds.items()}
    if len(formats) > 1:
        found = ", ".join(f"{path} is {name}" for name, path in sorted(formats.items()))
        raise PhraseLensError(f"--{flag}", f"files of one format ({found})", "Mine them apart.")
    units = []
    for path, kind in _chosen(kinds).items():
        sides = tuple(_sides(path, kind, kinds))
        columns = _columns(heads[path], kind, mapping)
        for start, stop in _ranges(heads[path], kind, sizes[path], unit_bytes):
            units.append(LogUnit(kind, path, columns, start, stop, sides))
    if not units:
        found = ", ".join(sorted(set(kinds.values()))) or "none"
        raise PhraseLensError(
            f"--{flag} {', '.join(patterns)}",
            f"files with clicks or captions, found {found}",
            "See docs/formats.md for the files that a format needs.",
        )
    return units, files


def _checked_kind(head: Head, format_: str, mapping: dict[str, str]) -> str:
    kind = kind_of(head, format_)
    if kind is None:
        what, remedy = foreign(head) or ("", "")
        expected = "a log in one of " + ", ".join(FORMATS[1:])
        expected = expected if format_ == "auto" else f"{format_} file"
        raise PhraseLensError(
            head.path,
            expected + (f", found {what}" if what else ""),
            f"{remedy} See docs/formats.md for the layouts; leave out files that are none of "
            "the log.".strip(),
        )
    if format_of(kind) == "table":
        check_columns(head.path, "columns", mapping, _REQUIRED, head=head)
    elif kind == "img2dataset":
        check_columns(head.path, "", _columns(head, kind, mapping), (), head=head)
    return kind


def _chosen(kinds: dict[str, str]) -> dict[str, str]:
    """The files to read: those with clicks or captions, and none that repeats another's."""
    readable = {p: k for p, k in kinds.items() if k in _LAYOUTS or k in _WHOLE_FILES}
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
    if kind not in _NEEDED_SIDES:
        return []
    side, name = _NEEDED_SIDES[kind]
    sides = [side_path for side_path, found in kinds.items() if found == side]
    if not sides:
        raise PhraseLensError(
            path, f"a file such as {name} beside it, which explains its ids", "Add it to the log."
        )
    return sides


def _columns(head: Head, kind: str, mapping: dict[str, str]) -> dict[str, str]:
    if kind not in _LAYOUTS:
        return mapping if format_of(kind) == "table" else {}
    columns = _LAYOUTS[kind].columns
    if kind == "img2dataset" and "caption" not in head.columns:
        return columns | {"query": "txt"}
    return columns


def _ranges(head: Head, kind: str, size: int, unit_bytes: int) -> list[tuple[int, int | None]]:
    """Where the units of a file start and stop."""
    text = _text(kind)
    if text is None or not is_splittable(head, text):
        return [(0, None)]
    if text != "parquet":
        starts = list(range(0, size, unit_bytes)) or [0]
    else:
        with open_parquet(head.path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        starts, held = [0], 0
        for number, group in enumerate(groups):
            if held and held + group.total_byte_size > unit_bytes:
                starts.append(number)
                held = 0
            held += group.total_byte_size
    return list(zip(starts, [*starts[1:], None], strict=True))


def _text(kind: str) -> str | Dialect | None:
    """Format or dialect of what `read_part` reads."""
    if kind in _LAYOUTS:
        return _LAYOUTS[kind].text
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
    batches = read_part(unit.path, text, {"timestamp": column}, unit.start, unit.stop, _FIRST_TIMES)
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
            "docs/formats.md lists the times that are read. To do without: --columns timestamp=.",
        )


_FIRST_TIMES = 1000

# Each batch crosses the shuffle in as many blocks as there are shards: they must not be tiny.
LOG_BATCH_ROWS = 1 << 18


def read_log(unit: LogUnit) -> Iterator[pa.Table | BadRows]:
    """Reads a unit: tables of the fields of a log that it has, text binary, and bad rows."""
    if unit.format in _WHOLE_FILES:
        yield from _WHOLE_FILES[unit.format](unit.path)
        return
    text = _text(unit.format)
    assert text is not None
    layout = _LAYOUTS.get(unit.format)
    rows = layout.rows if layout else None
    for batch in read_part(unit.path, text, unit.mapping, unit.start, unit.stop, LOG_BATCH_ROWS):
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
    return (name for name in _LAYOUTS[unit.format].columns if name != "status")
