"""The outlines that scenes are drawn from.

A shape is a list of parts, drawn in order; a part is a polygon in [-1, 1]² (x to the right,
y downwards) and a tone: how bright it is beside the object's colour.
"""

import math
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """`points` is [n, 2] float64; `tone` scales the object's colour."""

    points: np.ndarray
    tone: float = 1.0


def _arc(
    radius: float = 1.0,
    start: float = 0.0,
    stop: float = 360.0,
    centre: tuple[float, float] = (0.0, 0.0),
    squeeze: float = 1.0,
) -> np.ndarray:
    """Points from angle `start` to `stop`, in degrees, clockwise on the screen."""
    angles = np.radians(np.linspace(start, stop, 25))
    return np.stack(
        [centre[0] + radius * np.cos(angles), centre[1] + radius * squeeze * np.sin(angles)], axis=1
    )


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64)


def _star(points: int, inner: float) -> np.ndarray:
    angles = np.radians(np.arange(2 * points) * 180 / points - 90)
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 41)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2) / 16], axis=1)


SHAPES: dict[str, list[Part]] = {
    "circle": [Part(_arc(0.92))],
    "square": [Part(_polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)))],
    "triangle": [Part(_polygon((0, -0.95), (0.95, 0.75), (-0.95, 0.75)))],
    "star": [Part(_star(5, 0.42))],
    "heart": [Part(_heart())],
    "crescent": [Part(np.concatenate([_arc(1, 50, 310), _arc(0.82, 298, 62, (0.42, 0))]))],
    "cross": [
        Part(
            _polygon(
                *((-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3)),
                *((0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3)),
                (-0.3, -0.3),
            )
        )
    ],
    "ring": [Part(np.concatenate([_arc(0.95), _arc(0.55, 360, 0)]))],
    "arrow": [
        Part(
            _polygon(
                *((-0.95, -0.26), (0.15, -0.26), (0.15, -0.75), (0.98, 0)),
                *((0.15, 0.75), (0.15, 0.26), (-0.95, 0.26)),
            )
        )
    ],
    "tree": [
        Part(_polygon((-0.16, 0.4), (0.16, 0.4), (0.16, 1), (-0.16, 1)), 0.5),
        Part(_polygon((0, -0.45), (0.85, 0.6), (-0.85, 0.6))),
        Part(_polygon((0, -1), (0.62, 0.05), (-0.62, 0.05))),
    ],
    "house": [
        Part(_polygon((-0.7, -0.15), (0.7, -0.15), (0.7, 0.9), (-0.7, 0.9))),
        Part(_polygon((0, -0.95), (0.98, -0.1), (-0.98, -0.1)), 0.6),
        Part(_polygon((-0.18, 0.3), (0.22, 0.3), (0.22, 0.9), (-0.18, 0.9)), 0.4),
    ],
    "fish": [
        Part(_polygon((0.35, 0), (1, -0.6), (1, 0.6)), 0.75),
        Part(_arc(0.75, centre=(-0.22, 0), squeeze=0.68)),
        Part(_arc(0.1, centre=(-0.6, -0.14)), 0.2),
    ],
    "flower": [
        *(
            Part(_arc(0.4, centre=(0.56 * math.cos(a), 0.56 * math.sin(a))))
            for a in np.radians(np.arange(6) * 60)
        ),
        Part(_arc(0.32), 0.45),
    ],
    "boat": [
        Part(_polygon((-0.06, -1), (0.06, -1), (0.06, 0.4), (-0.06, 0.4)), 0.4),
        Part(_polygon((0.12, -0.9), (0.85, 0.2), (0.12, 0.2)), 1.25),
        Part(_polygon((-0.98, 0.35), (0.98, 0.35), (0.6, 0.9), (-0.6, 0.9))),
    ],
    "mushroom": [
        Part(_polygon((-0.25, 0), (0.25, 0), (0.36, 0.95), (-0.36, 0.95)), 1.35),
        Part(_arc(0.95, 180, 360, (0, 0.12))),
        Part(_arc(0.14, centre=(-0.35, -0.3)), 1.6),
        Part(_arc(0.14, centre=(0.3, -0.42)), 1.6),
    ],
    "lightning": [
        Part(
            _polygon(
                *((0.1, -1), (-0.62, 0.15), (-0.08, 0.15)),
                *((-0.32, 1), (0.62, -0.25), (0.08, -0.25), (0.5, -1)),
            )
        )
    ],
}
