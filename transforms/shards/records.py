"""Bytes that wait in large files while small rows with their places travel.

Each file is written once, in one piece, and named by what is in it. Readers read only what they
ask for, neighbours together.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from schemas.base import storage

# Where a record lies: its file, its first byte there, and its bytes.
PLACE = (("file", pa.string()), ("start", pa.int64()), ("size", pa.int64()))
Place = tuple[str, int, int]

GAP_BYTES = 64 << 10  # between two records that are read at once: less than a request costs
READ_BYTES = 32 << 20  # that are read at once
_READERS = 8  # at work for one shard: each waits for a bucket to answer


def write_file(folder: str, parts: Sequence[bytes | pa.Buffer]) -> str:
    """Writes a file of `parts`, one after the other; returns its name within the folder."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    name = digest.hexdigest()[:32]
    with storage.open_output(storage.join(folder, name)) as file:
        for part in parts:
            file.write(part)
    return name


def read_records(folder: str, places: Iterable[Place]) -> dict[Place, bytes]:
    """Reads records: those that lie close together are one read.

    Args:
      folder: as of `write_file`.
      places: of the records. All are in memory at once.
    """
    found: dict[Place, bytes] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        groups = _together(sorted(set(places)))
        for records in readers.map(functools.partial(_read_group, folder), groups):
            found.update(records)
    return found


def _read_group(folder: str, group: Sequence[Place]) -> dict[Place, bytes]:
    name, first, _ = group[0]
    stop = max(start + size for _, start, size in group)
    data = storage.read_range(storage.join(folder, name), first, stop - first)
    return {
        (name, start, size): data[start - first : start - first + size] for _, start, size in group
    }


def _together(places: Sequence[Place]) -> Iterable[list[Place]]:
    """Groups of sorted places, each to be read at once."""
    group: list[Place] = []
    for place in places:
        name, start, size = place
        if group:
            last, before, bytes_ = group[-1]
            is_far = name != last or start > before + bytes_ + GAP_BYTES
            if is_far or start + size - group[0][1] > READ_BYTES:
                yield group
                group = []
        group.append(place)
    if group:
        yield group
