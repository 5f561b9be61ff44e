"""The probe with which ./run.sh bench text_embedder compares."""

import numpy as np
from sklearn.linear_model import RidgeClassifierCV

from benchmarks.models.text_embedder import ridge_probe


def test_the_probe_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    centres = 1.5 * rng.normal(size=(4, 6))
    rows, tested = (centres[labels] + rng.normal(size=(60, 6)) for _ in range(2))
    found = ridge_probe(rows @ rows.T, tested @ rows.T, labels)
    # A constant feature is the intercept here, and is penalised as any other.
    one = np.ones((60, 1))
    penalties = np.logspace(-4, 2, 19) * np.mean(np.linalg.eigvalsh(rows @ rows.T + 1))
    oracle = RidgeClassifierCV(penalties, fit_intercept=False)
    expected = oracle.fit(np.hstack([rows, one]), labels).predict(np.hstack([tested, one]))
    assert np.mean(found == expected) > 0.95, "the oracle's targets are -1 and 1"
    assert np.mean(found == labels) > 0.7, "chance is 0.25"
