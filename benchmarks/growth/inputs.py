"""Click logs and images that are drawn, of any size and with one of the shapes that hurt.

Popularity is as in a real log: a query is typed about as often as its rank says (Zipf), and the
vocabulary and the people grow with the log. Images are tiny pictures of noise, so that no two are
near duplicates unless they are meant to be.
"""

import dataclasses
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.runs.scale import png
from schemas.base import storage

CASES = (
    "plain",
    "popular_image",  # half of all events are about it
    "hot_query",  # 40 % of the clicks
    "one_person",  # 90 % of the rows
    "one_picture",  # 5 % of all files show it
)
EVENTS_PER_IMAGE = 12
SIDE = 16
FILE_ROWS = 64
LABELS = 8
DAY = 1_767_225_600  # seconds since 1970 of 2026-01-01


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What was written: where a command finds it."""

    log: str
    images: str
    labels: str


def picture(number: int, case: str, images: int) -> bytes:
    """A PNG of 16 × 16 pixels that its number decides."""
    if case == "one_picture" and number % 20 == 0:
        number = images  # a picture of nobody else
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    return png(blocks.repeat(4, axis=0).repeat(4, axis=1))


def click_log(images: int, case: str, seed: int = 0) -> pa.Table:
    """Twelve events an image, each a click.

    Returns:
      Columns user, query and image (string), timestamp (int64, seconds).
    """
    rng = np.random.default_rng([seed, images])
    events = images * EVENTS_PER_IMAGE
    queries = max(images // 5, 10)
    shown = rng.integers(0, images, events)
    # What people type for an image is one of a few queries of its own.
    typed = (shown * 31 + rng.zipf(1.6, events)) % queries
    person = rng.integers(0, events // 6, events)
    hot = rng.random(events)
    if case == "popular_image":
        shown[hot < 0.5] = 0
        typed[hot < 0.5] = rng.integers(0, queries, (hot < 0.5).sum())
    elif case == "hot_query":
        typed[hot < 0.4] = 0
    elif case == "one_person":
        person[hot < 0.9] = 0
    return pa.table(
        {
            "user": [f"person {number}" for number in person],
            "query": [f"thing {number}" for number in typed],
            "image": [name_of(number) for number in shown],
            "timestamp": pa.array(DAY + np.sort(rng.integers(0, 86_400, events))),
        }
    )


def name_of(number: int) -> str:
    return f"image-{number:08}"


def write(root: str, images: int, case: str = "plain", first: int = 0) -> Drawn:
    """Writes a log, images and labels below a folder.

    Args:
      root: the folder.
      images: how many there are.
      case: one of CASES.
      first: those before it are there already.
    """
    log = click_log(images, case)
    for number, table in enumerate(_slices(log, FILE_ROWS * EVENTS_PER_IMAGE)):
        _write(f"{root}/log/part-{number:06}.parquet", table)
    for start in range(first, images, FILE_ROWS):
        numbers = range(start, min(start + FILE_ROWS, images))
        pictures = pa.array([picture(n, case, images) for n in numbers], pa.binary())
        table = pa.table({"key": [name_of(n) for n in numbers], "image": pictures})
        _write(f"{root}/images/part-{start:08}.parquet", table)
    labels = pa.table(
        {
            "key": [name_of(n) for n in range(0, images, 2)],
            "label": [f"label {n // 2 % LABELS}" for n in range(0, images, 2)],
        }
    )
    _write(f"{root}/labels.parquet", labels)
    return Drawn(f"{root}/log", f"{root}/images", f"{root}/labels.parquet")


def _slices(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)


def _write(path: str, table: pa.Table) -> None:
    data = io.BytesIO()
    pq.write_table(table, data)
    storage.write_bytes(path, data.getvalue())
