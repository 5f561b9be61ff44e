"""Classifies image files with an exported model.

  python examples/classify_images.py work/quickstart/model photo.jpg …

prints for each image its labels, with their probabilities, and the phrases that people would type
for it. For millions of images there is the command classify_images.
"""

import sys

import phraselens


def main(model: str, *paths: str) -> None:
    found = phraselens.open_model(model).classify(paths)
    for path, image in zip(paths, found, strict=True):
        if image.error:
            print(f"{path}: {image.error}")
            continue
        labels = zip(image.labels, image.probabilities, strict=True)
        told = ", ".join(f"{label} {probability:.0%}" for label, probability in labels)
        print(f"{path}: {told} ({', '.join(image.phrases)})")


if __name__ == "__main__":
    main(*sys.argv[1:])
