"""Bytes of files that may be compressed, by what they begin with, whatever their names say."""

import io
import lzma
import zipfile
import zlib

import google_crc32c
import pyarrow as pa

from schemas.base import storage

SUFFIXES = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".lzma": "lzma",
    ".lz4": "lz4",
    ".zip": "zip",
    ".snappy": "snappy",
    ".sz": "snappy",
}
READ_BYTES = 8 << 20
# Logs shrink to a tenth or a hundredth; gzip cannot do better than 1:1032. A file that grows more
# was made to keep a worker busy for ever. Behind as many bytes as any log may have.
MAX_EXPANSION = 500
FREE_BYTES = 1 << 30
_PIECE_BYTES = 64 << 10
_MAX_LZMA_BYTES = 256 << 20  # of memory; `xz -9` needs 65 MB to decompress
_SNAPPY_MAGIC = b"\xff\x06\x00\x00sNaPpY"
_SNAPPY_COMPRESSED, _SNAPPY_PLAIN, _SNAPPY_SKIPPABLE = 0x00, 0x01, 0x80
_MAX_SNAPPY_BLOCK = 64 << 20
_MAGIC_BYTES = 16
# Sources: RFC 1952, RFC 8878, the format descriptions of bzip2, .xz, LZ4 frames, snappy and ZIP.
_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (_SNAPPY_MAGIC, "snappy"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),  # an empty archive
)
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_NAMED_ONLY = ("snappy", "lzma")  # Hadoop's blocks of snappy, and .lzma, begin with a number


def split_name(path: str) -> tuple[str, str | None]:
    """A file's name without the suffix of its compression, and the compression, in lower case."""
    name = path.lower()
    for suffix, compression in SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), compression
    return name, None


def compression_of(head: bytes, path: str = "") -> str | None:
    """How a file is compressed, by its first bytes; None where it is not.

    Args:
      head: its first bytes, 16 or more.
      path: its name, which decides only for what has no mark of its own at the beginning.
    """
    if begins_record(head):
        return None  # whose length may look like any mark
    if head[:3] == b"BZh" and head[4:10] in _BZIP2_BLOCKS:
        return "bz2"
    for magic, compression in _MAGIC:
        if head.startswith(magic):
            return compression
    named = split_name(path)[1]
    return named if named in _NAMED_ONLY and head else None


def begins_record(head: bytes) -> bool:
    """Whether a file begins as TFRecord does: with a length, and the length's checksum."""
    if len(head) < 12:
        return False
    crc = google_crc32c.value(head[:8])
    return (_masked(crc)).to_bytes(4, "little") == head[8:12]


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def open_stream(path: str) -> io.BufferedReader:
    """A reader of a file's bytes, decompressed where its first bytes show that they are compressed.

    A zip archive is read where it holds one file. `read1` gives what could be decompressed
    before it raises OSError or an Arrow error, so that the sound part of a file that was cut
    is read. Only what is not compressed is seekable.
    """
    raw = storage.open_input(path)
    compression = compression_of(raw.read(_MAGIC_BYTES), path)
    raw.seek(0)
    if compression is None:
        return io.BufferedReader(raw, READ_BYTES)
    limit = max(FREE_BYTES, MAX_EXPANSION * raw.size())
    return io.BufferedReader(_Limited(_decompressed(raw, compression), limit), READ_BYTES)


def open_plain(path: str) -> io.BufferedReader:
    """A reader of the bytes of a file that is known to be not compressed."""
    return io.BufferedReader(storage.open_input(path), READ_BYTES)


def _decompressed(raw: pa.NativeFile, compression: str):
    """Something with `readinto`."""
    if compression == "zip":
        return _only_member(raw)
    # Decompressors ask for small pieces; one request to a bucket should bring many of them.
    raw = pa.BufferedInputStream(raw, READ_BYTES)
    if compression == "snappy":
        return _SnappyFile(raw)
    if compression in ("xz", "lzma"):
        return _LzmaFile(raw)
    return pa.CompressedInputStream(raw, compression)


def _only_member(raw: pa.NativeFile) -> io.BufferedIOBase:
    """The file that a zip archive holds; what macOS adds about it does not count.

    Raises:
      OSError: it holds none or several, or is none that can be read.
    """
    try:
        archive = zipfile.ZipFile(raw)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if "[Content_Types].xml" in names:
            raise OSError("a workbook or document of an office program; save it as CSV (UTF-8)")
        names = [
            n for n in names if not n.rsplit("/", 1)[-1].startswith(".") and "__MACOSX" not in n
        ]
        if len(names) != 1:
            found = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise OSError(f"a zip archive of {len(names)} files ({found}), not of one; unpack it")
        return archive.open(names[0])  # type: ignore[return-value]
    except OSError:
        raise
    except Exception as error:  # zipfile raises what it stumbles over: struct.error, ValueError …
        raise OSError(f"a zip archive that cannot be opened ({error}); unpack it") from error


class _Limited(io.RawIOBase):
    """What a decompressor gives, up to a limit, a little at a time.

    Arrow forgets all that it has where it fails, so it is asked for small pieces.
    """

    def __init__(self, stream, limit: int):
        self._stream = stream
        self._written, self._limit = 0, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            count = self._stream.readinto(memoryview(buffer)[:_PIECE_BYTES])
        except (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
            raise OSError(f"compressed data that is cut or damaged ({error})") from error
        self._written += count
        if self._written > self._limit:
            raise OSError(f"it grows more than {MAX_EXPANSION}-fold")
        return count


class _LzmaFile(io.RawIOBase):
    """The streams of an .xz or .lzma file, one behind the other, in bounded memory."""

    def __init__(self, raw: pa.NativeFile):
        self._raw, self._data = raw, b""
        self._decoder = lzma.LZMADecompressor(memlimit=_MAX_LZMA_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            if self._decoder.eof:
                # Streams are padded with zeros.
                rest = self._decoder.unused_data.lstrip(b"\0")
                while not rest and (piece := self._raw.read(_PIECE_BYTES)):
                    rest = piece.lstrip(b"\0")
                if not rest:
                    return 0
                self._data = rest
                self._decoder = lzma.LZMADecompressor(memlimit=_MAX_LZMA_BYTES)
            elif self._decoder.needs_input and not self._data:
                self._data = self._raw.read(_PIECE_BYTES)
                if not self._data:
                    raise OSError("xz data ends within a stream")
            found = self._decoder.decompress(self._data, len(buffer))
            self._data = b""
            if found:
                buffer[: len(found)] = found
                return len(found)


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
        if _masked(crc) != check:
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
