"""JPEG and PNG files without what is no pixel: metadata, and whatever follows the image.

An EXIF block tells where a photo was taken; a page or a program may hide in a comment or behind
the end of an image. Sources: ITU-T T.81, annex B; W3C PNG, chapters 5 and 11.
"""

import struct

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
# Frames (but DHT, JPG and DAC share their range), tables and restart intervals.
_JPEG_SEGMENTS = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDD))
_JFIF, _ADOBE = 0xE0, 0xEE  # which say how colours are coded
_JFIF_BYTES, _ADOBE_BYTES = 14, 12


def only_pixels(data: bytes) -> bytes | None:
    """The file with no more than its pixels need, or None where its parts cannot be told.

    Decoders make the same pixels of both.
    """
    try:
        return _png(data) if data.startswith(_PNG_MAGIC) else _jpeg(data)
    except (IndexError, struct.error):
        return None  # the file is cut


def _png(data: bytes) -> bytes | None:
    kept, place = [_PNG_MAGIC], len(_PNG_MAGIC)
    while True:
        length, name = struct.unpack_from(">I4s", data, place)
        stop = place + 12 + length
        if stop > len(data):
            return None
        if name in _PNG_CHUNKS:
            kept.append(data[place:stop])
        if name == b"IEND":
            return b"".join(kept)
        place = stop


def _jpeg(data: bytes) -> bytes | None:
    kept, place = [data[:2]], 2
    while True:
        if data[place] != 0xFF:
            return None
        while data[place] == 0xFF:  # any number of them may come before a marker
            place += 1
        marker = data[place]
        place += 1
        if marker == _EOI:
            return b"".join([*kept, b"\xff\xd9"])
        if marker in (0x00, 0x01, _SOI) or marker in _RESTARTS:
            return None
        (length,) = struct.unpack_from(">H", data, place)
        stop = place + length
        if length < 2 or stop > len(data):
            return None
        body = data[place + 2 : stop]
        if marker in _JPEG_SEGMENTS:
            kept.append(b"\xff" + bytes([marker]) + data[place:stop])
        elif marker == _JFIF and body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES:
            plain = body[: _JFIF_BYTES - 2] + b"\0\0"  # no thumbnail
            kept.append(b"\xff\xe0" + struct.pack(">H", 2 + len(plain)) + plain)
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES:
            kept.append(b"\xff\xee" + struct.pack(">H", 2 + _ADOBE_BYTES) + body[:_ADOBE_BYTES])
        place = stop
        if marker == _SOS:
            stop = _scan_end(data, place)
            kept.append(data[place:stop])
            place = stop


def _scan_end(data: bytes, place: int) -> int:
    """Where the next marker begins that is no part of the coded pixels."""
    while True:
        place = data.find(b"\xff", place)
        if place < 0:
            raise IndexError("no marker behind the scan")
        following = data[place + 1]
        if following == 0xFF:
            place += 1
        elif following == 0 or following in _RESTARTS:
            place += 2
        else:
            return place
