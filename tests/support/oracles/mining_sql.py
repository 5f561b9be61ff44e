"""The whole of mining written a second time, as SQL on DuckDB: what the real job must equal.

It shares with the job how one text is normalised, judged private and hashed, and nothing
else. Logs are small here, so every step is one statement over the whole log; the order of
the statements is the order in which mining is described in docs and flags.

  result = mine(rows, images, Settings(min_users=2))
  result.tables["pairs"]      rows as dictionaries, in the order of their ids
  result.counts["few_users"]  how many were dropped, by reason
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

from model_code.text import privacy
from model_code.text.normalise import normalize_query
from schemas.base.fingerprint import hash64

LOG_FIELDS = (
    "query",
    "image",
    "clicks",
    "impressions",
    "position",
    "session",
    "user",
    "timestamp",
    "language",
)
Z = 1.6449  # one-sided 95 %
SQL = Path(__file__).with_name("mining.sql").read_text()
STEPS = {
    name.strip(): statements
    for name, _, statements in (step.partition("\n") for step in SQL.split("-- step: ")[1:])
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of mine_pairs that decide rows, by the same names and defaults."""

    max_query_chars: int = 1000
    blocklist: tuple[str, ...] = ()
    forgotten_images: tuple[str, ...] = ()
    forgotten_users: tuple[str, ...] = ()
    partition: str = ""  # 2026-11-20
    max_person_events: int = 1000
    max_person_clicks: int = 3
    session_gap: float = 1800.0
    min_users: int = 5
    evidence: str = "auto"
    min_pair_clicks: float = 1.0
    one_person_pairs: bool = False
    max_images_per_query: int = 10_000
    max_queries_per_image: int = 256
    max_linked_queries: int = 32
    variant_steps: int = 3
    head_queries: int = 4_000_000
    validation_share: float = 0.1
    test_share: float = 0.2


@dataclasses.dataclass(frozen=True)
class Expected:
    """What mining must find.

    Attributes:
      tables: rows of `pairs`, `queries`, `query_days` and `query_pairs`.
      counts: how many rows, keys, queries or pairs each reason dropped.
      rate_mode: whether scores are click rates.
    """

    tables: dict[str, list[dict]]
    counts: dict[str, int]
    rate_mode: bool


def mine(
    rows: list[dict[str, bytes | None]],
    images: list[dict] | None,
    settings: Settings,
) -> Expected:
    """Mines a log.

    Args:
      rows: the log; a value by the names of LOG_FIELDS is text in bytes, and one that is
        missing, None or b"" is not given.
      images: one row for each key of an image: key, image_id (that of the representative
        of its cluster) and split. None where the log comes without images.
      settings: the flags.
    """
    db = duckdb.connect()
    db.execute("set TimeZone = 'UTC'")
    db.create_function("wilson", wilson, ["DOUBLE", "DOUBLE"], "DOUBLE")
    for name, value in dataclasses.asdict(settings).items():
        if not isinstance(value, tuple):
            db.execute(f"set variable {name} = ?", [value])
    _load(db, "log", [_columns(i, row) for i, row in enumerate(rows)], LOG_COLUMNS)
    _load(db, "texts", _texts(rows, settings), TEXT_COLUMNS)
    _load(db, "forgotten", [{"name": n} for n in settings.forgotten_images], {"name": "varchar"})
    forgotten_users = [{"name": n} for n in settings.forgotten_users]
    _load(db, "forgotten_users", forgotten_users, {"name": "varchar"})
    db.execute(STEPS["checks"])
    db.execute(STEPS["days"])
    db.execute(STEPS["merge"])
    if images is None:
        keys = [key for (key,) in db.execute("select distinct key from evidence").fetchall()]
        images = [{"key": key, "image_id": image_id_of(key)} for key in keys]
        images = [row | {"split": split_of(row["image_id"], settings)} for row in images]
    _load(db, "files", images, {"key": "varchar", "image_id": "varchar", "split": "varchar"})
    db.execute(STEPS["examination"])
    db.execute(STEPS["join"])
    _load(db, "variants", _variants(db), {"variant": "bigint", "query_id": "bigint"})
    db.execute(STEPS["pairs"])
    db.execute(STEPS["tables"])
    db.execute(STEPS["counts"])
    tables = {
        name: db.sql(f"select * from {name}_table order by all").to_arrow_table().to_pylist()
        for name in ("pairs", "queries", "query_days", "query_pairs")
    }
    counts = dict(db.execute("select reason, n from counts where n > 0").fetchall())
    ((rate_mode,),) = db.execute("select is_rate from mode").fetchall()
    return Expected(tables, counts, rate_mode)


def image_id_of(key: str) -> str:
    """What an image is called that nothing is known of but its key."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def split_of(image_id: str, settings: Settings) -> str:
    """Where an image falls by its id, in order: test, validation, train."""
    place = int(image_id[:15], 16) / 16**15
    shares = {"test": settings.test_share, "validation": settings.validation_share}
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"


def wilson(clicks: float, examined: float) -> float:
    """Lower bound of a click rate (Wilson 1927, equation for the lower limit), one-sided 95 %."""
    p, n = clicks / examined, examined
    root = (p * (1 - p) / n + Z * Z / (4 * n * n)) ** 0.5
    return (p + Z * Z / (2 * n) - Z * root) / (1 + Z * Z / n)


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions, replacements and swaps of neighbours from one to the other.

    Source: Damerau 1964; optimal string alignment.
    """
    above: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, above, row = above, row, [i + 1]
        for j, y in enumerate(b):
            best = min(above[j] + (x != y), above[j + 1] + 1, row[j] + 1)
            if i and j and x == b[j - 1] and y == a[i - 1]:
                best = min(best, before[j - 1] + 1)
            row.append(best)
    return row[-1]


LOG_COLUMNS = {"id": "bigint", "raw_query": "blob", "image": "blob"} | {
    f"raw_{name}": "varchar" for name in LOG_FIELDS[2:]
}
TEXT_COLUMNS = {
    "raw_query": "blob",
    "query": "varchar",
    "query_id": "bigint",
    "fault": "varchar",
}


def _columns(i: int, row: dict[str, bytes | None]) -> dict:
    texts = {f"raw_{n}": (row.get(n) or b"").decode("utf-8", "replace") for n in LOG_FIELDS[2:]}
    return texts | {
        "id": i,
        "raw_query": row.get("query") or b"",
        "image": row.get("image") or b"",
    }


def _texts(rows: list[dict[str, bytes | None]], settings: Settings) -> Iterable[dict]:
    """Each raw query with its normalised text and the first thing that is wrong with it."""
    for raw in sorted({row.get("query") or b"" for row in rows}):
        query, fault = "", None
        try:
            text = raw.decode()
            query = normalize_query(text)
            blocked = {query, *query.split()} & set(settings.blocklist)
            if not query:
                fault = "empty_query"
            elif len(text.strip()) > settings.max_query_chars:
                fault = "query_too_long"
            elif privacy.is_private(pa.array([text, query])).any():
                fault = "private_query"
            elif blocked:
                fault = "blocked_query"
        except UnicodeDecodeError:
            fault = "bad_encoding"
        yield {"raw_query": raw, "query": query, "query_id": hash64(query), "fault": fault}


def _load(db, name: str, rows: Iterable[dict], columns: dict[str, str]) -> None:
    db.execute(f"create table {name} ({', '.join(f'{c} {t}' for c, t in columns.items())})")
    kinds = {"varchar": pa.string(), "bigint": pa.int64(), "blob": pa.binary()}
    schema = pa.schema([(column, kinds[type_]) for column, type_ in columns.items()])
    db.register("loaded", pa.Table.from_pylist(list(rows), schema=schema))
    db.execute(f"insert into {name} select * from loaded")
    db.unregister("loaded")


def _variants(db) -> list[dict]:
    """Every variant with the query at the end of its pointers."""
    found = db.execute(
        """
        select b.query_id, a.query_id, b.query, a.query
        from steps s
        join query_clicks a on a.query_id in (s.query_a, s.query_b)
        join query_clicks b on b.query_id in (s.query_a, s.query_b) and a.query_id <> b.query_id
        where s.n >= getvariable('variant_steps')
          and (a.clicks > b.clicks or a.clicks = b.clicks and a.query_id < b.query_id)
          and exists (from spelled x join spelled y using (image_id)
                      where x.query_id = a.query_id and y.query_id = b.query_id)
        order by a.clicks desc, a.query_id
        """
    ).fetchall()
    return ends_of_variants(found)


def ends_of_variants(candidates: list[tuple[int, int, str, str]]) -> list[dict]:
    """Follows every variant to the end of its pointers.

    Args:
      candidates: variant, query, text of the variant, text of the query; best query first.

    Returns:
      Rows of variant and query_id.
    """
    points_to: dict[int, int] = {}
    for variant, query_id, text, other in candidates:
        near = edit_distance(text, other) <= (1 if min(len(text), len(other)) < 8 else 2)
        if near and _digits(text) == _digits(other):
            points_to.setdefault(variant, query_id)
    ends = []
    for variant, end in points_to.items():
        while end in points_to:
            end = points_to[end]
        ends.append({"variant": variant, "query_id": end})
    return ends


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())
