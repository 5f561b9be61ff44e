"""What a file of a log is, by its first bytes.

The layouts are those of transforms/formats.py, which names their sources.
"""

import dataclasses
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import PhraseLensError
from transforms import webdataset
from transforms.compression import open_stream
from transforms.json_blocks import json_object
from transforms.tabular import table_format

_HEAD_BYTES = 64 << 10
_HEAD_LINES = 100
_MIN_SHARE = 0.8  # of the first lines that must look as the layout says: some may be broken


@dataclasses.dataclass(frozen=True)
class Head:
    """The beginning of a file.

    Attributes:
      path: the file.
      data: its first bytes, decompressed.
      lines: the first whole lines, without blank ones.
      columns: names in the header of Parquet.
    """

    path: str
    data: bytes
    lines: tuple[bytes, ...]
    columns: frozenset[str] = frozenset()

    def has(self, delimiter: bytes, *columns: str) -> bool:
        """Whether the first line names these columns."""
        first = self.lines[0] if self.lines else b""
        names = {name.strip(b'"') for name in first.split(delimiter)}
        return {column.encode() for column in columns} <= names

    def like(self, pattern: bytes) -> bool:
        """Whether the first line and most others match a pattern."""
        matches = [re.fullmatch(pattern, line) is not None for line in self.lines]
        return bool(matches) and matches[0] and sum(matches) >= _MIN_SHARE * len(matches)


def read_head(path: str) -> Head:
    """Reads the beginning of a file.

    Raises:
      PhraseLensError: it cannot be read.
    """
    try:
        with open_stream(path) as stream:
            data = b""
            while len(data) < _HEAD_BYTES and (piece := stream.read1(_HEAD_BYTES - len(data))):
                data += piece
        columns: frozenset[str] = frozenset()
        if data.startswith(b"PAR1"):
            with pq.ParquetFile(storage.open_input(path)) as file:
                columns = frozenset(file.schema_arrow.names)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
        raise PhraseLensError(path, f"a readable file ({error})", "Check the file.") from error
    text = data.removeprefix(b"\xef\xbb\xbf")
    lines = text.split(b"\n")
    if len(data) == _HEAD_BYTES:
        lines = lines[:-1]  # cut
    whole = [line.removesuffix(b"\r") for line in lines[:_HEAD_LINES]]
    return Head(path, text, tuple(line for line in whole if line), columns)


def _is_coco(head: Head) -> bool:
    if not head.data.lstrip().startswith(b"{"):
        return False
    if not re.search(rb'"(images|annotations)"\s*:\s*\[', head.data):
        return False
    row = json_object(head.lines[0]) if head.lines else None  # JSON lines have a whole object
    return row is None or {"images", "annotations"} <= row.keys()


def _is_img2dataset(head: Head) -> bool:
    return {"key", "url"} <= head.columns and bool({"caption", "txt"} & head.columns)


def _is_query_list(head: Head) -> bool:
    return head.like(rb"\d+ [^\t]*\S[^\t]*") and not head.like(rb"\d+ \d+")


def _has_class_names(head: Head) -> bool:
    return head.has(b",", "LabelName", "DisplayName") or head.like(rb"/[a-z]+/[^,\s]+,.+")


_Test = Callable[[Head], bool]
# Each kind of file, by the format that it belongs to; the first that fits is taken.
_KINDS: dict[str, tuple[str, _Test]] = {
    "webdataset": ("img2dataset", lambda head: webdataset.is_tar(head.data)),
    "img2dataset": ("img2dataset", _is_img2dataset),
    "img2dataset_stats": (
        "img2dataset",
        lambda head: head.data.lstrip().startswith(b"{") and b'"failed_to_download"' in head.data,
    ),
    "coco_captions": ("coco_captions", _is_coco),
    "wit": (
        "wit",
        lambda head: head.has(
            b"\t",
            "language",
            "image_url",
            "page_title",
            "caption_reference_description",
            "caption_alt_text_description",
            "is_main_image",
        ),
    ),
    "unsplash_conversions": (
        "unsplash",
        lambda head: head.has(b"\t", "photo_id", "keyword", "anonymous_user_id"),
    ),
    "unsplash_keywords": (
        "unsplash",
        lambda head: head.has(b"\t", "photo_id", "keyword", "suggested_by_user"),
    ),
    "unsplash_photos": ("unsplash", lambda head: head.has(b"\t", "photo_id", "photo_image_url")),
    "unsplash_collections": ("unsplash", lambda head: head.has(b"\t", "photo_id", "collection_id")),
    "unsplash_colors": ("unsplash", lambda head: head.has(b"\t", "photo_id", "hex")),
    "open_images_labels": (
        "open_images",
        lambda head: (
            head.like(rb"ImageID,Source,LabelName,Confidence|[^,]*(,[^,]*){3}")
            and head.has(b",", "ImageID", "Source", "LabelName", "Confidence")
        ),
    ),
    "open_images_classes": ("open_images", _has_class_names),
    "webvision": ("webvision", lambda head: head.like(rb"(\S*/)?q\d+/\S+ \d+")),
    "webvision_queries": ("webvision", _is_query_list),
    "clickture": ("clickture", lambda head: head.like(rb"[^\t\s]+\t[^\t]*\t\d+")),
    "conceptual_captions": (
        "conceptual_captions",
        lambda head: head.like(rb"[^\t]+\thttps?://[^\t\s]+"),
    ),
}


def format_of(kind: str) -> str:
    """The format that a kind of file belongs to."""
    return _KINDS[kind][0] if kind in _KINDS else "table"


def kind_of(head: Head, format_: str) -> str | None:
    """What a file is.

    Args:
      head: its beginning.
      format_: of formats.FORMATS; only its kinds are tried.

    Returns:
      A kind, or for a table its format; None where it is nothing that the format has.
    """
    for kind, (owner, fits) in _KINDS.items():
        if format_ in ("auto", owner) and fits(head):
            return kind
    return _table_kind(head) if format_ in ("auto", "table") else None


def _table_kind(head: Head) -> str | None:
    if head.columns:
        return "parquet"
    named = table_format(head.path)
    if named is not None:
        return named
    if not head.lines:
        return None
    if json_object(head.lines[0]) is not None:
        return "jsonl"
    for delimiter, kind in ((b"\t", "tsv"), (b",", "csv")):
        if delimiter in head.lines[0]:
            return kind
    return None
