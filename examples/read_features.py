"""Reads the features that embed_images has made, as Arrow, and adds them up.

  python examples/read_features.py work/quickstart/features

prints, of each split, its images and the phrase that is predicted most often. A table may be larger
than memory: it is read in batches.
"""

import sys
from collections import Counter

import phraselens


def main(features: str) -> None:
    dataset = phraselens.open_dataset(features)
    images: Counter[str] = Counter()
    phrases: dict[str, Counter[str]] = {}
    for batch in dataset.batches("features", ["split", "phrases"]):
        for row in batch.to_pylist():
            images[row["split"]] += 1
            phrases.setdefault(row["split"], Counter()).update(row["phrases"])
    for split, count in sorted(images.items()):
        ((phrase, times),) = phrases[split].most_common(1)
        print(f"{split}: {count} images; {phrase!r} is predicted for {times} of them")


if __name__ == "__main__":
    main(*sys.argv[1:])
