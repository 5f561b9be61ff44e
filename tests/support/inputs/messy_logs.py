"""Search logs as people have them: rows that are good, odd and bad, from a seed or hypothesis.

A row is a dictionary of bytes by the names of LOG_FIELDS in mining_sql.py, as a Parquet file of
binary columns holds it. `messy_log` follows people through their sessions; then
some of the rows are spoilt.
"""

import datetime
import math
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.support.oracles.mining_sql import LOG_FIELDS

FIRST_DAY = 1_795_132_800  # 2026-11-20T00:00:00Z in seconds
DAY = 86_400
# Neighbours in a line are what people type for one thing; some are typing errors.
TOPICS = (
    ("running shoes", "runing shoes", "running shoe", "jogging"),
    ("sneaker", "sneakre", "sneakers"),
    ("size 42", "size 43"),
    ("赤い靴", "赤い 靴", "くつ"),
    ("straße", "strasse", "rue"),
    ("café noir", "cafe noir", "coffee"),
    ("красные туфли", "туфли"),
    ("รองเท้าแดง", "red shoes"),
)
RARE = ("my grandmother in 1983", "zxqv", "owner of 17 elm street")
PRIVATE = ("jane.roe@example.com", "https://x.example/reset?token=8f14e45fceea167a5a36dedd4bea2543")
BLOCKED = ("nasty", "nasty shoes")
LANGUAGES = ("en", "de", "ja", "")
SPOILT = {
    "query": (b"", b"   ", b"\x00", b"\xff\xfered", "\u200b".encode(), b"x" * 1001),
    "image": (b"", b"  ", b"\xc3\x28"),
    "clicks": (b"many", b"nan", b"inf", b"-1", b"-0.5", b"2e9", b"0", b"0.25", b"", b"1.7"),
    "impressions": (b"few", b"nan", b"-3", b"2e9", b"0", b"", b"40"),
    "position": (b"top", b"0", b"-1", b"2.5", b"1000001", b"", b"250", b"1000000"),
    "timestamp": (b"yesterday", b"2026-13-45", b"nan", b"", b"0"),
    "session": (b"",),
    "user": (b"",),
    "language": (b"",),
}


def spelled(rng: random.Random, query: str) -> bytes:
    """A query as people type it: another case, spaces, full-width or mojibake."""
    kind = rng.randrange(12)
    if kind == 0:
        query = query.upper() if query.isascii() else query
    elif kind == 1:
        query = f"  {query.replace(' ', '   ')} "
    elif kind == 2:
        query = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in query)
    elif kind == 3:
        query = query.encode().decode("latin-1")
    elif kind == 4:
        query = query.title() if query.isascii() else query
    return query.encode()


def written(rng: random.Random, seconds: float) -> bytes:
    """A moment in one of the ways that logs have: s, ms, µs, ISO 8601 with and without zone."""
    kind = rng.randrange(6)
    if kind == 0:
        return str(int(seconds) * 1000 + rng.randrange(1000)).encode()
    if kind == 1:
        return str(int(seconds) * 1_000_000).encode()
    if kind in (2, 3):
        second = int(seconds) % DAY
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        date = 20 + (int(seconds) - FIRST_DAY) // DAY
        date = f"2026-11-{date:02}" if date <= 30 else f"2026-12-{date - 30:02}"
        return f"{date}T{clock}{'Z' if kind == 2 else ''}".encode()
    return str(seconds if kind == 4 else int(seconds)).encode()


def day_of(written: bytes) -> int | None:
    """The day of a moment that `written` wrote, counted from FIRST_DAY; None for others."""
    try:
        text = written.decode()
        if "T" in text:
            date = datetime.date.fromisoformat(text.partition("T")[0])
            return (date - datetime.date(2026, 11, 20)).days
        number = float(text)
    except ValueError:
        return None
    unit = 1 if number < 1e11 else 1e3 if number < 1e14 else 1e6
    return None if math.isnan(number) else int((number / unit - FIRST_DAY) // DAY)


def messy_log(
    seed: int, keys: Sequence[str], rows: int = 1500, days: int = 4, users: int = 40
) -> list[dict[str, bytes]]:
    """A seeded log of about `rows` rows.

    Args:
      seed: another log for each.
      keys: what the images are called that people see.
      rows: sessions are added until there are as many, bad rows and repeats included.
      days: how many days the log covers, from 2026-11-20 on; at most 41.
      users: how many people search.
    """
    rng = random.Random(seed)
    log: list[dict[str, bytes]] = []
    while len(log) < rows:
        log += _session(rng, keys, days, users)
    for row in log:
        if rng.random() < 0.12:
            name = rng.choice(list(SPOILT))
            row[name] = rng.choice(SPOILT[name])
    # A robot clicks on everything in one night; a burst is one person at one image.
    start = FIRST_DAY + rng.randrange(days) * DAY
    for i in range(rows // 12):
        robot = _row(rng, "sneaker", rng.choice(keys), 1, start + i, b"robot", b"r")
        burst = _row(rng, "jogging", keys[0], 1, start + i // 9, b"fan", b"f")
        log += [robot, burst] if i % 3 else [robot]
    log += rng.sample(log, len(log) // 12)
    rng.shuffle(log)
    return log


def _session(rng: random.Random, keys: Sequence[str], days: int, users: int) -> list[dict]:
    user = f"u{rng.randrange(users)}".encode() if rng.random() < 0.85 else b""
    session = f"s{rng.randrange(10**6)}".encode() if rng.random() < 0.8 else b""
    # Many search around midnight, so that sessions cross it.
    second = rng.choice((DAY - rng.randrange(1, 600), rng.randrange(DAY)))
    moment = FIRST_DAY + rng.randrange(days) * DAY + second
    first = rng.randrange(len(TOPICS))
    rows = []
    for _ in range(rng.randrange(1, 4)):
        query = rng.choice(TOPICS[first])
        if rng.random() < 0.08:
            query = rng.choice((*RARE, *PRIVATE, *BLOCKED))
        moment = min(moment, FIRST_DAY + days * DAY - 1)
        for position in range(1, rng.randrange(2, 7)):
            # Images near the place of the topic are what people look for; few look far down.
            key = keys[(first * 3 + int(rng.expovariate(0.4))) % len(keys)]
            key = "ghost" + str(rng.randrange(4)) if rng.random() < 0.05 else key
            is_liked = zlib.crc32(f"{query}{key}".encode()) % 3
            clicks = int(is_liked and rng.random() < 0.9 / position)
            rows.append(_row(rng, query, key, clicks, moment, user, session, position))
        moment += rng.choice((5, 60, 1799, 1801, 4000))
    return rows


def _row(rng, query, key, clicks, moment, user, session, position=1) -> dict[str, bytes]:
    return {
        "query": spelled(rng, query),
        "image": key.encode() if rng.random() < 0.95 else f" {key} ".encode(),
        "clicks": str(clicks).encode(),
        "impressions": b"1" if clicks == 0 or rng.random() < 0.7 else b"",
        "position": str(position).encode() if rng.random() < 0.9 else b"",
        "session": session,
        "user": user,
        "timestamp": written(rng, moment) if rng.random() < 0.95 else b"",
        "language": rng.choice(LANGUAGES).encode(),
    }


def small_logs(keys: Sequence[str], max_rows: int = 40) -> st.SearchStrategy[list[dict]]:
    """Small logs in which everything collides with everything: few people, queries and moments."""
    queries = [b"red shoe", b"Red  Shoe", b"red shoes", b"shoe", b"\xe9", b"", b"jane@example.com"]
    seconds = st.sampled_from([0, 1, 1800, 1802, DAY - 1, DAY, 3 * DAY])
    row = st.fixed_dictionaries(
        {
            "query": st.sampled_from(queries),
            "image": st.sampled_from([*(key.encode() for key in keys), b"ghost", b""]),
            "clicks": st.sampled_from([b"1", b"", b"0", b"2", b"0.25", b"x", b"-1"]),
            "impressions": st.sampled_from([b"1", b"", b"0", b"5", b"x"]),
            "position": st.sampled_from([b"", b"1", b"2", b"7", b"101", b"0"]),
            "session": st.sampled_from([b"", b"s1", b"s2"]),
            "user": st.sampled_from([b"", b"u1", b"u2", b"u3"]),
            "timestamp": st.one_of(
                st.just(b""), seconds.map(lambda s: str(FIRST_DAY + s).encode()), st.just(b"x")
            ),
            "language": st.sampled_from([b"", b"en", b"de"]),
        }
    )
    return st.lists(row, min_size=1, max_size=max_rows)


def write_log(path: Path, rows: list[dict[str, bytes]]) -> Path:
    """Writes rows as Parquet of binary columns, so that every value stays as it is."""
    schema = pa.schema([(name, pa.binary()) for name in LOG_FIELDS])
    columns = [
        pa.array([row.get(name) or None for row in rows], pa.binary()) for name in LOG_FIELDS
    ]
    pq.write_table(pa.table(columns, schema=schema), path)
    return path
