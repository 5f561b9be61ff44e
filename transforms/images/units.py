"""Images as people have them, found and read in pieces: files, tables, TFRecord, WebDataset."""

import dataclasses
import io
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.tfrecordio import _TFRecordUtil

from schemas.base.errors import PhraseLensError
from transforms.files import webdataset
from transforms.files.compression import open_stream
from transforms.files.file_heads import Head, read_head
from transforms.files.image_choice import choose
from transforms.files.matching import base_of, match
from transforms.images.clean import ImageError
from transforms.images.places import Places
from transforms.rows.checked import id_texts, texts_of
from transforms.rows.column_types import field_at, is_text, stored, whole_text
from transforms.rows.columns import check_columns, columns_of
from transforms.rows.tabular import BadRows, read_table

IMAGE_FIELDS = ("key", "image", "path")
KEY_KINDS = ("stem", "name", "path")  # what an image file can be called by
BATCH_IMAGES = 64
UNIT_ROWS = 8192  # of a table that only names images: each has to be opened or fetched
MAX_RECORD_BYTES = 256 << 20

RAW_IMAGES = pa.schema(
    [
        ("key", pa.string()),  # in NFC; null where it is no valid text
        ("image", pa.binary()),
    ]
)

_NOWHERE_ELSE = Places()


@dataclasses.dataclass(frozen=True)
class ImageUnit:
    """A piece of the images that is read at once: files, or one table, TFRecord or tar file.

    Attributes:
      format: of IMAGE_FORMATS.
      paths: the files.
      mapping: field → column (table) or feature (tfrecord).
      keys: of the images, where each is a file.
      places: where images may be read from.
      bases: folders that image files were looked for in.
      first, stop: of a table, the rows from one to before the other; None for all that follow.
    """

    format: str
    paths: tuple[str, ...]
    mapping: dict[str, str]
    keys: tuple[str, ...] = ()
    places: Places = _NOWHERE_ELSE
    bases: tuple[str, ...] = ()
    first: int = 0
    stop: int | None = None

    @property
    def files(self) -> int:
        """Files that it stands for: a table is that of its first rows, and counts once."""
        return 0 if self.first else len(self.paths)


@dataclasses.dataclass(frozen=True)
class ImagePlan:
    """The images behind a flag.

    Attributes:
      units: what workers read.
      files: all files of the units, for their content hash.
      passed_over: what other files are → how many there are.
    """

    units: list[ImageUnit]
    files: list[FileMetadata]
    passed_over: Counter[str]

    @property
    def fact(self) -> str:
        """A line for people: "images: 12 files (11 files, 1 webdataset); passed over: …"."""
        kinds: Counter[str] = Counter()
        for unit in self.units:
            kinds[unit.format] += unit.files
        found = next(iter(kinds)) if len(kinds) == 1 else _counts(kinds)
        line = f"images: {len(self.files)} files ({found})"
        return f"{line}; passed over: {_counts(self.passed_over)}" if self.passed_over else line


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.items())


def plan_images(
    flag: str,
    patterns: Sequence[str],
    format_: str,
    mapping: dict[str, str],
    key: str,
    places: Places = _NOWHERE_ELSE,
) -> ImagePlan:
    """Finds the images behind a flag.

    Args:
      flag: the flag's name, for errors.
      patterns: globs, folders or files.
      format_: one of IMAGE_FORMATS; auto goes by the names of the files.
      mapping: field → column (table) or feature (tfrecord).
      key: what names an image file: its `stem`, its file `name` or its `path`.
      places: where paths in tables, and links among files, may lead.

    Raises:
      PhraseLensError: nothing matches, a table or TFRecord has not the columns, or a file
        is no tar file.
    """
    files = match(flag, patterns)
    choice = choose([file.path for file in files], patterns, format_)
    formats, passed_over = dict(choice.formats), choice.passed_over
    units: list[ImageUnit] = []
    paths = [path for path, kind in formats.items() if kind == "files"]
    keys = [key_of_path(path, key) for path in paths]
    bases = tuple(dict.fromkeys(map(base_of, patterns)))
    units += [
        ImageUnit(
            "files",
            tuple(paths[i : i + BATCH_IMAGES]),
            mapping,
            tuple(keys[i : i + BATCH_IMAGES]),
            places,
            bases,
        )
        for i in range(0, len(paths), BATCH_IMAGES)
    ]
    tables = sum(kind == "table" for kind in formats.values())
    are_few = 2 * tables <= len(formats)
    empty = {file.path for file in files if not file.size_in_bytes}
    for path, kind in choice.formats.items():
        unit = ImageUnit(kind, (path,), mapping, (), places)
        if kind in ("table", "tfrecord") and path in empty:
            passed_over["empty"] += 1  # as some programs leave parts without rows
            del formats[path]
        elif kind == "table":
            try:
                units += _parts_of_table(unit)
            except PhraseLensError:
                if not are_few or path in patterns:
                    raise
                # Labels, say, which lie among the many images that they are of.
                passed_over["without the columns of images"] += 1
                del formats[path]
        elif kind == "tfrecord":
            _check_features(path, mapping)
            units.append(unit)
        elif kind == "webdataset":
            units.append(unit)
    if not units:
        raise PhraseLensError(
            f"--{flag} {', '.join(patterns)}",
            f"{'tar files' if format_ == 'webdataset' else 'images'}, found none but files "
            f"that are {_counts(passed_over)}",
            "Check the path; docs/formats.md says what is read and what is passed over.",
        )
    return ImagePlan(units, [file for file in files if file.path in formats], passed_over)


def _parts_of_table(unit: ImageUnit) -> list[ImageUnit]:
    """A table that holds images; or rows of one that names them, so that many workers open them.

    Raises:
      PhraseLensError: it has not the columns.
    """
    (path,) = unit.paths
    head = read_head(path)
    names = columns_of(path, head)
    mapping = _downloaded_columns(names, unit.mapping)
    unit = dataclasses.replace(unit, mapping=_named_images(head, names, mapping))
    check_columns(path, "image_columns", unit.mapping, ("key",), ("image", "path"), head=head)
    if unit.mapping["image"] in names:
        return [unit]
    named = read_table(path, {"path": unit.mapping["path"]})
    rows = sum(batch.num_rows for batch in named if not isinstance(batch, BadRows))
    starts = range(0, max(rows, 1), UNIT_ROWS)
    stops = [*starts[1:], None]
    return [
        dataclasses.replace(unit, first=first, stop=stop)
        for first, stop in zip(starts, stops, strict=True)
    ]


def _downloaded_columns(columns: Sequence[str], mapping: dict[str, str]) -> dict[str, str]:
    """The mapping, or for a table of img2dataset the columns that it has for the same."""
    if mapping["image"] in columns or not {"key", "jpg", "status"} <= set(columns):
        return mapping
    return mapping | {"image": "jpg", "status": "status"}


def _named_images(head: Head, columns: Sequence[str], mapping: dict[str, str]) -> dict[str, str]:
    """The mapping, where a column of images is text as one that names them: text holds no image."""
    image = mapping["image"]
    if image not in columns or mapping["path"] in columns:
        return mapping
    if head.schema is not None:
        found = field_at(head.schema, image)
        if found is None or not is_text(stored(found[1])):
            return mapping
    return mapping | {"image": "", "path": image}


def _check_features(path: str, mapping: dict[str, str]) -> None:
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


def count_images(units: Sequence[ImageUnit]) -> int | None:
    """How many images some units hold, or None for containers, which would have to be read."""
    if any(unit.format != "files" for unit in units):
        return None
    return sum(len(unit.paths) for unit in units) or None


def key_of_path(path: str, kind: str) -> str:
    """What an image file is called; `kind` is one of KEY_KINDS."""
    name = path.rsplit("/", 1)[-1]
    key = {"path": path, "name": name, "stem": name.rsplit(".", 1)[0]}[kind]
    return unicodedata.normalize("NFC", whole_text(key))


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
