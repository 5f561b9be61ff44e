"""Finds the images behind a flag, and cuts them into units that workers read."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from schemas.base.errors import PhraseLensError
from transforms.files import webdataset
from transforms.files.file_heads import Head, read_head, table_kind
from transforms.files.image_choice import choose
from transforms.files.matching import base_of, match
from transforms.images.places import Places
from transforms.images.readers import check_features
from transforms.images.units import BATCH_IMAGES, IMAGE_FIELDS, NOWHERE_ELSE, ImageUnit, key_of_path
from transforms.rows.column_types import field_at, is_text, stored
from transforms.rows.columns import check_columns, column_mapping, columns_of
from transforms.rows.tabular import byte_ranges, part_ranges, ranges_of_groups, row_groups

UNIT_BYTES = 64 << 20  # of a table or TFRecord that holds images
# Of a table that only names images, each of which has to be opened or fetched: about so many.
NAMING_BYTES = 1 << 20
NAMING_ROWS = 8192
# What cannot be cut is read by so many at most, each of which opens its share: a file's bytes are
# read so many times, whatever its size.
MAX_STRIPES = 16


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

    @classmethod
    def of(cls, config: Any) -> "ImagePlan":
        """The images behind the flags of a job; raises as `plan_images`."""
        mapping = column_mapping("image_columns", config.image_columns, IMAGE_FIELDS)
        return plan_images(
            "images",
            config.images,
            config.image_format,
            mapping,
            config.image_key,
            places=Places.of(config),
        )

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
    *,
    places: Places = NOWHERE_ELSE,
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
    paths = [path for path, kind in formats.items() if kind == "files"]
    keys = [key_of_path(path, key) for path in paths]
    bases = tuple(dict.fromkeys(map(base_of, patterns)))
    units = _batches(paths, keys, ImageUnit("files", (), mapping, (), places, bases))
    tables = sum(kind == "table" for kind in formats.values())
    are_few = 2 * tables <= len(formats)
    sizes = {file.path: file.size_in_bytes for file in files}
    for path, kind in choice.formats.items():
        unit = ImageUnit(kind, (path,), mapping, (), places)
        if kind in ("table", "tfrecord") and not sizes[path]:
            passed_over["empty"] += 1  # as some programs leave parts without rows
            del formats[path]
        elif kind == "table":
            try:
                units += _parts_of_table(unit, sizes[path])
            except PhraseLensError:
                if not are_few or path in patterns:
                    raise
                # Labels, say, which lie among the many images that they are of.
                passed_over["without the columns of images"] += 1
                del formats[path]
        elif kind == "tfrecord":
            is_plain = check_features(path, mapping)
            units += _cut(unit, byte_ranges(sizes[path] if is_plain else 0, UNIT_BYTES))
        elif kind == "webdataset":
            has_parts = sizes[path] > UNIT_BYTES and webdataset.has_parts(path)
            units += _cut(unit, byte_ranges(sizes[path] if has_parts else 0, UNIT_BYTES))
    if not units:
        raise PhraseLensError(
            f"--{flag} {', '.join(patterns)}",
            f"{'tar files' if format_ == 'webdataset' else 'images'}, found none but files "
            f"that are {_counts(passed_over)}",
            "Check the path; docs/use/formats.md says what is read and what is passed over.",
        )
    return ImagePlan(units, [file for file in files if file.path in formats], passed_over)


def _batches(paths: Sequence[str], keys: Sequence[str], unit: ImageUnit) -> list[ImageUnit]:
    """Units of so many files as are read at once; `unit` says what they have in common."""
    return [
        dataclasses.replace(
            unit,
            paths=tuple(paths[i : i + BATCH_IMAGES]),
            keys=tuple(keys[i : i + BATCH_IMAGES]),
        )
        for i in range(0, len(paths), BATCH_IMAGES)
    ]


def _parts_of_table(unit: ImageUnit, size: int) -> list[ImageUnit]:
    """The parts of a table of so many bytes, of which nothing but its beginning and end is read.

    Raises:
      PhraseLensError: it has not the columns.
    """
    (path,) = unit.paths
    head = read_head(path)
    names = columns_of(path, head)
    mapping = _downloaded_columns(names, unit.mapping)
    text = table_kind(head) or "csv"
    unit = dataclasses.replace(unit, mapping=_named_images(head, names, mapping), text=text)
    check_columns(path, "image_columns", unit.mapping, ("key",), ("image", "path"), head=head)
    if unit.mapping["image"] in names:
        return _cut(unit, part_ranges(head, text, size, UNIT_BYTES))
    if text == "parquet":
        rows = [group.num_rows for group in row_groups(path)]
        ranges = ranges_of_groups(rows, NAMING_ROWS)
        shares = [sum(rows[start:stop]) / NAMING_ROWS for start, stop in ranges]
    else:
        ranges = part_ranges(head, text, size, NAMING_BYTES)
        shares = [size / NAMING_BYTES / len(ranges)] * len(ranges)
    return [
        dataclasses.replace(part, stripe=stripe, stripes=stripes)
        for part, share in zip(_cut(unit, ranges), shares, strict=True)
        for stripes in (min(max(math.ceil(share), 1), MAX_STRIPES),)
        for stripe in range(stripes)
    ]


def _cut(unit: ImageUnit, ranges: Sequence[tuple[int, int | None]]) -> list[ImageUnit]:
    return [dataclasses.replace(unit, start=start, stop=stop) for start, stop in ranges]


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


def count_images(units: Sequence[ImageUnit]) -> int | None:
    """How many images some units hold, or None for containers, which would have to be read."""
    if any(unit.format != "files" for unit in units):
        return None
    return sum(len(unit.paths) for unit in units) or None
