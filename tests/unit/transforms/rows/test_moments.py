"""Times of exports against Python's datetime, email and pandas, which write them."""

import datetime
import email.utils

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dateutil import parser as dateutil_parser
from hypothesis import example, given
from hypothesis import strategies as st

from transforms.mining.events import LogRules, parse_events
from transforms.rows import moments

UTC = datetime.UTC
MOMENT = datetime.datetime(2023, 11, 4, 2, 13, 20, 123456, UTC)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)
INDIA = datetime.timezone(datetime.timedelta(hours=5, minutes=30))


def of(*texts, day=None):
    return moments.of_texts(pa.array(texts, pa.string()), day).tolist()


def whole(moment):
    """Milliseconds since 1970, by Python's own arithmetic."""
    return float((moment - EPOCH) // MILLISECOND)


def javascript(moment):
    names = {datetime.timedelta(0): "Coordinated Universal Time"}
    zone = names.get(moment.utcoffset(), "India Standard Time")
    return moment.strftime(f"%a %b %d %Y %H:%M:%S GMT%z ({zone})")


# Who writes it → how, and how much of a second is left.
WRITERS = {
    "BigQuery": (lambda m: f"{m.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC", 1e-6),
    "BigQuery, whole seconds": (lambda m: f"{m.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", 1),
    "Spark": (lambda m: f"{m.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{m.microsecond // 1000:03}Z", 1e-3),
    "Spark, with offset": (lambda m: m.isoformat(timespec="milliseconds"), 1e-3),
    "Postgres": (lambda m: m.isoformat(" ").removesuffix(":00"), 1e-6),
    "Snowflake": (lambda m: f"{m:%Y-%m-%d %H:%M:%S}.{m.microsecond // 1000:03} {m:%z}", 1e-3),
    "Snowflake, older": (lambda m: m.strftime("%a, %d %b %Y %H:%M:%S %z"), 1),
    "pandas": (lambda m: str(pd.Timestamp(m)), 1e-6),
    "pandas, ISO": (lambda m: pd.Timestamp(m).isoformat(), 1e-6),
    "SQL Server": (lambda m: f"{m:%Y-%m-%d %H:%M:%S.%f}0 {str(m)[-6:]}", 1e-6),
    "Go": (lambda m: f"{m:%Y-%m-%d %H:%M:%S.%f}789 {m:%z} {m:%Z}"[:40].split(" UTC+")[0], 1e-6),
    "Java": (lambda m: f"{m.isoformat()}[Asia/Kolkata]", 1e-6),
    "JavaScript, ISO": (
        lambda m: f"{m.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{m.microsecond // 1000:03}Z",
        1e-3,
    ),
    "JavaScript, toString": (javascript, 1),
    "JavaScript, toUTCString": (lambda m: f"{m.astimezone(UTC):%a, %d %b %Y %H:%M:%S} GMT", 1),
    "Apache": (lambda m: m.strftime("%d/%b/%Y:%H:%M:%S %z"), 1),
    "Apache, in brackets": (lambda m: m.strftime("[%d/%b/%Y:%H:%M:%S %z]"), 1),
    "RFC 2822": (email.utils.format_datetime, 1),
    "HTTP": (lambda m: email.utils.format_datetime(m.astimezone(UTC), usegmt=True), 1),
    "ctime": (lambda m: m.astimezone(UTC).ctime(), 1),
    "date": (lambda m: m.astimezone(UTC).strftime("%a %b %e %H:%M:%S UTC %Y"), 1),
    "ISO, basic": (lambda m: f"{m.astimezone(UTC):%Y%m%dT%H%M%SZ}", 1),
    "LDAP": (lambda m: f"{m.astimezone(UTC):%Y%m%d%H%M%SZ}", 1),
    "Oracle": (lambda m: f"{m.astimezone(UTC):%d-%b-%Y %I:%M:%S %p}".upper(), 1),
    "a month's name": (lambda m: f"{m.astimezone(UTC):%B %d, %Y %I:%M:%S %p}", 1),
    "slashes, the year first": (lambda m: f"{m.astimezone(UTC):%Y/%m/%d %H:%M:%S}", 1),
    "seconds": (lambda m: str(int(m.timestamp() // 1)), 1),
    "milliseconds": (lambda m: str((m - EPOCH) // MILLISECOND), 1e-3),
    "microseconds": (lambda m: str((m - EPOCH) // datetime.timedelta(microseconds=1)), 1e-6),
    "nanoseconds": (lambda m: f"{(m - EPOCH) // datetime.timedelta(microseconds=1)}000", 1e-6),
    "seconds with a point": (lambda m: f"{(m - EPOCH) // MILLISECOND / 1000:.3f}", 1e-3),
}


@pytest.mark.parametrize("writer", WRITERS)
@given(
    st.datetimes(
        datetime.datetime(1980, 1, 1),
        datetime.datetime(2099, 12, 31),
        timezones=st.sampled_from([UTC, INDIA]),
    )
)
@example(MOMENT)
@example(MOMENT.astimezone(INDIA))
@example(datetime.datetime(2024, 2, 29, 12, 0, 0, 999999, UTC))
@example(datetime.datetime(2024, 12, 31, 0, 0, 0, 0, UTC))
@example(datetime.datetime(2002, 1, 1, 0, 0, 0, 5000, UTC))
def test_what_exports_write_is_the_moment_that_they_meant(writer, moment):
    write, unit = WRITERS[writer]
    if "seconds" in writer and moment.year < 2002:
        moment = moment.replace(year=2002, day=1)  # short numbers are seconds
    kept = moment - datetime.timedelta(microseconds=moment.microsecond % round(unit * 1e6))
    (found,) = of(write(moment))
    assert abs(found - whole(kept)) <= (writer == "seconds with a point")


# The others are numbers, or have what dateutil does not know.
READABLE = [
    w for w in WRITERS if "second" not in w and w not in ("Java", "LDAP", "JavaScript, toString")
]


@pytest.mark.parametrize("writer", READABLE)
def test_dateutil_reads_the_same(writer):
    text = WRITERS[writer][0](MOMENT.astimezone(INDIA))
    expected = dateutil_parser.parse(
        text.strip("[]").replace(":", " ", 1) if "/Nov/" in text else text
    )
    expected = expected.replace(tzinfo=expected.tzinfo or UTC)
    if "GMT+" in text:  # which dateutil takes for POSIX's sign
        expected = MOMENT.replace(microsecond=0)
    assert of(text) == [whole(expected)]


@given(st.datetimes(), st.sampled_from(["seconds", "milliseconds", "microseconds"]))
def test_python_reads_its_own_iso_as_we_do(moment, timespec):
    text = moment.isoformat(timespec=timespec)
    expected = whole(datetime.datetime.fromisoformat(text).replace(tzinfo=UTC))
    assert of(text, text + "Z", text.replace("T", " ") + " UTC") == [expected] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14", "2023-11-14T00:00"),
        ("20231114", "2023-11-14T00:00"),
        ("202311142213", "2023-11-14T22:13"),
        ("20231114221320", "2023-11-14T22:13:20"),
        ("20231114221320123", "2023-11-14T22:13:20.123"),
        ("2023-11-14 22:13", "2023-11-14T22:13"),
        ("2023-1-4 2:13:20", "2023-01-04T02:13:20"),
        ("2023-11-14T22:13:20,5", "2023-11-14T22:13:20.5"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),  # a second that leaps
        ("2023-W46-2", "2023-11-14T00:00"),
        ("14-Nov-2023", "2023-11-14T00:00"),
        ("Sept. 4, 2023 12:00 AM", "2023-09-04T00:00"),
        ("4 September 2023 12:30 pm", "2023-09-04T12:30"),
        ("1969-12-31 23:59:59.5 UTC", "1969-12-31T23:59:59.5"),
        ("2023-11-14 23:13:20 +0100 CET", "2023-11-14T22:13:20"),
    ],
)
def test_other_forms(text, expected):
    assert of(text) == [whole(datetime.datetime.fromisoformat(expected).replace(tzinfo=UTC))]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *(
            (text, f"'{text}' may be of two days")
            for text in ("01/02/2023", "1/2/23", "14.11.2023 22:13:20", "11/14/2023, 10:13:20 PM")
        ),
        ("01-02-2023", "'01-02-2023' may be of two days"),
        ("14-Nov-23 22:13:20", "year of two digits"),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", "year of two digits"),
        ("Nov 14 22:13:20", "has no year"),
        ("22:13:20", "is a time of day alone"),
        ("2023-11-14 22:13:20 CST", "a zone by name"),
        ("2023-11-14 22:13:20.000 America/Los_Angeles", "a zone by name"),
        ("Tue Nov 14 22:13:20 CST 2023", "a zone by name"),
        *(
            (text, "neither a number nor a time")
            for text in (
                *("jane doe", "2023-02-30", "2023-13-01", "2023-11-14 24:00", "2023-11-14 1:2:3"),
                *("2023-11-14T22:13:20+25:00", "infinity", "20231114 UTC", "2023/11-14", "1e30x"),
                *("13:00 pm of jane", "０1/02/2023", "", "\x00", "4 jane 2023", "01/02/2023 jane"),
            )
        ),
        ("13:00 pm", "time of day"),
    ],
)
def test_what_is_not_surely_a_moment_is_refused_with_the_reason(text, why):
    assert np.isnan(of(text)).all()
    assert why in moments.why_not(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("00:00:00", 0), ("22:13:20", 80_000_000), ("1:02:03.5", 3_723_500), ("10:00 PM", 79_200_000)],
)
def test_a_time_of_day_is_of_the_day_of_the_partition(text, milliseconds):
    assert of(text, day=19_675) == [19_675 * 86_400_000 + milliseconds]
    assert of(text + "Z", text + "+01:00", day=0) == [milliseconds, milliseconds - 3_600_000]
    assert np.isnan(of(text)).all()


@given(
    st.lists(
        st.text() | st.sampled_from(["2023-11-14", "7", "22:13:20", "14/Nov/2023"]), max_size=5
    )
)
def test_any_texts_beside_each_other_are_what_they_are_alone(texts):
    together = of(*texts, None, day=7)
    alone = [of(text, day=7)[0] for text in texts]
    np.testing.assert_array_equal(together, [*alone, np.nan])


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_a_number_is_the_same_moment_as_text_and_as_integer(number):
    found = moments.of_numbers(np.array([number]))
    assert of(str(number)) == found.tolist()
    digits = len(str(abs(number)))
    scale = 1e3 if digits < 12 else 1.0 if digits < 15 else 1e-3 if digits < 18 else 1e-6
    if digits not in (8, 12, 14, 17):
        assert abs(found[0] - number * scale) <= max(1.0, abs(number * scale) * 1e-12)


def test_the_letter_of_a_refused_time_shows_it():
    table = pa.table(
        {
            "query": [b"red"] * 3,
            "image": [b"a"] * 3,
            "timestamp": [b"01/02/2023", b"jane doe", b"10:00"],
        }
    )
    stage = type("Stage", (), {"name": "mine_log", "run_id": "run"})
    output = parse_events(table, stage, LogRules())
    (letters,) = output.dead
    details = letters["detail"].to_pylist()
    assert letters["reason"].unique().to_pylist() == ["bad_timestamp"]
    assert "'01/02/2023' may be of two days" in details[0]
    assert "jane" not in details[1]
    assert "--partition" in details[2]
    of_a_day = parse_events(table, stage, LogRules(day=7)).tables["events"]
    assert of_a_day["time"].to_pylist() == [7 * 86_400_000 + 36_000_000]
