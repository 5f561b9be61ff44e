import datetime
import types

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.text import normalize_query
from schemas import dead_letter
from schemas.fingerprint import hash64
from transforms import events
from transforms.tabular import BadRows

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
GOOD = {"query": b"red", "image": b"a"}


def table(rows):
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({n: pa.array([row.get(n) for row in rows], pa.binary()) for n in names})


def parse(rows, max_query_chars=1000):
    return events.parse_events(table(rows), STAGE, max_query_chars)


def reasons(output):
    return [reason for dead in output.dead for reason in dead["reason"].to_pylist()]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": b""}, "empty_query"),
        ({"query": None}, "empty_query"),
        ({"query": b" \t "}, "empty_query"),
        ({"query": b"\x00\x00"}, "empty_query"),
        ({"query": b"\xff"}, "bad_encoding"),
        ({"query": "\ud800".encode("utf-8", "surrogatepass")}, "bad_encoding"),
        ({"query": b"x" * (1 << 20)}, "query_too_long"),
        ({"image": b""}, "missing_image_key"),
        ({"image": b"  "}, "missing_image_key"),
        ({"image": None}, "missing_image_key"),
        ({"image": b"\xff"}, "bad_encoding"),
        ({"clicks": b"many"}, "bad_clicks"),
        ({"clicks": b"nan"}, "bad_clicks"),
        ({"clicks": b"inf"}, "bad_clicks"),
        ({"clicks": b"-inf"}, "bad_clicks"),
        ({"clicks": b"1e308"}, "bad_clicks"),
        ({"clicks": b"\xff"}, "bad_clicks"),
        ({"clicks": b"-1"}, "negative_clicks"),
        ({"timestamp": b"yesterday"}, "bad_timestamp"),
        ({"timestamp": b"nan"}, "bad_timestamp"),
        ({"timestamp": b"2024-13-01"}, "bad_timestamp"),
        ({"clicks": b"0"}, None),
    ],
)
def test_one_bad_row_dies_alone(change, reason):
    rows = [dict(GOOD, clicks=b"2", timestamp=b"5") for _ in range(32)]
    rows[7] |= change
    output = parse(rows)
    assert output.tables["events"].num_rows == 31
    assert reasons(output) == ([reason] if reason else [])
    dropped = f"events.dropped_{reason or 'no_click'}"
    assert output.counts == {"events.in": 32, "events.out": 31, dropped: 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"query": b"R\x00ED "}, {"query_id": hash64("red")}),
        ({"image": b" a "}, {"key": "a"}),
        ({"clicks": b" 2.5 "}, {"clicks": 2.5}),
        ({"clicks": b""}, {"clicks": 1.0}),
        ({"clicks": None}, {"clicks": 1.0}),
        ({"clicks": b"0.3"}, {"clicks": 307 / 1024}),
        ({"timestamp": b"12.5"}, {"timestamp": 12.5}),
        ({"timestamp": b"1970-01-01T00:01:00"}, {"timestamp": 60.0}),
        ({"timestamp": b"1970-01-01T02:00:00+02:00"}, {"timestamp": 0.0}),
        ({"timestamp": b""}, {"timestamp": None}),
        ({"session": b"s", "user": b"u"}, {"session": hash64(b"s")}),
        ({"session": b"", "user": b"u"}, {"session": hash64(b"u")}),
        ({"session": None, "user": None}, {"session": None}),
        ({"session": b""}, {"session": None}),
        ({"session": b"\xff"}, {"session": hash64(b"\xff")}),
    ],
)
def test_good_rows(change, expected):
    output = parse([GOOD | change])
    (event,) = output.tables["events"].to_pylist()
    defaults = {"key": "a", "query_id": hash64("red"), "clicks": 1.0, "position": ""}
    assert event == defaults | {"session": None, "timestamp": None} | expected
    assert not reasons(output)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                name: st.sampled_from([None, b"", b" ", b"1", b"-1", b"red", b"\xff", b"x" * 30])
                for name in ("query", "image", "clicks", "timestamp", "position", "language")
            }
        ),
        max_size=20,
    )
)
def test_rows_in_are_rows_out_and_dropped_and_nobody_is_named(rows):
    for row in rows:
        row |= {"session": b"session-of-somebody", "user": b"somebody"}
    output = parse(rows, max_query_chars=10)
    counts = output.counts
    dropped = {k.partition("dropped_")[2]: n for k, n in counts.items() if "dropped_" in k}
    assert counts["events.in"] == len(rows) == counts["events.out"] + sum(dropped.values())
    assert output.tables["events"].num_rows == counts["events.out"]
    assert len(reasons(output)) == sum(dropped.values()) - dropped.get("no_click", 0)
    assert set(reasons(output)) <= set(dead_letter.REASONS)
    assert sum(output.tables["texts"]["rows"].to_pylist()) == counts["events.out"]
    for dead in output.dead:
        assert "somebody" not in str(dead.to_pylist())


def test_texts_count_rows_by_query_and_language():
    rows = [("Red", "en"), ("red ", "en"), ("red", ""), ("rot", "de")]
    output = parse([GOOD | {"query": q.encode(), "language": g.encode()} for q, g in rows])
    found = {
        (row["query"], row["language"]): (row["query_id"], row["rows"])
        for row in output.tables["texts"].to_pylist()
    }
    assert found == {
        ("red", "en"): (hash64("red"), 2),
        ("red", ""): (hash64("red"), 1),
        ("rot", "de"): (hash64("rot"), 1),
    }
    assert normalize_query("Red") == "red"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], pa.int64()), [1, np.nan]),
        (pa.array([1.5, np.nan]), [1.5, np.nan]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([b"1", b"x", None], pa.binary()), [1, np.nan, np.nan]),
        (pa.array([1_500_000_001, None], pa.timestamp("ns")), [1.5, np.nan]),
        (pa.array([2, None], pa.timestamp("s", "Asia/Tokyo")), [2, np.nan]),
        (pa.array([datetime.date(1970, 1, 2)]), [86400]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_numbers(column, expected):
    np.testing.assert_array_equal(events.numbers(pa.chunked_array([column]), 9), expected)


@pytest.mark.parametrize("value", [12, 12.0, "12"])
def test_numeric_keys_are_the_texts_that_a_log_without_types_has(value):
    output = events.parse_events(pa.table({"query": [b"red"], "image": [value]}), STAGE, 10)
    assert output.tables["events"]["key"].to_pylist() == ["12"]


def test_parse_labels():
    rows = [
        ("a", "shoe", "val"),
        (" a ", "boot", "TEST"),
        ("b", "", "train"),
        ("c", "hat", ""),
        ("", "hat", ""),
        ("d", "hat", "holdout"),
        ("\ud800", "hat", ""),
    ]
    columns = zip(*[[v.encode("utf-8", "surrogatepass") for v in row] for row in rows], strict=True)
    output = events.parse_labels(
        pa.table(dict(zip(("key", "label", "split"), map(pa.array, columns), strict=True))), STAGE
    )
    assert [tuple(row.values()) for row in output.tables["labels"].to_pylist()] == [
        ("a", "shoe", "validation"),
        ("a", "boot", "test"),
        ("b", None, "train"),
        ("c", "hat", None),
    ]
    assert sorted(reasons(output)) == ["bad_encoding", "bad_split", "missing_image_key"]
    assert output.counts["labels.in"] == 7
    assert output.counts["labels.out"] == 4


def test_files_are_counted_beside_rows():
    cut = [table([GOOD]), BadRows("unreadable_file", "b.gz", ["cut"])]
    bad = [BadRows("bad_row", "c.tsv", ["line 3", "line 9"])]
    counts: dict[str, int] = {}
    letters = []
    for batches in (cut, bad):
        for output in events.checked_file(
            batches, "events", lambda t: events.parse_events(t, STAGE, 10), STAGE
        ):
            letters += [row for dead in output.dead for row in dead.to_pylist()]
            for name, n in output.counts.items():
                counts[name] = counts.get(name, 0) + n
    assert counts == {
        "events.in": 3,
        "events.out": 1,
        "events.dropped_bad_row": 2,
        "events_files.in": 2,
        "events_files.out": 1,
        "events_files.dropped_unreadable_file": 1,
    }
    assert [(row["key"], row["detail"], row["payload"]) for row in letters] == [
        ("b.gz", "cut", b""),
        ("c.tsv", "line 3", b""),
        ("c.tsv", "line 9", b""),
    ]
