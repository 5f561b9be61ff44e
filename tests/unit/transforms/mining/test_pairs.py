import itertools
import types

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from transforms.mining import pairs
from transforms.mining.days import PAIR_EVIDENCE, QUERY_USERS, SEVERAL
from transforms.mining.events import MAX_POSITION, QUERY_TEXTS
from transforms.mining.examination import (
    EXAMINED_UNIT,
    Log,
    Z,
    wilson_lower_bound,
    write_examination,
)
from transforms.mining.images import EARLIER_KEYS, IMAGE_KEYS, SPLIT_OF_IMAGES
from transforms.mining.pairs import CANDIDATES, IMAGE_EVIDENCE, PairRules
from transforms.mining.queries import VARIANTS

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
FLAT = np.full(101, EXAMINED_UNIT, np.int64)
COUNTS, RATES = Log(False, False, FLAT), Log(True, True, FLAT)


def evidence(rows, schema=IMAGE_EVIDENCE):
    """Rows of (image or key, query, clicks, impressions, people who clicked)."""
    found = []
    for name, query, clicks, shown, people in rows:
        ends = (min(people), max(people)) if people else (None, None)
        row = dict.fromkeys(("image_id", "key"), name) | {"query_id": query, "position": 1}
        row |= {"clicks": clicks * 1024, "impressions": shown, "rows": shown}
        found.append(row | {"first_person": ends[0], "last_person": ends[1]})
    return pa.Table.from_pylist(found, schema)


def candidates(rows):
    return pa.Table.from_pylist(
        [dict(zip(CANDIDATES.names, row, strict=True)) for row in rows], CANDIDATES
    )


@pytest.mark.parametrize(("clicks", "examined"), [(0, 10), (1, 1), (1, 2), (10, 10), (50, 100)])
def test_wilson_lower_bound(clicks, examined):
    found = wilson_lower_bound(np.array([float(clicks)]), np.array([float(examined)]))
    interval = binomtest(clicks, examined).proportion_ci(confidence_level=0.9, method="wilson")
    assert found[0] == pytest.approx(interval.low, abs=1e-4)


@given(st.integers(1, 500), st.integers(0, 500))
def test_wilson_bound_is_an_end_of_the_interval_that_it_claims(clicks, more):
    """At the bound, the observed rate is Z standard errors away: the definition (Wilson 1927)."""
    n = clicks + more
    (bound,) = wilson_lower_bound(np.array([float(clicks)]), np.array([float(n)]))
    assert clicks / n - bound == pytest.approx(Z * np.sqrt(bound * (1 - bound) / n), rel=1e-6)


def facts(*rows):
    return {f"{name}@{k}": n for k, c, i in rows for name, n in (("clicks", c), ("impressions", i))}


def test_examination_is_the_click_rate_against_the_first_position_and_never_rises():
    log = Log.of_facts(
        facts((0, 9, 9), (1, 500, 1000), (2, 250, 1000), (3, 300, 1000), (9, 1, 1000))
    )
    shares = log.examination / EXAMINED_UNIT
    np.testing.assert_allclose(shares[[0, 1, 2, 3, 9]], [1, 1, 0.5, 0.5, 1 / 16])


def test_examination_starts_where_people_click_at_all():
    log = Log.of_facts(facts((1, 0, 1000), (2, 100, 1000), (3, 50, 1000)))
    np.testing.assert_allclose(log.examination[1:4] / EXAMINED_UNIT, [1, 1, 0.5])
    assert np.all(Log.of_facts(facts((1, 0, 5))).examination == EXAMINED_UNIT)
    assert np.all(Log.of_facts({}).examination == EXAMINED_UNIT)


def test_of_a_position_that_was_never_shown_the_one_above_holds():
    log = Log.of_facts(facts((1, 500, 1000), (4, 250, 1000)))
    shares = log.examination / EXAMINED_UNIT
    assert len(shares) == MAX_POSITION + 1
    assert set(shares[:4]) == {1}
    assert set(shares[4:]) == {0.5}


def test_what_was_fitted_once_is_kept():
    fitted = Log.of_facts(facts((1, 500, 1000), (2, 250, 1000)) | {"unclicked": 1250})
    later = Log.of_facts(facts((1, 9, 10), (2, 9, 10)) | {"users": 3}, fitted.examination)
    assert (later.examination == fitted.examination).all()
    assert (later.has_users, later.has_rates) == (True, True)


def test_a_log_without_rates_leaves_nothing_to_keep():
    assert not list(write_examination(COUNTS, None))


def test_a_click_further_down_is_worth_more():
    examination = FLAT.copy()
    examination[5] = EXAMINED_UNIT // 4
    table = evidence([("x", 1, 2, 8, [1, 2]), ("y", 1, 2, 8, [1, 2])])
    table = table.set_column(
        IMAGE_EVIDENCE.names.index("position"), "position", pa.array([1, 5], pa.int32())
    )
    found = pairs.weigh(table, Log(True, True, examination), PairRules()).tables["candidates"]
    score = {row["image_id"]: row["score"] for row in found.to_pylist()}
    bounds = wilson_lower_bound(np.array([2.0, 2.0]), np.array([8.0, 2.0]))
    assert [score["x"], score["y"]] == bounds.tolist()
    assert score["y"] > score["x"]


def test_one_person_makes_no_pair_and_nobody_is_several():
    rows = [
        ("one", 1, 3, 3, [7]),
        ("one", 1, 2, 2, [7]),
        ("two", 1, 1, 1, [7]),
        ("two", 1, 1, 1, [8]),
        ("nobody", 1, 1, 1, SEVERAL),
        ("few", 1, 0.5, 1, [7, 8]),
    ]
    output = pairs.weigh(evidence(rows), COUNTS, PairRules())
    found = {row["image_id"]: row["score"] for row in output.tables["candidates"].to_pylist()}
    assert found == {"two": 2.0, "nobody": 1.0}
    assert output.counts == {
        "pairs.in": 4,
        "pairs.dropped_few_clicks": 1,
        "pairs.dropped_one_person": 1,
        "pairs.dropped_query_cap": 0,
    }
    alone = pairs.weigh(evidence(rows), COUNTS, PairRules(one_person_pairs=True))
    assert {row["image_id"] for row in alone.tables["candidates"].to_pylist()} == {
        "one",
        "two",
        "nobody",
    }


def test_refused_images_stay_as_such():
    rows = [("x", 1, 0, 3, []), ("x", 2, 0, 2, []), ("x", 3, 1, 9, SEVERAL)]
    found = pairs.weigh(evidence(rows), RATES, PairRules()).tables["candidates"].to_pylist()
    assert {row["query_id"]: row["score"] > 0 for row in found} == {1: False, 3: True}


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_best_rows(order):
    rows = [("x", 1, 1024, 1, 0.5), ("x", 2, 2048, 1, 0.5), ("x", 3, 1024, 1, 0.9)]
    rows = [rows[i] for i in order] + [("y", 1, 1024, 1, 0.1)]
    best = pairs.best_rows(candidates(rows), "image_id", "query_id", 2)
    assert {(r["image_id"], r["query_id"]) for r in best.to_pylist()} == {
        ("x", 3),
        ("x", 2),
        ("y", 1),
    }


def test_join_gives_the_evidence_to_every_image_of_its_key():
    keys = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")]
    table = pa.Table.from_pylist(
        [dict(zip(IMAGE_KEYS.names, row, strict=True)) for row in keys], IMAGE_KEYS
    )
    rows = [
        ("a", 1, 2, 4, [7, 8]),
        ("b", 1, 1, 1, [9]),
        ("gone", 1, 1, 3, [9]),
        ("gone", 2, 1, 1, [9]),
        ("retired", 1, 1, 2, [9]),
    ]
    earlier = pa.table([["a", "retired", "retired", "other"]], EARLIER_KEYS)
    output = pairs.join_images(evidence(rows, PAIR_EVIDENCE), table, earlier)
    found = [(r["image_id"], r["clicks"]) for r in output.tables["evidence"].to_pylist()]
    assert sorted(found) == [("x", 1024), ("x", 2048), ("y", 2048)]
    assert not output.dead, "what the log tells of another image is no dead row"
    assert output.counts == {
        "clicks.in": 11,
        "clicks.out": 5,
        "clicks.dropped_retired_image": 2,
        "clicks.dropped_unknown_image": 4,
        "image_keys.in_log": 2,
        "image_keys.all": 2,
        "image_keys.retired": 2,
    }
    assert output.notes["clicks.dropped_unknown_image"] == [(4, "gone")]


def test_rare_queries_stay_behind_where_people_are_known():
    rows = candidates(
        [("x", q, 1024, EXAMINED_UNIT, 0.5) for q in (1, 2, 3)] + [("x", 4, 0, 9, 0.0)]
    )
    users = pa.Table.from_pylist(
        [{"query_id": q, "users": n} for q, n in ((1, 3), (1, 2), (2, 4), (4, 9))], QUERY_USERS
    )
    no_texts = QUERY_TEXTS.empty_table()
    chosen = pairs.choose(rows, users, no_texts, RATES, PairRules(), run=STAGE)
    assert {row["query_id"] for row in chosen.tables["chosen"].to_pylist()} == {1, 4}
    assert chosen.counts["pairs.dropped_few_users"] == 2
    unknown = pairs.choose(
        rows, QUERY_USERS.empty_table(), no_texts, COUNTS, PairRules(), run=STAGE
    )
    assert len(unknown.tables["chosen"]) == 4


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_of_two_texts_with_one_id_the_first_has_it_and_the_other_dies(order):
    """In whatever order they come; a text without pairs is nobody's loss."""
    texts = [(1, "shoe"), (1, "boot"), (1, "shoe"), (2, "hat"), (9, "gone"), (9, "lost")]
    texts = [texts[place] for place in order] + texts[4:]
    chosen = pairs.choose(
        candidates([("x", q, 1024, EXAMINED_UNIT, 0.5) for q in (1, 2)]),
        QUERY_USERS.empty_table(),
        pa.Table.from_pylist([dict(zip(QUERY_TEXTS.names, t, strict=True)) for t in texts]),
        COUNTS,
        PairRules(),
        run=STAGE,
    )
    known = {row["query_id"]: row["text"] for row in chosen.tables["known"].to_pylist()}
    assert known == {1: "boot", 2: "hat"}
    (letter,) = chosen.dead[0].to_pylist()
    assert (letter["key"], letter["reason"], letter["payload"]) == ("query 1", "id_collision", b"")
    assert "shoe" not in str(letter)
    counts = {name: n for name, n in chosen.counts.items() if name.startswith("query_texts")}
    assert counts == {
        "query_texts.in": 3,
        "query_texts.out": 2,
        "query_texts.dropped_id_collision": 1,
    }


def build(rows, variants=(), **rules):
    splits = [{"image_id": name, "split": "train"} for name in ("x", "y", "z")]
    spellings = pa.Table.from_pylist(
        [dict(zip(VARIANTS.names, row, strict=True)) for row in variants], VARIANTS
    )
    return pairs.build_pairs(
        candidates(rows),
        pa.Table.from_pylist(splits, SPLIT_OF_IMAGES),
        spellings,
        COUNTS,
        PairRules(**rules),
    )


def test_weights_are_shares_of_an_image():
    rows = [("x", 1, 3072, 3 * EXAMINED_UNIT, 3.0), ("x", 2, 1024, EXAMINED_UNIT, 1.0)]
    output = build([*rows, ("y", 2, 512, EXAMINED_UNIT, 0.5), ("x", 3, 0, 9, 0.0)])
    found = {(r["image_id"], r["query_id"]): r for r in output.tables["pairs"].to_pylist()}
    assert {pair: row["weight"] for pair, row in found.items()} == {
        ("x", 1): 0.75,
        ("x", 2): 0.25,
        ("y", 2): 1.0,
    }
    assert (found["x", 1]["clicks"], found["x", 1]["examined"]) == (3.0, 3.0)
    assert output.counts["pairs.out"] == 3
    assert output.tables["refused"]["query_id"].to_pylist() == [3]


def test_variants_are_summed_and_scored_anew():
    rows = [("x", 1, 1024, EXAMINED_UNIT, 1.0), ("x", 2, 2048, 2 * EXAMINED_UNIT, 2.0)]
    output = build(rows, [(2, 1)])
    (pair,) = output.tables["pairs"].to_pylist()
    assert (pair["query_id"], pair["clicks"], pair["score"]) == (1, 3.0, 3.0)
    assert output.counts["pairs.dropped_variant"] == 1


def test_an_image_keeps_its_best_queries():
    rows = [("x", q, 1024 * q, q * EXAMINED_UNIT, float(q)) for q in (1, 2, 3)]
    output = build(rows, max_queries_per_image=2)
    assert sorted(output.tables["pairs"]["query_id"].to_pylist()) == [2, 3]
    assert output.counts["pairs.dropped_image_cap"] == 1
    assert sum(output.tables["pairs"]["weight"].to_pylist()) == pytest.approx(1)


def test_keys_stand_for_images():
    found = pairs.name_images(evidence([("a", 1, 1, 1, [1]), ("b", 1, 1, 1, [1])], PAIR_EVIDENCE))
    ids = found["image_id"].to_pylist()
    assert ids == [pairs.image_id_of_key("a"), pairs.image_id_of_key("b")]
    assert all(len(i) == 32 and int(i, 16) >= 0 for i in ids)
