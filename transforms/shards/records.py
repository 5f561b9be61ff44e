"""Bytes that wait in large files while small rows with their places travel.

Each file is written once, in one piece, and named by what is in it. Readers read only what they
ask for, neighbours together.
"""

import hashlib
from collections import defaultdict
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
    """Reads records: each file is opened once, and records that lie close together are one read.

    Args:
      folder: as of `write_file`.
      places: of the records. All are in memory at once.
    """
    by_file: dict[str, list[Place]] = defaultdict(list)
    for place in sorted(set(places)):
        by_file[place[0]].append(place)
    found: dict[Place, bytes] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        for records in readers.map(lambda ps: _read_file(folder, ps), by_file.values()):
            found.update(records)
    return found


def _read_file(folder: str, places: Sequence[Place]) -> dict[Place, bytes]:
    found = {}
    with storage.open_input(storage.join(folder, places[0][0])) as file:
        for group in _together(places):
            first, last = group[0][1], max(start + size for _, start, size in group)
            data = file.read_at(last - first, first)
            for place in group:
                _, start, size = place
                found[place] = data[start - first : start - first + size]
    return found


def _together(places: Sequence[Place]) -> Iterable[list[Place]]:
    """Groups of sorted places of a file, each to be read at once."""
    group: list[Place] = []
    for place in places:
        _, start, size = place
        if group:
            stop = group[-1][1] + group[-1][2]
            if start > stop + GAP_BYTES or start + size - group[0][1] > READ_BYTES:
                yield group
                group = []
        group.append(place)
    if group:
        yield group
