"""Whether a new classifier is worse than the one in use, on the test images of both."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics import classification as metrics
from model_code.report.data import Case
from schemas.datasets.dataset import Dataset

MIN_SHARED = 30
MIN_LABELS = 10


@dataclasses.dataclass(frozen=True)
class Drop:
    """By how much a metric fell.

    Attributes:
      drop: the old metric minus the new one.
      error: its standard error; 0 when the two agree everywhere.
      on: what it was measured on, for people.
    """

    drop: float
    error: float
    on: str


def served_cases(mined: Dataset, predictions: Dataset) -> list[Case]:
    """Labelled test images and what the exported model says of them, in the order of their ids."""
    truth: dict[str, tuple[str, ...]] = {}
    for batch in mined.batches("images", ["image_id", "split", "labels"]):
        is_labelled = pc.greater(pc.list_value_length(batch["labels"]), 0)
        test = batch.filter(pc.and_(pc.equal(batch["split"], "test"), is_labelled))
        labels = map(tuple, test["labels"].to_pylist())
        truth.update(zip(test["image_id"].to_pylist(), labels, strict=True))
    ids, cases = pa.array(truth, pa.string()), {}
    columns = ["image_id", "labels", "probabilities", "phrases"]
    for batch in predictions.batches("predictions", columns):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=ids)).to_pylist():
            image_id = row["image_id"]
            fused = tuple(zip(row["labels"], row["probabilities"], strict=True))
            cases[image_id] = Case(
                image_id, truth[image_id], tuple(row["phrases"]), {"fused": fused}
            )
    return [cases[image_id] for image_id in sorted(cases)]


def compare(old: Sequence[Case], new: Sequence[Case], classifier: str = "fused") -> dict[str, Drop]:
    """The fall of "top1" and, from `MIN_LABELS` labels, of "map".

    Test images that both snapshots have are judged by the labels of the new one, and compared
    pair by pair. With fewer than `MIN_SHARED` of them, each model is judged on its own. Where the
    one in use has no test image, there is nothing to compare with; where the candidate has none,
    the fall is NaN, as it is no reason to pass.

    Args:
      old: test images with the predictions of the model in use.
      new: those of the candidate.
      classifier: "fused", "pixel" or "text".
    """
    by_id = {case.image_id: case for case in old}
    pairs = [
        (dataclasses.replace(by_id[case.image_id], true=case.true), case)
        for case in new
        if case.image_id in by_id
    ]
    if len(pairs) >= MIN_SHARED:
        sides = [list(side) for side in zip(*pairs, strict=True)]
        images = f"{len(pairs):,} shared test images"
    else:
        sides = [list(old), list(new)]
        images = f"{len(old):,} and {len(new):,} test images, {len(pairs)} shared"
    if not sides[0]:
        return {}
    if not sides[1]:
        return {"top1": Drop(math.nan, 0.0, "no labelled test image any more")}
    shared = len(pairs) >= MIN_SHARED
    found = {"top1": _drop([_right(side, classifier) for side in sides], shared, images)}
    labels = sorted({label for case in sides[1] for label in case.true})
    both = [label for label in labels if any(label in case.true for case in sides[0])]
    if len(both) >= MIN_LABELS:
        areas = [average_precisions(side, both, classifier) for side in sides]
        found["map"] = _drop(areas, True, f"{len(both)} labels of {images}")
    return found


def _drop(sides: Sequence[np.ndarray], paired: bool, on: str) -> Drop:
    """The difference of two means, of values of the same things (paired) or of others."""
    old, new = sides
    if paired:
        mean, error = metrics.mean_and_error(old - new)
        return Drop(mean, float(np.nan_to_num(error)), on)
    (mean_old, error_old), (mean_new, error_new) = (metrics.mean_and_error(s) for s in sides)
    return Drop(mean_old - mean_new, float(np.nan_to_num(np.hypot(error_old, error_new))), on)


def _right(cases: Sequence[Case], classifier: str) -> np.ndarray:
    """[cases] float64: 1 where the best label is a true one."""
    return np.array([case.right(classifier) for case in cases], np.float64)


def average_precisions(cases: Sequence[Case], labels: Sequence[str], classifier: str) -> np.ndarray:
    """The average precision of each label; what is not among a case's best labels scores 0.

    Args:
      cases: [n] test images.
      labels: each true for at least one of them.

    Returns:
      [labels] float64.
    """
    column = {label: i for i, label in enumerate(labels)}
    scores = np.zeros((len(cases), len(labels)), np.float32)
    truth = np.zeros((len(cases), len(labels)), bool)
    for row, case in enumerate(cases):
        for label, probability in case.predictions[classifier]:
            if label in column:
                scores[row, column[label]] = probability
        truth[row, [column[label] for label in case.true if label in column]] = True
    return np.array(
        [metrics.average_precision(scores[:, c], truth[:, c]) for c in range(len(labels))]
    )
