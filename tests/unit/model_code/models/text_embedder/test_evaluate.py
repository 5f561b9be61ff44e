import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from model_code.models.text_embedder import evaluate as text_evaluation
from model_code.models.text_embedder.data import Neighbours
from model_code.models.text_embedder.held_out import make_bags

TEXTS = ["red car", "big red car", "car", "blue sky", "red red sky", "", "old tree", "sky blue car"]


def test_ranks_leave_other_partners_out():
    scores = np.array([[0.9, 1.0, 0.5, 0.6]])
    excluded = np.array([[False, True, False, False]])
    assert text_evaluation.ranks(scores, np.array([3]), excluded) == [2]
    assert text_evaluation.ranks(np.array([[0.5, 0.5]]), np.array([0]), excluded[:, 2:]) == [2]


def test_rank_partners_equals_sorting_pair_by_pair():
    rng = np.random.default_rng(0)
    embs = rng.normal(size=(700, 5))
    true = np.unique(np.sort(rng.integers(0, 700, (2000, 2)), axis=1), axis=0)
    true = true[true[:, 0] < true[:, 1]]
    pairs = np.concatenate([true[:400], true[:400, ::-1]])
    candidates = text_evaluation.choose_candidates(pairs, 700, 650)
    assert len(candidates) == 650
    assert set(pairs[:, 1].tolist()) <= set(candidates.tolist())
    similarity = text_evaluation.cosines(embs)
    found = text_evaluation.rank_partners(similarity, pairs, candidates, Neighbours(true, 700))
    partners = {i: {i} for i in range(700)}
    for a, b in true.tolist():
        partners[a].add(b)
        partners[b].add(a)
    for (asked, wanted), place in zip(pairs.tolist(), found, strict=True):
        others = [c for c in candidates if c not in partners[asked]]
        above = sum(embs[asked] @ embs[c] >= embs[asked] @ embs[wanted] for c in others)
        assert place == above + 1


def test_the_summary_splits_by_language_and_popularity():
    languages = np.array(["en", "de", "en", "fr"], object)
    popular = np.array([True, False, False, False])
    pairs = np.array([[0, 1], [1, 0], [0, 2], [2, 0], [3, 0]])
    found = np.array([1, 4, 20, 2, 1])
    summary = text_evaluation.summary(found, pairs, languages, popular)
    assert (summary["pairs"], summary["recall_at_1"], summary["recall_at_10"]) == (5, 0.4, 0.8)
    assert summary["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 20 + 1 / 2 + 1) / 5)
    assert summary["within"]["pairs"] == 2
    assert summary["within"]["recall_at_10"] == 0.5
    assert summary["across"]["recall_at_10"] == 1
    assert summary["popular"]["mrr"] == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)
    assert summary["rare"]["pairs"] == 2
    assert summary["by_language"]["en"]["across"]["recall_at_1"] == 1
    assert summary["matrix"]["de"]["en"]["mrr"] == 0.25
    assert set(summary["matrix"]["en"]) == {"de", "en"}
    assert np.isnan(summary["by_language"]["fr"]["within"]["mrr"])
    assert ".400 .800" in text_evaluation.table("toy", {"model": summary})


def test_popular_is_the_tenth_with_most_associations_and_ties_are_not():
    counts = np.arange(100)
    np.testing.assert_array_equal(text_evaluation.most_popular(counts), counts > 89)
    assert not text_evaluation.most_popular(np.ones(50)).any()


def test_tf_idf_equals_scikit_learn():
    fitted = np.arange(5)
    ids = make_bags(pa.array(TEXTS), 2**40, 64).rows(np.arange(len(TEXTS)))
    found = text_evaluation.TfIdf(ids, fitted).similarity(np.arange(8), np.array([7, 5, 0, 1, 4]))
    oracle = TfidfVectorizer(ngram_range=(1, 2)).fit(TEXTS)
    counted = TfidfVectorizer(ngram_range=(1, 2), vocabulary=oracle.vocabulary_)
    counted.fit([TEXTS[i] for i in fitted])
    vectors = counted.transform(TEXTS).toarray()
    np.testing.assert_allclose(found, vectors @ vectors[[7, 5, 0, 1, 4]].T, atol=1e-6)


def test_mean_of_words_leaves_pairs_out():
    bags = make_bags(pa.array(TEXTS), 1000, 64)
    ids = bags.rows(np.arange(len(TEXTS)))
    table = np.random.default_rng(0).normal(size=(1001, 4)).astype(np.float32)
    found = text_evaluation.mean_of_words(table, ids, bags.words)
    expected = table[make_bags(pa.array(["big"]), 1000, 64).ids[0]]
    expected = expected + table[ids[0, 0]] + table[ids[2, 0]]
    np.testing.assert_allclose(found[1], expected / np.linalg.norm(expected), atol=1e-6)
    assert not found[5].any()
