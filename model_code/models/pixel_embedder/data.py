"""The labelled images that a bottleneck is trained on."""

import dataclasses

import numpy as np

from model_code.metrics.labelling import task_of
from model_code.models.pixel_embedder.settings import Config
from model_code.runtime.few_labels import keep_first
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The labelled images of one split.

    Attributes:
      keep: [rows of the images table] bool, which they are.
      targets: [images, classes] float32, 1 for the classes of an image; where an image has one
        class, those of several share the 1.
    """

    keep: np.ndarray
    targets: np.ndarray


def load_labels(config: Config) -> tuple[list[str], str, Labelled, Labelled]:
    """The classes, the task (see `task_of`), and the labelled training and validation images.

    Raises:
      PhraseLensError: fewer than two classes are labelled in the training images.
    """
    images = Dataset(config.mined).table("images", ["image_id", "split", "labels"])
    labels, split = images["labels"].to_pylist(), np.array(images["split"].to_pylist())
    ids = images["image_id"].to_pylist()
    chosen = [of if of and part == "train" else [] for of, part in zip(labels, split, strict=True)]
    train = keep_first(chosen, ids, config.labels_per_class)
    classes = sorted({label for row in np.flatnonzero(train) for label in labels[row]})
    if len(classes) < 2:
        raise PhraseLensError(
            f"table 'images' of {config.mined}",
            f"labelled training images of two classes, found {len(classes)}",
            "Give --labels to mine_pairs, or --weights to this command.",
        )
    task = task_of(sum(len(of) > 1 for of in labels), sum(bool(of) for of in labels))
    place = {label: column for column, label in enumerate(classes)}
    known = np.array([any(label in place for label in of) for of in labels])

    def labelled(keep: np.ndarray) -> Labelled:
        targets = np.zeros((int(keep.sum()), len(classes)), np.float32)
        for row, image in enumerate(np.flatnonzero(keep)):
            targets[row, [place[label] for label in labels[image] if label in place]] = 1
        if task == "single":
            targets /= targets.sum(axis=1, keepdims=True)
        return Labelled(keep, targets)

    return classes, task, labelled(train), labelled(known & (split == "validation"))
