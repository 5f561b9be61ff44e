"""Keys that copies of one picture share, so that only images with common keys are compared."""

import functools
import itertools

import numpy as np

from transforms.duplicates.signature import SIDE, is_flat

_CELLS = 6  # luma cells along each side; chroma has half as many
_STRIPS = 6  # thirds of the picture: top to bottom, then left to right
_KEYS_PER_STRIP, _VALUES_PER_KEY = 2, 8
_STEP = 80.0  # width of a quantisation step, in grey levels
_FLAT_STRIP = 6.0  # standard deviation of a strip's luma cells; below, it tells nothing
# What may have been cut off along an axis: share at the start, share at the end.
_CUTS = ((0.0, 0.0), (0.05, 0.0), (0.0, 0.05), (0.05, 0.05))
NUM_BANDS = _STRIPS * _KEYS_PER_STRIP


def band_keys(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys of locality-sensitive hashing: a copy shares at least some with its original.

    Each band looks at a third of the picture, so that a mark leaves other bands alone, and
    quantises random projections of its cells' means (p-stable hashing: Datar, Immorlica,
    Indyk, Mirrokni, SCG 2004; bands: Leskovec, Rajaraman, Ullman, Mining of Massive
    Datasets, 3.4). An image has the keys of the whole picture, by which it is found, and
    those of 15 windows of it, by which it finds its cropped copies (multi-probe: Lv et al.,
    VLDB 2007).

    Args:
      pixels: [n, 3, 32, 32] thumbnails.

    Returns:
      [n, 16, NUM_BANDS] int64 keys, the whole picture first, and [n, 16, NUM_BANDS] bool:
      keys of strips with some detail.
    """
    # The same on every worker; the numbers themselves do not matter.
    rng = np.random.Generator(np.random.PCG64(0))
    cells = 3 * _CELLS  # 12 of luma, 3 of each chroma channel
    width = _KEYS_PER_STRIP * _VALUES_PER_KEY
    directions = rng.standard_normal((_STRIPS, cells, width)).astype(np.float32)
    offsets = rng.uniform(0, _STEP, (_STRIPS, 1, width))
    keys, useful, detailed = [], [], ~is_flat(pixels)[:, None]
    for (left, right), (top, bottom) in itertools.product(_CUTS, _CUTS):
        strips = _strips(pixels, (left, 1 - right), (top, 1 - bottom))
        steps = np.floor((strips @ directions + offsets) / _STEP).astype(np.int64)
        keys.append(_hash_steps(steps))
        detail = strips[:, :, : 2 * _CELLS].std(2) >= _FLAT_STRIP
        useful.append(detail.repeat(_KEYS_PER_STRIP, axis=0).T & detailed)
    return np.stack(keys, 1), np.stack(useful, 1)


def _strips(pixels, horizontal, vertical) -> np.ndarray:
    """[6, n, 18] float32: means of the cells of each strip of a window."""
    n = len(pixels)
    luma = _means(*vertical, _CELLS) @ pixels[:, 0] @ _means(*horizontal, _CELLS).T
    chroma = pixels[:, 1:]
    chroma = _means(*vertical, _CELLS // 2) @ chroma @ _means(*horizontal, _CELLS // 2).T
    rows = [
        np.concatenate(
            [luma[:, 2 * i : 2 * i + 2].reshape(n, -1), chroma[:, :, i].reshape(n, -1)], 1
        )
        for i in range(3)
    ]
    columns = [
        np.concatenate(
            [luma[:, :, 2 * i : 2 * i + 2].reshape(n, -1), chroma[..., i].reshape(n, -1)], 1
        )
        for i in range(3)
    ]
    return np.stack(rows + columns)


@functools.cache
def _means(start: float, end: float, cells: int) -> np.ndarray:
    """[cells, 32] float32 weights that average the pixels of equal parts of [start, end]."""
    edges = SIDE * (start + (end - start) * np.arange(cells + 1) / cells)
    pixel = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = covered.clip(0, 1)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _hash_steps(steps: np.ndarray) -> np.ndarray:
    """[6, n, 16] steps → [n, NUM_BANDS] int64, another for each band."""
    strips, n, _ = steps.shape
    steps = steps.reshape(strips, n, _KEYS_PER_STRIP, _VALUES_PER_KEY).astype(np.uint64)
    bands = np.arange(NUM_BANDS, dtype=np.uint64).reshape(strips, 1, _KEYS_PER_STRIP)
    keys = np.broadcast_to(bands, steps.shape[:-1]).copy()
    for i in range(_VALUES_PER_KEY):
        keys = (keys ^ steps[..., i]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys.transpose(1, 0, 2).reshape(n, NUM_BANDS).view(np.int64)
