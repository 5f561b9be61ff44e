"""Drawings of shapes, and their thumbnails."""

import random

import numpy as np
from PIL import Image, ImageDraw

from transforms.duplicates import signature


def picture(seed, side=160):
    """A drawing of some shapes on a gradient."""
    rng = random.Random(seed)

    def colour():
        return tuple(rng.randrange(256) for _ in range(3))

    corners = np.array([[colour(), colour()], [colour(), colour()]], np.uint8)
    image = Image.fromarray(corners).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, size = rng.random(), rng.random(), rng.uniform(0.1, 0.35)
        draw = rng.choice((pen.ellipse, pen.rectangle))
        draw([side * v for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)], colour())
    return image


def thumbnails(*images):
    packed = [np.frombuffer(signature.signature(image), np.uint8) for image in images]
    return signature.pixels_of(np.stack(packed))
