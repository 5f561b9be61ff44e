import collections
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import mined as tables
from transforms.mining import associations
from transforms.mining.associations import EDGES, WEIGHTED_EDGES
from transforms.mining.days import STEPS
from transforms.mining.queries import VARIANTS


def pairs_of(rows):
    return pa.Table.from_pylist(
        [
            {"image_id": i, "query_id": q, "split": "train", "clicks": float(n), "score": float(n)}
            for i, q, n in rows
        ],
        tables.PAIRS,
    )


def edges_of(rows, schema=EDGES):
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def by_pair(edges, name):
    return {(r["query_a"], r["query_b"]): r[name] for r in edges.to_pylist() if r[name]}


PAIRS = st.dictionaries(
    st.tuples(st.sampled_from("xyz"), st.integers(-5, 5)), st.integers(1, 9), max_size=20
)


def best_of(pairs, image, cap):
    ranked = sorted((-n, q) for (i, q), n in pairs.items() if i == image)
    return [(q, -n) for n, q in ranked[:cap]]


@given(PAIRS, st.integers(1, 5), st.randoms())
def test_co_clicks_are_the_smaller_clicks_on_common_images(pairs, cap, random):
    expected: collections.Counter = collections.Counter()
    for image in "xyz":
        for (a, m), (b, n) in itertools.combinations(best_of(pairs, image, cap), 2):
            expected[min(a, b), max(a, b)] += 1024 * min(m, n)
    rows = [(*k, n) for k, n in pairs.items()]
    random.shuffle(rows)
    assert by_pair(associations.co_clicks(pairs_of(rows), cap), "co_clicks") == expected


@given(PAIRS, st.sets(st.tuples(st.sampled_from("xyz"), st.integers(-5, 5))), st.integers(1, 5))
def test_skips_are_images_chosen_for_one_and_refused_for_the_other(pairs, refused, cap):
    refused = [pair for pair in refused if pair not in pairs]
    expected: collections.Counter = collections.Counter()
    for image, query in refused:
        for chosen, _ in best_of(pairs, image, cap):
            if chosen != query:
                expected[min(chosen, query), max(chosen, query)] += 1
    table = pa.table(
        {
            "image_id": pa.array([i for i, _ in refused], pa.string()),
            "query_id": pa.array([q for _, q in refused], pa.int64()),
        }
    )
    rows = pairs_of([(*k, n) for k, n in pairs.items()])
    assert by_pair(associations.skips(rows, table, cap), "skips") == expected


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(0, 5000)] * 3)),
    st.randoms(),
    st.integers(0, 20),
)
def test_sums_do_not_depend_on_order_or_grouping(rows, random, cut):
    rows = [(min(a, b), max(a, b), *n) for a, b, *n in rows]
    expected = collections.defaultdict(lambda: np.zeros(3, int))
    for a, b, *n in rows:
        if a != b:
            expected[a, b] += n
    random.shuffle(rows)
    parts = [associations.sum_edges([edges_of(part)]) for part in (rows[:cut], rows[cut:])]
    found = {
        (r["query_a"], r["query_b"]): list(r.values())[2:]
        for r in associations.sum_edges(parts).to_pylist()
    }
    assert found == {pair: n.tolist() for pair, n in expected.items()}


def test_edges_of_a_variant_go_to_the_query_that_it_is_of():
    variants = pa.Table.from_pylist([{"query_id": 9, "canonical_id": 1}], VARIANTS)
    edges = edges_of([(1, 9, 5, 0, 0), (2, 9, 1, 2, 3), (1, 2, 1, 1, 1)])
    (edge,) = associations.rename_queries(edges, variants).to_pylist()
    assert list(edge.values()) == [1, 2, 2, 3, 4]


def test_a_hub_ties_less():
    strong = 100 * 1024
    rows = [(1, 2, strong, 0, 0, strong, strong), (3, 4, strong, 0, 0, strong, 100 * strong)]
    weights = associations.build_query_pairs(edges_of(rows, WEIGHTED_EDGES))["weight"].to_pylist()
    assert weights == pytest.approx([100 / 110, 100 / 1010])


@pytest.mark.parametrize(
    ("co_clicks", "steps", "skips", "evidence"),
    [
        (1024, 0, 0, "co_click"),
        (0, 1, 9, "reformulation"),
        (1024, 1, 0, "both"),
        (0, 0, 2, "skip"),
        (0, 0, 1, None),
    ],
)
def test_every_edge_says_what_it_rests_on(co_clicks, steps, skips, evidence):
    edges = edges_of([(1, 2, co_clicks, steps, skips, 2048, 2048)], WEIGHTED_EDGES)
    found = associations.build_query_pairs(edges).to_pylist()
    assert [row["evidence"] for row in found] == ([evidence] if evidence else [])
    assert all((row["weight"] == 0) == (evidence == "skip") for row in found)
    assert {evidence} - {None} <= set(tables.EVIDENCE)


def test_degrees_and_steps():
    steps = pa.Table.from_pylist([{"query_a": 1, "query_b": 2, "reformulations": 3}], STEPS)
    edges = associations.sum_edges([associations.step_edges(steps), edges_of([(2, 3, 512, 0, 7)])])
    found = associations.degrees(edges).to_pylist()
    assert {r["query_id"]: r["degree"] for r in found} == {1: 3072, 2: 3584, 3: 512}


@pytest.mark.parametrize(
    "table",
    [
        associations.co_clicks(pairs_of([]), 3),
        associations.skips(pairs_of([]), pairs_of([]), 3),
        associations.degrees(EDGES.empty_table()),
        associations.build_query_pairs(WEIGHTED_EDGES.empty_table()),
    ],
)
def test_nothing_comes_of_nothing(table):
    assert table.num_rows == 0
