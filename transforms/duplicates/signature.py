"""What an image looks like in 1,536 bytes: its signature, a thumbnail.

32 × 32 luma and 16 × 16 chroma, of 8 bits. Re-encoding, resizing, cropping by some per cent and a
mark over a part of the picture leave so much of it alone that compare.py tells a copy from a
look-alike.
"""

import numpy as np
from PIL import Image

SIDE, CHROMA_SIDE = 32, 16
SIGNATURE_BYTES = SIDE * SIDE + 2 * CHROMA_SIDE * CHROMA_SIDE
# Below this standard deviation (levels) of each channel nothing is left to compare: an
# image of one colour, an empty page.
_FLAT = 3.0


def signature(rgb: Image.Image) -> bytes:
    """The signature of an image.

    Args:
      rgb: 8-bit RGB.

    Returns:
      `SIGNATURE_BYTES` bytes: luma [32, 32], Cb [16, 16], Cr [16, 16] uint8 (JPEG's YCbCr),
      each resampled with a triangle filter as wide as its pixels are apart.
    """
    # A large image is averaged over whole blocks first, down to no less than twice the
    # size: the result hardly differs and takes a quarter of the time.
    small = rgb.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    luma, cb, cr = small.convert("YCbCr").split()
    chroma = [c.resize((CHROMA_SIDE, CHROMA_SIDE), Image.Resampling.BOX) for c in (cb, cr)]
    return b"".join(channel.tobytes() for channel in (luma, *chroma))


def pixels_of(signatures: np.ndarray) -> np.ndarray:
    """Unpacks signatures.

    Args:
      signatures: [n, SIGNATURE_BYTES] uint8.

    Returns:
      [n, 3, 32, 32] float32, YCbCr in 0..255; chroma interpolated linearly.
    """
    values = signatures.astype(np.float32)
    luma = values[:, : SIDE * SIDE].reshape(-1, 1, SIDE, SIDE)
    chroma = values[:, SIDE * SIDE :].reshape(-1, 2, CHROMA_SIDE, CHROMA_SIDE)
    at = ((np.arange(SIDE) + 0.5) * CHROMA_SIDE / SIDE - 0.5).clip(0, CHROMA_SIDE - 1)
    linear = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(CHROMA_SIDE))).astype(np.float32)
    return np.concatenate([luma, linear @ chroma @ linear.T], axis=1)


def is_flat(pixels: np.ndarray) -> np.ndarray:
    """[n] bool: images without detail, which are never taken for copies.

    Any two of one colour would match whatever they are of: nothing in them tells copies
    from strangers. (Images of equal pixels have one id without this module.)
    """
    return pixels.std((2, 3)).max(1) < _FLAT
