"""Writes a table of tags for the photos of a folder, for another program to read.

  python examples/tag_photos.py work/quickstart/model photos tags.csv

makes a row for each file: its label, how probable that is, and the phrases that people would type
for it. Files that are no images are in it too, with what is wrong with them.
"""

import csv
import sys
from pathlib import Path

import phraselens


def main(model: str, photos: str, table: str) -> None:
    paths = sorted(path for path in Path(photos).rglob("*") if path.is_file())
    found = phraselens.open_model(model).classify(paths)
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "probability", "phrases", "error"])
        for path, image in zip(paths, found, strict=True):
            tags = "|".join(image.phrases)
            chance = f"{image.probability:.4f}" if image.label else ""
            rows.writerow([path.relative_to(photos), image.label, chance, tags, image.error])
    print(f"{len(paths)} files → {table}")


if __name__ == "__main__":
    main(*sys.argv[1:])
