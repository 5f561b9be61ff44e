"""Text of files as UTF-8 with line feeds: from UTF-16, UTF-32 and the line ends of old Macs too."""

import abc
import codecs
import io

from transforms.files.compression import READ_BYTES, open_plain, open_stream

_HEAD_BYTES = 4096
_PIECE_BYTES = 1 << 20
# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


def encoding_of(head: bytes) -> str | None:
    """The encoding of a text that is no UTF-8, by its first bytes; None where it may be UTF-8.

    Without a mark at the beginning, every second byte of UTF-16 is zero as long as the text is
    English, as the names of columns and the first characters of JSON are.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0:16:2], head[1:16:2]
    if len(head) >= 8 and not any(odd) and all(even):
        return "utf-16-le"
    if len(head) >= 8 and not any(even) and all(odd):
        return "utf-16-be"
    return None


def open_text(path: str, is_plain: bool = False) -> io.BufferedReader:
    """A reader of a file's text as UTF-8, decompressed as by `open_stream`.

    Args:
      path: the file.
      is_plain: whether it is known to be UTF-8 and not compressed. Its beginning is not looked at.
    """
    if is_plain:
        return open_plain(path)
    stream = open_stream(path)
    if stream.seekable():  # past the buffer, which would fill itself with megabytes
        head = stream.raw.read(_HEAD_BYTES) or b""
        stream.raw.seek(0, io.SEEK_SET)
    else:
        head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    encoding = encoding_of(head)
    if encoding is not None:
        return io.BufferedReader(_Decoded(stream, encoding), READ_BYTES)
    is_text = b"\0" not in head  # and no Parquet, whose bytes may hold one of the two as well
    if is_text and b"\r" in head.rstrip(b"\r") and b"\n" not in head:
        return io.BufferedReader(_LineFeeds(stream), READ_BYTES)
    return stream


class _Rewritten(io.RawIOBase):
    """A stream of which each piece is rewritten."""

    def __init__(self, stream: io.BufferedReader):
        self._stream, self._data = stream, b""

    def readable(self) -> bool:
        return True

    @abc.abstractmethod
    def rewritten(self, piece: bytes) -> bytes:
        """What a piece becomes; an empty one is the end."""

    def readinto(self, buffer) -> int:
        while not self._data:
            piece = self._stream.read1(_PIECE_BYTES)
            self._data = self.rewritten(piece)
            if not piece:
                break
        part, self._data = self._data[: len(buffer)], self._data[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


class _Decoded(_Rewritten):
    """UTF-16 or UTF-32 as UTF-8; half of a pair of surrogates becomes bytes that are no UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str):
        super().__init__(stream)
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._is_first = True

    def rewritten(self, piece: bytes) -> bytes:
        try:
            text = self._decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            raise OSError(f"no {self._encoding.upper()} behind its beginning ({error})") from error
        if self._is_first and text:
            self._is_first, text = False, text.removeprefix("\ufeff")
        return text.encode("utf-8", "surrogatepass")


class _LineFeeds(_Rewritten):
    """Lines that end in a carriage return alone."""

    def rewritten(self, piece: bytes) -> bytes:
        return piece.replace(b"\r", b"\n")
