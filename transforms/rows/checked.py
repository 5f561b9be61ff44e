"""Rows of files under check: columns as values, what is wrong with them, what becomes of them."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.console import progress
from schemas.runs.run import Run
from schemas.tables.dead_letters import dead_letters
from transforms.rows import moments
from transforms.rows.column_types import as_binary, whole_texts
from transforms.rows.tabular import BadRows
from transforms.shards.outputs import COUNTS, DEAD, Output, par_do

# Rows that are dropped as a matter of course: counted, but nobody has to look into them.
HARMLESS = (
    "no_click",
    "private_query",
    "blocked_query",
    "forgotten",
    "other_day",
    "unknown_image",
)


class Checked:
    """Rows under check: the first reason that a row is dropped for stays.

    Args:
      rows: how many there are.
    """

    def __init__(self, rows: int):
        self._codes = np.zeros(rows, np.uint8)  # 0 is good, i the i-th reason
        self._reasons = [""]
        self._details: dict[int, str] = {}

    def drop(self, mask: np.ndarray, reason: str, detail: Callable[[int], str] | str = "") -> None:
        """Drops the rows of `mask` ([rows] bool) that are not dropped yet."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        fresh = mask & self.good
        self._codes[fresh] = self._reasons.index(reason)
        if detail:
            for row in np.flatnonzero(fresh).tolist():
                self._details[row] = detail if isinstance(detail, str) else detail(row)

    @property
    def good(self) -> np.ndarray:
        """[rows] bool."""
        return self._codes == 0

    def counts(self, kind: str) -> dict[str, int]:
        """`<kind>.in`, `.out` and `.dropped_<reason>`."""
        rows = np.bincount(self._codes, minlength=len(self._reasons)).tolist()
        counts = {f"{kind}.in": len(self._codes), f"{kind}.out": rows[0]}
        dropped = zip(self._reasons[1:], rows[1:], strict=True)
        return counts | {f"{kind}.dropped_{reason}": n for reason, n in dropped if n}

    def letters(
        self,
        run: Run,
        keys: Callable[[np.ndarray], list[str]],
        payloads: Callable[[np.ndarray], list[bytes]] | None = None,
    ) -> tuple[pa.Table, ...]:
        """Dead letters of the dropped rows, but for those dropped as a matter of course.

        Args:
          run: the run.
          keys: [n] int64 rows → [n] what names them.
          payloads: [n] int64 rows → [n] what arrived; None where that must stay behind.
        """
        found = []
        for code, reason in enumerate(self._reasons):
            rows = np.flatnonzero(self._codes == code)
            if not code or reason in HARMLESS or not len(rows):
                continue
            found.append(
                dead_letters(
                    run.name,
                    run.run_id,
                    reason,
                    keys(rows),
                    [self._details.get(row, "") for row in rows.tolist()],
                    payloads=payloads(rows) if payloads else [b""] * len(rows),
                )
            )
        return tuple(found)


def distinct(column: pa.ChunkedArray | pa.Array | None, rows: int) -> tuple[pa.Array, np.ndarray]:
    """The distinct values of a column of bytes, text, numbers or nothing.

    Returns:
      Their bytes, [n] binary (null and nothing are b""), and for each row the place of its
      value among them, [rows] int64.
    """
    if column is None:
        return pa.array([b""], pa.binary()), np.zeros(rows, np.int64)
    column = as_binary(column)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = pc.fill_null(column, b"").dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def decode(values: pa.Array) -> pa.Array:
    """Bytes as text without white space around it, [n] string; null where they are no UTF-8."""
    try:
        return pc.utf8_trim_whitespace(values.cast(pa.string()))
    except pa.ArrowInvalid:
        return pa.array([_text(value) for value in values.to_pylist()], pa.string())


def one_form(keys: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Keys with each character written in one way (NFC), whoever wrote them.

    A Mac names a file `café` with an accent beside the e (NFD), where a log has one letter.

    Args:
      keys: [n] string.
    """
    if pc.all(pc.string_is_ascii(keys), min_count=0).as_py() is not False:
        return keys
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    encoded = keys.dictionary_encode()
    # Arrow's own utf8_normalize makes NFD of what it is to make NFC of.
    forms = [unicodedata.normalize("NFC", key) for key in encoded.dictionary.to_pylist()]
    return pa.array(forms, pa.string()).take(encoded.indices)


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None


def texts_of(column: pa.ChunkedArray | pa.Array | None, rows: int) -> list[str | None]:
    """[rows] texts without white space around them; None where the bytes are no UTF-8."""
    values, places = distinct(column, rows)
    texts = decode(values).to_pylist()
    return [texts[place] for place in places.tolist()]


def ids(column: pa.ChunkedArray | pa.Array | None, rows: int) -> tuple[pa.Array, np.ndarray]:
    """The distinct ids of a column: of people, sessions or images.

    One id is one text whatever the type of its column, in this file or another: 12345678901 as
    int64, as a double beside nulls, as a decimal, and as the text that a program makes of these.
    Text keeps its leading zeros, and has each character written in one way (`one_form`). White
    space around it is none of it.

    Returns:
      Their bytes, [n] binary (nothing is b""), and for each row the place of its id among them,
      [rows] int64.
    """
    values, places = distinct(column, rows)
    texts = one_form(decode(values)).cast(pa.binary())
    canonical = whole_texts(pc.coalesce(texts, values)).dictionary_encode()
    merged = canonical.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return canonical.dictionary, merged[places]


def id_texts(column: pa.ChunkedArray | pa.Array | None, rows: int) -> list[str | None]:
    """[rows] ids as `ids` has them, "" where there is none; None where the bytes are no UTF-8."""
    values, places = ids(column, rows)
    texts = decode(values).to_pylist()
    return [texts[place] for place in places.tolist()]


def given(column: pa.ChunkedArray | pa.Array | None, rows: int) -> np.ndarray:
    """[rows] bool: where a column holds anything at all; null and empty text are nothing."""
    if column is None:
        return np.zeros(rows, bool)
    empty = pc.equal(column, b"") if pa.types.is_binary(column.type) else pa.scalar(False)
    is_given = pc.and_not(pc.is_valid(column), pc.fill_null(empty, True))
    return is_given.to_numpy(zero_copy_only=False)


def numbers(column: pa.ChunkedArray | None, rows: int) -> np.ndarray:
    """A column as [rows] float64; NaN where it is no number."""
    if column is None:
        return np.full(rows, np.nan)
    if not pa.types.is_binary(column.type):
        return _floats(column)
    values, places = distinct(column, rows)
    return _numbers(values)[places]


def _floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()


def _numbers(values: pa.Array) -> np.ndarray:
    """Bytes as [n] float64; NaN where they are no number."""
    texts = decode(values)
    plain = pc.fill_null(pc.match_substring_regex(texts, moments.NUMBER), False)
    found = _floats(pc.if_else(plain, texts, None).cast(pa.float64())).copy()
    for place in np.flatnonzero(~plain.to_numpy(zero_copy_only=False)).tolist():
        found[place] = _number(texts[place].as_py())
    return found


_BOOLEANS = {
    f: value for t, value in (("true", 1.0), ("false", 0.0)) for f in (t, t.title(), t.upper())
}


def _number(text: str | None) -> float:
    try:
        return _BOOLEANS[text] if text in _BOOLEANS else float(text or "nan")
    except ValueError:
        return float("nan")


def milliseconds(column: pa.ChunkedArray | None, rows: int, day: int | None = None) -> np.ndarray:
    """Moments as [rows] float64 milliseconds since 1970, UTC; NaN where a value is none.

    Args:
      column: timestamps, dates, times of day, numbers or text: see moments.py.
      rows: how many there are.
      day: days since 1970 of times of a day alone; without it they are no moments.
    """
    if column is None:
        return np.full(rows, np.nan)
    type_ = column.type
    if pa.types.is_time(type_):
        micros = column.cast(pa.time64("us"), safe=False).cast(pa.int64())
        return np.floor(_floats(micros) / 1000) + (np.nan if day is None else day * moments.DAY_MS)
    if pa.types.is_timestamp(type_) and type_.unit == "s":
        return _floats(column.cast(pa.int64())) * 1000
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        micros = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return np.floor(_floats(micros) / 1000)
    if pa.types.is_integer(type_) and not pa.types.is_uint64(type_):
        found = moments.of_numbers(column.cast(pa.int64()).fill_null(0).to_numpy())
        return np.where(column.is_valid().to_numpy(), found, np.nan)
    if not pa.types.is_binary(type_):
        return moments.of_numbers(_floats(column))
    values, places = distinct(column, rows)
    return moments.of_texts(decode(values), day)[places]


def checked_file(
    batches: Iterable[pa.Table | BadRows],
    kind: str,
    parse: Callable[[pa.Table], Output],
    run: Run,
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
            yield bad_rows(batch, f"{kind}_files", run)
        else:
            yield bad_rows(batch, kind, run)
    whole = files - unreadable
    yield Output(counts={f"{kind}_files.in": whole, f"{kind}_files.out": whole})


def bad_rows(bad: BadRows, kind: str, run: Run) -> Output:
    """Dead letters of rows that could not even be read."""
    n = len(bad.details)
    letters = dead_letters(
        run.name, run.run_id, bad.reason, [bad.path] * n, bad.details, payloads=[b""] * n
    )
    return Output({}, (letters,), {f"{kind}.in": n, f"{kind}.dropped_{bad.reason}": n})


class ReadRows(beam.PTransform):
    """Reads pieces of files and checks their rows: PCollection[unit] → the tables of `parse`.

    Args:
      kind: what a row is, for the counts.
      read: a unit → tables and bad rows.
      parse: a pure function of a table.
      outputs: the tables that it returns.
    """

    def __init__(
        self,
        kind: str,
        read: Callable[..., Iterable[pa.Table | BadRows]],
        parse: Callable[[pa.Table], Output],
        run: Run,
        outputs: tuple[str, ...],
    ):
        super().__init__()
        self._args, self._outputs = (kind, read, parse, run), outputs

    def expand(self, units):
        fn = _ReadRowsFn(*self._args)
        return units | beam.Reshuffle() | par_do(fn, tags=(DEAD, COUNTS, *self._outputs))


class _ReadRowsFn(beam.DoFn):
    def __init__(self, kind, read, parse, run):
        self._kind, self._read, self._parse, self._run = kind, read, parse, run

    def setup(self):
        self._progress = progress.shared(f"read {self._kind}", None, "rows")

    def teardown(self):
        self._progress.close()

    def process(self, unit):
        for output in checked_file(self._read(unit), self._kind, self._parse, self._run):
            self._progress.add(output.counts.get(f"{self._kind}.in", 0))
            yield from output.tagged()
