import itertools
import types

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import tables
from schemas.fingerprint import hash64
from transforms import mining
from transforms.events import EVENTS, LABELS, QUERY_TEXTS
from transforms.images import CLEAN_IMAGES
from transforms.mining import SplitShares

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
SHARES = SplitShares(0.1, 0.2)


def rows_of(table):
    return sorted(table.to_pylist(), key=str)


def event(key, query=1, clicks=1.0, session=None, timestamp=None, position=""):
    values = (key, query, clicks, session, timestamp, position)
    return dict(zip(EVENTS.names, values, strict=True))


def join(images, events=(), labels=()):
    return mining.join_by_key(
        pa.Table.from_pylist(
            [dict(zip(("key", "image_id"), row, strict=True)) for row in images], mining.IMAGE_KEYS
        ),
        pa.Table.from_pylist(list(events), EVENTS),
        pa.Table.from_pylist([dict(zip(LABELS.names, row, strict=True)) for row in labels], LABELS),
        STAGE,
    )


def test_join_gives_a_click_to_every_image_of_its_key():
    output = join([("a", "x"), ("a", "y"), ("b", "x")], [event("a", 1, 2.0), event("b", 1, 3.0)])
    clicks = [(r["image_id"], r["clicks"]) for r in rows_of(output.tables["clicks"])]
    assert sorted(clicks) == [("x", 2.0), ("x", 3.0), ("y", 2.0)]
    assert output.counts["clicks.in"] == output.counts["clicks.out"] == 2


def test_join_takes_equal_rows_for_one_event():
    twice = [event("a", timestamp=None), event("a", timestamp=1.0), event("a", 2)] * 2
    output = join([("a", "x"), ("a", "x")], twice)
    assert output.tables["clicks"].num_rows == 3
    assert output.counts["clicks.dropped_delivered_twice"] == 3
    assert output.counts["clicks.out"] == 3


def test_join_buries_what_nobody_knows():
    output = join(
        [("a", "x")], [event("a"), event("gone")], [("a", "shoe", None), ("lost", "hat", None)]
    )
    dead = {row["key"]: row for table in output.dead for row in table.to_pylist()}
    assert {(k, row["reason"], row["detail"]) for k, row in dead.items()} == {
        ("gone", "unknown_image", "click"),
        ("lost", "unknown_image", "label"),
    }
    assert output.counts["clicks.dropped_unknown_image"] == 1
    assert output.counts["known_labels.dropped_unknown_image"] == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=5),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.integers(1, 2)), max_size=9),
)
def test_join_loses_no_row(images, clicks):
    output = join(images, [event(k, q, float(n)) for k, q, n in clicks])
    counts = output.counts
    dropped = sum(n for name, n in counts.items() if name.startswith("clicks.dropped_"))
    assert counts["clicks.in"] == len(clicks) == counts["clicks.out"] + dropped
    expected = {(i, q, n) for (k, i), (key, q, n) in itertools.product(images, clicks) if k == key}
    # A key that names an image twice is still one click, two keys of one image are two.
    found = [(r["image_id"], r["query_id"], r["clicks"]) for r in rows_of(output.tables["clicks"])]
    assert set(found) == expected
    assert len(found) == len(
        {(k, i, q, n) for (k, i), (key, q, n) in itertools.product(images, clicks) if k == key}
    )


def test_splits_have_their_shares():
    ids = [f"{hash64(str(i)) % 2**64:016x}" * 2 for i in range(20_000)]
    splits = [mining.split_of(image_id, SHARES) for image_id in ids]
    assert abs(splits.count("test") / len(ids) - 0.2) < 0.01
    assert abs(splits.count("validation") / len(ids) - 0.1) < 0.01
    larger = [mining.split_of(image_id, SplitShares(0.1, 0.3)) for image_id in ids]
    assert all(b == "test" for a, b in zip(splits, larger, strict=True) if a == "test")


def build_images(clean, attributes):
    return mining.build_images(
        pa.Table.from_pylist(
            [
                {"image_id": i, "key": k, "width": 1, "height": 1, "image": data}
                for i, k, data in clean
            ],
            CLEAN_IMAGES,
        ),
        pa.Table.from_pylist(
            [dict(zip(mining.ATTRIBUTES.names, row, strict=True)) for row in attributes],
            mining.ATTRIBUTES,
        ),
        SHARES,
    )


@pytest.mark.parametrize(
    ("given_splits", "expected"),
    [
        (["train"], "train"),
        (["train", "test"], "test"),
        (["validation", "train"], "validation"),
        (["validation", "test", "train"], "test"),
        ([None], mining.split_of("0" * 32, SHARES)),
        ([None, "train"], "train"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_copies_of_an_image_are_one_row_in_the_most_held_out_split(
    given_splits, expected, backwards
):
    image_id = "0" * 32
    attributes = [(image_id, f"k{i}", "shoe", split) for i, split in enumerate(given_splits)]
    clean = [(image_id, f"k{i}", b"same") for i in range(len(given_splits))]
    step = -1 if backwards else 1
    output = build_images(clean[::step], attributes[::step])
    (row,) = output.tables["images"].to_pylist()
    assert row["split"] == expected
    assert row["keys"] == [f"k{i}" for i in range(len(given_splits))]
    assert row["labels"] == ["shoe"]
    assert output.counts["unique_images.dropped_duplicate"] == len(given_splits) - 1


def test_which_copy_is_kept_does_not_depend_on_order():
    clean = [("0" * 32, "b", b"1"), ("0" * 32, "a", b"3"), ("0" * 32, "a", b"2")]
    kept = {
        build_images(order, []).tables["images"]["image"][0].as_py()
        for order in itertools.permutations(clean)
    }
    assert kept == {b"2"}


def test_build_pairs():
    clicks = [("x", 1, 2.0), ("x", 1, 1.0), ("x", 2, 1.0), ("x", 3, 0.5), ("y", 1, 4.0)]
    table = pa.Table.from_pylist(
        [
            {"image_id": i, "query_id": q, "clicks": n, "session": None, "timestamp": None}
            for i, q, n in clicks
        ],
        mining.CLICKS,
    )
    images = pa.table({"image_id": ["x", "y", "z"], "split": ["train", "test", "train"]})
    pairs = rows_of(mining.build_pairs(table, images, 1.0))
    assert pairs == [
        {"image_id": "x", "query_id": 1, "split": "train", "clicks": 3.0, "weight": 0.75},
        {"image_id": "x", "query_id": 2, "split": "train", "clicks": 1.0, "weight": 0.25},
        {"image_id": "y", "query_id": 1, "split": "test", "clicks": 4.0, "weight": 1.0},
    ]


def pairs_of(rows):
    return pa.Table.from_pylist(
        [
            {"image_id": i, "query_id": q, "split": "train", "clicks": float(n), "weight": 1.0}
            for i, q, n in rows
        ],
        tables.PAIRS,
    )


PAIRS = st.dictionaries(
    st.tuples(st.sampled_from("xyz"), st.integers(-5, 5)), st.integers(1, 9), max_size=20
)


@given(PAIRS)
def test_co_clicks_are_all_pairs_of_an_images_queries(pairs):
    expected: dict[tuple[int, int], float] = {}
    for ((image, a), m), ((other, b), n) in itertools.product(pairs.items(), repeat=2):
        if image == other and a < b:
            expected[a, b] = expected.get((a, b), 0.0) + min(m, n)
    found = mining.co_clicks(pairs_of([(*k, n) for k, n in pairs.items()]), 32)
    assert {(r["query_a"], r["query_b"]): r["co_clicks"] for r in found.to_pylist()} == expected
    assert not any(found["reformulations"].to_pylist())


@given(PAIRS, st.integers(1, 4), st.randoms())
def test_an_image_has_a_bounded_number_of_edges(pairs, cap, random):
    rows = [(*k, n) for k, n in pairs.items()]
    edges = mining.co_clicks(pairs_of(rows), cap)
    assert edges.num_rows <= 3 * cap * (cap - 1) // 2
    random.shuffle(rows)
    assert rows_of(mining.co_clicks(pairs_of(rows), cap)) == rows_of(edges)


def test_the_most_clicked_queries_are_kept():
    edges = mining.co_clicks(pairs_of([("x", q, n) for q, n in [(1, 9), (2, 1), (3, 5)]]), 2)
    assert [(r["query_a"], r["query_b"], r["co_clicks"]) for r in edges.to_pylist()] == [(1, 3, 5)]


CLICKS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(-3, 3)), max_size=20)


@given(CLICKS, st.integers(0, 10))
def test_reformulations_are_the_steps_of_a_session(clicks, gap):
    expected: dict[tuple[int, int], float] = {}
    for session in {s for s, _, _ in clicks}:
        steps = sorted({(t, q) for s, t, q in clicks if s == session})
        for (before, a), (after, b) in itertools.pairwise(steps):
            if a != b and after - before <= gap:
                pair = min(a, b), max(a, b)
                expected[pair] = expected.get(pair, 0.0) + 1
    columns = dict(
        zip(("session", "timestamp", "query_id"), zip(*clicks, strict=True), strict=False)
    )
    table = pa.table(
        {f.name: pa.array(columns.get(f.name, []), f.type) for f in mining.SESSION_CLICKS}
    )
    found = mining.reformulations(table, gap)
    edges = {(r["query_a"], r["query_b"]): r["reformulations"] for r in found.to_pylist()}
    assert edges == expected
    assert not any(found["co_clicks"].to_pylist())


EDGES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(4, 7), st.integers(0, 5000), st.integers(0, 9))
)


@given(EDGES, st.randoms(), st.integers(0, 20))
def test_sums_do_not_depend_on_order_or_grouping(edges, random, cut):
    def table(rows):
        return pa.Table.from_pylist(
            [
                {"query_a": a, "query_b": b, "co_clicks": c / 1024, "reformulations": r}
                for a, b, c, r in rows
            ],
            mining.EDGES,
        )

    whole = mining.sum_edges(table(edges))
    mixed = list(edges)
    random.shuffle(mixed)
    parts = [mining.sum_edges(table(mixed[:cut])), mining.sum_edges(table(mixed[cut:]))]
    assert rows_of(mining.sum_edges(pa.concat_tables(parts))) == rows_of(whole)
    expected: dict[tuple[int, int], list[float]] = {}
    for a, b, c, r in edges:
        expected.setdefault((a, b), [0, 0])[0] += c / 1024
        expected[a, b][1] += r
    assert {
        (row["query_a"], row["query_b"]): [row["co_clicks"], row["reformulations"]]
        for row in whole.to_pylist()
    } == expected


def test_query_stats():
    pairs = pairs_of([("x", 1, 2), ("y", 1, 3), ("y", 2, 5)]).to_pylist()
    pairs[1]["split"] = pairs[2]["split"] = "test"
    stats = rows_of(mining.query_stats(pa.Table.from_pylist(pairs, tables.PAIRS)))
    names = ("clicks", "images", "train_clicks", "train_images")
    assert {r["query_id"]: tuple(r[n] for n in names) for r in stats} == {
        1: (5.0, 2, 2.0, 1),
        2: (5.0, 1, 0.0, 0),
    }


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_build_queries_follows_most_rows_and_else_the_text(order):
    texts = [
        (1, "rote schuhe", "en", 2),
        (1, "rote schuhe", "de", 2),
        (1, "rote schuhe", "", 9),
        (2, "the quick brown fox jumps over the dog", "", 1),
    ]
    table = pa.Table.from_pylist(
        [dict(zip(QUERY_TEXTS.names, texts[i], strict=True)) for i in order], QUERY_TEXTS
    )
    stats = pa.Table.from_pylist(
        [dict.fromkeys(mining.QUERY_STATS.names, 1) | {"query_id": q} for q in (2, 1, 1)],
        mining.QUERY_STATS,
    )
    queries = {r["query_id"]: r for r in mining.build_queries(stats, table).to_pylist()}
    assert {q: r["language"] for q, r in queries.items()} == {1: "de", 2: "en"}
    assert queries[1]["clicks"] == 2.0
    assert queries[1]["query"] == "rote schuhe"


@pytest.mark.parametrize(
    "table",
    [
        mining.co_clicks(pairs_of([]), 3),
        mining.reformulations(mining.SESSION_CLICKS.empty_table(), 1),
        mining.query_stats(pairs_of([])),
    ],
)
def test_nothing_comes_of_nothing(table):
    assert table.num_rows == 0
    assert np.all([f.type in (pa.int64(), pa.float64()) for f in table.schema])
