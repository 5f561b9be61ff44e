import types

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base.fingerprint import hash64
from schemas.tables import dead_letters
from transforms.mining import events
from transforms.mining.events import LogRules
from transforms.rows import log_fields
from transforms.rows.checked import HARMLESS

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
GOOD = {"query": b"red", "image": b"a"}
DAY = 20_000  # days since 1970


def table(rows):
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({n: pa.array([row.get(n) for row in rows], pa.binary()) for n in names})


def parse(rows, **rules):
    return events.parse_events(table(rows), STAGE, LogRules(**rules))


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
        ({"query": "ä".encode() * 1001}, "query_too_long"),
        ({"query": b"jane.doe@example.com"}, "private_query"),
        ({"query": b"some BAD word"}, "blocked_query"),
        ({"query": b"Two  words"}, "blocked_query"),
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
        ({"impressions": b"-1"}, "bad_impressions"),
        ({"impressions": b"a few"}, "bad_impressions"),
        ({"position": b"0"}, "bad_position"),
        ({"position": b"1.5"}, "bad_position"),
        ({"position": b"top"}, "bad_position"),
        ({"timestamp": b"yesterday"}, "bad_timestamp"),
        ({"timestamp": b"nan"}, "bad_timestamp"),
        ({"timestamp": b"2024-13-01"}, "bad_timestamp"),
        ({"timestamp": b"86400"}, "other_day"),
        ({"clicks": b"0", "impressions": b"0"}, "no_click"),
    ],
)
def test_one_bad_row_dies_alone(change, reason):
    rows = [dict(GOOD, clicks=b"2", timestamp=str(DAY * 86400).encode()) for _ in range(32)]
    rows[7] |= change
    output = parse(rows, blocklist=("bad", "two words"), day=DAY)
    assert output.tables["events"].num_rows == 31
    assert reasons(output) == ([] if reason in HARMLESS else [reason])
    assert output.counts == {"events.in": 32, "events.out": 31, f"events.dropped_{reason}": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"query": b"R\x00ED "}, {"query_id": hash64("red")}),
        ({"image": b" a "}, {"key": "a"}),
        ({"clicks": b" 2.5 "}, {"clicks": 2560, "impressions": 3}),
        ({"clicks": b""}, {}),
        ({"clicks": None}, {}),
        ({"clicks": b"0"}, {"clicks": 0}),
        ({"clicks": b"0.3"}, {"clicks": 307}),
        ({"impressions": b"7"}, {"impressions": 7}),
        ({"clicks": b"3", "impressions": b"2.9"}, {"clicks": 3072, "impressions": 2}),
        ({"position": b"3"}, {"position": 3}),
        ({"position": b"3000"}, {"position": events.MAX_POSITION}),
        ({"position": b""}, {"position": 0}),
        ({"timestamp": b"12.5"}, {"time": 12_500}),
        ({"timestamp": b"1760000000"}, {"time": 1_760_000_000_000}),
        ({"timestamp": b"1760000000123"}, {"time": 1_760_000_000_123}),
        ({"timestamp": b"1760000000123456"}, {"time": 1_760_000_000_123}),
        ({"timestamp": b"1970-01-01T00:01:00"}, {"time": 60_000}),
        ({"timestamp": b"1970-01-01T02:00:00.25+02:00"}, {"time": 250}),
        ({"timestamp": b""}, {"time": None}),
        ({"user": b"u"}, {"user": hash64("u")}),
        ({"user": b""}, {"user": None}),
        ({"language": b" EN "}, {"language": "en"}),
        ({"language": b"\xff"}, {"language": None}),
    ],
)
def test_good_rows(change, expected):
    output = parse([GOOD | change])
    (event,) = output.tables["events"].to_pylist()
    event.pop("session")
    defaults = {"key": "a", "query_id": hash64("red"), "clicks": 1024, "impressions": 1}
    defaults |= {"position": 0, "user": None, "time": None, "language": None, "part": 0}
    assert event == defaults | expected
    assert not reasons(output)


def test_no_letter_names_an_image_that_must_be_forgotten():
    rows = [GOOD | {"image": image, "clicks": b"many"} for image in (b"gone", b"there")]
    output = parse(rows, forgotten=("gone",))
    assert [row["key"] for letters in output.dead for row in letters.to_pylist()] == ["there"]
    assert output.counts["events.dropped_bad_clicks"] == 2


def test_sessions_belong_to_one_user():
    rows = [("s", "u"), ("s", "u"), ("s", "v"), ("t", "u"), ("", "u"), ("s", ""), ("", "")]
    output = parse([GOOD | {"session": s.encode(), "user": u.encode()} for s, u in rows])
    sessions = output.tables["events"]["session"].to_pylist()
    assert sessions[0] == sessions[1]
    assert len(set(sessions[1:])) == len(rows) - 1
    assert sessions[-1] is None


def test_people_are_hashed_by_the_key():
    found = [
        parse([GOOD | {"user": b"u"}], person_key=key).tables["events"]["user"][0].as_py()
        for key in (b"", b"one secret of 16", b"another secret..")
    ]
    assert found == [
        hash64("u"),
        hash64("u", b"one secret of 16"),
        hash64("u", b"another secret.."),
    ]
    assert len(set(found)) == 3


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                name: st.sampled_from([None, b"", b" ", b"1", b"-1", b"red", b"\xff", b"x" * 30])
                for name in log_fields.LOG_FIELDS
                if name not in ("session", "user")
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
    assert len(reasons(output)) == sum(n for r, n in dropped.items() if r not in HARMLESS)
    assert set(reasons(output)) <= set(dead_letters.REASONS)
    typed = set(output.tables["events"]["query_id"].to_pylist())
    assert typed == set(output.tables["texts"]["query_id"].to_pylist())
    for dead in output.dead:
        assert "somebody" not in str(dead.to_pylist())
        assert not any(dead["payload"].to_pylist()), "what people typed stays behind"


def test_texts_are_the_distinct_normalised_queries():
    output = parse([GOOD | {"query": q} for q in (b"Red", b"red ", b"rot", b"", b"a@b.com")])
    assert sorted(output.tables["texts"].to_pylist(), key=str) == sorted(
        [{"query_id": hash64(q), "query": q} for q in ("red", "rot")], key=str
    )


def test_a_click_counts_for_the_parts_of_its_query_too():
    rows = [
        GOOD | {"query": b"Big red dog", "clicks": b"3", "session": b"s", "user": b"u"},
        GOOD | {"query": b"red", "image": b"b"},
        GOOD | {"query": b""},
    ]
    whole, output = parse(rows), parse(rows, query_parts=2)
    assert output.counts == whole.counts
    names = {row["query_id"]: row["query"] for row in output.tables["texts"].to_pylist()}
    assert names == {hash64(text): text for text in names.values()}
    found = [
        (names[row["query_id"]], row["key"], row["clicks"], row["part"])
        for row in output.tables["events"].to_pylist()
    ]
    parts = ("big", "big red", "red", "red dog", "dog")
    expected = [("big red dog", "a", 3072, 0), ("red", "b", 1024, 0)]
    assert sorted(found) == sorted(expected + [(part, "a", 3072, 1) for part in parts])
    people = output.tables["events"].filter(pc.equal(output.tables["events"]["key"], "a"))
    assert len(set(people["user"].to_pylist())) == 1


@pytest.mark.parametrize("value", [12, 12.0, "12"])
def test_numeric_keys_are_the_texts_that_a_log_without_types_has(value):
    typed = pa.table({"query": [b"red"], "image": [value]})
    output = events.parse_events(typed, STAGE, LogRules())
    assert output.tables["events"]["key"].to_pylist() == ["12"]


WORDS = st.sampled_from(["red", "shoe", "bad", "worse", "x"])


@given(
    st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), max_size=9, unique=True),
    st.lists(st.lists(WORDS, min_size=1, max_size=2).map(" ".join), max_size=3).map(tuple),
    st.integers(0, 3),
)
def test_blocked_is_a_listed_word_or_the_whole_query(queries, blocklist, skip):
    column = pa.array(["sliced away"] * skip + queries, pa.string())[skip:]
    expected = [q in blocklist or bool(set(q.split()) & set(blocklist)) for q in queries]
    assert events.blocked(column, blocklist).tolist() == expected


@pytest.mark.parametrize("column", ["user", "session"])
@pytest.mark.parametrize("change", [str, str.upper, str.title, " {} ".format])
def test_what_logs_write_for_nobody_is_nobody(column, change):
    rows = [GOOD | {column: change(name).encode()} for name in ("", *log_fields.PLACEHOLDERS)]
    output = parse([*rows, GOOD | {column: None}, GOOD | {column: b"anonymous-7"}])
    known = output.tables["events"][column]
    assert output.tables["events"].num_rows == len(rows) + 2
    assert known.null_count == len(rows) + 1
    assert known[len(rows) + 1].is_valid


def test_others_can_be_named_nobody():
    rows = [GOOD | {"user": name} for name in (b"Visitor", b"anonymous", b"", b"\xff")]
    users = parse(rows, nobody=("visitor",)).tables["events"]["user"]
    assert users.is_valid().to_pylist() == [False, True, False, True]
