"""Click logs: rows of files → checked events, in Arrow batches."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.text import privacy
from model_code.text.normalise import normalize_queries
from model_code.text.words import query_parts
from schemas.base import fingerprint
from schemas.runs.run import Run
from transforms.rows import moments
from transforms.rows.checked import (
    Checked,
    decode,
    distinct,
    given,
    ids,
    milliseconds,
    numbers,
    one_form,
    texts_of,
)
from transforms.rows.log_fields import LOG_FIELDS, PLACEHOLDERS
from transforms.shards.outputs import Output

# Fractions of clicks are kept to 1/1024: sums of such numbers are exact, in any order.
CLICK_UNIT = 1024
MAX_COUNT = 1e9
MAX_POSITION = 100  # nobody tells apart what stands further down
DAY_MS = moments.DAY_MS

EVENTS = pa.schema(
    [
        ("key", pa.string()),  # what the log calls the image, in NFC
        ("query_id", pa.int64()),
        ("clicks", pa.int64()),  # in 1/CLICK_UNIT
        ("impressions", pa.int64()),
        ("position", pa.int32()),  # from 1 at the top; 0 is unknown
        ("user", pa.int64()),  # keyed hash; null when unknown, as the next two
        ("session", pa.int64()),  # keyed hash, of the user too
        ("time", pa.int64()),  # milliseconds since 1970
        ("language", pa.string()),  # as the log says, or null
        ("part", pa.int8()),  # 1 where only a part of what was typed is meant
    ]
)
QUERY_TEXTS = pa.schema([("query_id", pa.int64()), ("query", pa.string())])


@dataclasses.dataclass(frozen=True)
class LogRules:
    """What a row of the log must be like; see the flags of beam_jobs/mining/log_flags.py.

    Attributes:
      max_query_chars: longer queries die.
      blocklist: normalised words and queries that are left out.
      forgotten: keys of images that no dead letter may name.
      person_key: key of the hashes of users and sessions.
      day: days since 1970 that rows must be of, or None for any.
      query_parts: words of the longest part of a query that counts as well; 0 for none.
      nobody: users and sessions that stand for none that is known, in lower case.
    """

    max_query_chars: int = 1000
    blocklist: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    person_key: bytes = dataclasses.field(default=b"", repr=False)
    day: int | None = None
    query_parts: int = 0
    nobody: tuple[str, ...] = PLACEHOLDERS


def parse_events(table: pa.Table, run: Run, rules: LogRules) -> Output:
    """Checks the rows of a click log.

    Args:
      table: [n] rows with the columns of `LOG_FIELDS` that the log has; text is binary.
      run: the run, named in dead letters.
      rules: what a row must be like.

    Returns:
      Tables `events` ([m] rows of EVENTS) and `texts` (rows of QUERY_TEXTS, one for each
      distinct query), dead letters, and counts of `events`. What people typed, and who
      they are, is in no dead letter: there the key of the image has to do.
    """
    rows = table.num_rows
    column = {name: table[name] if name in table.column_names else None for name in LOG_FIELDS}
    checked = Checked(rows)
    raw, query_of = distinct(column["query"], rows)
    queries, faults = check_queries(raw, rules)
    for reason, mask in faults.items():
        checked.drop(mask[query_of], reason)
    raw_keys, key_of = ids(column["image"], rows)
    keys = decode(raw_keys)
    checked.drop(_numpy(pc.is_null(keys))[key_of], "bad_encoding", "in the image key")
    checked.drop(_numpy(pc.fill_null(pc.equal(keys, ""), True))[key_of], "missing_image_key")

    units, shown = _check_counts(column["clicks"], column["impressions"], checked)
    positions = _check_positions(column["position"], checked)
    times, is_timed = _check_times(column["timestamp"], checked, rules.day)
    checked.drop((units == 0) & (shown == 0), "no_click")

    query_ids = fingerprint.hash64_array(queries)[query_of]
    users = _people(column["user"], rows, rules)
    sessions = _sessions(column["session"], users, rows, rules)
    good = checked.good
    rows_left = pa.array(np.flatnonzero(good))
    events = pa.table(
        {
            "key": keys.take(pa.array(key_of[good])),
            "query_id": query_ids[good],
            "clicks": units[good],
            "impressions": shown[good],
            "position": positions[good],
            "user": users.take(rows_left),
            "session": sessions.take(rows_left),
            "time": pa.array(times[good], mask=~is_timed[good]),
            "language": _languages(column["language"], rows).take(rows_left),
            "part": np.zeros(len(rows_left), np.int8),
        },
        schema=EVENTS,
    )
    used = pc.unique(queries.take(np.unique(query_of[good])))
    texts = pa.table([fingerprint.hash64_array(used), used], QUERY_TEXTS)
    if rules.query_parts:
        parts, part_texts = events_of_parts(events, texts, rules.query_parts)
        events = pa.concat_tables([events, parts])
        texts = pa.concat_tables([texts, part_texts])
    letters = tuple(
        without(letters, rules.forgotten)
        for letters in checked.letters(run, lambda dropped: _names(keys, key_of[dropped]))
    )
    return Output({"events": events, "texts": texts}, letters, checked.counts("events"))


Column: TypeAlias = pa.ChunkedArray | None  # of a log; None where it has none of the name


def _check_counts(
    clicks: Column, impressions: Column, checked: Checked
) -> tuple[np.ndarray, np.ndarray]:
    """Clicks, in 1 / CLICK_UNIT, and impressions: [n] int64 each, 0 where a row is no good."""
    rows = len(checked.good)
    counted = np.where(given(clicks, rows), numbers(clicks, rows), 1.0)
    checked.drop(~np.isfinite(counted) | (np.abs(counted) > MAX_COUNT), "bad_clicks")
    checked.drop(counted < 0, "negative_clicks")
    counted = np.where(checked.good, counted, 0.0)
    least = np.maximum(np.ceil(counted), 1)
    shown = np.where(given(impressions, rows), numbers(impressions, rows), least)
    is_count = (shown >= 0) & (shown <= MAX_COUNT)
    checked.drop(~is_count, "bad_impressions")
    units = np.round(counted * CLICK_UNIT).astype(np.int64)
    return units, np.where(is_count, shown, 0).astype(np.int64)


def _check_positions(column: Column, checked: Checked) -> np.ndarray:
    """[n] int32, from 1 at the top; 0 where none is known."""
    rows = len(checked.good)
    positions, is_placed = numbers(column, rows), given(column, rows)
    is_place = (positions >= 1) & (positions <= 1e6) & (positions == np.floor(positions))
    checked.drop(is_placed & ~is_place, "bad_position")
    known = np.where(is_placed & is_place, np.minimum(positions, MAX_POSITION), 0)
    return known.astype(np.int32)


def _check_times(
    column: Column, checked: Checked, day: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds since 1970, [n] int64, and where there are any, [n] bool."""
    rows = len(checked.good)
    is_timed, times = given(column, rows), milliseconds(column, rows, day)
    checked.drop(is_timed & ~np.isfinite(times), "bad_timestamp", _why_no_time(column))
    times = np.where(np.isfinite(times), times, 0).astype(np.int64)
    if day is not None:
        checked.drop(is_timed & (times // DAY_MS != day), "other_day")
    return times, is_timed


def events_of_parts(events: pa.Table, texts: pa.Table, longest: int) -> tuple[pa.Table, pa.Table]:
    """What people typed, told of the parts of it too.

    Captions and titles hardly ever repeat as a whole; their words and phrases do.

    Args:
      events: [n] rows of EVENTS.
      texts: rows of QUERY_TEXTS, all their queries, each once.
      longest: words that a part has at most.

    Returns:
      Rows of EVENTS, one for each event and part of its query, and rows of QUERY_TEXTS.
    """
    wholes, parts = query_parts(texts["query"].combine_chunks(), longest)
    part_ids = fingerprint.hash64_array(parts)
    starts = np.searchsorted(wholes, np.arange(len(texts) + 1))
    query = pc.index_in(events["query_id"], value_set=texts["query_id"]).to_numpy()
    counts = starts[query + 1] - starts[query]
    rows = np.repeat(np.arange(len(events)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    told = events.take(pa.array(rows))
    columns = {name: told[name] for name in EVENTS.names} | {
        "query_id": part_ids[np.repeat(starts[query], counts) + within],
        "part": np.ones(len(rows), np.int8),
    }
    used = pc.unique(parts)
    return (
        pa.table(columns, EVENTS),
        pa.table([fingerprint.hash64_array(used), used], QUERY_TEXTS),
    )


def without(letters: pa.Table, forgotten: tuple[str, ...]) -> pa.Table:
    """Dead letters but for those of images that must be forgotten."""
    listed = pa.array(forgotten, pa.string())
    return letters.filter(pc.invert(pc.is_in(one_form(letters["key"]), value_set=listed)))


def check_queries(raw: pa.Array, rules: LogRules) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Normalises distinct queries and finds what is wrong with them.

    Args:
      raw: [n] binary, as the log has them.
      rules: see `LogRules`.

    Returns:
      Their normalised texts, [n] string ("" for a bad one), and for each reason [n] bool.
    """
    lengths = pc.binary_length(raw)
    # A character has at most four bytes: what is longer than that is surely too long.
    is_short = pc.less_equal(lengths, 4 * rules.max_query_chars)
    texts = decode(raw)
    too_long = pc.greater(pc.utf8_length(texts), rules.max_query_chars)
    too_long = pc.or_(pc.invert(is_short), pc.fill_null(too_long, False))
    queries = normalize_queries(pc.if_else(too_long, b"", raw))
    is_bad = pc.and_(pc.is_null(queries), pc.invert(too_long))
    queries = pc.fill_null(queries, "")
    is_empty = pc.and_(pc.equal(queries, ""), pc.invert(pc.or_(too_long, is_bad)))
    return queries, {
        "bad_encoding": _numpy(is_bad),
        "empty_query": _numpy(is_empty),
        "query_too_long": _numpy(too_long),
        "private_query": np.asarray(privacy.is_private(queries)),
        "blocked_query": blocked(queries, rules.blocklist),
    }


def blocked(queries: pa.Array, blocklist: tuple[str, ...]) -> np.ndarray:
    """[n] bool: which queries are on a blocklist, or have a word that is.

    Args:
      queries: [n] string, normalised.
      blocklist: normalised words and queries.
    """
    if not blocklist:
        return np.zeros(len(queries), bool)
    listed = pa.array(blocklist, pa.string())
    words = pc.split_pattern(queries, " ")
    hits = np.r_[0, np.cumsum(_numpy(pc.is_in(words.flatten(), value_set=listed)))]
    offsets = words.offsets.to_numpy() - words.offsets[0].as_py()
    return _numpy(pc.is_in(queries, value_set=listed)) | (hits[offsets[1:]] > hits[offsets[:-1]])


def _numpy(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False).astype(bool)


def _names(keys: pa.Array, places: np.ndarray) -> list[str]:
    return pc.fill_null(keys.take(pa.array(places)), "").to_pylist()


def _why_no_time(column: pa.ChunkedArray | None) -> Callable[[int], str]:
    def why(row: int) -> str:
        assert column is not None
        return moments.why_not(texts_of(column.slice(row, 1), 1)[0])

    return why


def _people(column: pa.ChunkedArray | None, rows: int, rules: LogRules) -> pa.Array:
    """[rows] int64 hash of who a column names, null where it names nobody."""
    values, places = ids(column, rows)
    hashes = fingerprint.hash64_array(values, rules.person_key)
    placeholders = pa.array(["", *rules.nobody], pa.string())
    is_nobody = _numpy(pc.is_in(pc.utf8_lower(decode(values)), value_set=placeholders))
    return pa.array(hashes, mask=is_nobody).take(pa.array(places))


def _sessions(
    column: pa.ChunkedArray | None, users: pa.Array, rows: int, rules: LogRules
) -> pa.Array:
    """[rows] int64: a session of one user; without a session id, all that a user does."""
    named = _people(column, rows, rules)
    both = fingerprint.mix(pc.fill_null(named, 0).to_numpy(), pc.fill_null(users, 0).to_numpy())
    is_known = pc.or_(pc.is_valid(named), pc.is_valid(users))
    return pa.array(both, mask=~_numpy(is_known))


def _languages(column: pa.ChunkedArray | None, rows: int) -> pa.Array:
    """[rows] string, lower case; null where the log says nothing."""
    values, places = distinct(column, rows)
    texts = pc.utf8_lower(decode(values))
    return pc.if_else(pc.equal(texts, ""), None, texts).take(pa.array(places))
