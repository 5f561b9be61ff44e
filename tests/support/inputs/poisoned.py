"""Mined rows whose test images are others, for tests that nothing is learned from those."""

from collections.abc import Callable, Mapping, Sequence

from schemas.datasets.dataset import Dataset
from tests.support.datasets.mined_dataset import query_id

NEW_QUERY, NEW_LABEL = "only of test images", "only in test"
Rows = list[dict]


def poison(
    images: Sequence[Mapping],
    pairs: Sequence[Mapping],
    queries: Sequence[Mapping],
    image_of: Callable[[bytes], bytes],
) -> tuple[Rows, Rows, Rows]:
    """The rows of a mined dataset if its test images looked and were clicked otherwise.

    Each test image has the pixels of `image_of` and another label. Every third one has no click
    any more, the others have a thousand for another query and for two that only they have.
    All other rows stay.

    Args:
      images, pairs, queries: rows of tables.IMAGES, tables.PAIRS and tables.QUERIES.
      image_of: a test image's file → another file.
    """
    labels = sorted({label for row in images for label in row.get("labels") or ()})
    changed, test = [], [row for row in images if row["split"] == "test"]
    for place, row in enumerate(test):
        others = [NEW_LABEL, *(label for label in labels if label not in row["labels"])]
        changed.append(
            dict(row) | {"image": image_of(row["image"]), "labels": [others[place % len(others)]]}
        )
    clicks = {"clicks": 1e3, "examined": 1e3, "score": 1e3, "weight": 1 / 3}
    new = [NEW_QUERY, *(f"{NEW_QUERY} {place}" for place in range(len(test)) if place % 3)]
    clicked = [
        {"image_id": row["image_id"], "split": "test", "query_id": query} | clicks
        for place, row in enumerate(test)
        if place % 3
        for query in (
            queries[place % len(queries)]["query_id"],
            query_id(NEW_QUERY),
            query_id(f"{NEW_QUERY} {place}"),
        )
    ]
    kept = [dict(pair) for pair in pairs if pair["split"] != "test"] + clicked
    untrained = dict(queries[0]) | {"train_clicks": 0.0, "train_images": 0, "head": False}
    added = [untrained | {"query_id": query_id(text), "query": text} for text in new]
    counted = [dict(row) | _counts(kept, row["query_id"]) for row in [*queries, *added]]
    return [dict(row) for row in images if row["split"] != "test"] + changed, kept, counted


def _counts(pairs: Rows, query: int) -> dict:
    mine = [pair for pair in pairs if pair["query_id"] == query]
    return {"clicks": sum(pair["clicks"] for pair in mine), "images": len(mine)}


def checksums(dataset: Dataset, *names: str) -> dict[str, list]:
    """What identifies the content of some tables: table → (group, shard, rows, checksum)."""
    return {
        name: [
            (shard.group, shard.index, shard.rows, shard.sha256) for shard in dataset.shards(name)
        ]
        for name in names
    }
