"""What the quality gate reads of a snapshot: rows, counts, scores and a sample of embeddings."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.gate import drift as gate_drift
from model_code.report.data import row_counts
from schemas.base import fingerprint
from schemas.datasets.dataset import Dataset
from schemas.tables.vectors import arrow_to_vectors

# Vector columns of the features, each with the dataset of the network it comes from.
EMBEDDINGS = {
    "query_emb": "text_generator",
    "text_emb": "text_embedder",
    "pixel_emb": "pixel_embedder",
}
NEEDED = ("mined", "features", "fusion", *EMBEDDINGS.values())
_PLACE_KEY = b"gate"


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Vectors of some images.

    Attributes:
      vectors: [n, width] float32.
      halves: [n] 0 or 1.
      model: fingerprint of the network that made them; vectors of two networks do not compare.
    """

    vectors: np.ndarray
    halves: np.ndarray
    model: str

    def half(self, which: int) -> np.ndarray:
        return self.vectors[self.halves == which]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A snapshot in numbers.

    Attributes:
      rows: "<dataset>.<table>" → rows.
      dead: "<dataset>.<kind of row>" → (dead rows, rows that came in).
      counts: "queries" (clicks by query id), "languages" (clicks), "phrases" (images),
        "labels" (images) → their counts by half of the images, see `gate_drift.count`.
      scores: [2, 3] of each half: images, sum and sum of squares of their best phrase's score.
      embeddings: column of the features → its sample.
    """

    rows: Mapping[str, int]
    dead: Mapping[str, tuple[int, int]]
    counts: Mapping[str, pa.Table]
    scores: np.ndarray
    embeddings: Mapping[str, Embedding]


def summarise(datasets: Mapping[str, Dataset], sample: int) -> Summary:
    """Reads a snapshot, batch by batch.

    Args:
      datasets: name → dataset; `NEEDED` must be among them.
      sample: at most about so many images' embeddings are kept. An id is in the sample or not by
        its hash, so that two snapshots sample the same images.
    """
    mined, features = datasets["mined"], datasets["features"]
    clicks = gate_drift.count(_clicks(mined), pa.int64())
    return Summary(
        rows=table_rows(datasets),
        dead=dead_rows(datasets),
        counts={
            "queries": clicks,
            "languages": _by_language(mined, clicks),
            "phrases": gate_drift.count(_lists(features, "features", "phrases"), pa.string()),
            "labels": gate_drift.count(_lists(mined, "images", "labels"), pa.string()),
        },
        scores=_top_scores(features),
        embeddings=_sample(datasets, sample),
    )


def table_rows(datasets: Mapping[str, Dataset]) -> dict[str, int]:
    """Rows of every table of rows but the dead letters, which have a check of their own."""
    return {
        f"{name}.{table}": found.rows
        for name, dataset in sorted(datasets.items())
        for table, found in sorted(dataset.manifest.tables.items())
        if found.format != "files" and table != "dead_letters"
    }


def dead_rows(datasets: Mapping[str, Dataset]) -> dict[str, tuple[int, int]]:
    return {
        f"{name}.{row['kind']}": (sum(row["dead"].values()), row["rows_in"])
        for name, dataset in sorted(datasets.items())
        for row in row_counts(dataset.manifest.counters)
    }


def places(image_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Where ids fall by their hash: [n] the half (0 or 1), [n] a number uniform in [0, 1)."""
    hashes = fingerprint.hash64_array(image_ids, _PLACE_KEY).view(np.uint64)
    return (hashes & np.uint64(1)).astype(np.int64), (hashes >> np.uint64(1)) / 2.0**63


def query_texts(datasets: Sequence[Dataset], query_ids: Collection[int]) -> dict[int, str]:
    """The texts of some queries, wherever the mined datasets have them."""
    wanted = pa.array(sorted(query_ids), pa.int64())
    found: dict[int, str] = {}
    for mined in datasets:
        for batch in mined.batches("queries", ["query_id", "query"], 65536):
            some = batch.filter(pc.is_in(batch["query_id"], value_set=wanted))
            found.update(zip(some["query_id"].to_pylist(), some["query"].to_pylist(), strict=True))
    return found


def _clicks(mined: Dataset) -> Iterator[gate_drift.Part]:
    for batch in mined.batches("pairs", ["image_id", "query_id", "clicks"], 65536):
        halves, _ = places(batch["image_id"])
        yield batch["query_id"], halves, batch["clicks"].to_numpy()


def _by_language(mined: Dataset, clicks: pa.Table) -> pa.Table:
    """The clicks of queries, summed by their language.

    Each batch of queries is looked up among the sorted ids: to join it would go through all of
    `clicks` once more.
    """
    rows = len(clicks)
    keys = np.append(clicks["key"].to_numpy(), 0)  # the last for ids that are larger than all
    halves = [clicks[name].to_numpy() for name in gate_drift.HALVES]

    def parts() -> Iterator[gate_drift.Part]:
        for batch in mined.batches("queries", ["query_id", "language"], 65536):
            query_ids = batch["query_id"].to_numpy()
            places = np.searchsorted(keys[:rows], query_ids)
            is_clicked = (places < rows) & (keys[places] == query_ids)
            languages, places = batch["language"].filter(pa.array(is_clicked)), places[is_clicked]
            for half, of in enumerate(halves):
                yield languages, np.full(len(places), half), of[places]

    return gate_drift.count(parts(), pa.string())


def _lists(dataset: Dataset, table: str, column: str) -> Iterator[gate_drift.Part]:
    """Each item of a column of lists, with the half of its image."""
    for batch in dataset.batches(table, ["image_id", column], 65536):
        halves, _ = places(batch["image_id"])
        owners = pc.list_parent_indices(batch[column]).to_numpy()
        yield pc.list_flatten(batch[column]), halves[owners], None


def _top_scores(features: Dataset) -> np.ndarray:
    found = np.zeros((2, 3))
    for batch in features.batches("features", ["image_id", "phrase_scores"], 65536):
        some = pc.greater(pc.list_value_length(batch["phrase_scores"]), 0)
        batch = batch.filter(some)
        halves, _ = places(batch["image_id"])
        best = pc.list_element(batch["phrase_scores"], 0).to_numpy().astype(np.float64)
        for half in (0, 1):
            values = best[halves == half]
            found[half] += len(values), values.sum(), np.square(values).sum()
    return found


def _sample(datasets: Mapping[str, Dataset], sample: int) -> dict[str, Embedding]:
    features = datasets["features"]
    share = sample / max(features.manifest.tables["features"].rows, 1)
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in EMBEDDINGS}
    halves = [np.zeros(0, np.int64)]
    for batch in features.batches("features", ["image_id", *EMBEDDINGS]):
        half, place = places(batch["image_id"])
        batch = batch.filter(pa.array(place < share))
        halves.append(half[place < share])
        for name, found in vectors.items():
            found.append(arrow_to_vectors(batch[name]))
    return {
        name: Embedding(
            np.concatenate(found) if found else np.zeros((0, 1), np.float32),
            np.concatenate(halves),
            datasets[EMBEDDINGS[name]].manifest.model_fingerprint,
        )
        for name, found in vectors.items()
    }
