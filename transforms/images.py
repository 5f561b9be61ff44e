"""Images as people have them → clean images: checked, upright, 8-bit, no alpha, of bounded size.

Every later stage reads clean images only, so one decoder in the model's graph is enough.
"""

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.tfrecordio import _TFRecordUtil
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas import storage
from schemas.dead_letter import dead_letters
from schemas.errors import PhraseLensError
from schemas.stage import Stage
from transforms.datasets import COUNTS, DEAD, Output
from transforms.events import bad_rows
from transforms.files import match
from transforms.tabular import BadRows, check_columns, read_table, table_format

IMAGE_FIELDS = ("key", "image", "path")
IMAGE_FORMATS = ("auto", "files", "table", "tfrecord")
BATCH_IMAGES = 64

RAW_IMAGES = pa.schema([("key", pa.string()), ("image", pa.binary())])
CLEAN_IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.binary()),
    ]
)

# A limit of ours is checked before any pixel is decoded; PIL's would only warn at first.
Image.MAX_IMAGE_PIXELS = None


class ImageError(Exception):
    """An image that cannot be used: a reason of schemas/dead_letter.py and a detail."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(reason, detail)


@dataclasses.dataclass(frozen=True)
class CleanImage:
    """An image that every later stage can decode.

    Attributes:
      image_id: 32 hex digits, hash of size and RGB pixels before any shrinking: equal for
        the same picture in another lossless file.
      width, height: pixels of the clean image.
      data: JPEG or PNG bytes; the original ones where they are clean already.
    """

    image_id: str
    width: int
    height: int
    data: bytes


def clean_image(data: bytes, max_pixels: int, max_side: int) -> CleanImage:
    """Checks an image and makes it as a viewer shows it.

    The first frame of an animation, turned upright by its EXIF tag, composed on white
    where it is transparent, CMYK, palette and 16-bit colours brought to 8-bit RGB, and
    shrunk to `max_side`.

    Raises:
      ImageError: empty, no image, cut or corrupt, or more than `max_pixels`.
    """
    if not data:
        raise ImageError("empty_image", "0 bytes")
    try:
        image = Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError("not_an_image", f"starts with {data[:16]!r}") from error
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels", f"{image.width} x {image.height}")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        rgb = _to_rgb(upright)
    except Exception as error:  # each decoder has exceptions of its own
        raise ImageError("truncated_image", f"{type(error).__name__}: {error}") from error
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    is_clean = (
        image.format in ("JPEG", "PNG")
        and image.mode in ("RGB", "L")
        and "transparency" not in image.info
        and upright.size == image.size
        and image.getexif().get(_ORIENTATION, 1) == 1
        and getattr(image, "n_frames", 1) == 1
        and max(image.size) <= max_side
    )
    if not is_clean:
        rgb.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        rgb.save(buffer, "JPEG", quality=95, subsampling=0)
        data = buffer.getvalue()
    return CleanImage(digest.hexdigest()[:32], rgb.width, rgb.height, data)


_ORIENTATION = 0x0112


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # PIL would clip 16-bit values at 255; a viewer scales them.
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode != "F" or values.max() > 1 else 1.0
        return Image.fromarray((values.clip(0, top) / top * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def clean_images(table: pa.Table, stage: Stage, max_pixels: int, max_side: int) -> Output:
    """Cleans a batch of RAW_IMAGES; one bad image is one dead letter.

    Returns:
      Table `clean` (rows of CLEAN_IMAGES), dead letters, counts of `images`.
    """
    good: list[tuple] = []
    dead: list[tuple[str, str, str, bytes]] = []
    for key, data in zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True):
        if not key:
            dead.append(("missing_image_key", "", "", data or b""))
            continue
        try:
            image = clean_image(data or b"", max_pixels, max_side)
            good.append((image.image_id, key, image.width, image.height, image.data))
        except ImageError as error:
            dead.append((error.reason, key, error.detail, data or b""))
    counts = {"images.in": table.num_rows, "images.out": len(good)}
    letters = []
    for reason in sorted({row[0] for row in dead}):
        rows = [row for row in dead if row[0] == reason]
        counts[f"images.dropped_{reason}"] = len(rows)
        _, keys, details, payloads = (list(column) for column in zip(*rows, strict=True))
        letters.append(dead_letters(stage.name, stage.run_id, reason, keys, details, payloads))
    columns = list(zip(*good, strict=True)) or [()] * len(CLEAN_IMAGES)
    clean = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, CLEAN_IMAGES, strict=True)],
        schema=CLEAN_IMAGES,
    )
    return Output({"clean": clean}, tuple(letters), counts)


@dataclasses.dataclass(frozen=True)
class ImageUnit:
    """A piece of the images that is read at once: files, or one table or TFRecord file."""

    format: str
    paths: tuple[str, ...]
    mapping: dict[str, str]
    keys: tuple[str, ...] = ()


def plan_units(
    flag: str, patterns: Sequence[str], format_: str, mapping: dict[str, str], key: str
) -> tuple[list[ImageUnit], list[FileMetadata]]:
    """Finds the images behind a flag.

    Args:
      flag: the flag's name, for errors.
      patterns: globs, folders or files.
      format_: one of IMAGE_FORMATS; auto goes by the names of the files.
      mapping: field → column (table) or feature (tfrecord).
      key: what names an image file: its `stem`, its file `name` or its `path`.

    Returns:
      The units, and the files for their content hash.

    Raises:
      PhraseLensError: nothing matches, or a table has not the columns.
    """
    files = match(flag, patterns)
    if format_ == "auto":
        first = files[0].path
        is_records = ".tfrecord" in first
        format_ = "tfrecord" if is_records else "table" if table_format(first) else "files"
    paths = [file.path for file in files]
    if format_ == "files":
        keys = [_key_of(path, key) for path in paths]
        units = [
            ImageUnit(
                "files",
                tuple(paths[i : i + BATCH_IMAGES]),
                mapping,
                tuple(keys[i : i + BATCH_IMAGES]),
            )
            for i in range(0, len(paths), BATCH_IMAGES)
        ]
        return units, files
    if format_ == "table":
        check_columns(paths[0], "image_columns", mapping, ("key",))
        _check_image_column(paths[0], mapping)
    return [ImageUnit(format_, (path,), mapping) for path in paths], files


def _check_image_column(path: str, mapping: dict[str, str]) -> None:
    try:
        check_columns(path, "image_columns", mapping, ("image",))
    except PhraseLensError:
        check_columns(path, "image_columns", mapping, ("path",))


def _key_of(path: str, key: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return {"path": path, "name": name, "stem": name.rsplit(".", 1)[0]}[key]


def read_unit(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    """Reads a unit's images: tables of RAW_IMAGES of at most BATCH_IMAGES rows, and bad rows."""
    if unit.format == "files":
        yield from _read_files(unit.paths, unit.keys)
    elif unit.format == "table":
        yield from _read_image_table(unit)
    else:
        yield from _read_tfrecord(unit)


def _read_files(paths: Sequence[str], keys: Sequence[str]) -> Iterator[pa.Table | BadRows]:
    rows = []
    for path, key in zip(paths, keys, strict=True):
        try:
            rows.append((key, storage.read_bytes(path)))
        except OSError as error:
            yield BadRows("unreadable_file", str(error), [path.encode()])
    if rows:
        yield _raw_images(rows)


def _raw_images(rows: list[tuple]) -> pa.Table:
    keys, images = zip(*rows, strict=True)
    return pa.table([pa.array(keys, pa.string()), pa.array(images, pa.binary())], RAW_IMAGES)


def _read_image_table(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    (path,) = unit.paths
    folder = path.rsplit("/", 1)[0]
    for batch in read_table(path, unit.mapping, BATCH_IMAGES):
        if isinstance(batch, BadRows):
            yield batch
            continue
        for start in range(0, batch.num_rows, BATCH_IMAGES):
            piece = batch.slice(start, BATCH_IMAGES)
            keys = [_text(value) for value in piece["key"].to_pylist()]
            if "image" in piece.column_names:
                yield _raw_images(list(zip(keys, piece["image"].to_pylist(), strict=True)))
            else:
                names = [_text(value) for value in piece["path"].to_pylist()]
                yield from _read_files([_resolve(folder, name) for name in names], keys)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _resolve(folder: str, name: str) -> str:
    return name if "://" in name or name.startswith("/") else storage.join(folder, name)


def _read_tfrecord(unit: ImageUnit) -> Iterator[pa.Table | BadRows]:
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder()
    (path,) = unit.paths
    with storage.open_input(path) as file:
        while True:
            records: list[bytes] = []
            try:
                while len(records) < BATCH_IMAGES:
                    record = _TFRecordUtil.read_record(file)
                    if record is None:
                        break
                    records.append(record)
            except ValueError as error:
                yield BadRows("unreadable_file", str(error), [path.encode()])
            if not records:
                return
            try:
                batch = decoder.DecodeBatch(records)
                columns = {name: batch.column(name) for name in batch.schema.names}
                keys, images = (
                    [row[0] if row else None for row in columns[unit.mapping[field]].to_pylist()]
                    for field in ("key", "image")
                )
            except (KeyError, ValueError, RuntimeError) as error:
                yield BadRows("bad_row", f"no such feature or no Example: {error}", records)
                continue
            texts = [_text(key) for key in keys]
            yield _raw_images(list(zip(texts, images, strict=True)))
            if len(records) < BATCH_IMAGES:
                return


class ReadImages(beam.PTransform):
    """PCollection[ImageUnit] → tagged `clean` (tables of CLEAN_IMAGES), `dead`, `counts`."""

    def __init__(self, stage: Stage, max_pixels: int, max_side: int):
        super().__init__()
        self._args = stage, max_pixels, max_side

    def expand(self, units):
        fn = _ReadImagesFn(*self._args)
        return units | beam.Reshuffle() | beam.ParDo(fn).with_outputs(DEAD, COUNTS, "clean")


class _ReadImagesFn(beam.DoFn):
    def __init__(self, stage, max_pixels, max_side):
        self._stage, self._max_pixels, self._max_side = stage, max_pixels, max_side

    def process(self, unit):
        for batch in read_unit(unit):
            if isinstance(batch, BadRows):
                output = bad_rows(batch, "images", unit.paths[0], self._stage)
            else:
                output = clean_images(batch, self._stage, self._max_pixels, self._max_side)
            yield from output.tagged()
