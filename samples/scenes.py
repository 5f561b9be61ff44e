"""Small scenes: what is to be seen in each (from its seed and index alone), and the drawing of it.

A scene has one main object, the largest, whose shape is its label, among smaller ones on a
jittered 3 × 3 grid. Everything here is a pure function of `(seed, index)`.
"""

import dataclasses
import functools
import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw

from samples.shapes import SHAPES

RGB = tuple[int, int, int]

SHAPE_NAMES = tuple(SHAPES)
COLOURS = {
    "red": (214, 38, 42),
    "orange": (242, 138, 26),
    "yellow": (246, 220, 50),
    "green": (46, 158, 66),
    "blue": (40, 92, 214),
    "purple": (132, 52, 172),
    "white": (246, 246, 246),
    "black": (28, 28, 34),
}
BACKGROUNDS = ("plain", "gradient", "stripes", "noise")
BLOCK = len(SHAPE_NAMES)
UNTOUCHED_BLOCKS = 10  # pictures that many people open have no defect for long
DUPLICATE_SHARE = 0.008
DEFECT_SHARE = 0.005
SUPERSAMPLING = 4
JPEG_QUALITY = 90


def stream(*name: object) -> random.Random:
    """A random stream that depends on its name alone, on any machine."""
    return random.Random("/".join(map(str, name)))


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object of a scene; lengths are shares of the image's side, the angle is in degrees."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool


@dataclasses.dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
      main: the largest object; its shape is the label.
      size: "big" or "small", for the main object.
      others: the smaller objects, nearest to the main one first.
      background: one of `BACKGROUNDS`.
      colours: two RGB colours of the background.
      grain: standard deviation of the pixel noise, in grey levels.
    """

    main: Thing
    size: str
    others: tuple[Thing, ...]
    background: str
    colours: tuple[RGB, RGB]
    grain: float


def key_of(index: int) -> str:
    """The name that the click log and the labels use for an image."""
    return f"photo-{index:08d}.jpg"


@functools.lru_cache(maxsize=4096)
def _block_order(seed: int, block: int) -> list[int]:
    return stream(seed, "block", block).sample(range(BLOCK), BLOCK)


def shape_of(seed: int, index: int) -> str:
    """The main shape of an image: each block of 16 images holds every shape once."""
    block, slot = divmod(index, BLOCK)
    return SHAPE_NAMES[_block_order(seed, block)[slot]]


def index_of(seed: int, block: int, shape: str) -> int:
    """The image of a block with that main shape: the inverse of `shape_of`."""
    return block * BLOCK + _block_order(seed, block).index(SHAPE_NAMES.index(shape))


def original_of(seed: int, index: int) -> int:
    """The index itself or, for a duplicate, that of the image with the same bytes."""
    while index >= UNTOUCHED_BLOCKS * BLOCK:
        if stream(seed, "duplicate", index).random() >= DUPLICATE_SHARE:
            break
        index = index_of(seed, index // BLOCK - 1, shape_of(seed, index))
    return index


def defect_of(seed: int, index: int) -> str:
    """What is wrong with an image's bytes: "", "truncated", "html" or "empty"."""
    if index < UNTOUCHED_BLOCKS * BLOCK:
        return ""
    rng = stream(seed, "defect", index)
    if rng.random() >= DEFECT_SHARE:
        return ""
    return rng.choices(("truncated", "html", "empty"), (6, 3, 1))[0]


@functools.lru_cache(maxsize=16384)
def scene_of(seed: int, index: int) -> Scene:
    """Describes the scene of an image; a duplicate has its original's."""
    index = original_of(seed, index)
    rng = stream(seed, "scene", index)
    size = "big" if rng.random() < 0.6 else "small"
    radius = rng.uniform(0.28, 0.35) if size == "big" else rng.uniform(0.2, 0.24)
    main = _thing(rng, shape_of(seed, index), radius, rng.randrange(9))
    others = []
    for cell in rng.sample(range(9), 9)[: rng.choice((1, 2, 3, 4))]:
        shape = rng.choice([name for name in SHAPE_NAMES if name != main.shape])
        other = _thing(rng, shape, rng.uniform(0.09, 0.125), cell)
        if _distance(main, other) > main.radius + 0.8 * other.radius:
            others.append(other)
    others.sort(key=lambda other: _distance(main, other))
    return Scene(
        main=main,
        size=size,
        others=tuple(others),
        background=rng.choices(BACKGROUNDS, (3, 3, 2, 2))[0],
        colours=_background_colours(rng, COLOURS[main.colour]),
        grain=rng.uniform(2, 10),
    )


def _thing(rng: random.Random, shape: str, radius: float, cell: int) -> Thing:
    """Puts an object near the middle of a cell of the 3 × 3 grid, whole inside the image."""
    row, column = divmod(cell, 3)
    x = (column + 0.5) / 3 + rng.uniform(-0.08, 0.08)
    y = (row + 0.5) / 3 + rng.uniform(-0.08, 0.08)
    return Thing(
        shape=shape,
        colour=rng.choice(tuple(COLOURS)),
        x=min(max(x, radius), 1 - radius),
        y=min(max(y, radius), 1 - radius),
        radius=radius,
        angle=rng.uniform(-18, 18),
        mirrored=rng.random() < 0.5,
    )


def _distance(a: Thing, b: Thing) -> float:
    return math.hypot(a.x - b.x, a.y - b.y)


def _background_colours(rng: random.Random, main: RGB) -> tuple[RGB, RGB]:
    """Two colours near one another, both far enough from the main object's to see it."""
    while True:
        first = (rng.randrange(20, 246), rng.randrange(20, 246), rng.randrange(20, 246))
        red, green, blue = (min(max(c + rng.randint(-60, 60), 0), 255) for c in first)
        second = (red, green, blue)
        if min(math.dist(first, main), math.dist(second, main)) > 150:
            return first, second


def image_bytes(seed: int, index: int, side: int) -> bytes:
    """The file of an image as it lies in the collection: JPEG, unless it has a defect.

    Args:
      seed: of the whole collection.
      index: of the image.
      side: pixels.
    """
    defect = defect_of(seed, index)
    if defect == "empty":
        return b""
    if defect == "html":
        return b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
    original = original_of(seed, index)
    pixels = draw(scene_of(seed, original), side, np.random.default_rng([seed, original]))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = buffer.getvalue()
    return data[: len(data) // 2] if defect == "truncated" else data


def draw(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a scene at four times its size, shrinks it and adds pixel noise.

    Args:
      scene: what to draw.
      side: pixels of the result.
      rng: for the noise and for the colours' variety.

    Returns:
      [side, side, 3] uint8 RGB.
    """
    large = side * SUPERSAMPLING
    canvas = _background(scene, side, rng)
    pen = ImageDraw.Draw(canvas)
    for thing in (*reversed(scene.others), scene.main):
        colour = np.array(COLOURS[thing.colour]) + rng.integers(-22, 23, 3)
        angle = math.radians(thing.angle)
        cos, sin = math.cos(angle), math.sin(angle)
        flip = -1 if thing.mirrored else 1
        # Rows of the matrix are the images of the x and y axes.
        turn = np.array([[flip * cos, flip * sin], [-sin, cos]]) * (thing.radius * large)
        for part in SHAPES[thing.shape]:
            points = part.points @ turn + (thing.x * large, thing.y * large)
            fill = np.clip(colour * part.tone, 0, 255).astype(int).tolist()
            pen.polygon(points.ravel().tolist(), fill=tuple(fill))
    pixels = np.asarray(canvas.reduce(SUPERSAMPLING), np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(scene.grain)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _background(scene: Scene, side: int, rng: np.random.Generator) -> Image.Image:
    """The empty canvas: [4 · side, 4 · side] RGB."""
    large = side * SUPERSAMPLING
    first, second = scene.colours
    if scene.background == "gradient":
        corners = np.array(
            [[first, second]] * 2 if rng.random() < 0.5 else [[first] * 2, [second] * 2]
        )
        small = Image.fromarray(corners.astype(np.uint8))
        return small.resize((large, large), Image.Resampling.BILINEAR)
    if scene.background == "noise":
        share = rng.random((12, 12, 1))
        patches = np.array(first) * share + np.array(second) * (1 - share)
        small = Image.fromarray(patches.astype(np.uint8))
        return small.resize((large, large), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (large, large), first)
    if scene.background == "stripes":
        pen = ImageDraw.Draw(canvas)
        width, slant = large // int(rng.integers(8, 16)), int(rng.integers(-large // 2, large // 2))
        for left in range(-large, 2 * large, 2 * width):
            right = left + width
            stripe = [left, 0, right, 0, right + slant, large, left + slant, large]
            pen.polygon(stripe, fill=second)
    return canvas
