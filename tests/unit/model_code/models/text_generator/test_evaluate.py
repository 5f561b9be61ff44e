"""What is said of predicted phrases, against counts by hand and a full scan."""

import numpy as np
import pytest

from model_code.models.text_generator import evaluate


def test_word_f1_compares_sets_of_words():
    predicted = [["red car", "fast car"], ["cat"], ["赤い"]]
    clicked = [["red bus"], ["dog"], ["赤い"]]
    # {red, car, fast} and {red, bus}: 2 · 1 / 5; nothing in common; the same.
    assert evaluate.word_f1(predicted, clicked) == pytest.approx((0.4 + 0 + 1) / 3)
    assert evaluate.word_f1([], []) == 0


def test_top_queries_are_those_of_a_full_scan(monkeypatch):
    monkeypatch.setattr(evaluate, "_RANKED_IMAGES", 4)
    monkeypatch.setattr(evaluate, "_SCORES", 8)
    rng = np.random.default_rng(0)
    embs, vectors = rng.normal(size=(7, 5)), rng.normal(size=(11, 5))
    expected = np.argsort(-(embs @ vectors.T), axis=1)[:, :3]
    found = evaluate.top_queries(np.float32(embs), np.float32(vectors), 3)
    np.testing.assert_array_equal(found, expected)
    assert evaluate.top_queries(np.float32(embs), np.float32(vectors), 99).shape == (7, 11)
