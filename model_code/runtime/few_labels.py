"""The few-label experiment: the same first images of every class for every classifier."""

from collections.abc import Sequence

import numpy as np

from schemas.base import fingerprint


def keep_first(
    labels: Sequence[Sequence[str | int]], image_ids: Sequence[str], n: int, seed: int = 0
) -> np.ndarray:
    """Picks the first n images of each class, in the order of their ids.

    Args:
      labels: [rows] the classes of each image; none for an unlabelled one.
      image_ids: [rows], which are content hashes, so that the first ones are a random sample.
      n: images of a class; 0 for all.
      seed: another random sample for each; 0 for that of the ids as they are.

    Returns:
      [rows] bool: labelled, and among the first n of at least one of its classes.
    """
    keep = np.zeros(len(labels), bool)
    counts: dict[str | int, int] = {}
    if seed:
        image_ids = [fingerprint.of_json([seed, image_id]) for image_id in image_ids]
    for row in sorted(range(len(labels)), key=lambda row: image_ids[row]):
        for label in labels[row]:
            counts[label] = counts.get(label, 0) + 1
            if not n or counts[label] <= n:
                keep[row] = True
    return keep
