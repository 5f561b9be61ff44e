import datetime
import types

import numpy as np
import pyarrow as pa
import pytest

from transforms.rows import checked as rows
from transforms.rows.tabular import BadRows
from transforms.shards.outputs import Output

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], pa.int64()), [1, np.nan]),
        (pa.array([1.5, np.nan]), [1.5, np.nan]),
        (pa.array([True, False]), [1, 0]),
        (
            pa.array([b"1", b"x", None, b" 1e3 ", b"1_000"], pa.binary()),
            [1, np.nan, np.nan, 1e3, 1e3],
        ),
        (pa.array([b"\xff", b"-.5", b"+2.", b"inf"], pa.binary()), [np.nan, -0.5, 2, np.inf]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_numbers(column, expected):
    np.testing.assert_array_equal(rows.numbers(pa.chunked_array([column]), len(column)), expected)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1_500_000_001, None], pa.timestamp("ns")), [1500, np.nan]),
        (pa.array([2, None], pa.timestamp("s", "Asia/Tokyo")), [2000, np.nan]),
        (pa.array([datetime.date(1970, 1, 2)]), [86_400_000]),
        (pa.array([-1.5, 1e30, np.inf]), [-1500, np.nan, np.nan]),
        (pa.array([b"1969-12-31", b"2024-02-30", b""], pa.binary()), [-86_400_000, np.nan, np.nan]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_milliseconds(column, expected):
    found = rows.milliseconds(pa.chunked_array([column]), len(column))
    np.testing.assert_array_equal(found, expected)


def test_the_first_reason_stays():
    checked = rows.Checked(3)
    checked.drop(np.array([True, False, False]), "bad_clicks", "why")
    checked.drop(np.array([True, True, False]), "bad_timestamp", lambda row: f"row {row}")
    assert checked.good.tolist() == [False, False, True]
    assert checked.counts("events") == {
        "events.in": 3,
        "events.out": 1,
        "events.dropped_bad_clicks": 1,
        "events.dropped_bad_timestamp": 1,
    }
    letters = checked.letters(STAGE, lambda dropped: [f"key {i}" for i in dropped])
    found = [(r["key"], r["reason"], r["detail"]) for t in letters for r in t.to_pylist()]
    assert found == [("key 0", "bad_clicks", "why"), ("key 1", "bad_timestamp", "row 1")]


def test_files_are_counted_beside_rows():
    cut = [pa.table({"n": [1]}), BadRows("unreadable_file", "b.gz", ["cut"])]
    bad = [BadRows("bad_row", "c.tsv", ["line 3", "line 9"])]
    counts: dict[str, int] = {}
    letters = []
    for batches in (cut, bad):
        for output in rows.checked_file(
            batches,
            "events",
            lambda t: Output(counts={"events.in": t.num_rows, "events.out": t.num_rows}),
            STAGE,
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
