"""Classifies image files with an exported model, in a program of one's own.

  python examples/classify_images.py work/quickstart/model photo.jpg …

prints for each image its labels, with their probabilities, and the phrases that people would type
for it. For millions of images there is `./run.sh classify_images`.
"""

import sys
from pathlib import Path

from model_code.models.fusion.classifier import Classifier
from schemas.datasets import integrity
from schemas.datasets.dataset import Dataset
from transforms.images.clean import ImageError, ImageLimits
from transforms.images.process import clean_safely


def main(model: str, *paths: str) -> None:
    good, images = [], []
    for path in paths:
        try:
            # Decoded apart, and as the images were that the model has learned from.
            images.append(clean_safely(Path(path).read_bytes(), ImageLimits()).data)
            good.append(path)
        except ImageError as error:
            print(f"{path}: {error.reason}: {error.detail}")
    if not images:
        return
    with integrity.local_copy(Dataset(model), "model") as folder:
        found = Classifier(folder).classify(images)
    rows = zip(good, found.labels, found.probabilities, found.phrases, strict=True)
    for path, labels, probabilities, phrases in rows:
        told = ", ".join(f"{n} {p:.0%}" for n, p in zip(labels, probabilities, strict=True))
        print(f"{path}: {told} ({', '.join(phrases)})")


if __name__ == "__main__":
    main(*sys.argv[1:])
