"""Times as people's exports write them: text and numbers as milliseconds since 1970, UTC.

What is read, each with or without a fraction of a second and a zone (UTC where there is none):

  2023-11-14 22:13:20.123456 UTC         BigQuery, Trino; also T, /, Z, +01:00, +01, -0800
  2023-11-14T22:13:20+01:00[Europe/Paris]  Java; the offset counts, the name does not
  20231114T221320Z, 20231114221320, 20231114   ISO 8601 basic, keys of days
  14/Nov/2023:22:13:20 +0000             Apache, nginx, NCSA, in brackets or not
  Tue, 14 Nov 2023 22:13:20 +0000        RFC 2822, HTTP
  Tue Nov 14 22:13:20 UTC 2023           ctime, date
  Tue Nov 14 2023 22:13:20 GMT+0000 (…)  JavaScript
  Nov 14, 2023 10:13:20 PM               with the month's name, twelve hours too
  1700000000                             since 1970, in seconds, ms, µs or ns
  22:13:20                               of a day that is given

Where the day and the month may stand either way, a year has two digits, or a zone has a name of
which there are several (CST), a time is refused and not guessed.
"""

import datetime
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EPOCH = datetime.date(1970, 1, 1)
DAY_MS = 86_400_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}\.?,? +)?"
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,12}))?)?"
    r"(?: ?(?P<half>[ap])\.?m\.?)?"
)
# An offset, with or without a name before and behind it that says the same; or UTC by name.
_ZONE = (
    r"(?: ?(?:(?:utc|gmt)?(?P<sign>[+-])(?P<zone_hour>\d{2})"
    r"(?::?(?P<zone_minute>\d{2})(?::?(?P<zone_second>\d{2}))?)?|z|utc|gmt|etc/utc)"
    r"(?: ?\([a-z ]{1,40}\)| [a-z]{3,4}|\[[\w/+-]{1,40}\])?)?"
)
_DATE = r"(?P<year>\d{4})(?P<mark>[-/.])(?P<number>\d{1,2})(?P=mark)(?P<day>\d{1,2})"
_PATTERNS = tuple(
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        rf"{_DATE}(?:(?:t|_|,? +){_CLOCK}{_ZONE})?",
        r"(?P<year>\d{4})(?P<number>\d{2})(?P<day>\d{2})[t _-]?(?P<hour>\d{2}):?(?P<minute>\d{2})"
        rf"(?::?(?P<second>\d{{2}})(?:[.,](?P<fraction>\d{{1,12}}))?)?{_ZONE}",
        rf"\[?{_WEEKDAY}(?P<day>\d{{1,2}})(?P<mark>[-/ ]){_MONTH},?(?P=mark)(?P<year>\d{{4}})"
        rf"(?:(?::|,? +){_CLOCK}{_ZONE})?\]?",
        rf"{_WEEKDAY}{_MONTH} +(?P<day>\d{{1,2}}),? +(?P<year>\d{{4}})"
        rf"(?:,? +(?:at )?{_CLOCK}{_ZONE})?",
        rf"{_WEEKDAY}{_MONTH} +(?P<day>\d{{1,2}}) +{_CLOCK}{_ZONE} +(?P<year>\d{{4}})",
        rf"{_CLOCK}{_ZONE}",
    )
)
_WHOLE = r"^[+-]?([0-9]{1,18}|[1-8][0-9]{18})$"  # nanoseconds since 2001 have 19 digits
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DIGITS_AS_0 = np.arange(256, dtype=np.uint8)
_DIGITS_AS_0[ord("0") : ord("9") + 1] = ord("0")


def of_numbers(values: np.ndarray) -> np.ndarray:
    """Numbers as milliseconds: [n] float64 or int64 → [n] float64, NaN where they are no time.

    Seconds, milliseconds, microseconds or nanoseconds since 1970: the first that puts them before
    the year 5138. Numbers of 8, 12, 14 or 17 digits that read as year, month, day, hour, minute,
    second (and milliseconds) from 1970 to 2099 are that: as anything since 1970 they would be of
    a few months of 1970 or 1976, or of centuries to come.
    """
    if not np.issubdtype(values.dtype, np.integer):
        return _of_doubles(values)
    # A double has no room for the digits of nanoseconds.
    size = np.abs(values)
    cuts = np.searchsorted(np.array([10**11, 10**14, 10**17]), size, side="right")
    multiplied = np.where(cuts == 0, values * 1000, values).astype(np.float64)
    divided = values // np.array([1, 1, 1000, 1_000_000])[cuts]
    found = np.where(cuts < 2, multiplied, divided.astype(np.float64))
    for digits, scale in ((8, 10**9), (12, 10**5), (14, 10**3), (17, 1)):
        low, high = 19700101 * 10 ** (digits - 8), 20991232 * 10 ** (digits - 8)
        places = np.flatnonzero((values >= low) & (values < high))
        compact = _of_digits(values[places] * scale)
        found[places] = np.where(np.isnan(compact), found[places], compact)
    return found


def _of_doubles(values: np.ndarray) -> np.ndarray:
    size = np.abs(values)
    is_whole = (values == np.floor(values)) & (size < _MAX_WHOLE)
    with np.errstate(invalid="ignore"):
        unit = np.select([size < 1e11, size < 1e14, size < 1e17], [1e3, 1.0, 1e-3], 1e-6)
        found = np.where(size < 1e20, np.floor(values * unit), np.nan)
        found[is_whole] = of_numbers(values[is_whole].astype(np.int64))
    return found


_MAX_WHOLE = 9e18  # which an int64 can hold


def _of_digits(values: np.ndarray) -> np.ndarray:
    """[n] int64 such as 20231114221320123 as milliseconds; NaN where they are no such time."""
    parts = []
    for size in (1000, 100, 100, 100, 100, 100):
        values, part = values // size, values % size
        parts.append(part)
    millisecond, second, minute, hour, day, month = parts
    return _milliseconds(values, month, day, hour=hour, minute=minute, second=second) + millisecond


def _milliseconds(
    year: np.ndarray,
    month: np.ndarray,
    day: np.ndarray,
    *,
    hour: np.ndarray,
    minute: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """[n] float64 of parts of times, [n] integers each; NaN where there is no such time.

    A second may be the 60th: it leaps, and is the first of the next minute.
    """
    is_date = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    is_time = (hour >= 0) & (hour < 24) & (minute >= 0) & (minute < 60) & (second >= 0)
    months = (np.where(is_date, year, 1970) - 1970) * 12 + np.where(is_date, month, 1) - 1
    first = months.astype("datetime64[M]")
    days = first.astype("datetime64[D]") + (day - 1)
    is_good = is_date & is_time & (second <= 60) & (days.astype("datetime64[M]") == first)
    seconds = ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60 + second
    return np.where(is_good, seconds * 1000.0, np.nan)


def of_texts(texts: pa.Array, day: int | None = None) -> np.ndarray:
    """Texts as milliseconds.

    Args:
      texts: [n] string without white space around them; null is no time.
      day: days since 1970 of what is a time of day alone; None where that is not known.

    Returns:
      [n] float64, rounded down; NaN for what is no time, or not surely one.
    """
    found = np.full(len(texts), np.nan)
    is_valid = _mask(pc.is_valid(texts))
    is_whole = _mask(pc.match_substring_regex(texts, _WHOLE))
    is_number = ~is_whole & _mask(pc.match_substring_regex(texts, NUMBER))
    for chosen, type_ in ((is_whole, pa.int64()), (is_number, pa.float64())):
        if chosen.any():
            numbers = pc.replace_substring_regex(texts.filter(pa.array(chosen)), r"^\+", "")
            found[chosen] = of_numbers(numbers.cast(type_).to_numpy(zero_copy_only=False))
    left = np.flatnonzero(is_valid & ~is_whole & ~is_number)
    if len(left):
        found[left] = _of_shapes(texts.take(pa.array(left)), day)
    return found


def _mask(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)


def _of_shapes(texts: pa.Array, day: int | None) -> np.ndarray:
    """Texts that are no numbers as milliseconds.

    The times of a log are alike but for their digits, so that each shape is looked at once, and
    the digits of all that have it are read where they stand.
    """
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    starts = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts)].astype(int)
    alike = pa.Array.from_buffers(
        pa.binary(),
        len(texts),
        [None, texts.buffers()[1], pa.py_buffer(_DIGITS_AS_0[data])],
        offset=texts.offset,
    ).dictionary_encode()
    shape_of = alike.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(shape_of, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(shape_of[order])) + 1)
    found = np.full(len(texts), np.nan)
    for rows in groups:
        text = texts[int(rows[0])].as_py()
        matches = (pattern.fullmatch(text) for pattern in _PATTERNS if text.isascii())
        match = next((match for match in matches if match is not None), None)
        if match is not None:
            found[rows] = _of_digits_at(match, data, starts[rows], day)
        else:
            for row in rows.tolist():  # weeks, and days of a year
                found[row] = _iso(texts[row].as_py())
    return found


def _of_digits_at(
    match: re.Match, data: np.ndarray, starts: np.ndarray, day: int | None
) -> np.ndarray:
    """The times of some texts of one shape.

    Args:
      match: of one of them.
      data: the bytes of all texts.
      starts: [n] int64, where these begin.
      day: as of `of_texts`.
    """
    named = match.re.groupindex

    def number(name: str, default: int, digits: int = 12) -> np.ndarray:
        first, stop = match.span(name) if name in named else (-1, -1)
        if first < 0:
            return np.full(len(starts), default)
        value = np.zeros(len(starts), np.int64)
        for place in range(first, min(stop, first + digits)):
            value = value * 10 + (data[starts + place] - ord("0"))
        return value

    def word(name: str) -> str:
        return (match[name] or "").lower() if name in named else ""

    month = number("number", 1)
    if word("month"):
        month = np.full(len(starts), _MONTHS.index(word("month")[:3]) + 1)
    hour = number("hour", 0)
    if half := word("half"):
        is_twelve = (hour >= 1) & (hour <= 12)
        hour = np.where(is_twelve, hour % 12 + (12 if half == "p" else 0), -1)
    year, minute, second = number("year", 1970), number("minute", 0), number("second", 0)
    found = _milliseconds(year, month, number("day", 1), hour=hour, minute=minute, second=second)
    found += number("fraction", 0, 3) * 10 ** (3 - min(3, len(word("fraction"))))
    if sign := word("sign"):
        hours, minutes = number("zone_hour", 0), number("zone_minute", 0)
        seconds = number("zone_second", 0)
        is_zone = (hours < 24) & (minutes < 60) & (seconds < 60)
        offset = ((hours * 60 + minutes) * 60 + seconds) * 1000
        found = np.where(is_zone, found - offset if sign == "+" else found + offset, np.nan)
    if "year" not in named:
        found += np.nan if day is None else day * DAY_MS
    return found


def _iso(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return float("nan")
    moment = moment.replace(tzinfo=moment.tzinfo or datetime.UTC)
    return (moment - _EPOCH) // datetime.timedelta(milliseconds=1)


_REST = r"[\d:., +/apm-]*"
_CLOCK_LIKE = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?[ap]\.?m\.?)?"
_MONTH_LIKE = "(?:" + "|".join(_MONTHS) + ")[a-z]{0,6}"
_UNSURE = (
    (
        rf"\d{{1,2}}([/.-])\d{{1,2}}\1(?:\d{{2}}|\d{{4}})\b{_REST}",
        "may be of two days; write the year first, as in 2023-02-01",
    ),
    (
        rf"{_WEEKDAY}\d{{1,2}}[ -]{_MONTH_LIKE}[ -]\d{{2}}\b{_REST}(?:gmt|utc)?",
        "has a year of two digits; write all four",
    ),
    (rf"{_WEEKDAY}{_MONTH_LIKE} +\d{{1,2}},? +{_CLOCK_LIKE}", "has no year; write it too"),
    (
        rf"{_CLOCK_LIKE}{_ZONE}",
        "is a time of day alone; say of which day with --partition of mine_log",
    ),
    (
        rf"{_WEEKDAY}(?:{_DATE}|\d{{1,2}}[ -/]{_MONTH_LIKE}[ -/]\d{{4}}|{_MONTH_LIKE} +\d{{1,2}}"
        rf"(?:,? +\d{{4}})?)[ t:,]+{_CLOCK_LIKE} ?[a-z/_]{{1,30}}(?: \d{{4}})?",
        "has a zone by name; write an offset such as +01:00, or UTC",
    ),
)


def why_not(text: str | None) -> str:
    """Why a text is no time. It is shown only where it surely has to do with one.

    What stands in a column may be anything, the name of a person too.
    """
    for pattern, reason in _UNSURE:
        if text and re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE):
            return f"{text!r} {reason}"
    return "neither a number nor a time in a form of docs/use/formats.md"
