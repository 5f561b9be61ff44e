import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics as oracle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_code import metrics


def _case(seed: int, rows: int, classes: int, multi: bool, ties: bool):
    """Random probabilities and truth; with `ties`, of few distinct values."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, classes))
    if ties:
        scores = np.round(scores)
    if multi:
        return 1 / (1 + np.exp(-scores)), rng.random((rows, classes)) < 0.3
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return probabilities, np.eye(classes, dtype=bool)[rng.integers(0, classes, rows)]


CASES = st.builds(
    _case,
    st.integers(0, 10**6),
    rows=st.integers(1, 40),
    classes=st.integers(2, 7),
    multi=st.booleans(),
    ties=st.booleans(),
)


@given(CASES, st.integers(1, 9))
def test_recall_at_k_counts_what_a_loop_counts(case, k):
    probabilities, truth = case
    shares, hits = [], []
    for p, t in zip(probabilities, truth, strict=True):
        best = sorted(range(len(p)), key=lambda c: (-p[c], c))[:k]
        hits.append(any(t[c] for c in best))
        if t.any():
            shares.append(sum(t[c] for c in best) / t.sum())
    assert metrics.top_k_accuracy(probabilities, truth, k) == pytest.approx(np.mean(hits))
    if shares:
        assert metrics.recall_at_k(probabilities, truth, k) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_accuracy_equals_scikit_learn(k):
    probabilities, truth = _case(1, 50, 5, multi=False, ties=False)
    expected = oracle.top_k_accuracy_score(truth.argmax(axis=1), probabilities, k=k)
    assert metrics.top_k_accuracy(probabilities, truth, k) == pytest.approx(expected)


@given(CASES)
def test_average_precision_equals_scikit_learn_also_with_ties(case):
    probabilities, truth = case
    for c in range(truth.shape[1]):
        found = metrics.average_precision(probabilities[:, c], truth[:, c])
        if truth[:, c].any():
            expected = oracle.average_precision_score(truth[:, c], probabilities[:, c])
            assert found == pytest.approx(expected)
        else:
            assert np.isnan(found)


def test_map_is_macro_over_the_classes_with_a_positive():
    probabilities, truth = _case(2, 30, 6, multi=True, ties=False)
    truth[:, 4] = False
    kept = [0, 1, 2, 3, 5]
    expected = oracle.average_precision_score(truth[:, kept], probabilities[:, kept])
    assert metrics.mean_average_precision(probabilities, truth) == pytest.approx(expected)


@given(CASES)
def test_precision_recall_f1_equal_scikit_learn(case):
    probabilities, truth = case
    chosen = metrics.decisions(probabilities, multi=True)
    found = metrics.precision_recall_f1(chosen, truth)
    expected = oracle.precision_recall_fscore_support(truth, chosen, zero_division=np.nan)[:3]
    np.testing.assert_allclose(found, expected)


@given(CASES)
def test_confusion_matrix_equals_scikit_learn(case):
    probabilities, truth = case
    known = truth.any(axis=1)
    if not known.any():
        assert metrics.confusion_matrix(probabilities, truth).sum() == 0
        return
    expected = oracle.confusion_matrix(
        truth[known].argmax(axis=1),
        probabilities[known].argmax(axis=1),
        labels=range(truth.shape[1]),
    )
    np.testing.assert_array_equal(metrics.confusion_matrix(probabilities, truth), expected)


def test_likelihood_and_brier_of_one_label_equal_scikit_learn():
    probabilities, truth = _case(3, 40, 4, multi=False, ties=False)
    classes = truth.argmax(axis=1)
    found = metrics.negative_log_likelihood(probabilities, truth, multi=False)
    assert found == pytest.approx(oracle.log_loss(classes, probabilities))
    one_hot = np.eye(4)[classes]
    expected = 4 * oracle.mean_squared_error(one_hot, probabilities)
    assert metrics.brier(probabilities, truth, multi=False) == pytest.approx(expected)


def test_likelihood_and_brier_of_many_labels_equal_scikit_learn():
    probabilities, truth = _case(4, 40, 4, multi=True, ties=False)
    flat = truth.ravel(), probabilities.ravel()
    found = metrics.negative_log_likelihood(probabilities, truth, multi=True)
    assert found == pytest.approx(oracle.log_loss(*flat))
    found = metrics.brier(probabilities, truth, multi=True)
    assert found == pytest.approx(oracle.brier_score_loss(*flat))


def test_reliability_of_many_labels_equals_scikit_learn():
    probabilities, truth = _case(5, 200, 4, multi=True, ties=False)
    found = metrics.calibration(probabilities, truth, multi=True)
    accuracy, confidence = sklearn.calibration.calibration_curve(
        truth.ravel(), probabilities.ravel(), n_bins=10
    )
    np.testing.assert_allclose([b["accuracy"] for b in found], accuracy)
    np.testing.assert_allclose([b["confidence"] for b in found], confidence)


@pytest.mark.parametrize(
    ("confidences", "correct", "expected"),
    [
        ([0.9, 0.9], [True, True], 0.1),
        ([0.75, 0.75, 0.75, 0.75], [True, True, True, False], 0.0),
        ([0.6, 0.95], [False, True], (0.6 + 0.05) / 2),
        ([1.0], [True], 0.0),
    ],
)
def test_expected_calibration_error(confidences, correct, expected):
    p = np.array(confidences)
    probabilities = np.stack([p, 1 - p], axis=1)
    truth = np.stack([np.array(correct), ~np.array(correct)], axis=1)
    reliability = metrics.calibration(probabilities, truth, multi=False)
    assert metrics.expected_calibration_error(reliability) == pytest.approx(expected)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(0, 1)))
def test_bins_hold_every_prediction_once(probabilities):
    truth = np.zeros(probabilities.shape, bool)
    assert sum(b["rows"] for b in metrics.calibration(probabilities, truth, True)) == truth.size


def test_a_row_whose_label_was_never_trained_is_wrong_but_has_no_likelihood():
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5]])
    truth = np.array([[True, False], [False, False]])
    assert metrics.top_k_accuracy(probabilities, truth, 2) == 0.5
    found = metrics.negative_log_likelihood(probabilities, truth, multi=False)
    assert found == pytest.approx(-np.log(0.8))


def test_mean_and_error():
    mean, error = metrics.mean_and_error(np.array([1.0, 2.0, 6.0]))
    assert mean == 3
    assert error == pytest.approx(np.sqrt(7 / 3))
    assert np.isnan(metrics.mean_and_error(np.array([1.0]))[1])
