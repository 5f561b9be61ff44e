"""The labelled images that a bottleneck is trained on."""

import dataclasses

import numpy as np
import pyarrow.compute as pc

from model_code.metrics.labelling import task_of
from model_code.models.pixel_embedder.settings import Config
from model_code.runtime.few_labels import keep_first
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Targets:
    """The classes of some images, as the rows of a sparse matrix.

    Attributes:
      offsets: [images + 1] int64: the classes of image i are from offsets[i] to offsets[i + 1].
      classes: [labels] int32.
      count: of all classes.
      is_shared: whether the classes of an image share a target of 1.
    """

    offsets: np.ndarray
    classes: np.ndarray
    count: int
    is_shared: bool

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, rows: np.ndarray) -> np.ndarray:
        """[rows, count] float32, 1 for the classes of an image, or their shares of 1."""
        sizes = self.offsets[rows + 1] - self.offsets[rows]
        row = np.repeat(np.arange(len(rows)), sizes)
        within = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        found = np.zeros((len(rows), self.count), np.float32)
        found[row, self.classes[np.repeat(self.offsets[rows], sizes) + within]] = 1
        return found / found.sum(axis=1, keepdims=True) if self.is_shared else found


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The labelled images of one split.

    Attributes:
      keep: [rows of the images table] bool, which they are.
      targets: what each of them shows.
    """

    keep: np.ndarray
    targets: Targets


def load_labels(config: Config) -> tuple[list[str], str, Labelled, Labelled]:
    """The classes, the task (see `task_of`), and the labelled training and validation images.

    Raises:
      PhraseLensError: fewer than two classes are labelled in the training images.
    """
    images = Dataset(config.mined).table("images", ["image_id", "split", "labels"])
    images = images.combine_chunks()
    is_train, is_validation = (
        pc.equal(images["split"], split).to_numpy() for split in ("train", "validation")
    )
    lists = images["labels"].combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    image = np.repeat(np.arange(len(sizes)), sizes)
    named = pc.list_flatten(lists).dictionary_encode()
    names, label = named.dictionary.to_pylist(), named.indices.to_numpy()
    of_train = is_train[image]
    ids = images["image_id"].combine_chunks()
    train = keep_first(image[of_train], label[of_train], ids, config.labels_per_class)
    shown = np.unique(label[train[image]])
    classes = sorted(names[name] for name in shown)
    if len(classes) < 2:
        raise PhraseLensError(
            f"table 'images' of {config.mined}",
            f"labelled training images of two classes, found {len(classes)}",
            "Give --labels to mine_pairs, or --weights to this command.",
        )
    task = task_of(int((sizes > 1).sum()), int((sizes > 0).sum()))
    column_of_name = np.full(len(names), -1, np.int32)
    column_of_name[shown] = np.searchsorted(classes, [names[name] for name in shown])
    column = column_of_name[label]
    known = np.zeros(len(sizes), bool)
    known[image[column >= 0]] = True

    def labelled(keep: np.ndarray) -> Labelled:
        mine = keep[image] & (column >= 0)
        counts = np.bincount(image[mine], minlength=len(keep))[keep]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return Labelled(keep, Targets(offsets, column[mine], len(classes), task == "single"))

    return classes, task, labelled(train), labelled(known & is_validation)
