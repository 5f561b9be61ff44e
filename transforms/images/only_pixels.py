"""JPEG and PNG files without what is no pixel: metadata, and whatever follows the image.

An EXIF block tells where a photo was taken; a page or a program may hide in a comment or behind
the end of an image. What is left is read alike by every decoder, the strict ones among them:
networks are trained with another than the one that looked at the file first.
Sources: ITU-T T.81, annex B; W3C PNG, chapters 5 and 11; ISO/IEC 18181-1, annex D.
"""

import struct
import zlib

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_PNG_CHANNELS = {0: 1, 2: 3}  # colour type → channels, of grey and RGB
# First column and row, and steps, of the seven passes of an interlaced PNG.
_PASSES: tuple[tuple[int, int, int, int], ...] = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
# Frames of Huffman codes, baseline, extended and progressive; other ones not all decoders know.
_FRAMES = (0xC0, 0xC1, 0xC2)
_DHT, _DQT, _DRI = 0xC4, 0xDB, 0xDD
_JPEG_SEGMENTS = frozenset((*_FRAMES, _DHT, _SOS, _DQT, _DRI))
_OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - {*_FRAMES, _DHT, 0xC8, 0xCC}
_JFIF, _ADOBE = 0xE0, 0xEE  # which say how colours are coded
_JFIF_BYTES, _ADOBE_BYTES = 14, 12


def only_pixels(data: bytes) -> bytes | None:
    """The file with no more than its pixels need; decoders make the same pixels of both.

    None where its parts cannot be told, or where some decoder may refuse it: a PNG of other than
    8-bit grey or RGB, or whose data are not exactly its rows; a JPEG of another kind than
    baseline, extended or progressive Huffman codes of 8 bits.
    """
    try:
        return _png(data) if data.startswith(_PNG_MAGIC) else _jpeg(data)
    except (IndexError, struct.error, zlib.error):
        return None  # the file is cut


def damage(data: bytes) -> str | None:
    """What is wrong with a PNG's pixels by its checksums, which Pillow does not compare."""
    place = len(_PNG_MAGIC)
    while data.startswith(_PNG_MAGIC) and place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data) or name == b"IEND":
            return None
        found = zlib.crc32(memoryview(data)[place + 4 : end])
        if name in _PNG_PIXELS and found != int.from_bytes(data[end : end + 4], "big"):
            return f"the checksum of chunk {name.decode()} at byte {place:,} is wrong"
        place = end + 4
    return None


def _png(data: bytes) -> bytes | None:
    kept, rows, place = [_PNG_MAGIC], [], len(_PNG_MAGIC)
    while True:
        length, name = struct.unpack_from(">I4s", data, place)
        body, stop = place + 8, place + 12 + length
        if stop > len(data) or (name == b"IHDR") != (place == len(_PNG_MAGIC)):
            return None
        if name == b"IDAT":
            rows.append(data[body : stop - 4])
        if name in (b"IHDR", b"IDAT"):  # a palette is but a hint for grey and RGB
            kept.append(data[place:stop])
        place = stop
        if name == b"IEND":
            break
    kept.append(struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND")))
    whole = b"".join(kept)
    header = struct.unpack_from(">I4sIIBBBBB", whole, len(_PNG_MAGIC))
    return whole if _holds_rows(header[0], header[2:], b"".join(rows)) else None


def _holds_rows(length: int, header: tuple[int, ...], packed: bytes) -> bool:
    """Whether a PNG's data are the rows that its header tells of, and nothing else."""
    width, height, depth, colour, compression, filters, interlace = header
    if length != 13 or depth != 8 or colour not in _PNG_CHANNELS or compression or filters:
        return False
    passes = _PASSES if interlace else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    channels = _PNG_CHANNELS[colour]
    expected = sum((1 + channels * w) * h for w, h in sizes if w > 0 and h > 0)
    # Row by row, and with the window that the data ask for: one that is too small for them is an
    # error only where not all of them are unpacked at once.
    row, found, unpacker = 1 + channels * sizes[0][0], 0, zlib.decompressobj(0)
    while not unpacker.eof and found <= expected:
        part = unpacker.decompress(packed, row)
        if not part and not unpacker.eof:
            return False
        found, packed = found + len(part), unpacker.unconsumed_tail
    return found == expected and unpacker.eof and not unpacker.unused_data and interlace in (0, 1)


def _jpeg(data: bytes) -> bytes | None:
    kept, place, frames = [data[:2]], 2, 0
    while True:
        if data[place] != 0xFF:
            return None
        while data[place] == 0xFF:  # any number of them may come before a marker
            place += 1
        marker = data[place]
        place += 1
        if marker == _EOI:
            return b"".join([*kept, b"\xff\xd9"]) if frames == 1 else None
        if marker in (0x00, 0x01, _SOI) or marker in _RESTARTS or marker in _OTHER_FRAMES:
            return None
        (length,) = struct.unpack_from(">H", data, place)
        stop = place + length
        if length < 2 or stop > len(data):
            return None
        body = data[place + 2 : stop]
        if marker in _FRAMES:
            frames += 1
            if body[0] != 8 or body[5] not in (1, 3):  # bits of a channel, channels
                return None
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


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG XL file, or None where it tells none.

    Its decoder tells them only together with the pixels, when a large image has its memory already.
    """
    place = 0
    while not data.startswith(b"\xff\x0a", place):  # boxes around the codestream
        head = data[place : place + 16]
        if len(head) < 16:
            return None
        length, name = struct.unpack_from(">I4s", head)
        if name in (b"jxlc", b"jxlp"):
            place += 8 + 8 * (length == 1) + 4 * (name == b"jxlp")
            if not data.startswith(b"\xff\x0a", place):
                return None
        elif length == 1:
            place += max(16, int.from_bytes(head[8:], "big"))
        else:
            place += max(8, length)
    bits = int.from_bytes(data[place + 2 : place + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    if not ratio:
        return side(), height
    over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * over // under, height
