"""Bytes of files that may be compressed: gzip, bzip2, zstd and snappy, by the name's suffix."""

import io

import google_crc32c
import pyarrow as pa

from schemas import storage

SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".snappy": "snappy", ".sz": "snappy"}
READ_BYTES = 8 << 20
# Logs shrink to a tenth or a hundredth; gzip cannot do better than 1:1032. A file that grows more
# was made to keep a worker busy for ever. Behind as many bytes as any log may have.
MAX_EXPANSION = 500
FREE_BYTES = 1 << 30
_PIECE_BYTES = 64 << 10
_SNAPPY_MAGIC = b"\xff\x06\x00\x00sNaPpY"
_SNAPPY_COMPRESSED, _SNAPPY_PLAIN, _SNAPPY_SKIPPABLE = 0x00, 0x01, 0x80
_MAX_SNAPPY_BLOCK = 64 << 20


def split_name(path: str) -> tuple[str, str | None]:
    """A file's name without the suffix of its compression, and the compression, in lower case."""
    name = path.lower()
    for suffix, compression in SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), compression
    return name, None


def open_stream(path: str) -> io.BufferedReader:
    """A reader of a file's bytes, decompressed where its name says that they are compressed.

    `read1` gives what could be decompressed before it raises OSError or an Arrow error, so
    that the sound part of a file that was cut is read.
    """
    _, compression = split_name(path)
    raw = storage.open_input(path)
    if compression is None:
        return io.BufferedReader(raw, READ_BYTES)
    # Arrow asks for small pieces; one request to a bucket should bring many of them.
    limit = max(FREE_BYTES, MAX_EXPANSION * raw.size())
    raw = pa.BufferedInputStream(raw, READ_BYTES)
    is_snappy = compression == "snappy"
    stream = _SnappyFile(raw) if is_snappy else _PiecewiseFile(raw, compression, limit)
    return io.BufferedReader(stream, READ_BYTES)


class _PiecewiseFile(io.RawIOBase):
    """Decompresses a little at a time: Arrow forgets all that it has where it fails."""

    def __init__(self, raw: pa.NativeFile, compression: str, limit: int):
        self._stream = pa.CompressedInputStream(raw, compression)
        self._written, self._limit = 0, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self._stream.readinto(memoryview(buffer)[:_PIECE_BYTES])
        self._written += count
        if self._written > self._limit:
            raise OSError(f"it grows more than {MAX_EXPANSION}-fold")
        return count


class _SnappyFile(io.RawIOBase):
    """Snappy in its two framings; Arrow decompresses single blocks only.

    Sources: google/snappy, framing_format.txt (chunks of type, length, CRC-32C and data);
    Hadoop's BlockCompressorStream (big-endian lengths: of a block, then of each part of it).
    """

    def __init__(self, raw: pa.NativeFile):
        self._raw = raw
        self._data, self._place = b"", 0
        self._left = 0  # bytes of the Hadoop block that are still to come
        self._framed: bool | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self._place == len(self._data):
            data = self._next()
            if data is None:
                return 0
            self._data, self._place = data, 0
        part = self._data[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _exactly(self, count: int) -> bytes:
        data = self._raw.read(count)
        if len(data) < count:
            raise OSError("snappy data ends within a block")
        return data

    def _next(self) -> bytes | None:
        """The next decompressed block, or None at the end."""
        head = self._raw.read(4)
        if not head:
            if self._left:
                raise OSError("snappy data ends within a block")
            return None
        head += self._exactly(4 - len(head)) if len(head) < 4 else b""
        if self._framed is None:
            self._framed = head == _SNAPPY_MAGIC[:4]
        return self._chunk(head) if self._framed else self._hadoop_part(head)

    def _chunk(self, head: bytes) -> bytes:
        kind, data = head[0], self._exactly(int.from_bytes(head[1:], "little"))
        if kind >= _SNAPPY_SKIPPABLE:
            if kind == 0xFF and data != _SNAPPY_MAGIC[4:]:
                raise OSError("no snappy stream")
            return b""
        if kind not in (_SNAPPY_COMPRESSED, _SNAPPY_PLAIN):
            raise OSError(f"snappy chunk of unknown type {kind}")
        check, data = int.from_bytes(data[:4], "little"), data[4:]
        if kind == _SNAPPY_COMPRESSED:
            data = _decompress(data)
        crc = google_crc32c.value(data)
        if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != check:
            raise OSError("snappy chunk with a wrong checksum")
        return data

    def _hadoop_part(self, head: bytes) -> bytes:
        if not self._left:
            self._left = int.from_bytes(head, "big")
            return b""
        length = int.from_bytes(head, "big")
        if length > _MAX_SNAPPY_BLOCK:
            raise OSError(f"snappy block of {length} bytes")
        data = _decompress(self._exactly(length))
        self._left -= len(data)
        if self._left < 0:
            raise OSError("snappy block that is longer than it says")
        return data


def _decompress(data: bytes) -> bytes:
    """One raw snappy block, which begins with its length as a varint of 7-bit digits."""
    length = shift = 0
    for byte in data[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > _MAX_SNAPPY_BLOCK:
        raise OSError(f"snappy block of {length} bytes")
    return pa.Codec("snappy").decompress(data, length, asbytes=True)
