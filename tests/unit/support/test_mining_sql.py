"""The SQL that judges mining, on logs small enough to work out by hand."""

import dataclasses
import math

import pytest

from tests.support.oracles.mining_sql import Settings, edit_distance, image_id_of, mine, wilson

TRAIN = Settings(validation_share=0, test_share=0)
ANYONE = dataclasses.replace(TRAIN, min_users=1, one_person_pairs=True)
NOON = 1_795_132_800 + 43_200
DAY = 20_777


def event(query, image, **fields):
    row = {"query": query, "image": image} | fields
    return {name: str(value).encode() for name, value in row.items()}


def by_text(result):
    """(query, image key) → pair, for images a to z."""
    texts = {row["query_id"]: row["query"] for row in result.tables["queries"]}
    keys = {image_id_of(key): key for key in "abcdefghijklmnopqrstuvwxyz"}
    return {(texts[p["query_id"]], keys[p["image_id"]]): p for p in result.tables["pairs"]}


@pytest.mark.parametrize(("clicks", "examined"), [(1, 1), (3, 10), (50, 100), (0.5, 7), (0, 4)])
def test_wilson_is_the_smallest_rate_that_explains_the_clicks(clicks, examined):
    low = wilson(clicks, examined)
    error = 1.6449 * math.sqrt(low * (1 - low) / examined)
    assert clicks / examined - low == pytest.approx(error, abs=1e-9)
    assert wilson(1, 1) == pytest.approx(1 / (1 + 1.6449**2))


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "ab", 2),
        ("shoe", "shoe", 0),
        ("shoe", "sheo", 1),
        ("shoe", "shoes", 1),
        ("ab", "cd", 2),
    ],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_one_event_delivered_twice_counts_once_and_one_person_three_times():
    log = [event("Red", "a", user="u", timestamp=NOON + i) for i in range(5)] * 2
    log += [event("red", "a", user="v", timestamp=NOON, clicks=2, impressions=9)]
    log += [event("red ", "a", timestamp=NOON, clicks=5)]
    result = mine(log, None, ANYONE)
    pair = by_text(result)["red", "a"]
    assert (pair["clicks"], pair["examined"]) == (3 + 2 + 5, 3 + 3 + 5)
    assert result.counts == {"delivered_twice": 5}
    (query,) = result.tables["queries"]
    assert (query["users"], query["first_day"], query["last_day"]) == (2, DAY, DAY)
    assert result.tables["query_days"] == [
        {"query_id": query["query_id"], "day": DAY, "clicks": 10, "impressions": 11}
    ]


def test_a_robot_loses_its_day_and_keeps_its_other_days():
    log = [event("red", "a", user="u", timestamp=NOON + i) for i in range(4)]
    log += [event("red", "a", user="u", timestamp=NOON + 86_400)]
    result = mine(log, None, dataclasses.replace(ANYONE, max_person_events=3))
    assert by_text(result)["red", "a"]["clicks"] == 1
    assert result.counts == {"robot": 4}


def test_the_first_reason_counts():
    log = [
        event("jane@example.com", "", clicks="x"),
        event("\0", "a"),
        event("red", " ", clicks="x"),
        event("red", "a", clicks="-1", impressions="x"),
        event("red", "a", clicks="inf"),
        event("red", "a", impressions="x", position="x"),
        event("red", "a", position="0", timestamp="x"),
        event("red", "a", timestamp="2026-13-01"),
        event("red", "a", clicks=0, impressions=0),
        event("nasty red", "a"),
        {"query": b"\xff", "image": b"a"},
        {"query": b"red", "image": b"\xff"},
    ]
    assert mine(log, None, Settings(blocklist=("nasty",))).counts == {
        "private_query": 1,
        "empty_query": 1,
        "missing_image_key": 1,
        "negative_clicks": 1,
        "bad_clicks": 1,
        "bad_impressions": 1,
        "bad_position": 1,
        "bad_timestamp": 1,
        "no_click": 1,
        "blocked_query": 1,
        "bad_encoding": 2,
    }


def test_moments_are_the_same_in_every_notation():
    notations = (
        NOON,
        NOON * 1000,
        NOON * 10**6,
        "2026-11-20T12:00:00Z",
        "2026-11-20T13:00:00+01:00",
    )
    log = [event("red", "a", user="u", timestamp=moment) for moment in notations]
    assert mine(log, None, ANYONE).counts == {"delivered_twice": 4}


def test_examination_follows_the_rate_of_each_place_and_never_rises():
    # Rates 1/2, 1/4, 1/2 again (no more than the place above), 1/1000 (no less than 1/16).
    shown = {1: (4, 8), 2: (2, 8), 3: (4, 8), 5: (1, 1000)}
    log = [
        event("red", "abcde"[k - 1], clicks=c, impressions=i, position=k)
        for k, (c, i) in shown.items()
    ]
    pairs = by_text(mine(log, None, ANYONE))
    examined = {key: pair["examined"] for (_, key), pair in pairs.items()}
    assert examined == {"a": 8, "b": 4, "c": 4, "e": 1000 / 16}
    assert pairs["red", "b"]["score"] == pytest.approx(wilson(2, 4))


def test_without_impressions_clicks_are_the_score():
    log = [event("red", "a", clicks=3), event("blue", "a"), event("blue", "b")]
    result = mine(log, None, ANYONE)
    assert not result.rate_mode
    weights = {key: (p["score"], p["weight"]) for key, p in by_text(result).items()}
    assert weights == {("red", "a"): (3, 0.75), ("blue", "a"): (1, 0.25), ("blue", "b"): (1, 1)}


def test_few_users_few_clicks_and_one_person():
    log = [event("red", "a", user=user) for user in "uv"]
    log += [event("red", "b", user="u"), event("red", "c", user="u", clicks=0.5)]
    log += [event("red", "d", user="u"), event("red", "d")]
    log += [event("rare", "a", user="u"), event("rare", "b")]
    result = mine(log, None, Settings(min_users=2))
    assert set(by_text(result)) == {("red", "a"), ("red", "d")}
    assert result.counts == {"few_users": 1, "few_clicks": 1, "one_person": 2}


def test_caps_keep_the_best():
    log = [event("red", "abc"[i], clicks=3 - i) for i in range(3)]
    log += [event("blue", "a", clicks=2), event("green", "a", clicks=1)]
    settings = Settings(min_users=1, max_images_per_query=2, max_queries_per_image=2)
    result = mine(log, None, settings)
    assert set(by_text(result)) == {("red", "a"), ("red", "b"), ("blue", "a")}
    assert result.counts == {"query_cap": 1, "image_cap": 1}


def test_copies_of_an_image_are_one_and_rows_of_other_images_are_counted():
    files = [{"key": key, "image_id": "one", "split": "train"} for key in ("a", "a", "b")]
    log = [event("red", "a"), event("red", "b"), event("red", "c"), event("blue", "c")]
    result = mine(log, files, ANYONE)
    (pair,) = result.tables["pairs"]
    assert (pair["image_id"], pair["clicks"]) == ("one", 2)
    assert result.counts == {"unknown_image": 2}


def test_edges_name_their_evidence():
    def session(name, *steps):
        return [event(q, "z", session=name, timestamp=NOON + t, clicks=0) for q, t in steps]

    log = session("s", ("red", 0), ("blue", 1800), ("green", 3601))
    log += session("t", ("blue", 43_190), ("blue", 43_199), ("red", 43_300))  # over midnight
    log += [event("red", "a", clicks=4), event("blue", "a", clicks=2), event("green", "c")]
    log += [event("pink", "c", clicks=5), event("red", "b"), event("pink", "b", clicks=0)]
    log += [event("green", "d"), event("pink", "d")]
    log += [event("green", key, clicks=0, impressions=3) for key in "ab"]
    result = mine(log, None, ANYONE)
    texts = {row["query_id"]: row["query"] for row in result.tables["queries"]}
    edges = {
        frozenset((texts[e["query_a"]], texts[e["query_b"]])): e
        for e in result.tables["query_pairs"]
    }
    found = {
        pair: (e["co_clicks"], e["reformulations"], e["skips"], e["evidence"])
        for pair, e in edges.items()
    }
    assert found == {
        frozenset(("red", "blue")): (2, 2, 0, "both"),
        frozenset(("green", "pink")): (2, 0, 0, "co_click"),
        frozenset(("red", "green")): (0, 0, 2, "skip"),
    }
    assert edges[frozenset(("red", "blue"))]["weight"] == pytest.approx(4 / (4 + 10))
    assert edges[frozenset(("red", "green"))]["weight"] == 0


def test_held_out_images_make_no_edges():
    log = [event("red", "a"), event("blue", "a")]
    held_out = mine(log, None, dataclasses.replace(ANYONE, test_share=1))
    assert held_out.tables["query_pairs"] == []
    assert {q["train_images"] for q in held_out.tables["queries"]} == {0}
    assert len(mine(log, None, ANYONE).tables["query_pairs"]) == 1


def test_variants_follow_each_other_to_the_most_used_spelling():
    def retyped(*texts):
        return [
            event(text, "a", session=f"{texts}{i}", timestamp=NOON + 9 * j)
            for i in range(3)
            for j, text in enumerate(texts)
        ]

    log = retyped("runing shos", "runing shoes", "running shoes")
    log += [event("running shoes", "b", clicks=9), event("runing shoes", "b", clicks=4)]
    log += retyped("size 42", "size 43")  # another size
    log += retyped("pink", "blue")  # no spelling of it
    result = mine(log, None, ANYONE)
    queries = {q["query"]: q for q in result.tables["queries"]}
    assert set(queries) == {"running shoes", "size 42", "size 43", "pink", "blue"}
    assert queries["running shoes"]["variants"] == ["runing shoes", "runing shos"]
    assert by_text(result)["running shoes", "a"]["clicks"] == 9
    assert by_text(result)["running shoes", "b"]["clicks"] == 13


def test_the_head_leaves_ties_to_the_tail():
    log = [event("red", key) for key in "abc"] + [event("blue", key) for key in "ab"]
    log += [event("green", key) for key in "bc"]
    heads = {
        k: sorted(
            q["query"]
            for q in mine(log, None, dataclasses.replace(TRAIN, head_queries=k)).tables["queries"]
            if q["head"]
        )
        for k in (1, 2, 3)
    }
    assert heads == {1: ["red"], 2: ["red"], 3: ["blue", "green", "red"]}
