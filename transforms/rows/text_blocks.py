"""Blocks of delimited text → Arrow tables of bytes, and the rows that are none.

Arrow parses whole blocks; NumPy finds the rows that Arrow would fail a block for. Only
blocks that neither can split (a quotation mark in the middle of a field) go through
Python's csv, which defines what a row is.
"""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

BLOCK_BYTES = 4 << 20
# Blocks with quotation marks are small: one that Python must parse costs little.
QUOTED_BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 256 << 20  # which no text has, and garbage may
MAX_FIELD_BYTES = 4 << 20  # so that an open quotation mark does not swallow a whole file
_BOM = b"\xef\xbb\xbf"
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
      delimiter: between two columns.
      quoted: whether quotation marks enclose fields; where not, they are text.
      names: of the columns; None where the first line has them.
    """

    delimiter: str
    quoted: bool
    names: tuple[str, ...] | None = None


TSV = Dialect("\t", quoted=False)  # exports of logs: a quotation mark is part of the query
CSV = Dialect(",", quoted=True)
DIALECTS = {
    "tsv": TSV,
    "quoted tsv": Dialect("\t", quoted=True),
    "csv": CSV,
    "semicolon csv": Dialect(";", quoted=True),
    "bar csv": Dialect("|", quoted=False),
    "quoted bar csv": Dialect("|", quoted=True),
    "ctrl-a text": Dialect("\x01", quoted=False),  # Hive's own
}


@dataclasses.dataclass
class Rows:
    """What a block holds: a table of bytes (or numbers), and what is wrong with other rows."""

    table: pa.Table | None
    bad: list[tuple[int, str]]  # line within the block, from 1; what is wrong with it


def line_blocks(stream: io.BufferedReader, size: int, limit: int | None = None) -> Iterator[bytes]:
    """Cuts a stream, or its next `limit` bytes, into blocks of about `size` that end at line ends.

    Raises:
      OSError, pa.ArrowException: of the stream, after all whole lines before it; or a line
        is longer than MAX_LINE_BYTES.
    """
    pieces: list[bytes] = []
    held, wanted = 0, size
    while True:
        error: Exception | None = None
        try:
            piece = stream.read1(size if limit is None else min(size, limit))
        except (OSError, pa.ArrowException) as failure:
            piece, error = b"", failure
        limit = limit if limit is None else limit - len(piece)
        pieces.append(piece)
        held += len(piece)
        if piece and held < wanted:
            continue
        data = b"".join(pieces)
        cut = len(data) if not piece and error is None else data.rfind(b"\n") + 1
        if cut:
            yield data[:cut]
        if error is None and piece and not cut and len(data) > MAX_LINE_BYTES:
            error = OSError(f"a line of more than {MAX_LINE_BYTES} bytes")
        if error is not None:
            raise error
        if not piece:
            return
        pieces = [data[cut:]]
        held = len(data) - cut
        wanted = held + size


def delimited_rows(
    blocks: Iterator[bytes], dialect: Dialect, columns: int, places: Mapping[str, int]
) -> Iterator[tuple[Rows, int]]:
    """Parses the rows of a delimited file.

    Args:
      blocks: of the file behind its header, cut at line ends.
      dialect: how it is written.
      columns: how many columns a row must have.
      places: field → place of its column.

    Yields:
      Rows of a block, columns named by field and of type binary; and how many lines it has.
    """
    rest = b""
    for block in blocks:
        data, rest = rest + block, b""
        quotes = _enclosing_quotes(data, dialect)
        if quotes is not None:
            data, rest = _cut_behind_last_row(data, quotes)
        if quotes is not None and len(rest) <= MAX_FIELD_BYTES:
            if data:
                yield _whole_rows(data, quotes, dialect, columns, places), count_lines(data)
        else:
            rows, lines, rest = _csv_rows(data + rest, blocks, dialect, columns, places)
            yield rows, lines
    while rest:  # a quotation mark that nothing closes
        rows, lines, rest = _csv_rows(rest, iter(()), dialect, columns, places)
        yield rows, lines


def count_lines(data: bytes) -> int:
    """How many lines end in a block."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == _NEWLINE))


def _enclosing_quotes(data: bytes, dialect: Dialect) -> np.ndarray | None:
    """Places of the quotation marks around fields, or None where only Python's csv can tell.

    Where each mark of odd number follows a delimiter, a line end or another mark, and each of
    even number comes before one, a byte is inside of a quoted field exactly if the number of
    marks before it is odd, for Python's csv as for Arrow.
    """
    text = np.frombuffer(data, np.uint8)
    if not dialect.quoted or b'"' not in data:
        return np.empty(0, np.int64)
    quotes = np.flatnonzero(text == _QUOTE)
    opening, closing = quotes[::2], quotes[1::2] + 1
    before, after = text[opening[opening > 0] - 1], text[closing[closing < len(data)]]
    ends = np.zeros(256, bool)
    ends[[ord(dialect.delimiter), _NEWLINE, _QUOTE]] = True
    if not ends[before].all() or not (ends[after] | (after == _RETURN)).all():
        return None
    # Python's csv gives up a line, not a row, for a carriage return within it.
    return None if len(_outside(_lone_returns(data), quotes)) else quotes


def _lone_returns(data: bytes) -> np.ndarray:
    """Places of carriage returns that do not end a line."""
    if b"\r" not in data:
        return np.empty(0, np.int64)
    text = np.frombuffer(data, np.uint8)
    returns = np.flatnonzero(text[:-1] == _RETURN)
    return returns[(text[returns + 1] != _NEWLINE) & (text[returns + 1] != _RETURN)]


def _outside(places: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    """The places that are not inside of quoted fields."""
    return places[np.searchsorted(quotes, places) % 2 == 0] if len(quotes) else places


def _cut_behind_last_row(data: bytes, quotes: np.ndarray) -> tuple[bytes, bytes]:
    """Whole rows, and the beginning of one that runs on behind the block."""
    if not data.endswith(b"\n") and len(quotes) % 2 == 0:
        return data, b""  # the last line of a file may have no end
    cut = data.rfind(b"\n") + 1
    while cut and np.searchsorted(quotes, cut) % 2:
        cut = data.rfind(b"\n", 0, cut - 1) + 1
    return data[:cut], data[cut:]


def _whole_rows(
    data: bytes, quotes: np.ndarray, dialect: Dialect, columns: int, places: Mapping[str, int]
) -> Rows:
    """Rows of a block: all at once, or without those that Arrow fails the block for."""
    if not len(_lone_returns(data)):
        try:
            return Rows(_arrow_csv(data, dialect, columns, places), [])
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass  # a row too short or too long; Arrow cannot even say so where it is no UTF-8
    scan = _scan(data, quotes, dialect)
    is_bad = (scan.columns != columns) & (scan.columns != _BLANK)
    bad = [
        (int(line), _wrong_columns(int(found), columns))
        for line, found in zip(scan.lines[is_bad], scan.columns[is_bad], strict=True)
    ]
    keep = np.repeat(~is_bad, scan.stops - scan.starts + 1)[: len(data)]
    good = np.frombuffer(data, np.uint8)[keep].tobytes()
    return Rows(_arrow_csv(good, dialect, columns, places), bad)


_BLANK = -1


@dataclasses.dataclass
class _Scan:
    """Where the rows of a block are: arrays of [rows] int64.

    A row of 0 columns is broken by a lone carriage return; one of _BLANK is no row.
    """

    starts: np.ndarray
    stops: np.ndarray
    columns: np.ndarray
    lines: np.ndarray


def _scan(data: bytes, quotes: np.ndarray, dialect: Dialect) -> _Scan:
    text = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(text == _NEWLINE)
    if not data.endswith(b"\n"):
        newlines = np.append(newlines, len(data))
    delimiters = _outside(np.flatnonzero(text == ord(dialect.delimiter)), quotes)
    stops = _outside(newlines, quotes)
    starts = np.concatenate([[0], stops[:-1] + 1])
    columns = np.searchsorted(delimiters, stops) - np.searchsorted(delimiters, starts) + 1
    columns[np.searchsorted(stops, _outside(_lone_returns(data), quotes))] = 0
    is_blank = starts == stops
    is_blank[~is_blank] = text[starts[~is_blank]] == _RETURN
    columns[is_blank & (columns == 1)] = _BLANK
    return _Scan(starts, stops, columns, np.searchsorted(newlines, stops) + 1)


def _wrong_columns(found: int, expected: int) -> str:
    return f"{found} columns, not {expected}"


def _arrow_csv(
    data: bytes, dialect: Dialect, columns: int, places: Mapping[str, int]
) -> pa.Table | None:
    if not data:
        return None
    if data.startswith(_BOM):
        data = b"\n" + data  # Arrow would take a mark that belongs to the text
    wanted = {str(place): pa.binary() for place in places.values()}
    table = pacsv.read_csv(
        pa.BufferReader(data),
        pacsv.ReadOptions(
            column_names=[str(place) for place in range(columns)],
            use_threads=False,
            block_size=len(data) + 1,
        ),
        pacsv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if dialect.quoted else False,
            double_quote=dialect.quoted,
            escape_char=False,
            newlines_in_values=dialect.quoted,
        ),
        pacsv.ConvertOptions(
            check_utf8=False,
            column_types=wanted,
            include_columns=list(wanted),
            strings_can_be_null=False,
        ),
    )
    return table.select([str(place) for place in places.values()]).rename_columns(list(places))


def _csv_rows(
    data: bytes, blocks: Iterator[bytes], dialect: Dialect, columns: int, places: Mapping[str, int]
) -> tuple[Rows, int, bytes]:
    """Rows that begin in a block, by Python's csv; how many lines they took; what is left."""
    csv.field_size_limit(MAX_FIELD_BYTES)
    lines = _Lines(data, blocks)
    reader = csv.reader(lines, delimiter=dialect.delimiter)
    good: list[list[str]] = []
    bad: list[tuple[int, str]] = []
    while not lines.block_is_read:
        try:
            row = next(reader, None)
        except csv.Error:
            bad.append((lines.taken, _wrong_columns(0, columns)))
            continue
        if row is None:
            break
        if len(row) == columns:
            good.append(row)
        elif row:
            bad.append((lines.taken, _wrong_columns(len(row), columns)))
    table = None
    if good:
        values = list(zip(*good, strict=True))
        table = pa.table({field: encoded(values[place]) for field, place in places.items()})
    return Rows(table, bad), lines.taken, lines.rest


class _Lines:
    """Lines of a block, and of the next ones for a row that runs on."""

    def __init__(self, data: bytes, blocks: Iterator[bytes]):
        self._data, self._place, self._blocks = data, 0, blocks
        self.block_is_read = False
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self) -> str:
        if self._place == len(self._data):
            self._data, self._place = next(self._blocks), 0
        stop = self._data.find(b"\n", self._place) + 1 or len(self._data)
        line = self._data[self._place : stop]
        self._place = stop
        self.taken += 1
        self.block_is_read |= stop == len(self._data)
        # Bytes that are no UTF-8 pass as surrogates and come out as they were.
        return line.decode("utf-8", "surrogateescape")

    @property
    def rest(self) -> bytes:
        return self._data[self._place :]


def encoded(values: Sequence[str | None]) -> pa.Array:
    """Text as UTF-8; surrogates become bytes that are none, which the job's own check finds."""
    try:
        return pa.array(values, pa.string()).cast(pa.binary())
    except UnicodeEncodeError:
        return pa.array([None if v is None else _encode(v) for v in values], pa.binary())


def _encode(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")  # the bytes of the file
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")  # JSON's \ud800
