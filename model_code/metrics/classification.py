"""Metrics of classifiers, in NumPy.

Everywhere `scores` or `probabilities` is [rows, classes] float and `truth` is
[rows, classes] bool: one True a row for one label, any number for many. A row without a
True (its label was never trained) counts as wrong where a metric is a share of rows, and
is left out where the metric has no value for it. A metric without a value, such as the recall
of a class that no row has, is NaN.
"""

import numpy as np


def top_labels(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best classes of each row, best first; ties go to the lower class.

    Returns:
      [rows, min(k, classes)] int64.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def top_k_accuracy(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of rows with a true class among their k best."""
    return float(np.take_along_axis(truth, top_labels(scores, k), axis=1).any(axis=1).mean())


def recall_at_k(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Mean over rows of the share of their true classes that are among their k best."""
    found = np.take_along_axis(truth, top_labels(scores, k), axis=1).sum(axis=1)
    known = truth.sum(axis=1)
    return _mean(found[known > 0] / known[known > 0])


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall curve of one class: Σ (R_n − R_{n−1}) P_n.

    Rows of equal score enter the curve together, so that their order is of no account.

    Args:
      scores: [rows].
      truth: [rows] bool.

    Returns:
      The area, NaN when nothing is true.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(truth[order])[ends]
    precision = hits / (ends + 1)
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * precision))


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean of `average_precision` over the classes with a true row."""
    classes = np.flatnonzero(truth.any(axis=0))
    return _mean(np.array([average_precision(scores[:, c], truth[:, c]) for c in classes]))


def decisions(probabilities: np.ndarray, multi: bool) -> np.ndarray:
    """The classes that a model decides for: those of at least 0.5, or the one best.

    Returns:
      [rows, classes] bool.
    """
    if multi:
        return probabilities >= 0.5
    chosen = np.zeros(probabilities.shape, bool)
    np.put_along_axis(chosen, top_labels(probabilities, 1), True, axis=1)
    return chosen


def precision_recall_f1(chosen: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, ...]:
    """Precision, recall and F1 of every class; NaN where a denominator is 0.

    Args:
      chosen: [rows, classes] bool, see `decisions`.
      truth: [rows, classes] bool.

    Returns:
      Three [classes] float64.
    """
    hits, guessed, true = ((chosen & truth).sum(axis=0), chosen.sum(axis=0), truth.sum(axis=0))
    return _ratio(hits, guessed), _ratio(hits, true), _ratio(2 * hits, guessed + true)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """[n] / [n], NaN where the divisor is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def confusion_matrix(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rows by true class (first axis) and best class (second axis), for one label a row.

    Returns:
      [classes, classes] int64.
    """
    known = truth.any(axis=1)
    matrix = np.zeros((truth.shape[1],) * 2, np.int64)
    np.add.at(matrix, (truth[known].argmax(axis=1), top_labels(scores[known], 1)[:, 0]), 1)
    return matrix


def negative_log_likelihood(probabilities: np.ndarray, truth: np.ndarray, multi: bool) -> float:
    """Mean over rows, in nats, of −log p(true class); for many labels, over rows and classes."""
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1)
    if multi:
        q = np.clip(1 - probabilities.astype(np.float64), 1e-12, 1)
        return float(-np.where(truth, np.log(p), np.log(q)).mean())
    return _mean(-np.log(p[truth]))


def brier(probabilities: np.ndarray, truth: np.ndarray, multi: bool) -> float:
    """Mean squared error of the probabilities, summed over the classes of one label.

    Source: Brier, Monthly Weather Review 1950, equation (2); for many labels its binary half,
    the mean over rows and classes.
    """
    squared = (probabilities.astype(np.float64) - truth) ** 2
    return float(squared.mean() if multi else squared.sum(axis=1).mean())


def calibration(
    probabilities: np.ndarray, truth: np.ndarray, multi: bool, bins: int = 10
) -> list[dict[str, float]]:
    """The reliability diagram: how often predictions of a confidence come true.

    A prediction is a row's best class, or for many labels every class of every row. Bins
    are of equal width over [0, 1], closed above; empty bins are left out.

    Returns:
      One {"confidence", "accuracy", "rows"} a bin: its means and its number of predictions.
    """
    if multi:
        confidence, correct = probabilities.ravel(), truth.ravel()
    else:
        best = top_labels(probabilities, 1)
        confidence = np.take_along_axis(probabilities, best, axis=1)[:, 0]
        correct = np.take_along_axis(truth, best, axis=1)[:, 0]
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "confidence": float(confidence[places == b].mean(dtype=np.float64)),
            "accuracy": float(correct[places == b].mean()),
            "rows": int((places == b).sum()),
        }
        for b in np.unique(places)
    ]


def expected_calibration_error(reliability: list[dict[str, float]]) -> float:
    """Mean of |accuracy − confidence| over the predictions of `calibration`.

    Source: Guo et al., ICML 2017, equation (3).
    """
    rows = sum(b["rows"] for b in reliability)
    return sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in reliability) / rows


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of [n] values and its standard error; NaN for the error of one value, and of none."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return _mean(values), float(error)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
