"""The denominator of equation (1), exact and estimated, against plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from model_code.index import partition
from model_code.phrases import folder as folder_lib
from model_code.phrases.index import PhraseIndex
from tests.support.inputs.phrase_vectors import draw, images, phrases, scan


def oracle(query_embs, vectors, temperature):
    logits = query_embs.astype(np.float64) @ vectors.T.astype(np.float64) / temperature
    return np.log(np.exp(logits).sum(axis=1))


@pytest.mark.parametrize("temperature", [0.03, 0.1, 1.0])
def test_exact_is_the_whole_softmax(temperature, monkeypatch):
    monkeypatch.setattr(partition, "_CHUNK", 700)
    vectors = draw(3000)
    asked = images(vectors, 40)
    found = partition.exact(asked, vectors, temperature)
    np.testing.assert_allclose(found, oracle(asked, vectors, temperature), atol=1e-4)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_an_image_has_the_same_sum_in_any_company(seed, chosen):
    vectors = draw(1200, 64, seed)
    asked = images(vectors, 256, seed)
    rows, scores = scan(vectors, asked, 10)
    sampled = np.arange(0, 1200, 3)
    args = {
        "num_phrases": 1200,
        "sampled": sampled,
        "sample": vectors[sampled],
        "temperature": 0.1,
    }
    # As PhraseIndex.search calls them.
    with threadpool_limits(1):
        whole = partition.exact(asked, vectors, 0.1)
        estimates = partition.estimate(asked, rows, scores, **args)
        for at in (chosen, chosen[:1]):
            assert (partition.exact(asked[at], vectors, 0.1) == whole[at]).all()
            found = partition.estimate(asked[at], rows[at], scores[at], **args)
            assert (found == estimates[at]).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.05, 0.3, 1.0]))
def test_a_sample_of_all_phrases_is_exact(seed, count, temperature):
    vectors = draw(80, 8, seed)
    asked = images(vectors, 5, seed)
    rows, scores = scan(vectors, asked, count)
    rows[0, count // 2 :] = -1
    found = partition.estimate(
        asked,
        rows,
        scores,
        num_phrases=80,
        sampled=np.arange(80),
        sample=vectors,
        temperature=temperature,
    )
    np.testing.assert_allclose(found, oracle(asked, vectors, temperature), atol=1e-4)


def test_the_estimate_is_unbiased_whatever_was_found():
    vectors = draw(2000, 8)
    asked = images(vectors, 4)
    rng = np.random.default_rng(0)
    # Search missed some of the nearest and found some that are not.
    rows = np.stack([rng.permutation(2000)[:20] for _ in asked])
    scores = np.take_along_axis(asked @ vectors.T, rows, 1)
    estimates = []
    for _ in range(3000):
        sampled = np.sort(rng.permutation(2000)[:100])
        estimate = partition.estimate(
            asked,
            rows,
            scores,
            num_phrases=2000,
            sampled=sampled,
            sample=vectors[sampled],
            temperature=0.3,
        )
        estimates.append(np.exp(estimate))
    error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    expected = np.exp(oracle(asked, vectors, 0.3))
    assert (np.abs(np.mean(estimates, axis=0) - expected) < 4 * error).all()


def test_the_estimate_is_near_and_better_with_neighbours():
    vectors = draw(20_000, 32, clusters=500)
    asked = images(vectors, 100)
    expected = oracle(asked, vectors, 0.1)
    sampled = partition.sample_rows(np.arange(20_000), 2000, 0)
    off = {}
    for count in (1, 100):
        rows, scores = scan(vectors, asked, count)
        found = partition.estimate(
            asked,
            rows,
            scores,
            num_phrases=20_000,
            sampled=sampled,
            sample=vectors[sampled],
            temperature=0.1,
        )
        off[count] = np.median(np.abs(found - expected))
    assert off[100] < 0.1
    assert off[100] < off[1]


def test_the_sample_depends_on_the_phrases_alone():
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, 500)
    order = np.random.default_rng(1).permutation(500)
    chosen = set(ids[partition.sample_rows(ids, 60, 1)])
    shuffled = ids[order]
    assert set(shuffled[partition.sample_rows(shuffled, 60, 1)]) == chosen
    assert len(chosen) == 60
    assert set(ids[partition.sample_rows(ids, 60, 2)]) != chosen
    assert len(partition.sample_rows(ids, 1000, 1)) == 500


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.005, 0.1, 2.0]), st.booleans())
def test_probabilities_are_at_most_one_together(tmp_path_factory, seed, temperature, exact):
    vectors = draw(300, 8, seed)
    folder = str(tmp_path_factory.mktemp("index"))
    folder_lib.build(folder, phrases(vectors, np.arange(300)).to_batches(), temperature)
    index = PhraseIndex(folder)
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            patch.setattr(partition, "EXACT_PARTITION_MAX", 0)
        found = index.search(images(vectors, 20, seed), 5)
    assert (found.probabilities >= 0).all()
    assert (found.probabilities <= 1).all()
    assert (found.probabilities.astype(np.float64).sum(axis=1) <= 1 + 1e-6).all()
