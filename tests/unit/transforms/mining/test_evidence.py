"""What people did, day by day: against loops over plain rows."""

import collections
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from transforms.mining import days, evidence
from transforms.mining.events import DAY_MS, EVENTS
from transforms.mining.evidence import DayRules
from transforms.shards.blocks import from_blocks, split_by_hash

FIELDS = EVENTS.names
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from("abc"),
            "query_id": st.integers(-2, 2),
            "clicks": st.sampled_from([0, 512, 1024, 2048]),
            "impressions": st.integers(0, 3),
            "position": st.integers(0, 2),
            "user": st.sampled_from([None, 7, 8]),
            "session": st.sampled_from([None, 71, 72]),
            "time": st.sampled_from([None, 0, 5, DAY_MS - 1, DAY_MS, DAY_MS + 4]),
            "language": st.sampled_from([None, "en", "de"]),
            "part": st.integers(0, 1),
        }
    ),
    max_size=25,
)


def events(rows):
    return pa.Table.from_pylist([{name: row[name] for name in FIELDS} for row in rows], EVENTS)


def sorted_rows(table):
    return sorted(map(repr, table.to_pylist()))


def mine(rows, **rules):
    return evidence.mine_days(events(rows), DayRules(**rules))


def day_of(row):
    return None if row["time"] is None else row["time"] // DAY_MS


def person_of(row):
    return row["session"] if row["user"] is None else row["user"]


def distinct(rows, max_events):
    """Equal rows once, and no robots."""
    unique = [dict(row) for row in {tuple(sorted(row.items())) for row in rows}]
    done = collections.Counter((person_of(r), day_of(r)) for r in unique if not r["part"])
    return [
        r for r in unique if person_of(r) is None or done[person_of(r), day_of(r)] <= max_events
    ]


@given(ROWS, st.integers(1, 5), st.integers(1, 3))
def test_evidence_is_what_people_did_capped(rows, max_events, max_clicks):
    found = mine(rows + rows[:3], max_person_events=max_events, max_person_clicks=max_clicks)
    expected: dict[tuple, list] = {}
    kept = distinct(rows, max_events)
    for row in kept:
        person = person_of(row)
        place = None if person is not None else row["position"]
        known = 0 if person is None else 1 + (row["user"] is not None)
        entry = expected.setdefault(
            (person, known, day_of(row), row["query_id"], row["key"], place), [0, 0, [], 0]
        )
        entry[0] += row["clicks"]
        entry[1] += row["impressions"]
        entry[2].append(row["position"])
        entry[3] += 1
    rows_expected = []
    for (person, known, day, query, key, place), (clicks, shown, positions, n) in expected.items():
        if known:
            place = min((p for p in positions if p), default=0)
            clicks, shown = min(clicks, max_clicks * 1024), min(shown, max_clicks)
        rows_expected.append((person, known, day, query, key, place, clicks, shown, n))
    got = [
        (r["person"] if r["known"] else None, *list(r.values())[1:])
        for r in found.tables["evidence"].to_pylist()
    ]
    assert sorted(map(repr, got)) == sorted(map(repr, rows_expected))
    counts = found.counts
    assert counts["deliveries.in"] == len(rows) + len(rows[:3])
    assert counts["deliveries.out"] == len(kept)
    votes = collections.Counter((r["query_id"], r["language"]) for r in kept if r["language"])
    voted: collections.Counter = collections.Counter()
    for row in found.tables["languages"].to_pylist():
        voted[row["query_id"], row["language"]] += row["rows"]
    assert voted == votes


@given(ROWS, st.integers(0, 10), st.randoms())
def test_merged_days_are_one_run(rows, gap, random):
    whole = mine(rows).tables
    expected = days.merge_days(whole["evidence"], whole["visits"], gap)
    random.shuffle(rows)
    parts = [mine([r for r in rows if day_of(r) == day]).tables for day in (1, None, 0)]
    merged = days.merge_days(
        pa.concat_tables([day["evidence"] for day in parts]),
        pa.concat_tables([day["visits"] for day in parts]),
        gap,
    )
    for name in ("pairs", "users", "days", "steps"):
        assert sorted_rows(merged.tables[name]) == sorted_rows(expected.tables[name]), name
    sums = [collections.Counter() for _ in range(2)]
    for total, output in zip(sums, (merged, expected), strict=True):
        for row in output.tables["facts"].to_pylist():
            total[row["name"]] += row["value"]
    assert sums[0] == sums[1]


@given(ROWS, st.integers(0, 10))
def test_steps_are_those_of_a_session_within_the_gap(rows, gap):
    expected: collections.Counter = collections.Counter()
    moments = {
        ((r["session"], r["user"]), r["time"], r["query_id"])
        for r in rows
        if r["session"] is not None and r["time"] is not None and not r["part"]
    }
    for session in {s for s, _, _ in moments}:
        steps = sorted((t, q) for s, t, q in moments if s == session)
        for (before, a), (after, b) in itertools.pairwise(steps):
            if a != b and after - before <= gap * 1000:
                expected[min(a, b), max(a, b)] += 1
    # A parsed session is of one user already.
    ids = {pair: i for i, pair in enumerate(sorted({s for s, _, _ in moments}, key=str), 100)}
    for row in rows:
        row["session"] = ids.get((row["session"], row["user"]))
    mined = mine(rows).tables
    steps = days.merge_days(mined["evidence"], mined["visits"], gap).tables["steps"]
    found = {(r["query_a"], r["query_b"]): r["reformulations"] for r in steps.to_pylist()}
    assert found == expected


def test_one_person_is_told_from_several():
    def row(user, clicks=1024, **more):
        base = {"key": "a", "query_id": 1, "clicks": clicks, "impressions": 1, "position": 1}
        nothing = {"session": None, "language": None, "part": 0}
        return base | nothing | {"user": user, "time": 5} | more

    def several(rows):
        mined = mine(rows).tables
        (pair,) = days.merge_days(mined["evidence"], mined["visits"], 1).tables["pairs"].to_pylist()
        return pair["first_person"] != pair["last_person"]

    assert not several([row(7), row(7, time=6), row(8, clicks=0)])
    assert several([row(7), row(8)])
    assert several([row(None)]), "nobody knows who it was"


@given(ROWS, st.integers(1, 5))
def test_everything_of_a_person_meets_in_one_shard(rows, shards):
    table = events(rows)
    blocks = list(split_by_hash(table, evidence.routes(table), shards))
    parts = {shard: from_blocks([block], EVENTS).to_pylist() for shard, block in blocks}
    assert sorted(map(repr, itertools.chain(*parts.values()))) == sorted_rows(table)
    places = collections.defaultdict(set)
    for shard, found in parts.items():
        for row in found:
            who = person_of(row)
            places[who if who is not None else repr(row)].add(shard)
    assert all(len(found) == 1 for found in places.values())


def test_a_popular_pair_of_nobody_spreads_over_shards():
    rows = [
        {"key": "a", "query_id": 1, "clicks": 1024, "impressions": 1, "position": 0, "time": i}
        for i in range(4000)
    ]
    table = pa.Table.from_pylist(rows, EVENTS)
    sizes = np.bincount(evidence.routes(table).view(np.uint64) % np.uint64(8))
    assert sizes.max() < 2 * sizes.min()


ROW = dict.fromkeys(FIELDS) | {"key": "a", "query_id": 1, "clicks": 1024, "impressions": 1}
ROW |= {"position": 0, "part": 0}


def test_the_share_of_robots_has_a_ceiling_and_the_error_names_the_biggest():
    users = [user for user, n in ((1, 2), (-1, 9), (3, 7), (4, 8), (5, 6)) for _ in range(n)]
    rows = [ROW | {"user": user, "time": i} for i, user in enumerate(users)]
    found = mine(rows, max_person_events=5)
    assert found.counts["deliveries.dropped_robot"] == 30
    evidence.check_robots(found.counts, found.notes, 30 / 32)
    evidence.check_robots({}, {}, 0.0)
    with pytest.raises(PhraseLensError, match=r"expected at most 93\.0%") as caught:
        evidence.check_robots(found.counts, found.notes, 0.93)
    error = str(caught.value)
    assert "93.8% of the events (30 of 32)" in error
    named = [f"user or session {user % 2**64:016x} ({n} on a day)" for user, n in ((-1, 9), (4, 8))]
    assert ", ".join(named) in error
    assert f"{5:016x}" not in error
    assert all(flag in error for flag in ("--nobody", "--max_person_events", "--max_robot_share"))
