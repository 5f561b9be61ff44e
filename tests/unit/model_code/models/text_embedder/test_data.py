import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from model_code.models.text_embedder import data as query_pairs
from model_code.models.text_embedder import network as text_embedder
from model_code.models.text_embedder.data import Neighbours
from model_code.models.text_embedder.held_out import make_bags
from schemas.tables import mined as tables
from tests.support.datasets.associations import as_array, associations
from tests.support.datasets.mined_dataset import write_mined

QUERIES = 10
PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda p: p[0] != p[1]))
SOME = st.lists(st.integers(0, QUERIES - 1), min_size=1)


@given(PAIRS, SOME, SOME)
def test_known_pairs_and_equal_queries_are_no_negatives(pairs, a, b):
    known = Neighbours(as_array(pairs), QUERIES)
    true = {frozenset(pair) for pair in pairs}
    expected = [[x == y or frozenset((x, y)) in true for y in b] for x in a]
    np.testing.assert_array_equal(known.matrix(np.array(a), np.array(b)), expected)


@given(PAIRS)
def test_neighbours_are_partners_in_either_order(pairs):
    known = Neighbours(as_array(pairs), QUERIES)
    rows, partners = known.of(np.arange(QUERIES))
    found = set(zip(rows.tolist(), partners.tolist(), strict=True))
    assert found == {(a, b) for a, b in pairs} | {(b, a) for a, b in pairs}
    assert len(rows) == len(found), "each partner once"
    np.testing.assert_array_equal(known.count(), np.bincount(rows, minlength=QUERIES))


@given(PAIRS, SOME, st.integers(0, 5))
def test_hard_negatives_are_refused_partners_of_the_batch(pairs, batch, most):
    refused = Neighbours(as_array(pairs), QUERIES)
    partners = {b for a, b in pairs if a in batch} | {a for a, b in pairs if b in batch}
    draws = [
        query_pairs.draw_refused(refused, np.array(batch), most, np.random.default_rng(1))
        for _ in range(2)
    ]
    assert len(set(draws[0].tolist())) == len(draws[0]) == min(most, len(partners))
    assert set(draws[0].tolist()) <= partners
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize("query_share", [0.0, 0.2])
def test_nothing_held_out_trains(query_share):
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, 200, (3000, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    everything = associations(200, pairs, refused=[(i, i + 1) for i in range(199)])
    held = query_pairs.hold_out(everything, 0.1, query_share)
    unseen = set(range(200)) - set(held.queries.tolist())
    assert len(unseen) == pytest.approx(200 * query_share, abs=15)
    assert len(held.unseen_pairs) / len(pairs) == pytest.approx(
        0.1 * (1 - query_share) ** 2, abs=0.03
    )
    assert not unseen & set(held.train.pairs.ravel().tolist())
    assert not unseen & set(held.train.refused.ravel().tolist())
    assert not unseen & set(held.unseen_pairs.ravel().tolist())
    assert set(held.unseen_queries[:, 0].tolist()) <= unseen
    of_unseen = {(a, b) for a, b in pairs.tolist() if a in unseen}
    of_unseen |= {(b, a) for a, b in pairs.tolist() if b in unseen}
    assert {tuple(row) for row in held.unseen_queries.tolist()} == of_unseen
    assert len(held.unseen_queries) == len(of_unseen)
    parts = [held.train.pairs, held.unseen_pairs]
    parts.append(pairs[np.isin(pairs, list(unseen)).any(axis=1)])
    assert sorted(map(tuple, np.concatenate(parts).tolist())) == sorted(map(tuple, pairs.tolist()))


def test_a_query_takes_a_few_bytes_beside_its_text(tmp_path):
    """No object of Python's a query, of 50 bytes and more."""
    queries = [
        dict.fromkeys(tables.QUERIES.names)
        | {"query_id": number, "query": f"query {number}", "language": "en", "train_images": 1}
        for number in range(20_000)
    ]
    mined = write_mined(str(tmp_path), [], [], queries, [])
    query_pairs.load_associations(mined)  # what is imported late is no query's
    tracemalloc.start()
    try:
        found = query_pairs.load_associations(mined)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.texts) == 20_000
    assert held / 20_000 < 40


def test_bags_are_those_of_their_texts_alone():
    texts = [" ".join(["red", "blue", "big"][: n % 4]) for n in range(9)]
    bags = make_bags(pa.array(texts), 1 << 20, 8)
    assert len(bags) == 9
    rows = np.array([7, 0, 2, 2])
    found = bags.rows(rows)
    whole = np.asarray(text_embedder.ngram_ids(tf.constant(texts), 1 << 20, 8))
    np.testing.assert_array_equal(found, whole[rows, : found.shape[1]])
    assert not whole[rows, found.shape[1] :].any()
    assert bags.rows(np.array([0])).tolist() == [[0]]
