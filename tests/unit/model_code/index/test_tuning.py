"""What recall counts, and the questions that an index is tuned with."""

import numpy as np
import pytest

from model_code.index.tuning import probes_from, recall
from tests.support.inputs.phrase_vectors import draw


def test_recall_counts_equals_and_misses():
    exact = np.float32([[3, 2, 1]])
    assert recall(np.float32([[3, 2, 1, 0]]), exact) == 1
    assert recall(np.float32([[3, 1, 1]]), exact) == 1
    assert recall(np.float32([[3, 1, 0.5]]), exact) == pytest.approx(2 / 3)


def test_probes_are_near_phrases_and_of_unit_length():
    vectors = draw(5000)
    probes = probes_from(vectors)
    np.testing.assert_allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-6)
    assert np.median((probes * vectors[: len(probes)]).sum(1)) > 0.5
