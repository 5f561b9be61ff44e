"""Reads the images of a unit: files, rows of a table, records, or files of a tar file."""

import io
import itertools
import os
import unicodedata
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.tfrecordio import _TFRecordUtil

from schemas.base.errors import PhraseLensError
from transforms.files import webdataset
from transforms.files.compression import open_stream
from transforms.images.clean import ImageError
from transforms.images.units import BATCH_IMAGES, IMAGE_FIELDS, RAW_IMAGES, ImageUnit
from transforms.rows.checked import id_texts, texts_of
from transforms.rows.column_types import whole_text
from transforms.rows.tabular import BadRows, read_table

MAX_RECORD_BYTES = 256 << 20


def check_features(path: str, mapping: dict[str, str]) -> None:
    """Fails before any work when the first record of a TFRecord file has not the features."""
    try:
        with open_stream(path) as file:
            record = _TFRecordUtil.read_record(_Bounded(file))
        if record is not None:
            _decode_record(record, mapping)
    except _RECORD_ERRORS as error:
        raise PhraseLensError(
            path,
            f"TFRecord of tf.Example with {mapping['key']!r} and {mapping['image']!r} ({error})",
            "Name the features with --image_columns key=FEATURE,image=FEATURE.",
        ) from error


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
        for batch in webdataset.read_images(unit.paths[0], BATCH_IMAGES):
            if isinstance(batch, BadRows):
                yield batch
            else:
                yield _raw_images([(_valid(whole_text(key)), data) for key, data in batch])
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
        yield _raw_images(rows)


def _valid(key: str) -> str | None:
    """The key in NFC, or None where it is the name of a file that is no UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in key):
        return None
    return unicodedata.normalize("NFC", key)


def _raw_images(rows: list[tuple]) -> pa.Table:
    keys, images = zip(*rows, strict=True)
    return pa.table([pa.array(keys, pa.string()), pa.array(images, pa.binary())], RAW_IMAGES)


def _rows_of_table(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    """A table's rows from `first` to before `stop`, and what is bad among these.

    Where the table cannot be read that far, none of them is there, and it says so too.
    """
    row = 0
    for batch in read_table(unit.paths[0], unit.mapping, BATCH_IMAGES):
        if isinstance(batch, BadRows):
            is_ours = unit.first <= row and (unit.stop is None or row < unit.stop)
            if is_ours or (row < unit.first and batch.reason == "unreadable_file"):
                yield batch
            continue
        if unit.stop is not None and row >= unit.stop:
            return
        end = row + batch.num_rows
        first, stop = max(unit.first, row), end if unit.stop is None else min(unit.stop, end)
        if first < stop:
            yield batch.slice(first - row, stop - first)
        row = end


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
            yield _raw_images(rows)


_RECORD_ERRORS = (KeyError, ValueError, RuntimeError, OSError, pa.ArrowException)


def _decode_record(record: bytes, mapping: dict[str, str]) -> tuple[str | None, bytes | None]:
    """Key and image of a serialised tf.Example; raises one of _RECORD_ERRORS."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    batch = ExamplesToRecordBatchDecoder().DecodeBatch([record])
    key, image = (batch.column(mapping[field]).flatten() for field in ("key", "image"))
    return id_texts(key[:1], len(key[:1]))[0] if len(key) else "", image[0].as_py() if len(
        image
    ) else None


class _Bounded:
    """A stream of records, none of which is larger than memory: it says itself how long it is."""

    def __init__(self, stream: io.BufferedReader):
        self._stream = stream

    def read(self, size: int) -> bytes:
        if size > MAX_RECORD_BYTES:
            raise OSError(f"a record of {size:,} bytes")
        return self._stream.read(size)


def _read_tfrecord(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    (path,) = unit.paths
    rows: list[tuple] = []
    try:
        with open_stream(path) as stream:
            file = _Bounded(stream)
            for number in itertools.count(1):
                record = _TFRecordUtil.read_record(file)
                if record is None:
                    break
                try:
                    rows.append(_decode_record(record, unit.mapping))
                except _RECORD_ERRORS as error:
                    yield BadRows("bad_row", path, [f"record {number}: {error}"])
                if len(rows) == BATCH_IMAGES:
                    yield _raw_images(rows)
                    rows = []
    except (ValueError, OSError) as error:
        yield BadRows("unreadable_file", path, [str(error)])
    if rows:
        yield _raw_images(rows)
