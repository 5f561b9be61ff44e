"""What a file of a log is, by its first bytes.

The layouts are those of transforms/rows/layouts.py, which names their sources.
"""

import re
from collections.abc import Callable

from transforms.files import webdataset
from transforms.files.file_heads import Head, table_kind
from transforms.rows.json_blocks import json_object


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
      A kind, or for a table how it is written; None where it is nothing that the format has.
    """
    for kind, (owner, fits) in _KINDS.items():
        if format_ in ("auto", owner) and fits(head):
            return kind
    return table_kind(head) if format_ in ("auto", "table") else None
