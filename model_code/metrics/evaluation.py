"""What is said of classifiers on a split: evaluation.json and predictions.parquet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from model_code.metrics import classification as metrics

RECALLS = (1, 3, 5)
TOP_LABELS = 5


def evaluate(probabilities: np.ndarray, truth: np.ndarray, multi: bool) -> dict[str, Any]:
    """The metrics of one classifier on one split.

    Args:
      probabilities: [rows, labels] float32.
      truth: [rows, labels] bool.
      multi: whether a row has any number of labels.
    """
    reliability = metrics.calibration(probabilities, truth, multi)
    return {
        "top1": metrics.top_k_accuracy(probabilities, truth, 1),
        "top5": metrics.top_k_accuracy(probabilities, truth, 5),
        "map": metrics.mean_average_precision(probabilities, truth),
        "nll": metrics.negative_log_likelihood(probabilities, truth, multi),
        "ece": metrics.expected_calibration_error(reliability),
        "brier": metrics.brier(probabilities, truth, multi),
        "recall_at": {str(k): metrics.recall_at_k(probabilities, truth, k) for k in RECALLS},
        "calibration": reliability,
    }


def evaluate_classes(
    probabilities: np.ndarray, truth: np.ndarray, multi: bool, labels: Sequence[str]
) -> dict[str, Any]:
    """The metrics of each class: "per_class", and "confusion" for one label a row."""
    chosen = metrics.decisions(probabilities, multi)
    precision, recall, f1 = metrics.precision_recall_f1(chosen, truth)
    per_class = [
        {
            "label": label,
            "support": int(truth[:, c].sum()),
            "precision": float(precision[c]),
            "recall": float(recall[c]),
            "f1": float(f1[c]),
            "average_precision": metrics.average_precision(probabilities[:, c], truth[:, c]),
        }
        for c, label in enumerate(labels)
    ]
    found: dict[str, Any] = {"per_class": per_class}
    if not multi:
        found["confusion"] = metrics.confusion_matrix(probabilities, truth).tolist()
    return found


def predictions_table(
    image_ids: Sequence[str],
    phrases: Sequence[Sequence[str]],
    truth: np.ndarray,
    labels: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
) -> pa.Table:
    """The test images with what each classifier says of them.

    Args:
      image_ids: [rows].
      phrases: [rows][any].
      truth: [rows, labels] bool.
      labels: names of the labels.
      probabilities: classifier → [rows, labels] float32.

    Returns:
      [rows]: image_id, true, phrases, and for each classifier its five best labels with
      their probabilities, best first.
    """
    names = np.array(labels, object)
    columns: dict[str, pa.Array] = {
        "image_id": pa.array(image_ids, pa.string()),
        "true": pa.array([list(names[row]) for row in truth], pa.list_(pa.string())),
        "phrases": pa.array(phrases, pa.list_(pa.string())),
    }
    for name, values in probabilities.items():
        best = metrics.top_labels(values, TOP_LABELS)
        columns[f"{name}_labels"] = pa.array(list(names[best]), pa.list_(pa.string()))
        columns[f"{name}_probabilities"] = pa.array(
            list(np.take_along_axis(values, best, axis=1)), pa.list_(pa.float32())
        )
    return pa.table(columns)


def unmeasured(evaluation: Mapping[str, Any]) -> list[str]:
    """Why some figures of evaluation.json are dashes or say little: a sentence for each cause.

    Args:
      evaluation: with NaN where a metric has no value, see `with_nan`.
    """
    classes, found = evaluation["test"]["fused"]["per_class"], []
    untested = [row["label"] for row in classes if not row["support"]]
    if untested:
        rest = len(classes) - len(untested)
        mean = f"mAP is the mean over the other {rest:,}" if rest else "there is no mAP"
        found.append(
            f"{len(untested):,} of {len(classes):,} labels have no test image, and so neither "
            f"recall nor average precision ({mean}): {shortened(untested)}."
        )
    unnamed = [row["label"] for row in classes if row["support"] and np.isnan(row["precision"])]
    if unnamed:
        found.append(
            f"{len(unnamed):,} of {len(classes):,} labels were chosen for no test image by the "
            f"fused classifier, and so have no precision: {shortened(unnamed)}."
        )
    if unknown := evaluation.get("unknown_test_rows", 0):
        found.append(
            f"{unknown:,} of {evaluation['rows']['test']:,} test images have no label that a "
            "training image has: they count as wrong, and have no likelihood."
        )
    if evaluation["rows"]["test"] == 1:
        found.append("There is one test image only: no error can be told.")
    return found


def shortened(names: Sequence[str], limit: int = 10) -> str:
    """Names joined by commas; of many the first ones, and how many more."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def decimals(value: float, sign: str = "") -> str:
    """A metric with three decimals; a dash where it has no value."""
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"


def with_nan(value: Any) -> Any:
    """The inverse of `without_nan`: NaN for each null."""
    if isinstance(value, Mapping):
        return {key: with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item) for item in value]
    return math.nan if value is None else value


def without_nan(value: Any) -> Any:
    """A JSON value with null where a metric has no value, which JSON cannot say otherwise."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
