"""Ranks, recall and MRR of clicked queries against sorting in plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_code.metrics import ranks as phrase_metrics
from model_code.metrics.clicked_queries import ClickedQueries

ROWS, QUERIES, WIDTH = 7, 23, 5


@st.composite
def searches(draw):
    """Images, vectors of which some are equal, and one to four clicked queries an image."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    vectors = rng.normal(size=(QUERIES, WIDTH)).astype(np.float32)
    vectors[rng.integers(QUERIES, size=4)] = vectors[0]
    counts = rng.integers(1, 5, ROWS)
    rows = np.repeat(np.arange(ROWS), counts)
    queries = np.concatenate([rng.choice(QUERIES, n, replace=False) for n in counts])
    return images, vectors, ClickedQueries.from_pairs(rows, queries, np.ones(len(rows)), ROWS)


def plain_rank(scores: np.ndarray, query: int, own: np.ndarray) -> float:
    """The rank among all but the image's other clicked queries, ties shared out evenly."""
    others = np.delete(scores, own).astype(float)
    ahead = (others > scores[query] + 1e-5).sum()
    level = (np.abs(others - scores[query]) <= 1e-5).sum()
    return 1 + ahead + level / 2


@settings(max_examples=50, deadline=None)
@given(searches())
def test_best_ranks_are_those_of_sorting(search):
    images, vectors, clicked = search
    ranks = phrase_metrics.best_ranks(images, vectors, clicked)
    for row in range(ROWS):
        _, own, _ = clicked.of(np.array([row]))
        scores = vectors @ images[row]
        best = own[np.argmax(scores[own])]
        assert ranks[row] == plain_rank(scores, best, own)


@settings(max_examples=50, deadline=None)
@given(searches(), st.integers(1, QUERIES))
def test_counts_of_parts_add_up_to_the_rank_of_each_pair(search, cut):
    images, vectors, clicked = search
    rows, scores = phrase_metrics.pair_scores(images, vectors, clicked)
    above = sum(
        phrase_metrics.count_above(images, part, rows, scores)
        for part in (vectors[:cut], vectors[cut:])
    )
    ranks = 1 + above - phrase_metrics.count_own(clicked, scores, rows, scores)
    for pair, (row, query) in enumerate(zip(rows, clicked.queries, strict=True)):
        own = clicked.queries[rows == row]
        assert ranks[pair] == plain_rank(vectors @ images[row], query, own)


def test_large_tables_are_counted_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    images, vectors = rng.normal(size=(20, 5)), rng.normal(size=(50, 5))
    rows = np.arange(20)
    counts = rng.integers(1, 5, 50).astype(float)
    scores = np.einsum("ij,ij->i", images, vectors[:20])
    expected = ((images @ vectors.T > scores[:, None] + 1e-5) * counts).sum(1) + counts[:20] / 2
    monkeypatch.setattr(phrase_metrics, "_IMAGES", 6)
    monkeypatch.setattr(phrase_metrics, "_QUERIES", 7)
    found = phrase_metrics.count_above(images, vectors, rows, scores, counts)
    np.testing.assert_allclose(found, expected)


def test_retrieval_is_by_group_of_the_query():
    rng = np.random.default_rng(1)
    images, vectors = (rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (30, QUERIES))
    rows = np.repeat(np.arange(30), 2)
    queries = np.concatenate([rng.choice(QUERIES, 2, replace=False) for _ in range(30)])
    clicked = ClickedQueries.from_pairs(rows, queries, np.ones(60), 30)
    languages = ["en" if query < 9 else "ja" for query in range(QUERIES)]
    found = phrase_metrics.retrieval(images, vectors, clicked, {"language": languages})
    best = phrase_metrics.best_ranks(images, vectors, clicked)
    assert found["all"] == phrase_metrics.retrieval_metrics(best) | {"images": 30}
    expected = []
    for row in range(30):
        _, own, _ = clicked.of(np.array([row]))
        scores = vectors @ images[row]
        ranks = [plain_rank(scores, query, own) for query in own if query < 9]
        expected += [min(ranks)] if ranks else []
    metrics = phrase_metrics.retrieval_metrics(np.array(expected)) | {"images": len(expected)}
    assert found["language"]["en"] == pytest.approx(metrics)


def test_recall_and_mrr_are_those_of_the_definition():
    found = phrase_metrics.retrieval_metrics(np.array([1, 2, 4, 11, 1.5]))
    assert found == {
        "recall_at_1": 0.2,
        "recall_at_3": 0.6,
        "recall_at_10": 0.8,
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 11 + 1 / 1.5) / 5),
    }


def test_groups_take_their_best_query_of_each_image():
    images, ranks = np.array([0, 0, 1, 2, 2]), np.array([5.0, 2.0, 1.0, 4.0, 7.0])
    found = phrase_metrics.metrics_by_group(images, ranks, ["en", "en", "de", "en", "de"])
    assert list(found) == ["de", "en"]
    assert found["en"] == phrase_metrics.retrieval_metrics(np.array([2.0, 4.0])) | {"images": 2}
    assert found["de"] == phrase_metrics.retrieval_metrics(np.array([1.0, 7.0])) | {"images": 2}
    assert phrase_metrics.metrics_by_group(images[:0], ranks[:0], []) == {}
