"""ICC profiles made by hand from what colour spaces are defined by, and what they show.

Sources: ICC.1:2010, sections 7 to 10; Adobe RGB (1998) Color Image Encoding, 4.3; SMPTE EG 432-1
(Display P3 has its primaries, and the curve and white of sRGB); IEC 61966-2-1 (sRGB).
"""

import struct

import numpy as np

# x and y of red, green and blue.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))  # white is D50
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _xyz(xy: tuple[float, float]) -> np.ndarray:
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


def to_d50(primaries: tuple, white: tuple[float, float] = D65) -> np.ndarray:
    """[3, 3] linear RGB → XYZ under D50."""
    columns = np.stack([_xyz(xy) for xy in primaries], 1)
    matrix = columns * np.linalg.solve(columns, _xyz(white))
    cones = (_BRADFORD @ _xyz(D50)) / (_BRADFORD @ _xyz(white))
    return np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix


def srgb_curve(values: np.ndarray) -> np.ndarray:
    """Coded sRGB → linear, both 0 to 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def shown(colour: tuple, primaries: tuple, gamma: float | None, white=D65) -> np.ndarray:
    """[3] sRGB levels of a colour of another space, clipped; gamma None is sRGB's curve."""
    coded = np.array(colour) / 255
    linear = srgb_curve(coded) if gamma is None else coded**gamma
    linear = np.linalg.solve(to_d50(SRGB), to_d50(primaries, white) @ linear).clip(0, 1)
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return coded * 255


def _fixed(values) -> bytes:
    return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _curve(gamma: float | None) -> bytes:
    if gamma is None:
        points = np.round(srgb_curve(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
        return b"curv" + struct.pack(">II", 0, len(points)) + points.tobytes()
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"


def _profile(channels: bytes, kind: bytes, space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(_xyz(D50)),
        **tags,
    }
    table, data, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", place + len(data), len(body))
        data += body
    head = struct.pack(">I4sI4s4s4s", place + len(data), b"none", 0x02400000, kind, channels, space)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(_xyz(D50))
    head += bytes(128 - len(head))
    return head + struct.pack(">I", len(tags)) + table + data


def rgb(primaries: tuple, gamma: float | None, white=D65) -> bytes:
    """A profile of three primaries and one curve."""
    matrix = to_d50(primaries, white)
    tags = {
        f"{name}XYZ".encode(): b"XYZ \0\0\0\0" + _fixed(matrix[:, i])
        for i, name in enumerate("rgb")
    }
    curves = {f"{name}TRC".encode(): _curve(gamma) for name in "rgb"}
    return _profile(b"RGB ", b"mntr", b"XYZ ", {**tags, **curves})


def grey(gamma: float) -> bytes:
    """A profile of one curve."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk(lightness: int, a: int, b: int) -> bytes:
    """A profile by which whatever is no white paper has one colour of Lab (8-bit coded)."""
    table = bytes([255, 128, 128]) + bytes([lightness, a, b]) * 15
    identity = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(np.eye(3).ravel())
    return _profile(
        b"CMYK", b"prtr", b"Lab ", {b"A2B0": head + identity * 4 + table + identity * 3}
    )


ADOBE_RGB = rgb(ADOBE, 563 / 256)
DISPLAY_P3 = rgb(P3, None)
PROPHOTO_RGB = rgb(PROPHOTO, 1.8, D50)
SRGB_PROFILE = rgb(SRGB, None)
GREY_10 = grey(1.0)
BROKEN = ADOBE_RGB[:150]
