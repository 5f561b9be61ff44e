"""The few-label experiment: the same first images of every class for every classifier."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint


def keep_first(
    images: np.ndarray, classes: np.ndarray, image_ids: pa.Array, n: int, seed: int = 0
) -> np.ndarray:
    """Picks the first n images of each class, in the order of their ids.

    Args:
      images: [labels] int64, the row of the image of each label.
      classes: [labels] int64, the class that each label names.
      image_ids: [rows] string; they are content hashes, so that the first ones are a random sample.
      n: images of a class; 0 for all.
      seed: another random sample for each; 0 for that of the ids as they are.

    Returns:
      [rows] bool: labelled, and among the first n of at least one of its classes.
    """
    keep = np.zeros(len(image_ids), bool)
    if not n:
        keep[images] = True
        return keep
    if seed:
        image_ids = pa.array(fingerprint.of_json([seed, of.as_py()]) for of in image_ids)
    rank = np.empty(len(image_ids), np.int64)
    rank[pc.sort_indices(image_ids).to_numpy()] = np.arange(len(image_ids))
    order = np.lexsort((rank[images], classes))
    sizes = np.bincount(classes)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep[images[order[place < n]]] = True
    return keep
