"""The layouts that public datasets have: which column is which field of a log, and what rows mean.

docs/use/formats.md shows an example of every layout, and says what becomes query, image and clicks.
Sources of the layouts:

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
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from schemas.base.errors import PhraseLensError
from transforms.files.encodings import open_text
from transforms.files.webdataset import read_captions
from transforms.rows.coco import read_coco
from transforms.rows.tabular import BadRows
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
      unit_bytes: of a file that nobody has looked into yet, how large the units are that it is to
        be cut into; 0 of a unit.
    """

    format: str
    path: str
    mapping: dict[str, str]
    start: int = 0
    stop: int | None = None
    sides: tuple[str, ...] = ()
    unit_bytes: int = 0

    @classmethod
    def of_json(cls, fields: dict) -> "LogUnit":
        """The unit of these fields, as JSON has them."""
        return cls(**{**fields, "sides": tuple(fields["sides"])})


_Batches = Iterator[pa.Table | BadRows]


@dataclasses.dataclass(frozen=True)
class Layout:
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


LAYOUTS = {
    "clickture": Layout(
        Dialect("\t", quoted=False, names=("key", "query", "clicks")),
        {"image": "key", "query": "query", "clicks": "clicks"},
    ),
    "unsplash_conversions": Layout(
        _QUOTED_TSV,
        {
            "query": "keyword",
            "image": "photo_id",
            "user": "anonymous_user_id",
            "timestamp": "converted_at",
        },
    ),
    "unsplash_keywords": Layout(
        _QUOTED_TSV,
        {"query": "keyword", "image": "photo_id", "suggested": "suggested_by_user"},
        _suggested_rows,
    ),
    "wit": Layout(
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
    "conceptual_captions": Layout(
        Dialect("\t", quoted=False, names=("caption", "url")), {"query": "caption", "image": "url"}
    ),
    "webvision": Layout(
        Dialect(" ", quoted=False, names=("path", "label")), {"path": "path"}, _query_rows
    ),
    "open_images_labels": Layout(
        "csv", {"image": "ImageID", "label": "LabelName", "clicks": "Confidence"}, _labelled_rows
    ),
    "img2dataset": Layout(
        "parquet", {"query": "caption", "image": "key", "status": "status"}, _downloaded_rows
    ),
}
WHOLE_FILES = {"coco_captions": read_coco, "webdataset": read_captions}
# What the rows of a kind cannot do without: a kind, and how it is called.
NEEDED_SIDES = {
    "webvision": ("webvision_queries", "queries_google.txt"),
    "open_images_labels": ("open_images_classes", "class-descriptions.csv"),
}
