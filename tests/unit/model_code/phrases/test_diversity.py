"""The choice of phrases against plain NumPy, and what holds for any of them."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.models import embed_images
from model_code.phrases import diversity
from model_code.phrases import folder as folder_lib
from model_code.phrases import index as phrase_index
from model_code.phrases.chooser import PhraseChooser
from model_code.phrases.settings import DIVERSITIES, PhraseSettings
from schemas.base.errors import PhraseLensError
from schemas.tables import embedded

BATCH, WIDTH = 4, 3


def pools(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Falling scores, text embeddings of any length, and phrases of which some are one."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(size=(BATCH, size)).astype(np.float32), axis=1)
    text_embs = rng.normal(size=(BATCH, size, WIDTH)).astype(np.float32)
    words = [["red", "shoe"], ["shoe", "red"], ["赤", "靴"], ["靴", "赤"], ["red"], ["red", "red"]]
    phrases = [[" ".join(words[k]) for k in rng.integers(0, 6, size)] for _ in range(BATCH)]
    return scores, text_embs, phrases


def places_of(chosen: PhraseSettings, scores, text_embs, phrases) -> np.ndarray:
    args = (tf.constant(values) for values in (scores, text_embs, phrases))
    return diversity.choose(chosen, *args).numpy()


def cosines(text_embs: np.ndarray) -> np.ndarray:
    units = text_embs / np.linalg.norm(text_embs, axis=1, keepdims=True)
    return units @ units.T


def mmr_oracle(scores, text_embs, count, weight) -> list[int]:
    """Carbonell & Goldstein, SIGIR 1998, word by word, for one image."""
    similarity = cosines(text_embs)
    relevance = (scores - scores.min()) / (scores.max() - scores.min() or 1)
    chosen, rest = [0], list(range(1, len(scores)))
    while len(chosen) < count:
        values = [
            weight * relevance[i] - (1 - weight) * max(similarity[i, j] for j in chosen)
            for i in rest
        ]
        chosen.append(rest.pop(int(np.argmax(values))))
    return sorted(chosen)


def merge_oracle(text_embs, phrases, count, threshold) -> list[int]:
    similarity = cosines(text_embs)
    kept, left = [], []
    for i, phrase in enumerate(phrases):
        alike = any(
            similarity[i, j] >= threshold or sorted(phrases[j].split()) == sorted(phrase.split())
            for j in kept
        )
        (left if alike else kept).append(i)
    return sorted((kept + left)[:count])


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_mmr_equals_numpy(seed, size, count, weight):
    scores, text_embs, phrases = pools(seed, size)
    chosen = PhraseSettings(count, "mmr", mmr_lambda=weight)
    count = min(count, size)
    found = places_of(chosen, scores, text_embs, phrases)
    expected = [mmr_oracle(s, t, count, weight) for s, t in zip(scores, text_embs, strict=True)]
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_merge_equals_numpy(seed, size, count, threshold):
    scores, text_embs, phrases = pools(seed, size)
    chosen = PhraseSettings(count, "merge", merge_similarity=threshold)
    found = places_of(chosen, scores, text_embs, phrases)
    expected = [
        merge_oracle(t, p, min(count, size), threshold)
        for t, p in zip(text_embs, phrases, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(DIVERSITIES),
    st.floats(0, 1),
    st.booleans(),
)
def test_phrases_are_distinct_sorted_and_begin_with_the_nearest(
    seed, size, count, kind, weight, all_equal
):
    scores, text_embs, phrases = pools(seed, size)
    if all_equal:
        scores, text_embs = np.ones_like(scores), np.ones_like(text_embs)
    found = places_of(PhraseSettings(count, kind, 50, weight), scores, text_embs, phrases)
    assert found.shape == (BATCH, min(count, size))
    assert (found[:, 0] == 0).all()
    assert (np.diff(found, axis=1) > 0).all()
    if kind == "none" or (kind == "mmr" and weight == 1):
        np.testing.assert_array_equal(found, [range(min(count, size))] * BATCH)


def test_nearness_alone_is_plain_nearest():
    scores, text_embs, phrases = pools(0, 10)
    found = places_of(PhraseSettings(4, "mmr", mmr_lambda=1.0), scores, text_embs, phrases)
    np.testing.assert_array_equal(found, [range(4)] * BATCH)


def test_spellings_of_one_thing_leave_room_for_another():
    phrases = [["red shoe", "shoe red", "red shoes", "sneaker"]]
    text_embs = np.float32([[[1, 0, 0], [0, 1, 0], [0.99, 0.05, 0], [0.3, 0.3, 0.9]]])
    scores = np.float32([[0.9, 0.8, 0.7, 0.2]])
    for chosen, expected in (
        (PhraseSettings(2, "none"), [0, 1]),
        (PhraseSettings(2, "merge"), [0, 3]),
        (PhraseSettings(3, "merge"), [0, 1, 3]),
        (PhraseSettings(2, "mmr", mmr_lambda=0.5), [0, 1]),
        (PhraseSettings(3, "mmr", mmr_lambda=0.3), [0, 1, 3]),
    ):
        assert places_of(chosen, scores, text_embs, phrases).tolist() == [expected], chosen


@pytest.mark.parametrize("weights", ["equal", "probability"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_text_features_and_each_without_one_equal_numpy(weights, count):
    scores, text_embs, _ = pools(1, count)
    chosen = PhraseSettings(count, phrase_weights=weights)
    args = chosen, tf.constant(scores), tf.constant(text_embs), 0.5

    def mean(rows) -> np.ndarray:
        parts = (
            np.exp(scores[:, rows] / 0.5)
            if weights == "probability"
            else np.ones_like(scores[:, rows])
        )
        return (parts[:, :, None] * text_embs[:, rows]).sum(1) / parts.sum(1, keepdims=True)

    everyone = list(range(count))
    np.testing.assert_allclose(diversity.text_features(*args), mean(everyone), atol=1e-6)
    found = diversity.without_each(*args).numpy()
    assert found.shape == (BATCH, count, WIDTH)
    for left_out in everyone:
        rest = [row for row in everyone if row != left_out]
        expected = mean(rest) if rest else np.zeros((BATCH, WIDTH))
        np.testing.assert_allclose(found[:, left_out], expected, atol=1e-6)


def test_a_far_phrase_left_alone_still_speaks():
    """Its weight beside the others is 0 in float32; without them it is all there is."""
    chosen = PhraseSettings(2, phrase_weights="probability")
    scores, text_embs = tf.constant([[1.0, -1.0]]), tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_array_equal(
        diversity.without_each(chosen, scores, text_embs, 0.01), [[[3, 4], [1, 2]]]
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("index"))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text_embs = rng.normal(size=(40, 5)).astype(np.float32)
    rows = [
        {"query_id": i, "query": f"query {i}", "language": "en", "source": "weight", "support": 1}
        | {"query_vector": vectors[i], "text_emb": text_embs[i]}
        for i in range(40)
    ]
    batch = pa.RecordBatch.from_pylist(
        rows, embedded.phrases({"query_vector": (8,), "text_emb": (5,)})
    )
    folder_lib.build(folder, [batch], temperature=0.1)
    return phrase_index.PhraseIndex(folder)


@pytest.mark.parametrize("kind", DIVERSITIES)
def test_chooser_says_of_an_image_what_the_parts_say(index, kind):
    chosen = PhraseSettings(4, kind, phrase_pool=12, mmr_lambda=0.3, merge_similarity=0.2)
    query_embs = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    query_embs /= np.linalg.norm(query_embs, axis=1, keepdims=True)
    found = PhraseChooser(index, chosen).choose(query_embs)
    pool = index.search(query_embs, 12)
    for i in range(6):
        embs, texts = index.text_embs[pool.rows[i]], index.texts(pool.rows[i])
        places = {
            "none": [0, 1, 2, 3],
            "merge": merge_oracle(embs, texts, 4, 0.2),
            "mmr": mmr_oracle(pool.scores[i], embs, 4, 0.3),
        }[kind]
        np.testing.assert_array_equal(found.rows[i], pool.rows[i, places])
        np.testing.assert_array_equal(found.scores[i], pool.scores[i, places])
        np.testing.assert_array_equal(found.probabilities[i], pool.probabilities[i, places])
        np.testing.assert_allclose(found.text_embs[i], embs[places].mean(0), atol=1e-6)
        assert found.phrases[i].tolist() == texts[places].tolist()


def test_fewer_phrases_than_asked_for(index):
    found = PhraseChooser(index, PhraseSettings(100, "mmr", 200)).choose(np.eye(2, 8, dtype="f4"))
    assert np.sort(found.rows, axis=1).tolist() == [list(range(40))] * 2


@pytest.mark.parametrize(
    "bad",
    [
        {"num_phrases": 0},
        {"mmr_lambda": 1.5},
        {"merge_similarity": 0.0},
        {"diversity": "mmr", "num_phrases": 60},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(PhraseLensError, match="expected"):
        PhraseSettings.of(bad).check()
    PhraseSettings().check()


def test_flags_say_what_the_settings_are(capsys):
    flags = ["--mined=m", "--generator=g", "--pixel_embedder=p", "--phrases=q", "--output=o"]
    assert embed_images.run([*flags, "--diversity=mmr", "--mmr_lambda=2"]) == 2
    assert "--mmr_lambda=2: expected a number, at least 0 and at most 1" in capsys.readouterr().err


def test_settings_of_data_made_before_there_were_any():
    assert PhraseSettings.of({"num_phrases": 7, "task": "single"}) == PhraseSettings(7)


@pytest.mark.parametrize("kind", DIVERSITIES)
def test_an_image_has_the_same_phrases_in_any_company(index, kind):
    chooser = PhraseChooser(index, PhraseSettings(4, kind, 12, phrase_weights="probability"))
    query_embs = np.random.default_rng(2).normal(size=(9, 8)).astype(np.float32)
    together = chooser.choose(query_embs)
    for row in range(9):
        alone = chooser.choose(query_embs[row : row + 1])
        np.testing.assert_array_equal(alone.rows[0], together.rows[row])
        np.testing.assert_array_equal(alone.text_embs[0], together.text_embs[row])
