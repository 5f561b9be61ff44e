"""An image as people have it → a clean image: checked, upright, 8-bit, no alpha, bounded.

Every later stage reads clean images only, so one decoder in the model's graph is enough.
This module is all that the process which decodes has to import: see transforms/images/process.py.
"""

import dataclasses
import hashlib
import io
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from transforms.duplicates.signature import signature
from transforms.images import colours as image_colours
from transforms.images import formats as image_formats
from transforms.images import only_pixels as image_bytes

# It is an error of ours already.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class ImageError(Exception):
    """An image that cannot be used: a reason of schemas/tables/dead_letters.py and a detail."""

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
      signature: what near duplicates are found by, see transforms/duplicates/signature.py.
    """

    image_id: str
    width: int
    height: int
    data: bytes
    signature: bytes


@dataclasses.dataclass(frozen=True)
class ImageLimits:
    """What one image may cost.

    Attributes:
      max_pixels: of an image that is decoded.
      max_side: pixels of a clean image; larger ones are shrunk.
      max_bytes: of an image's file.
      max_seconds: of CPU time to decode it and make it clean.
    """

    max_pixels: int = 100_000_000
    max_side: int = 512
    max_bytes: int = 64 << 20
    max_seconds: int = 30

    @classmethod
    def of(cls, config: Any) -> "ImageLimits":
        """Those of a job's flags."""
        return cls(
            config.max_image_pixels,
            config.max_image_side,
            config.max_image_bytes,
            config.max_image_seconds,
        )

    @property
    def memory_bytes(self) -> int:
        """What the process that decodes may take beyond what it has at its start.

        An image in its own colours, in RGBA, composed, as RGB and as float32 at once; with
        room for the tables that a decoder makes.
        """
        return 40 * self.max_pixels + 4 * self.max_bytes + (256 << 20)


def clean_image(data: bytes, limits: ImageLimits) -> CleanImage:
    """Checks an image and makes it as a viewer shows it.

    The first frame of an animation and the first page of a document, in the colours of its
    profile (as sRGB), turned upright by its EXIF tag, composed on white where it is transparent,
    CMYK, palette and 16-bit colours brought to 8-bit RGB, and shrunk to `max_side`. What is no
    pixel stays behind: EXIF, comments, whatever follows the image in its file.

    Raises:
      ImageError: empty, no image, cut or corrupt, or beyond the limits of bytes or pixels.
        (The other limits are kept by transforms/images/process.py.)
    """
    if not data:
        raise ImageError("empty_image", "0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageError("too_many_bytes", f"{len(data):,} bytes")
    others = Image.MAX_IMAGE_PIXELS
    # An icon and a movie hold images of their own, whose size only PIL looks at, with this limit;
    # up to twice of it PIL warns, and we look again.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        image = _opened(data, limits.max_pixels)
        image.load()
        turn = _TURNS.get(_orientation(image))
        _check_pixels(*image.size, limits.max_pixels)  # of an icon, now that it is chosen
        if wrong := image_bytes.damage(data):
            raise ImageError("truncated_image", wrong)
        rgb = _to_rgb(image if turn is None else image.transpose(turn))
        digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
        digest.update(rgb.tobytes())
        shown = _as_it_is(image, data, turn, limits.max_side) or _encoded(rgb, limits.max_side)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except MemoryError as error:
        raise ImageError("decoder_failed", "out of memory") from error
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("truncated_image", _words(type(error).__name__, error)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = others  # whoever else opens images in this process has its own
    return CleanImage(digest.hexdigest()[:32], rgb.width, rgb.height, shown, signature(rgb))


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """The image, of which nothing is decoded yet that could be too large.

    Raises:
      ImageError: no image that is read, or one of too many pixels.
      Image.DecompressionBombError, MemoryError: the same, as Pillow has found out.
    """
    image_formats.register()
    if other := image_formats.unsupported(data):
        raise ImageError("not_an_image", f"{other[0]} is not read: {other[1]}")
    said = []
    for name, opener in image_formats.openers(data):
        if name == "JXL" and (size := image_bytes.jxl_size(data)):
            _check_pixels(*size, max_pixels)
        try:
            image = opener(io.BytesIO(data), "")
        except (Image.DecompressionBombError, MemoryError):
            raise
        except Exception as error:  # each decoder has exceptions of its own
            said.append(_words(name, error))
        else:
            _check_pixels(*image.size, max_pixels)
            return image
    raise ImageError("not_an_image", "; ".join(said) or image_formats.described(data))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width} x {height}")


def _words(name: str, error: Exception) -> str:
    """What a decoder says, in a line."""
    return " ".join(f"{name}: {error}".split())


def _as_it_is(image: Image.Image, data: bytes, turn: object, max_side: int) -> bytes | None:
    """The file's own pixels without a new encoding, or None where they are not clean."""
    is_clean = (
        image.format in ("JPEG", "PNG")
        and image.mode in ("RGB", "L")
        and "transparency" not in image.info
        and turn is None
        and image_colours.conversion(image.mode, image.info.get("icc_profile")) is None
        and getattr(image, "n_frames", 1) == 1
        and max(image.size) <= max_side
    )
    return image_bytes.only_pixels(data) if is_clean else None


def _encoded(rgb: Image.Image, max_side: int) -> bytes:
    """JPEG of an image, which is shrunk in place."""
    rgb.info.clear()  # or the comment of the file would be written again
    side = min(max_side, _MAX_JPEG_SIDE)
    rgb.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


_MAX_JPEG_SIDE = 65_500  # of libjpeg

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
    # The pixels of JPEG XL are upright already, unless they are those of a JPEG.
    if image.format == "JXL" and not image.jpeg:  # type: ignore[attr-defined]
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a viewer shows an image whose EXIF block is broken as it is stored
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        # PIL would clip 16-bit values at 255; a viewer scales them.
        values = np.nan_to_num(np.asarray(image, np.float32))
        top = 65535.0 if image.mode != "F" or values.max() > 1 else 1.0
        image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        is_grey = image.mode in ("1", "L", "LA", "La")
        plain = rgba.getchannel("R") if is_grey else rgba.convert("RGB")
        shown = image_colours.to_srgb(plain, profile)
        shown.putalpha(rgba.getchannel("A"))
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, shown).convert("RGB")
    if image.mode not in image_colours.MODES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image_colours.to_srgb(image, profile)
