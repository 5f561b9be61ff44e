"""Reads what the pipelines have made, by its manifest: the features of images as NumPy arrays.

  python examples/read_features.py work/quickstart/features

prints, of each split, its images and the phrase that is predicted most often. A dataset is what its
manifest names: files that it does not name are of other runs, or were never finished.
"""

import sys
from collections import Counter

import numpy as np

from schemas.datasets.dataset import Dataset
from schemas.tables.vectors import arrow_to_vectors


def main(features: str) -> None:
    phrases: dict[str, Counter[str]] = {}
    vectors: dict[str, list[np.ndarray]] = {}
    for batch in Dataset(features).batches("features", ["split", "phrases", "text_emb"]):
        text_embs = arrow_to_vectors(batch["text_emb"])  # [rows, width] float32
        splits = np.array(batch["split"].to_pylist())
        for split in np.unique(splits):
            vectors.setdefault(split, []).append(text_embs[splits == split])
        for split, row in zip(splits, batch["phrases"].to_pylist(), strict=True):
            phrases.setdefault(split, Counter()).update(row)
    for split, parts in sorted(vectors.items()):
        ((phrase, images),) = phrases[split].most_common(1)
        shape = np.concatenate(parts).shape
        print(f"{split}: text embeddings {shape}; {phrase!r} is predicted for {images} images")


if __name__ == "__main__":
    main(*sys.argv[1:])
