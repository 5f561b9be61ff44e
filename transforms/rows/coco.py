"""Captions in the layout of COCO: one JSON document with `images` and `annotations`.

Source: cocodataset.org, Data format, 1 and 5 (captions_train2017.json is 88 MB). A file is
read whole, and its two lists as Arrow columns, which take about as much memory as the file.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from transforms.files.encodings import open_text
from transforms.rows.tabular import BadRows
from transforms.rows.text_blocks import encoded

MAX_BYTES = 1 << 30  # ten times the captions of COCO: a document is held whole
_SCHEMA = pa.schema(
    [
        ("images", pa.list_(pa.struct([("id", pa.int64()), ("file_name", pa.string())]))),
        ("annotations", pa.list_(pa.struct([("image_id", pa.int64()), ("caption", pa.string())]))),
    ]
)


def read_coco(path: str) -> Iterator[pa.Table | BadRows]:
    """Tables of `query` (the caption) and `image` (the stem of the file's name), both binary.

    Captions of no image of the document come as bad rows.
    """
    try:
        with open_text(path) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes in one document")
        image_ids, names, caption_ids, captions = _lists(data)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, pa.ArrowException) as error:
        yield BadRows("unreadable_file", path, [f"no COCO captions: {error}"])
        return
    places = pc.index_in(caption_ids, image_ids)
    stems = pc.replace_substring_regex(names, r"(^.*/)|(\.[^./]*$)", "").take(places)
    table = pa.table({"query": captions, "image": stems.cast(pa.binary())})
    known = pc.is_valid(places)
    unknown = pc.indices_nonzero(pc.invert(known)).to_pylist()
    if unknown:
        details = [f"annotation {i + 1}: image {caption_ids[i].as_py()} is none" for i in unknown]
        yield BadRows("bad_row", path, details)
    if len(unknown) < table.num_rows:
        yield table.filter(known)


def _lists(data: bytes) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
    """Ids and names of the images; image ids and captions (binary) of the annotations."""
    try:
        document = pajson.read_json(
            pa.BufferReader(data),
            pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pajson.ParseOptions(
                explicit_schema=_SCHEMA, unexpected_field_behavior="ignore", newlines_in_values=True
            ),
        )
        images, annotations = (document[name].combine_chunks().flatten() for name in _SCHEMA.names)
        columns = [images.field("id"), images.field("file_name"), annotations.field("image_id")]
        captions = annotations.field("caption").cast(pa.binary())
    except (pa.ArrowException, UnicodeDecodeError):
        columns, captions = _python_lists(json.loads(data))
    if not len(columns[0]) and not len(captions):
        raise ValueError("it has neither images nor annotations")
    return columns[0], columns[1], columns[2], captions


def _python_lists(document: dict[str, Any]) -> tuple[list[pa.Array], pa.Array]:
    """Of what Arrow refuses: ids that are text, lone surrogates."""
    images, annotations = document["images"], document["annotations"]

    def column(rows: list, name: str) -> list[str | None]:
        values = (row.get(name) if isinstance(row, dict) else None for row in rows)
        return [value if value is None else str(value) for value in values]

    ids = [column(images, "id"), column(images, "file_name"), column(annotations, "image_id")]
    return [pa.array(values, pa.string()) for values in ids], encoded(
        column(annotations, "caption")
    )
