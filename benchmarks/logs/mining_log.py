"""Writes a large search log: as messy and as skewed as real ones, the same for one seed.

Queries follow Zipf's law with a tail that grows with the log (1.5 % of its rows are distinct
queries), in several spellings; one query draws 40 % of all clicks and one image 10 % of all
impressions. People search in sessions and retype; who looks at a place clicks less the
further down it is. Every twentieth row is delivered twice, some in another file; three
robots click all night; some values are blank or wrong. Rows are in the order of time, over
30 days. Parquet files of a million rows, written one by one, so that memory stays flat.

  ./run.sh bench mining_log --events 1000000 --output work/bench/log
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.console.flags import flag
from schemas.runs import command_line

FILE_ROWS = 1_000_000
FIRST_MS = 1_795_132_800_000  # 2026-11-20
DAY_MS = 86_400_000
DAYS = 30
TWICE = 20  # one row in so many
SESSION_ROWS = 8
PLACES = 10
ROBOT_ROWS = 2_000
HOT_QUERY_SHARE, HOT_IMAGE_SHARE, NO_USER_SHARE, NO_SESSION_SHARE = 0.42, 0.1, 0.1, 0.2
BAD_SHARE = 0.003  # of each kind of bad value
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
LOG = pa.schema(
    [
        ("query", pa.string()),
        ("image", pa.string()),
        ("clicks", pa.int64()),
        ("impressions", pa.int64()),
        ("position", pa.int64()),
        ("session", pa.string()),
        ("user", pa.string()),
        ("timestamp", pa.int64()),
        ("language", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Config:
    output: str = flag("Folder for the files.", role="output")
    events: int = flag("Rows to write.", default=1_000_000, minimum=1)
    seed: int = flag("Another log for each.", default=0, minimum=0, maximum=2**32 - 1)


def query_text(rank: int) -> str:
    """The normalised query of a rank; every eighth is a typing error of the one before."""
    if rank % 8 == 1:
        text = query_text(rank - 1)
        return text[:2] + text[1:]
    # A step coprime with 70^4 scatters neighbouring ranks, so that their texts are far apart.
    place, base = rank * 7_368_787 % len(SYLLABLES) ** 4, len(SYLLABLES)
    parts = [SYLLABLES[place // base**i % base] for i in range(4)]
    return f"{parts[0]}{parts[1]} {parts[2]}{parts[3]}{rank // base**4 or ''}"


SPELLINGS = (
    str,
    str,
    str.upper,
    str.title,
    lambda text: f"  {text} ",
    lambda text: text.replace(" ", "   "),
)


def image_name(number: int) -> str:
    """What the log calls an image."""
    return f"img{number:07}"


def _named(ids: np.ndarray, name) -> pa.Array:
    """[n] ids → [n] strings, each distinct id named once; ids below 0 are null."""
    distinct, places = np.unique(ids, return_inverse=True)
    names = pa.array([name(int(i)) if i >= 0 else None for i in distinct], pa.string())
    return pa.DictionaryArray.from_arrays(places.astype(np.int32), names)


def fresh_rows(rng: np.random.Generator, rows: int, share: tuple[float, float], total: int):
    """Rows of one stretch of time: `rows` rows of LOG, without repeats.

    Args:
      rng: decides all of them.
      rows: how many.
      share: the stretch, from and to, in [0, 1] of the whole log.
      total: rows of the whole log, by which queries, users and images grow.
    """
    queries = max(1_000, total * 15 // 1000)
    images = max(1_000, total // 50)
    users = max(500, total // 60)
    sessions = -(-rows // SESSION_ROWS)
    row = np.arange(rows)
    session, step = row // SESSION_ROWS, row % SESSION_ROWS

    # Of Zipf's law with exponent 1 the logarithm of a rank is uniform.
    topic = np.exp(rng.random(sessions) * np.log(queries)).astype(np.int64)
    topic[rng.random(sessions) < HOT_QUERY_SHARE] = 0
    retypes = rng.random(sessions) < 0.3
    is_retyped = retypes[session] & (topic[session] > 0) & (step >= SESSION_ROWS // 2)
    rank = np.where(is_retyped, topic[session] ^ 1, topic[session])
    spelling = rng.integers(0, len(SPELLINGS), rows)

    # A page of results: the place decides which of the query's images is likely to be there.
    position = 1 + rng.integers(0, PLACES, rows)
    slots = np.where(rank == 0, images // 2, 30)
    slot = (position * 3 + rng.integers(0, slots)) % slots
    image = (rank // 2 * 7_919 + slot * 104_729) % images
    image[rng.random(rows) < HOT_IMAGE_SHARE] = 0
    appeal = (image * 31 + rank // 2 * 17) % 7 / 7
    clicks = (rng.random(rows) < appeal / position).astype(np.int64)

    begin, end = (FIRST_MS + int(edge * DAYS * DAY_MS) for edge in share)
    start = np.sort(rng.integers(begin, end, sessions))
    time = start[session] + step * 20_000 + rng.integers(0, 20_000, rows)
    user = np.where(rng.random(sessions) < NO_USER_SHARE, -1, rng.integers(0, users, sessions))
    # A user of a session that has a name, and the session of a user that has none, is there.
    first = int(share[0] * total) // SESSION_ROWS
    hidden = (user >= 0) & (rng.random(sessions) < NO_SESSION_SHARE)
    name = np.where(hidden, -1, first + np.arange(sessions))

    columns = {
        "query": _named(
            rank * len(SPELLINGS) + spelling,
            lambda i: SPELLINGS[i % len(SPELLINGS)](query_text(i // len(SPELLINGS))),
        ),
        "image": _named(image, image_name),
        "clicks": pa.array(clicks, mask=(clicks == 1) & (rng.random(rows) < 0.1)),
        "impressions": pa.array(np.ones(rows, np.int64), mask=(clicks == 1) & (position > 8)),
        "position": pa.array(position, mask=rng.random(rows) < 0.02),
        "session": _named(name[session], lambda i: f"s{i}"),
        "user": _named(user[session], lambda i: f"u{i}"),
        "timestamp": pa.array(time, mask=rng.random(rows) < BAD_SHARE),
        "language": _named(rank % 3 - 1, ("en", "de").__getitem__),
    }
    table = pa.table({n: c.cast(t) for (n, c), t in zip(columns.items(), LOG.types, strict=True)})
    return _spoil(_with_robots(table, rng), rng)


def _with_robots(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """One of three robots takes over a stretch of rows."""
    count = min(ROBOT_ROWS, table.num_rows // 10)
    start = int(rng.integers(0, table.num_rows - count))
    part = table.slice(start, count)
    robot = f"robot{rng.integers(3)}"
    day = int(FIRST_MS + rng.integers(DAYS) * DAY_MS)
    replaced = {
        "user": pa.array([robot] * count),
        "session": pa.nulls(count, pa.string()),
        "timestamp": pa.array(day + np.arange(count) * 1_000),
        "clicks": pa.array(np.ones(count, np.int64)),
    }
    for name, column in replaced.items():
        part = part.set_column(part.column_names.index(name), name, column)
    return pa.concat_tables([table.slice(0, start), part, table.slice(start + count)])


def _spoil(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """A few rows of each kind that no mining can use."""
    wrong = {"query": "   ", "image": "", "clicks": -1, "impressions": -1, "position": 0}
    for name, value in wrong.items():
        is_bad = pa.array(rng.random(table.num_rows) < BAD_SHARE)
        scalar = pa.scalar(value, LOG.field(name).type)
        spoilt = pa.compute.if_else(is_bad, scalar, table[name])
        table = table.set_column(table.column_names.index(name), name, spoilt)
    return table


def log_files(events: int, seed: int) -> Iterator[pa.Table]:
    """The files of a log, one after the other."""
    late = None
    for start in range(0, events, FILE_ROWS):
        rng = np.random.default_rng([seed, start])
        rows = min(FILE_ROWS, events - start)
        repeats = rows // TWICE
        share = (start / events, (start + rows) / events)
        table = fresh_rows(rng, rows - repeats, share, events)
        repeated = table.take(rng.choice(table.num_rows, repeats, replace=False))
        # Half of what is delivered twice comes with the next file.
        half = repeats // 2
        parts = [table, repeated.slice(half), repeated if late is None else late]
        late = repeated.slice(0, half)
        yield pa.concat_tables(parts).slice(0, rows)


def write_log(folder: Path, events: int, seed: int) -> Path:
    """Writes the log unless it is there.

    Returns:
      `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, table in enumerate(log_files(events, seed)):
        partial = folder / f".part-{i:05}"
        pq.write_table(table, partial)
        partial.rename(folder / f"part-{i:05}.parquet")
    return folder


def work(config: Config) -> None:
    folder = write_log(Path(config.output), config.events, config.seed)
    print(f"wrote {config.events:,} rows into {folder}")


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench mining_log", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
