"""TFRecord files, whole or in part.

The format has no marks between records, and no index. But each begins with its length and the
checksum of that, so that the first record of a part is found by these, within one record of its
start. Bytes of an image may look so too: whoever reads a part looks where the next one would begin,
and says so where that is not where its own last record ends.
"""

import io
from collections.abc import Iterator

from apache_beam.io.tfrecordio import _TFRecordUtil

from transforms.files.compression import begins_record, open_plain, open_stream

MAX_RECORD_BYTES = 256 << 20
_HEADER_BYTES, _FRAME_BYTES = 12, 16  # length and checksum; with the checksum of what follows
_PIECE_BYTES = 1 << 20


def read_records(path: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Streams the records that begin in bytes start to stop, of which only plain files have any.

    Yields:
      Where it is ("record 3", or "record 3 behind byte 70" of a part), and the record.

    Raises:
      OSError, ValueError: the file cannot be read further, or a record looks like two.
    """
    is_part = start > 0 or stop is not None
    with open_plain(path) if is_part else open_stream(path) as stream:
        place = _record_start(stream, start) if start else 0
        if is_part:
            stream.seek(place)
        behind = f" behind byte {place}" if place else ""
        number = 0
        while stop is None or place < stop:
            record = _TFRecordUtil.read_record(_Bounded(stream))
            if record is None:
                break
            place += len(record) + _FRAME_BYTES
            number += 1
            yield f"record {number}{behind}", record
        if stop is not None and (found := _record_start(stream, stop)) != place:
            raise OSError(f"within a record byte {found} looks like the start of another")


def first_record(path: str) -> tuple[bytes | None, bool]:
    """The first record, None of an empty file, and whether the file has parts: it is plain.

    Raises:
      OSError, ValueError: it cannot be read.
    """
    with open_stream(path) as stream:
        return _TFRecordUtil.read_record(_Bounded(stream)), stream.seekable()


def _record_start(stream: io.BufferedReader, start: int) -> int:
    """Where the first record at or behind a byte begins; the file's size where none does."""
    stream.seek(start)
    held, place = b"", start  # of its first byte
    while piece := stream.read(_PIECE_BYTES):
        held += piece
        # No length is above 2^32, so that its last four bytes are zero.
        zeros = held.find(bytes(4), 4)
        while 0 <= zeros <= len(held) - 8:
            header = held[zeros - 4 : zeros + 8]
            length = int.from_bytes(header[:8], "little")
            if length <= MAX_RECORD_BYTES and begins_record(header):
                return place + zeros - 4
            zeros = held.find(bytes(4), zeros + 1)
        kept = held[-(_HEADER_BYTES - 1) :]
        place += len(held) - len(kept)
        held = kept
    return place + len(held)


class _Bounded:
    """A stream of records, none of which is larger than memory: it says itself how long it is."""

    def __init__(self, stream: io.BufferedReader):
        self._stream = stream

    def read(self, size: int) -> bytes:
        if size > MAX_RECORD_BYTES:
            raise OSError(f"a record of {size:,} bytes")
        return self._stream.read(size)
