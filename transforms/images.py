"""Images as people have them → clean images: checked, upright, 8-bit, no alpha, of bounded size.

Every later stage reads clean images only, so one decoder in the model's graph is enough.
"""

import dataclasses
import functools
import hashlib
import io
import types
from collections.abc import Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image

from model_code.progress import Progress
from schemas.dead_letter import dead_letters
from schemas.stage import Stage
from transforms.datasets import COUNTS, DEAD, Output, par_do
from transforms.image_units import read_unit
from transforms.rows import checked_file
from transforms.signatures import SIGNATURE_BYTES, signature

CLEAN_IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.binary()),
        ("signature", pa.binary(SIGNATURE_BYTES)),
        ("source", pa.string()),  # hash of the bytes as they came
        ("original", pa.bool_()),  # whether those were clean already
    ]
)

# What viewers show. PIL opens more, PostScript among it, which runs a program.
# (Photos of several pictures, MPO, open as JPEG.)
_FILE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO", "JPEG2000", "PPM")

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
      signature: what near duplicates are found by, see transforms/signatures.py.
    """

    image_id: str
    width: int
    height: int
    data: bytes
    signature: bytes


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
        image = Image.open(io.BytesIO(data), formats=_FILE_FORMATS)
    except Exception as error:  # each decoder has exceptions of its own
        raise ImageError("not_an_image", f"starts with {data[:16]!r}") from error
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels", f"{image.width} x {image.height}")
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _to_rgb(image if turn is None else image.transpose(turn))
    except Exception as error:
        raise ImageError("truncated_image", f"{type(error).__name__}: {error}") from error
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    is_clean = (
        (image.format == "JPEG" or (image.format == "PNG" and data[_PNG_BIT_DEPTH] == 8))
        and image.mode in ("RGB", "L")
        and "transparency" not in image.info
        and turn is None
        and getattr(image, "n_frames", 1) == 1
        and max(image.size) <= max_side
    )
    if not is_clean:
        rgb.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        rgb.save(buffer, "JPEG", quality=95, subsampling=0)
        data = buffer.getvalue()
    return CleanImage(digest.hexdigest()[:32], rgb.width, rgb.height, data, signature(rgb))


def source_of(data: bytes) -> str:
    """Names the bytes of an image as they came: 32 hex digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


# Where a PNG tells its bits a channel: PIL opens 16-bit RGB as if it had 8.
_PNG_BIT_DEPTH = 24

# What EXIF calls the orientation → how PIL turns it upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a viewer shows an image whose EXIF block is broken as it is stored
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # PIL would clip 16-bit values at 255; a viewer scales them.
        values = np.nan_to_num(np.asarray(image, np.float32))
        top = 65535.0 if image.mode != "F" or values.max() > 1 else 1.0
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def clean_images(
    table: pa.Table,
    stage: Stage,
    max_pixels: int,
    max_side: int,
    forgotten: frozenset[str] = frozenset(),
    known: Mapping[str, CleanImage] = types.MappingProxyType({}),
) -> Output:
    """Cleans a batch of RAW_IMAGES; one bad image is one dead letter, one of `forgotten` is none.

    Args:
      table, stage, max_pixels, max_side, forgotten: see `ReadImages`.
      known: source → what `clean_image` made of it before, with the same limits.

    Returns:
      Table `clean` (rows of CLEAN_IMAGES), dead letters, counts of `images`.
    """
    reused = 0
    good: list[tuple] = []
    dead: list[tuple[str, str, str, bytes]] = []
    for key, data in zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True):
        if not key:
            reason = "bad_encoding" if key is None else "missing_image_key"
            dead.append((reason, "", "in the image key" * (key is None), data or b""))
            continue
        if key in forgotten:
            continue
        try:
            source = source_of(data or b"")
            reused += source in known
            image = known.get(source) or clean_image(data or b"", max_pixels, max_side)
            size = image.width, image.height
            original = image.data == data
            good.append((image.image_id, key, *size, image.data, image.signature, source, original))
        except ImageError as error:
            dead.append((error.reason, key, error.detail, data or b""))
    counts = {"images.in": table.num_rows, "images.out": len(good)}
    if reused:
        counts["reused.rows"] = reused
    if gone := table.num_rows - len(good) - len(dead):
        counts["images.dropped_forgotten"] = gone
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


class ReadImages(beam.PTransform):
    """PCollection[ImageUnit] → tagged `clean` (tables of CLEAN_IMAGES), `dead`, `counts`.

    Args:
      stage: the run.
      max_pixels, max_side: see `clean_image`.
      total: images in all, for the time left, or None.
      forgotten: keys of images that must be forgotten.
    """

    def __init__(
        self,
        stage: Stage,
        max_pixels: int,
        max_side: int,
        total: int | None,
        forgotten: frozenset[str],
    ):
        super().__init__()
        self._args = stage, max_pixels, max_side, total, forgotten

    def expand(self, units):
        fn = _ReadImagesFn(*self._args)
        return units | beam.Reshuffle() | par_do(fn, tags=(DEAD, COUNTS, "clean"))


class _ReadImagesFn(beam.DoFn):
    def __init__(self, stage, max_pixels, max_side, total, forgotten):
        self._stage, self._max_pixels, self._max_side = stage, max_pixels, max_side
        self._total, self._forgotten = total, forgotten

    def setup(self):
        self._progress = Progress("read images", self._total, "images")

    def process(self, unit):
        clean = functools.partial(
            clean_images,
            stage=self._stage,
            max_pixels=self._max_pixels,
            max_side=self._max_side,
            forgotten=self._forgotten,
        )
        for output in checked_file(read_unit(unit), "images", clean, self._stage, len(unit.paths)):
            self._progress.add(output.counts.get("images.in", 0))
            yield from output.tagged()
