"""Reads the images of a unit: files, rows of a table, records, or files of a tar file."""

import os
import unicodedata
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from schemas.base.errors import PhraseLensError
from transforms.files import webdataset
from transforms.files.records import first_record, read_records
from transforms.images.clean import ImageError
from transforms.images.units import BATCH_IMAGES, IMAGE_FIELDS, ImageUnit, raw_images
from transforms.rows.checked import id_texts, texts_of
from transforms.rows.column_types import whole_text
from transforms.rows.tabular import BadRows, read_part, read_table


def check_features(path: str, mapping: dict[str, str]) -> bool:
    """Fails before any work when the first record of a TFRecord file has not the features.

    Returns:
      Whether the file can be read in parts.
    """
    try:
        record, is_plain = first_record(path)
        if record is not None:
            _decode_record(record, mapping)
    except _RECORD_ERRORS as error:
        raise PhraseLensError(
            path,
            f"TFRecord of tf.Example with {mapping['key']!r} and {mapping['image']!r} ({error})",
            "Name the features with --image_columns key=FEATURE,image=FEATURE.",
        ) from error
    return is_plain


def read_unit(
    unit: ImageUnit, forgotten: frozenset[str] = frozenset()
) -> Iterator[pa.Table | BadRows]:
    """Reads a unit's images.

    Args:
      unit: what to read.
      forgotten: keys of images for which no file is opened and no URL is fetched. They have rows
        all the same, with an image only where it lies beside the key.

    Yields:
      Tables of RAW_IMAGES of at most BATCH_IMAGES rows, and bad rows.
    """
    if unit.format == "files":
        yield from _read_files(unit, forgotten)
    elif unit.format == "table":
        yield from _read_image_table(unit, forgotten)
    elif unit.format == "webdataset":
        for batch in webdataset.read_images(unit.paths[0], BATCH_IMAGES, unit.start, unit.stop):
            if isinstance(batch, BadRows):
                yield batch
            else:
                yield raw_images([(_valid(whole_text(key)), data) for key, data in batch])
    else:
        yield from _read_tfrecord(unit)


def _read_files(unit: ImageUnit, forgotten: frozenset[str]) -> Iterator[pa.Table | BadRows]:
    rows: list[tuple] = []
    for path, key in zip(unit.paths, unit.keys, strict=True):
        try:
            image = None if key in forgotten else unit.places.read_file(path, unit.bases)
            rows.append((_valid(key), image))
        except ImageError as error:
            yield BadRows(error.reason, _valid(key) or path, [f"{path}: {error.detail}"])
        except (OSError, UnicodeError) as error:
            yield BadRows("unreadable_image", _valid(key) or path, [f"{path}: {error}"])
    if rows:
        yield raw_images(rows)


def _valid(key: str) -> str | None:
    """The key in NFC, or None where it is the name of a file that is no UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in key):
        return None
    return unicodedata.normalize("NFC", key)


def _rows_of_table(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    """Batches of a part of a table, and what is bad in it, which its first stripe says."""
    (path,) = unit.paths
    batches = (
        read_table(path, unit.mapping, BATCH_IMAGES)
        if unit.is_whole
        else read_part(
            path, unit.text or "csv", unit.mapping, unit.start, unit.stop, batch_size=BATCH_IMAGES
        )
    )
    number = 0
    for batch in batches:
        if isinstance(batch, BadRows):
            if unit.stripe == 0:
                yield batch
            continue
        for start in range(0, batch.num_rows, BATCH_IMAGES):
            if number % unit.stripes == unit.stripe:
                yield batch.slice(start, BATCH_IMAGES)
            number += 1


def _read_image_table(unit: ImageUnit, forgotten: frozenset[str]) -> Iterator[pa.Table | BadRows]:
    """Takes the bytes of a row where there are any, else the file that its path names."""
    (table_path,) = unit.paths
    for batch in _rows_of_table(unit):
        if isinstance(batch, BadRows):
            yield batch
            continue
        if "status" in batch.column_names:  # where a download failed there is no image
            batch = batch.filter(pc.equal(batch["status"], b"success"))
        column = {
            name: batch[name] if name in batch.column_names else None for name in IMAGE_FIELDS
        }
        keys = id_texts(column["key"], batch.num_rows)
        paths = texts_of(column["path"], batch.num_rows)
        images = column["image"].to_pylist() if column["image"] else [None] * batch.num_rows
        rows = []
        for key, path, image in zip(keys, paths, images, strict=True):
            try:
                if path and not image and key not in forgotten:
                    image = unit.places.read(path, os.path.dirname(table_path))
                rows.append((key, image))
            except ImageError as error:
                yield BadRows(error.reason, key or path or "", [f"{path}: {error.detail}"])
            except (OSError, ValueError) as error:
                yield BadRows("unreadable_image", key or path or "", [f"{path}: {error}"])
        if rows:
            yield raw_images(rows)


_RECORD_ERRORS = (KeyError, ValueError, RuntimeError, OSError, pa.ArrowException)


def _decode_record(record: bytes, mapping: dict[str, str]) -> tuple[str | None, bytes | None]:
    """Key and image of a serialised tf.Example; raises one of _RECORD_ERRORS."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    batch = ExamplesToRecordBatchDecoder().DecodeBatch([record])
    key, image = (batch.column(mapping[field]).flatten() for field in ("key", "image"))
    return id_texts(key[:1], len(key[:1]))[0] if len(key) else "", image[0].as_py() if len(
        image
    ) else None


def _read_tfrecord(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    (path,) = unit.paths
    rows: list[tuple] = []
    try:
        for place, record in read_records(path, unit.start, unit.stop):
            try:
                rows.append(_decode_record(record, unit.mapping))
            except _RECORD_ERRORS as error:
                yield BadRows("bad_row", path, [f"{place}: {error}"])
            if len(rows) == BATCH_IMAGES:
                yield raw_images(rows)
                rows = []
    except (ValueError, OSError) as error:
        yield BadRows("unreadable_file", path, [str(error)])
    if rows:
        yield raw_images(rows)
