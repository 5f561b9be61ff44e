"""Where the files of a tar file begin, found from any byte of it.

A tar file has no index, but each header stands at a multiple of 512 bytes, says what it is and has
a checksum of itself. A tar file may hold another, whose headers look the same: the headers behind
one must follow each other too, and who reads a part looks where the next one would begin, and says
so where that is not where the next file does.
"""

import io
import tarfile

from transforms.files.compression import open_plain

BLOCK_BYTES = 512
_PIECE_BYTES = 1 << 20
_FOLLOWING = 16  # headers that must follow one
_MAX_END_BYTES = 20 * BLOCK_BYTES  # of zeros, which fill up a tar file
_LONG_BLOCKS = 16  # of a name that stands before its file's own header, at most
_LONG_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def member_start(path: str, start: int) -> int | None:
    """Where the first file at or behind a byte begins, long name included; None behind the last."""
    if start == 0:
        return 0
    with open_plain(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        place = -(-start // BLOCK_BYTES) * BLOCK_BYTES
        while place < size:
            stream.seek(place)
            piece = stream.read(_PIECE_BYTES)
            for first in range(0, len(piece), BLOCK_BYTES):
                if (
                    piece[first + 257 : first + 262] == b"ustar"
                    and _are_headers(stream, place + first, size)
                    and not _has_name_before(stream, place + first)
                ):
                    return place + first
            place += _PIECE_BYTES
    return None


def check_border(path: str, stop: int | None, found: int | None) -> None:
    """Raises OSError unless the part that begins at `stop` finds the file that does so."""
    if stop is not None and (other := member_start(path, stop)) != found:
        raise OSError(f"within a file byte {other} looks like the start of another")


def _header(stream: io.BufferedReader, place: int) -> tarfile.TarInfo | None:
    stream.seek(place)
    try:
        return tarfile.TarInfo.frombuf(stream.read(BLOCK_BYTES), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _blocks(header: tarfile.TarInfo) -> int:
    """How many blocks follow a header before the next one."""
    has_data = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    if has_data or header.type in _LONG_TYPES:
        return -(-header.size // BLOCK_BYTES)
    return 0


def _are_headers(stream: io.BufferedReader, place: int, size: int) -> bool:
    """Whether some headers follow each other from a place on, or as many as there are left."""
    for _ in range(_FOLLOWING):
        if place >= size:
            return True  # the last file, which may be cut
        header = _header(stream, place)
        if header is None:
            stream.seek(place)
            return size - place <= _MAX_END_BYTES and not any(stream.read(_MAX_END_BYTES))
        place += (1 + _blocks(header)) * BLOCK_BYTES
    return True


def _has_name_before(stream: io.BufferedReader, place: int) -> bool:
    """Whether a header is not the first of its file: what stands before it is its long name."""
    for blocks in range(1, min(_LONG_BLOCKS, place // BLOCK_BYTES - 1) + 1):
        header = _header(stream, place - (1 + blocks) * BLOCK_BYTES)
        if header is not None and header.type in _LONG_TYPES[:3] and _blocks(header) == blocks:
            return True
    return False
