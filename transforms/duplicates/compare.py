"""Whether two images are copies of one picture, by their signatures.

Two thumbnails are laid over each other (Lucas & Kanade, IJCAI 1981), and what still differs has to
be noise, or lie in one small rectangle that shows the picture through a mark of one tone.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transforms.duplicates.signature import SIDE

# --- Laying one thumbnail over another -------------------------------------------------

_MIN_SCALE, _MAX_SCALE, _MAX_SHIFT = 0.85, 1.18, 0.08
_DAMPING = 0.05 * np.diag(np.array([1 / 12, 1, 1 / 12, 1], np.float32))
# Outliers weigh little, and less with every step: scale of the weights in residual RMS.
_COARSE_OUTLIERS = (4.0, 4.0, 3.0, 2.0, 2.0)
_FINE_OUTLIERS = (2.0, 1.5, 1.0, 1.0)
_MIN_OUTLIER = 4.0  # grey levels


class Warp(NamedTuple):
    """Where the pixels of one thumbnail lie in another.

    Attributes:
      x, y: [n, side, side] float32 interpolation matrices: warped = y @ pixels @ xᵀ.
      inside: [n, side, side] bool: pixels that both thumbnails show, without their
        margins, where the filters saw the edge of the image.
    """

    x: np.ndarray
    y: np.ndarray
    inside: np.ndarray

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        return self.y @ pixels @ self.x.transpose(0, 2, 1)


def _interpolation(positions: np.ndarray) -> np.ndarray:
    """[n, side] positions → [n, side, side] weights of cubic convolution (Keys 1981, a = −0.6)."""
    side = positions.shape[1]
    clipped = positions.clip(0, side - 1)
    d = np.abs(clipped[..., None] - np.arange(side, dtype=np.float32))
    near = (1.4 * d - 2.4) * d * d + 1
    far = ((-0.6 * d + 3) * d - 4.8) * d + 2.4
    weights = np.where(d < 1, near, np.where(d < 2, far, 0))
    return weights / weights.sum(-1, keepdims=True)


def _centred(side: int) -> np.ndarray:
    """[side] float32: places of pixels as shares of the side, 0 in the middle."""
    return (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5


def _warp(motion: np.ndarray, side: int) -> Warp:
    grid = np.arange(side)
    inner = (grid >= 1) & (grid <= side - 2)
    matrices, seen = [], []
    for scale, shift in (motion[:, None, :2].T, motion[:, None, 2:].T):
        at = (scale.T * _centred(side) + shift.T + 0.5) * side - 0.5
        matrices.append(_interpolation(at))
        seen.append((at > 0.75) & (at < side - 1.75) & inner)
    return Warp(matrices[0], matrices[1], seen[1][:, :, None] & seen[0][:, None, :])


def _blur(pixels: np.ndarray) -> np.ndarray:
    """[n, h, w] smoothed with (1, 2, 1) / 4 along both axes."""
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def half_size(pixels: np.ndarray) -> np.ndarray:
    """[n, side, side] → [n, side / 2, side / 2], smoothed: the coarse level of the pyramid."""
    n, side, _ = pixels.shape
    return _blur(pixels).reshape(n, side // 2, 2, side // 2, 2).mean((2, 4))


def align(
    a: np.ndarray, b: np.ndarray, motion: np.ndarray, outliers: Sequence[float]
) -> np.ndarray:
    """Improves the motion that lays `a` over `b`.

    Gauss–Newton steps on the weighted sum of squared differences (Lucas & Kanade 1981). The
    weights 1 / (1 + (r / s)²) are Cauchy's, so that a mark on one of them does not pull.

    Args:
      a, b: [n, side, side] float32 luma.
      motion: [n, 4] float32: scale about the centre and shift along x, then along y;
        shifts are shares of the side.
      outliers: for each step, s in units of the residuals' root mean square.

    Returns:
      [n, 4] float32 motion.
    """
    n, side, _ = a.shape
    centred = _centred(side)
    for spread in outliers:
        warp = _warp(motion, side)
        moved = warp.apply(a)
        residual = b - moved
        gradient_y, gradient_x = np.gradient(moved, 1 / side, axis=(1, 2))
        scale = np.maximum(
            _MIN_OUTLIER, spread * np.sqrt((residual**2).mean((1, 2), keepdims=True))
        )
        weight = warp.inside / (1 + (residual / scale) ** 2)
        jacobian = np.stack(
            [gradient_x * centred, gradient_x, gradient_y * centred[:, None], gradient_y], 1
        ).reshape(n, 4, -1)
        weighted = jacobian * weight.reshape(n, 1, -1)
        motion = motion + np.linalg.solve(
            weighted @ jacobian.transpose(0, 2, 1) + side**4 * _DAMPING,
            weighted @ residual.reshape(n, -1, 1),
        )[..., 0].astype(np.float32)
        motion[:, ::2] = motion[:, ::2].clip(_MIN_SCALE, _MAX_SCALE)
        motion[:, 1::2] = motion[:, 1::2].clip(-_MAX_SHIFT, _MAX_SHIFT)
    return motion


# --- Are two images copies of one picture? ---------------------------------------------

NONE, COPY, MARKED = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """What two copies of one picture may differ by; chosen with benchmarks/logs/duplicates.py.

    Differences are counted in units of what resampling does to a pixel: a noise in grey
    levels plus a share of the range of the pixel's neighbourhood.

    Attributes:
      luma_noise, luma_share, chroma_noise, chroma_share: the units.
      copy_99, copy_max: 99th percentile and maximum of the units for a plain copy.
      mark_area: share of the image that the rectangle around a mark may take.
      seen_texture: share of the image's texture that lies outside of the rectangle.
      min_texture: the same as a share of all pixels.
      rest_rms, rest_outliers: outside of the rectangle: root mean square of the units where
        there is texture; share of pixels beyond one unit.
      mark_chroma: greatest difference of chroma, in levels.
      mark_opacity: of the mark.
      one_tone: share of the difference of luma that has one sign: a mark is lighter than
        what it lies on, or darker. Unless
      see_through, see_through_lost: the contrast under the mark is kept to this share, and
        hardly any detail is lost.
      lost_detail: share of the detail under the mark that cannot be seen through it.
    """

    luma_noise: float = 3.5
    luma_share: float = 0.14
    chroma_noise: float = 8.0
    chroma_share: float = 0.4
    copy_99: float = 0.95
    copy_max: float = 1.6
    mark_area: float = 0.23
    seen_texture: float = 0.45
    min_texture: float = 0.12
    rest_rms: float = 0.28
    rest_outliers: float = 0.02
    mark_chroma: float = 50.0
    mark_opacity: float = 0.62
    one_tone: float = 0.95
    see_through: float = 0.9
    see_through_lost: float = 0.02
    lost_detail: float = 0.15


_TEXTURE = 12.0  # range of grey levels in a neighbourhood that counts as texture
# Strangers are seen at the coarse level already: fewer pixels than this share agree.
_ALIKE, _MIN_ALIKE = 12.0, 0.7  # grey levels, share
_SPAN_TAIL = 0.02  # share of a mark's excess that its rectangle may miss on either side


def compare(a: np.ndarray, b: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Tells copies from strangers.

    Args:
      a, b: [n, 3, 32, 32] thumbnails of n pairs, see `pixels_of`.
      limits: what copies may differ by.

    Returns:
      [n] int8: NONE, COPY (the same picture, apart from encoding, size and margins) or
      MARKED (the same picture, one of them with a see-through mark on it); and [n] float32,
      how much they differ (units, root mean square).
    """
    kinds = np.full(len(a), NONE, np.int8)
    differences = np.full(len(a), np.inf, np.float32)
    coarse = half_size(a[:, 0]), half_size(b[:, 0])
    motion = np.tile(np.array([1, 0, 1, 0], np.float32), (len(a), 1))
    motion = align(*coarse, motion, _COARSE_OUTLIERS)
    warp = _warp(motion, SIDE // 2)
    alike = np.abs(warp.apply(coarse[0]) - coarse[1]) <= _ALIKE
    rows = np.flatnonzero(_mean(alike, warp.inside) >= _MIN_ALIKE)
    if len(rows):
        motion = align(a[rows, 0], b[rows, 0], motion[rows], _FINE_OUTLIERS)
        kinds[rows], differences[rows] = _compare_aligned(a[rows], b[rows], motion, limits)
    return kinds, differences


def _compare_aligned(a, b, motion, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """`compare` of pairs of which it is known how they lie over each other."""
    warp = _warp(motion, SIDE)
    inside = warp.inside
    moved = [_blur(warp.apply(a[:, channel])) for channel in range(3)]
    still = [_blur(b[:, channel]) for channel in range(3)]
    ranges = [(_range(x), _range(y)) for x, y in zip(moved, still, strict=True)]
    difference = [np.abs(x - y) * inside for x, y in zip(moved, still, strict=True)]
    noise = [(limits.luma_noise, limits.luma_share)]
    noise += 2 * [(limits.chroma_noise, limits.chroma_share)]
    units = np.maximum.reduce(
        [
            d / (level + share * np.minimum(*near))
            for d, (level, share), near in zip(difference, noise, ranges, strict=True)
        ]
    )
    texture = (np.maximum(*ranges[0]) > _TEXTURE) & inside

    area = _count(inside)
    copy = (_percentile_99(units, area) <= limits.copy_99) & (units.max((1, 2)) <= limits.copy_max)
    outlying = units > 1
    in_mark, mark_area = _rectangle(np.maximum(units - 1, 0))
    rest = inside & ~in_mark
    rest_texture = texture & rest
    marked = (
        (mark_area <= limits.mark_area)
        & (_count(rest_texture) >= limits.seen_texture * _count(texture))
        & (_count(rest_texture) >= limits.min_texture * area)
        & (_mean(units**2, rest_texture) <= limits.rest_rms**2)
        & (_mean(outlying, rest) <= limits.rest_outliers)
        & (np.maximum(*difference[1:]).max((1, 2)) <= limits.mark_chroma)
        & _is_overlay(moved[0], still[0], outlying & in_mark, inside, limits)
    )
    kind = np.where(copy, COPY, np.where(marked, MARKED, NONE)).astype(np.int8)
    return kind, np.sqrt(_mean(units**2, inside)).astype(np.float32)


def _is_overlay(a, b, mask, inside, limits: Limits) -> np.ndarray:
    """[n] bool: what differs in `mask` can be a mark that lets the picture shine through.

    A mark of opacity α and colour c makes b = (1 − α) a + α c: it is no darker than
    (1 − α) a, it scales contrast by 1 − α, and what had detail keeps it. Either image may
    be the one that bears the mark.
    """
    difference = (b - a) * mask
    total = np.abs(difference).sum((1, 2)) + 1e-6
    lighter = np.maximum(difference, 0).sum((1, 2)) / total
    one_tone = np.maximum(lighter, 1 - lighter)
    slope = np.maximum(_slope(a, b, mask), _slope(b, a, mask))
    detail_a, detail_b = ((x - _blur(_blur(x))) * inside for x in (a, b))
    lost = np.minimum(_lost(detail_a, detail_b, mask), _lost(detail_b, detail_a, mask))
    opacity = np.minimum(_opacity(a, b, mask), _opacity(b, a, mask))
    see_through = (slope >= limits.see_through) & (lost <= limits.see_through_lost)
    return (
        ((one_tone >= limits.one_tone) | see_through)
        & (lost <= limits.lost_detail)
        & (opacity <= limits.mark_opacity)
    )


def _slope(a, b, mask) -> np.ndarray:
    """[n] the slope of b over a within the mask, drawn to 0 where a hardly varies."""
    pixels = np.maximum(_count(mask), 1)[:, None, None]
    centred_a, centred_b = ((x - (x * mask).sum((1, 2), keepdims=True) / pixels) for x in (a, b))
    variance = (centred_a**2 * mask).sum((1, 2)) + 50 * pixels[:, 0, 0]
    return (centred_a * centred_b * mask).sum((1, 2)) / variance


def _lost(a, b, mask) -> np.ndarray:
    """[n] share of the detail of a in the mask of which less than 0.3 is to be seen in b."""
    power, shared = _box(a * a), _box(a * b)
    missing = np.clip(0.3 - shared / (power + 9), 0, 1)
    return (missing * power * mask).sum((1, 2)) / (
        (power * mask).sum((1, 2)) + 18 * np.maximum(_count(mask), 1)
    )


def _opacity(a, b, mask) -> np.ndarray:
    """[n] the least α that a black or white mark needs to make b of a (3 pixels left out)."""
    lighter = (b - a) / np.maximum(255 - a, 1)
    darker = (a - b) / np.maximum(a, 1)
    needed = np.where(mask, np.maximum(lighter, darker), 0).reshape(len(a), -1)
    return np.partition(needed, -4, axis=1)[:, -4]


def _rectangle(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rectangle that holds nearly all of [n, 32, 32] excess, one pixel wider on each side.

    Returns:
      [n, 32, 32] bool, and [n] its share of the image; 0 where there is no excess.
    """
    sides = []
    for axis in (1, 2):
        profile = np.cumsum(excess.sum(axis), axis=1)
        total = profile[:, -1:] + 1e-9
        low = np.maximum((profile < _SPAN_TAIL * total).sum(1) - 1, 0)
        high = np.minimum((profile < (1 - _SPAN_TAIL) * total).sum(1) + 1, SIDE - 1)
        sides.append((low[:, None], high[:, None]))
    (left, right), (top, bottom) = sides
    grid = np.arange(SIDE)
    rows, columns = (grid >= top) & (grid <= bottom), (grid >= left) & (grid <= right)
    some = excess.max((1, 2)) > 0
    mask = rows[:, :, None] & columns[:, None, :] & some[:, None, None]
    return mask, mask.mean((1, 2))


def _count(mask: np.ndarray) -> np.ndarray:
    return mask.sum((1, 2))


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (values * mask).sum((1, 2)) / np.maximum(_count(mask), 1)


def _percentile_99(units: np.ndarray, area: np.ndarray) -> np.ndarray:
    """[n] 99th percentile of the units inside; those outside are 0."""
    ordered = np.sort(units.reshape(len(units), -1), axis=1)
    return ordered[np.arange(len(units)), SIDE * SIDE - 1 - area // 100]


def _neighbours(pixels: np.ndarray) -> np.ndarray:
    """[9, n, h, w] each pixel's 3 × 3 neighbourhood."""
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return np.stack([padded[:, y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)])


def _range(pixels: np.ndarray) -> np.ndarray:
    near = _neighbours(pixels)
    return near.max(0) - near.min(0)


def _box(pixels: np.ndarray) -> np.ndarray:
    return _neighbours(pixels).sum(0)
