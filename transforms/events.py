"""Click logs and label files: rows of files → checked events, in Arrow batches."""

import datetime
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.progress import Progress
from model_code.text import normalize_query
from schemas import fingerprint
from schemas.dead_letter import dead_letters
from schemas.stage import Stage
from schemas.tables import SPLITS
from transforms.datasets import COUNTS, DEAD, Output
from transforms.tabular import BadRows, read_table

LOG_FIELDS = ("query", "image", "clicks", "session", "user", "timestamp", "position", "language")
LABEL_FIELDS = ("key", "label", "split")

# Fractions of clicks are kept to 1/1024: sums of such numbers are exact, in any order.
CLICK_UNIT = 1024
MAX_CLICKS = 1e9

EVENTS = pa.schema(
    [
        ("key", pa.string()),
        ("query_id", pa.int64()),
        ("clicks", pa.float64()),
        ("session", pa.int64()),  # hash of session or user; null when the log has neither
        ("timestamp", pa.float64()),  # seconds; null when the log has none
        ("position", pa.string()),
    ]
)
QUERY_TEXTS = pa.schema(
    [
        ("query_id", pa.int64()),
        ("query", pa.string()),
        ("language", pa.string()),  # as the log says, "" when it does not
        ("rows", pa.int64()),
    ]
)
LABELS = pa.schema([("key", pa.string()), ("label", pa.string()), ("split", pa.string())])

_SPLIT_NAMES = {split: split for split in SPLITS} | {"val": "validation", "dev": "validation"}


class Checked:
    """Rows under check: the first reason that a row is dropped for stays.

    Args:
      rows: how many there are.
    """

    def __init__(self, rows: int):
        self.reasons = np.full(rows, "", dtype=object)
        self.details = np.full(rows, "", dtype=object)

    def drop(self, mask: np.ndarray, reason: str, detail: Callable[[int], str] | str = "") -> None:
        """Drops the rows of `mask` ([rows] bool) that are not dropped yet."""
        for row in np.flatnonzero(mask & (self.reasons == "")):
            self.reasons[row] = reason
            self.details[row] = detail if isinstance(detail, str) else detail(int(row))

    @property
    def good(self) -> np.ndarray:
        """[rows] bool."""
        return self.reasons == ""

    def counts(self, kind: str) -> dict[str, int]:
        """`<kind>.in`, `.out` and `.dropped_<reason>`."""
        reasons, rows = np.unique(self.reasons[~self.good].astype(str), return_counts=True)
        counts = {f"{kind}.in": len(self.reasons), f"{kind}.out": int(self.good.sum())}
        dropped = zip(reasons, rows, strict=True)
        return counts | {f"{kind}.dropped_{reason}": int(n) for reason, n in dropped}

    def letters(self, stage: Stage, keys: list[str], payloads: list[bytes]) -> tuple[pa.Table, ...]:
        """Dead letters of the dropped rows, but for those dropped as a matter of course."""
        dead = [i for i in np.flatnonzero(~self.good) if self.reasons[i] not in HARMLESS]
        return tuple(
            dead_letters(
                stage.name,
                stage.run_id,
                reason,
                [keys[i] for i in dead if self.reasons[i] == reason],
                [self.details[i] for i in dead if self.reasons[i] == reason],
                [payloads[i] for i in dead if self.reasons[i] == reason],
            )
            for reason in sorted({self.reasons[i] for i in dead})
        )


HARMLESS = ("no_click",)


def decode(
    column: pa.ChunkedArray | pa.Array | None, rows: int
) -> tuple[list[str | None], np.ndarray]:
    """Text of a column of bytes, numbers or nothing.

    Returns:
      The distinct texts (None where the bytes are no UTF-8), and for each row the place
      of its text among them, [rows] int64.
    """
    if column is None:
        return [""], np.zeros(rows, np.int64)
    column = _as_binary(column)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = pc.fill_null(column, b"").dictionary_encode()
    texts: list[str | None] = []
    for value in encoded.dictionary.to_pylist():
        try:
            texts.append(value.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append(None)
    return texts, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def texts_of(column: pa.ChunkedArray | pa.Array | None, rows: int) -> list[str | None]:
    """[rows] texts without white space around them, as `decode` reads them."""
    texts, places = decode(column, rows)
    texts = [text if text is None else text.strip() for text in texts]
    return [texts[place] for place in places]


def _as_binary(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    return column if pa.types.is_binary(column.type) else column.cast(pa.string()).cast(pa.binary())


def given(column: pa.ChunkedArray | pa.Array | None, rows: int) -> np.ndarray:
    """[rows] bool: where a column holds anything at all; null and empty text are nothing."""
    if column is None:
        return np.zeros(rows, bool)
    empty = pc.equal(column, b"") if pa.types.is_binary(column.type) else pa.scalar(False)
    is_given = pc.and_not(pc.is_valid(column), pc.fill_null(empty, True))
    return is_given.to_numpy(zero_copy_only=False)


def numbers(column: pa.ChunkedArray | None, rows: int) -> np.ndarray:
    """A column as [rows] float64; seconds where it holds moments; NaN where it is no number."""
    if column is None:
        return np.full(rows, np.nan)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        moments = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return moments.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy() / 1e6
    if not pa.types.is_binary(column.type):
        return column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    return np.array([_number(value) for value in column.to_pylist()], np.float64)


def _number(value: bytes | None) -> float:
    try:
        return float(value or b"nan")
    except ValueError:
        return float("nan")


def seconds(column: pa.ChunkedArray | None, rows: int) -> np.ndarray:
    """Timestamps as [rows] float64 seconds: numbers of seconds or ISO 8601; NaN where neither."""
    values = numbers(column, rows)
    if column is not None and pa.types.is_binary(column.type):
        for row in np.flatnonzero(np.isnan(values)):
            values[row] = _iso_seconds(column[int(row)].as_py())
    return values


def _iso_seconds(value: bytes | None) -> float:
    try:
        moment = datetime.datetime.fromisoformat((value or b"").decode().strip())
    except (ValueError, UnicodeDecodeError):
        return float("nan")
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()


def parse_events(table: pa.Table, stage: Stage, max_query_chars: int) -> Output:
    """Checks the rows of a click log.

    Args:
      table: [n] rows with the columns of `LOG_FIELDS` that the log has; text is binary.
      stage: the run, named in dead letters.
      max_query_chars: longer queries die.

    Returns:
      Tables `events` ([m] rows of EVENTS) and `texts` (rows of QUERY_TEXTS, one for each
      distinct query and language), dead letters, and counts of `events`.
    """
    rows = table.num_rows
    column = {name: table[name] if name in table.column_names else None for name in LOG_FIELDS}
    checked = Checked(rows)
    raw_queries, query_of = decode(column["query"], rows)
    keys = texts_of(column["image"], rows)
    queries, faults = _normalize_all(raw_queries, max_query_chars)
    for reason in ("bad_encoding", "empty_query", "query_too_long"):
        checked.drop(np.array([f == reason for f in faults], bool)[query_of], reason)
    checked.drop(np.array([key is None for key in keys], bool), "bad_encoding", "in the image key")
    checked.drop(np.array([not key for key in keys], bool), "missing_image_key")
    clicks = np.where(given(column["clicks"], rows), numbers(column["clicks"], rows), 1.0)
    raw_clicks: Any = column["clicks"]  # there, where a value is bad
    is_count = np.isfinite(clicks) & (clicks <= MAX_CLICKS)
    checked.drop(~is_count, "bad_clicks", lambda i: str(raw_clicks[i].as_py()))
    checked.drop(clicks < 0, "negative_clicks", lambda i: str(clicks[i]))
    moments, is_timed = seconds(column["timestamp"], rows), given(column["timestamp"], rows)
    checked.drop(is_timed & ~np.isfinite(moments), "bad_timestamp")
    clicks = np.round(np.where(is_count, clicks, 0) * CLICK_UNIT) / CLICK_UNIT
    checked.drop(clicks == 0, "no_click")
    good = np.flatnonzero(checked.good)
    ids = np.array([fingerprint.hash64(query) for query in queries], np.int64)[query_of][good]
    events = pa.table(
        {
            "key": pa.array([keys[i] for i in good], pa.string()),
            "query_id": ids,
            "clicks": clicks[good],
            "session": _sessions(column, rows).take(pa.array(good)),
            "timestamp": pa.array(moments[good], mask=~is_timed[good]),
            "position": pa.array(
                np.array(texts_of(column["position"], rows), object)[good], pa.string()
            ),
        },
        schema=EVENTS,
    )
    languages, language_of = decode(column["language"], rows)
    texts = (
        pa.table(
            {
                "query_id": ids,
                "query": pa.array([queries[i] for i in query_of[good]], pa.string()),
                "language": pa.array([languages[i] or "" for i in language_of[good]], pa.string()),
            }
        )
        .group_by(["query_id", "query", "language"])
        .aggregate([([], "count_all")])
        .rename_columns(QUERY_TEXTS.names)
        .cast(QUERY_TEXTS)
    )
    dead = np.flatnonzero(~checked.good)
    payloads: list[bytes] = [b""] * rows
    names = [""] * rows
    raw = column["query"].to_pylist() if column["query"] is not None and len(dead) else []
    for i in dead:
        payloads[i] = raw[i] if isinstance(raw[i], bytes) else str(raw[i]).encode()
        names[i] = keys[i] or ""
    return Output(
        {"events": events, "texts": texts},
        checked.letters(stage, names, payloads),
        checked.counts("events"),
    )


def _normalize_all(texts: list[str | None], max_chars: int) -> tuple[list[str], list[str]]:
    """Normalised text of each distinct query, and what is wrong with it ("" for nothing)."""
    queries, faults = [], []
    for text in texts:
        query, fault = "", ""
        if text is None:
            fault = "bad_encoding"
        elif len(text) > max_chars:
            fault = "query_too_long"
        else:
            query = normalize_query(text)
            fault = "" if query else "empty_query"
        queries.append(query)
        faults.append(fault)
    return queries, faults


def _sessions(column: dict[str, pa.ChunkedArray | None], rows: int) -> pa.Array:
    """[rows] hash of session, else of user: nothing of a person goes on. Null without both."""
    names = pa.nulls(rows, pa.binary())
    for name in ("session", "user"):
        if column[name] is not None:
            is_given = pa.array(given(column[name], rows))
            names = pc.coalesce(names, pc.if_else(is_given, _as_binary(column[name]), None))
    return pa.array(fingerprint.hash64_array(names), mask=~given(names, rows))


def parse_labels(table: pa.Table, stage: Stage) -> Output:
    """Checks the rows of a label file.

    Args:
      table: [n] rows with `key` and any of `label` and `split`; text is binary. An image
        with several labels has several rows.

    Returns:
      Table `labels` (rows of LABELS; null for an empty label or split), dead letters,
      counts of `labels`.
    """
    rows = table.num_rows
    checked = Checked(rows)
    values = {}
    for name in LABEL_FIELDS:
        column = table[name] if name in table.column_names else None
        texts = texts_of(column, rows)
        is_bad = np.array([text is None for text in texts], bool)
        checked.drop(is_bad, "bad_encoding", f"in {name}")
        values[name] = [text or "" for text in texts]
    checked.drop(np.array([not key for key in values["key"]], bool), "missing_image_key")
    splits = [_SPLIT_NAMES.get(split.lower(), split) for split in values["split"]]
    unknown = np.array([bool(split) and split not in SPLITS for split in splits], bool)
    checked.drop(unknown, "bad_split", lambda i: splits[i])
    good = np.flatnonzero(checked.good)
    labels = pa.table(
        {
            "key": pa.array([values["key"][i] for i in good], pa.string()),
            "label": pa.array([values["label"][i] or None for i in good], pa.string()),
            "split": pa.array([splits[i] or None for i in good], pa.string()),
        },
        schema=LABELS,
    )
    letters = checked.letters(stage, values["key"], [label.encode() for label in values["label"]])
    return Output({"labels": labels}, letters, checked.counts("labels"))


class ReadRows(beam.PTransform):
    """Reads files and checks their rows: PCollection[path] → the tagged tables of `parse`.

    Args:
      kind: what a row is, for the counts.
      mapping: field → column.
      parse: a pure function of a table, as above.
      outputs: the tables that it returns.
    """

    def __init__(
        self,
        kind: str,
        mapping: dict[str, str],
        parse: Callable[[pa.Table], Output],
        stage: Stage,
        outputs: tuple[str, ...],
    ):
        super().__init__()
        self._kind, self._mapping, self._parse = kind, mapping, parse
        self._stage, self._outputs = stage, outputs

    def expand(self, paths):
        fn = _ReadRowsFn(self._kind, self._mapping, self._parse, self._stage)
        return paths | beam.Reshuffle() | beam.ParDo(fn).with_outputs(DEAD, COUNTS, *self._outputs)


class _ReadRowsFn(beam.DoFn):
    def __init__(self, kind, mapping, parse, stage):
        self._kind, self._mapping, self._parse, self._stage = kind, mapping, parse, stage

    def setup(self):
        self._progress = Progress(f"read {self._kind}", None, "rows")

    def process(self, path):
        for output in checked_file(
            read_table(path, self._mapping), self._kind, self._parse, self._stage
        ):
            self._progress.add(output.counts.get(f"{self._kind}.in", 0))
            yield from output.tagged()


def checked_file(
    batches: Iterable[pa.Table | BadRows],
    kind: str,
    parse: Callable[[pa.Table], Output],
    stage: Stage,
    files: int = 1,
) -> Iterator[Output]:
    """Checks the batches of some files, and counts the files.

    Nobody knows how many rows were lost with a file that cannot be read to its end, so it
    counts as a file, of the kind `<kind>_files`: one of two is half, whatever its rows.
    """
    unreadable = 0
    for batch in batches:
        if not isinstance(batch, BadRows):
            yield parse(batch)
        elif batch.reason == "unreadable_file":
            unreadable += 1
            yield bad_rows(batch, f"{kind}_files", stage)
        else:
            yield bad_rows(batch, kind, stage)
    whole = files - unreadable
    yield Output(counts={f"{kind}_files.in": whole, f"{kind}_files.out": whole})


def bad_rows(bad: BadRows, kind: str, stage: Stage) -> Output:
    """Dead letters of rows that could not even be read."""
    n = len(bad.details)
    letters = dead_letters(
        stage.name, stage.run_id, bad.reason, [bad.path] * n, bad.details, [b""] * n
    )
    return Output({}, (letters,), {f"{kind}.in": n, f"{kind}.dropped_{bad.reason}": n})
