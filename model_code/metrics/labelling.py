"""Which labels and queries a mined dataset has: what can be learned and measured with them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from schemas.datasets.dataset import Dataset
from schemas.tables.mined import SPLITS

# A label file of one label an image has mistakes, and copies of one image that were labelled
# apart are one image with both labels.
STRAY_SHARE = 0.01


def task_of(several: int, labelled: int) -> str:
    """What a classifier has to do: "single" (one label an image) or "multi" (any number).

    Args:
      several: images with several labels; more than `STRAY_SHARE` of all make it "multi".
      labelled: images with a label.
    """
    return "multi" if several > STRAY_SHARE * labelled else "single"


@dataclasses.dataclass(frozen=True)
class Mined:
    """A mined dataset in numbers.

    Attributes:
      images: split → images.
      labelled: split → images with a label.
      labels: label → split → images.
      several: images with several labels.
      queries: queries that a training image was clicked for.
      head_queries: those with as many training images as a head query needs.
      known: split → images with a label that a training image has.
    """

    images: Mapping[str, int]
    labelled: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    several: int
    queries: int
    head_queries: int
    known: Mapping[str, int]

    @property
    def classes(self) -> list[str]:
        """The labels that training images have, which can be learned."""
        return sorted(label for label, of in self.labels.items() if of["train"])

    def without(self, split: str) -> list[str]:
        """The labels that no image of a split has."""
        return sorted(label for label, of in self.labels.items() if not of[split])


def count(mined: Dataset, min_label_images: int, min_query_images: int) -> Mined:
    """Counts a mined dataset in batches, without reading an image.

    Args:
      mined: the dataset.
      min_label_images: a label of fewer training images is none; with 1 all are.
      min_query_images: training images that a head query needs.
    """
    per_label: dict[str, Counter[str]] = {}
    for split, labels in _labels(mined):
        for label in labels:
            per_label.setdefault(label, Counter())[split] += 1
    least = min_label_images if min_label_images > 1 else 0
    chosen = {k: of for k, of in per_label.items() if of["train"] >= least}
    images, labelled, known, several = Counter[str](), Counter[str](), Counter[str](), 0
    for split, labels in _labels(mined):
        found = [label for label in labels if label in chosen]
        images[split] += 1
        labelled[split] += bool(found)
        known[split] += any(chosen[label]["train"] for label in found)
        several += len(found) > 1
    queries = head_queries = 0
    for batch in mined.batches("queries", ["train_images"], 65536):
        support = batch["train_images"].to_numpy()
        queries += int((support > 0).sum())
        head_queries += int((support >= max(min_query_images, 1)).sum())
    return Mined(
        images={split: images[split] for split in SPLITS},
        labelled={split: labelled[split] for split in SPLITS},
        labels={k: {split: of[split] for split in SPLITS} for k, of in chosen.items()},
        several=several,
        queries=queries,
        head_queries=head_queries,
        known={split: known[split] for split in SPLITS},
    )


def _labels(mined: Dataset):
    """(split, labels) of each image."""
    for batch in mined.batches("images", ["split", "labels"]):
        rows = batch["split"].to_pylist(), batch["labels"].to_pylist()
        yield from ((split, labels or []) for split, labels in zip(*rows, strict=True))
