"""The colours of an image as sRGB, in which every later stage takes them.

A photo's numbers mean colours only together with its ICC profile: (117, 199, 75) in sRGB is
(40, 200, 60) for a viewer that knows the file to be Adobe RGB. Little CMS converts them. As in
viewers, a profile that is broken, or of other channels than the image has, counts for nothing.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# What ICC calls the channels of Pillow's modes.
_CHANNELS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
MODES = (*_CHANNELS, "LAB")
# Profiles of sRGB come from many makers, who round the curve each in their own way.
_SAME_LEVELS = 3


@functools.lru_cache(maxsize=16)  # a collection has few profiles
def conversion(mode: str, profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """What makes sRGB of the colours of an image.

    Args:
      mode: L, RGB, CMYK or LAB.
      profile: the image's ICC profile.

    Returns:
      The transform to RGB, from `input_mode`: RGB where a grey image has a profile of colours.
      None where there is nothing to do: no profile, none that can be used, or sRGB itself.
    """
    try:
        if mode == "LAB":
            return ImageCms.buildTransform(
                ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
            )
        if not profile:
            return None
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        channels = source.profile.xcolor_space.strip()
        if mode == "L" and channels == "RGB":
            mode = "RGB"
        if _CHANNELS.get(mode) != channels:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _changes_nothing(transform) else transform
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode L, RGB, CMYK or LAB as RGB, in sRGB."""
    transform = conversion(image.mode, profile)
    if transform is None:
        return image.convert("RGB")
    return transform.apply(image.convert(transform.input_mode))


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    if transform.input_mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    if transform.input_mode == "L":
        colours = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    given = Image.fromarray(colours)
    made = np.asarray(transform.apply(given.convert(transform.input_mode)), int)
    return bool(np.abs(made - colours).max() <= _SAME_LEVELS)
