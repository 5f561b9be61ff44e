"""WebDataset shards: tar files in which the files of one sample lie behind each other.

A sample is what is named alike up to the first dot of the file's name: 000010005.jpg,
000010005.txt and 000010005.json (webdataset, `base_plus_ext`; img2dataset, writer.py).
"""

import io
import json
import tarfile
from collections.abc import Collection, Iterator

import pyarrow as pa

from transforms.files import tar_parts
from transforms.files.compression import open_plain, open_stream, split_name
from transforms.files.image_suffixes import IMAGE_SUFFIXES, OTHER_SUFFIXES
from transforms.files.litter import is_litter
from transforms.rows.tabular import BadRows

CAPTION_SUFFIXES = ("txt", "json")
_BATCH_ROWS = 65536
_BLOCK_BYTES = 512
MAX_MEMBER_BYTES = 256 << 20  # of an image; a sparse file claims any size
_MAX_HEADER_BYTES = 1 << 20
_ERRORS = (OSError, EOFError, tarfile.TarError, pa.ArrowException)


def is_shard(path: str) -> bool:
    """Whether a file's name is that of a shard."""
    return split_name(path)[0].endswith(".tar")


def is_tar(head: bytes) -> bool:
    """Whether a file begins as POSIX and GNU tar files do."""
    return head[257:262] == b"ustar"


def has_parts(path: str) -> bool:
    """Whether a shard can be read in parts: it is not compressed, and headers say what they are.

    Raises:
      OSError, pa.ArrowException: it cannot be read.
    """
    with open_stream(path) as stream:
        return stream.seekable() and is_tar(stream.read(_BLOCK_BYTES))


def samples(
    path: str, suffixes: Collection[str], start: int = 0, stop: int | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Streams the samples of a shard.

    Args:
      path: the tar file.
      suffixes: the files of a sample to read, in lower case; others are passed over.
      start, stop: bytes of a part, of shards that have such. The sample that the first file behind
        a border is of belongs to the part before it: the files of a sample stay together.

    Yields:
      Key, and contents by suffix.

    Raises:
      OSError, EOFError, tarfile.TarError, pa.ArrowException: the file cannot be read further.
    """
    base = tar_parts.member_start(path, start)
    if base is None:
        return  # no file begins behind the start
    is_whole = start == 0 and stop is None
    key, contents = None, {}
    is_ours, is_last, is_checked = start == 0, False, stop is None
    with open_stream(path) if is_whole else open_plain(path) as stream:
        if base:
            stream.seek(base)
        with tarfile.open(fileobj=(watched := _Watched(stream)), mode="r|", tarinfo=_Member) as tar:
            for member in tar:
                is_behind = stop is not None and base + member.offset >= stop
                if is_behind and not is_checked:
                    tar_parts.check_border(path, stop, base + member.offset)
                    is_checked = True
                if not member.isfile() or is_litter(member.name):
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if key is not None and folder + slash + stem != key:
                    if is_ours:
                        yield key, contents
                    if is_last:
                        return
                    is_ours, contents = True, {}
                key, is_last = folder + slash + stem, is_behind
                if not is_ours or suffix.lower() not in suffixes:
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise tarfile.ReadError(f"{member.name!a} has {member.size:,} bytes")
                if (file := tar.extractfile(member)) is not None:
                    contents[suffix.lower()] = file.read()
    if key is not None and is_ours:
        yield key, contents
    if not is_checked:
        tar_parts.check_border(path, stop, None)
    if watched.tail != bytes(_BLOCK_BYTES):  # which tarfile takes for the end
        raise OSError("the tar file is cut")


class _Member(tarfile.TarInfo):
    """A member whose long names and other headers do not fill the memory."""

    def _proc_pax(self, tar):
        return self._bounded()._proc_pax_header(tar)

    def _proc_gnulong(self, tar):
        return self._bounded()._proc_long_name(tar)

    def _bounded(self):
        if self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return self

    _proc_pax_header = tarfile.TarInfo._proc_pax  # type: ignore[attr-defined]
    _proc_long_name = tarfile.TarInfo._proc_gnulong  # type: ignore[attr-defined]


class _Watched(io.BufferedReader):
    """A stream whose last block is remembered: zeros where a tar file is whole."""

    tail = b""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.tail = (self.tail + data)[-_BLOCK_BYTES:]
        return data


def read_images(
    path: str, batch_size: int, start: int = 0, stop: int | None = None
) -> Iterator[list[tuple[str, bytes | None]] | BadRows]:
    """Key and image of every sample of a part, in batches; None where a sample has no image."""
    rows: list[tuple[str, bytes | None]] = []
    try:
        for key, contents in samples(path, IMAGE_SUFFIXES | OTHER_SUFFIXES, start, stop):
            read = [data for suffix, data in contents.items() if suffix in IMAGE_SUFFIXES]
            rows.append((key, next(iter(read or contents.values()), None)))
            if len(rows) == batch_size:
                yield rows
                rows = []
    except _ERRORS as error:
        yield BadRows("unreadable_file", path, [str(error)])
    if rows:
        yield rows


def read_captions(path: str) -> Iterator[pa.Table | BadRows]:
    """Tables of `query` (the caption) and `image` (the key), both binary.

    A sample without a caption, or whose JSON cannot be read, has an empty one.
    """
    rows: list[tuple[bytes, bytes]] = []
    try:
        for key, contents in samples(path, CAPTION_SUFFIXES):
            rows.append((_caption(contents), key.encode("utf-8", "surrogateescape")))
            if len(rows) == _BATCH_ROWS:
                yield _caption_table(rows)
                rows = []
    except _ERRORS as error:
        yield BadRows("unreadable_file", path, [str(error)])
    if rows:
        yield _caption_table(rows)


def _caption(contents: dict[str, bytes]) -> bytes:
    if "txt" in contents:
        return contents["txt"]
    try:
        return json.loads(contents["json"])["caption"].encode("utf-8", "surrogatepass")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return b""


def _caption_table(rows: list[tuple[bytes, bytes]]) -> pa.Table:
    captions, keys = zip(*rows, strict=True)
    return pa.table(
        {"query": pa.array(captions, pa.binary()), "image": pa.array(keys, pa.binary())}
    )
