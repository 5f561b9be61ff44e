"""Made-up snapshots that the quality gate reads, with drifts planted in them.

The same images with the same labels every day; clicks, vectors and predictions are drawn anew, so
that a day differs from another by chance only, or by what is planted.
"""

import dataclasses
import json
import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_code.metrics import classification as metrics
from schemas.base import fingerprint
from schemas.console.flags import flag
from schemas.datasets import commit, dataset, manifest, shards
from schemas.runs import changes, snapshots
from schemas.runs import run as run_lib
from schemas.tables import embedded
from schemas.tables import mined as tables
from schemas.tables.predictions import PREDICTIONS
from tests.support.datasets import mined_dataset

LABELS = tuple("abcdefghijkl")
LANGUAGES = ("en", "de", "ja")
QUERIES = tuple(f"{label} {language}" for label in LABELS for language in LANGUAGES)
IMAGES = 600
WIDTHS = {"query_emb": 4, "text_emb": 6, "pixel_emb": 40}


@dataclasses.dataclass(frozen=True)
class Day:
    """What a snapshot is drawn from.

    Attributes:
      seed: of everything that chance decides.
      images: how many.
      languages: share of each language's clicks.
      rare: how much rarer each label is than the one before, 1 for equally many.
      new_queries: share of the clicks on queries that no other day has.
      blur: how far the pixels' embeddings lie from the others', in standard deviations.
      score: mean score of the best phrase.
      dead: images that died.
      error_rate: of the fused classifier.
      model: names the networks.
      without: a label that no image has; those that had it have the first.
    """

    seed: int = 0
    images: int = IMAGES
    languages: tuple[float, ...] = (0.7, 0.2, 0.1)
    rare: float = 0.97
    new_queries: float = 0.0
    blur: float = 0.0
    score: float = 0.6
    dead: int = 0
    error_rate: float = 0.2
    model: str = "m"
    without: str = ""


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")
    drawn: str = flag("What it is drawn from.", default="")


def write(work: str, date: str, day: Day | None = None) -> snapshots.Snapshot:
    """Writes a run of each dataset and the snapshot of them."""
    day = day or Day()
    rng = np.random.default_rng(day.seed)
    chances = day.rare ** np.arange(len(LABELS))
    labels = np.random.default_rng(0).choice(len(LABELS), day.images, p=chances / chances.sum())
    if day.without:
        labels[labels == LABELS.index(day.without)] = 0
    ids = [fingerprint.of_json(i)[:32] for i in range(day.images)]
    _write_mined(f"{work}/mined", day, ids, labels, rng)
    _write_features(f"{work}/features", day, ids, labels, rng)
    _write_fusion(f"{work}/fusion", day, ids[::3], labels[::3], rng)
    _write_predictions(f"{work}/predictions", day, ids, labels, rng)
    for name in ("text_generator", "text_embedder", "pixel_embedder"):
        planned = _plan(f"{work}/{name}", Day(model=day.model))
        done = planned.manifest({}, {}, model_fingerprint=f"{name} {day.model}")
        commit.commit(planned.output, done, planned.seen)
    runs = {
        n: dataset.Dataset(f"{work}/{n}").manifest.run_id for n in snapshots.dataset_names(work)
    }
    return changes.write(work, date, runs)


def _plan(root: str, day: Day) -> run_lib.Run:
    return run_lib.plan(os.path.basename(root), _Config(root, repr(day)), [], {})


def _write_mined(root: str, day: Day, ids: list[str], labels: np.ndarray, rng) -> None:
    new = [f"new {day.seed} {language}" for language in LANGUAGES] if day.new_queries else []
    images = [
        {"image_id": image_id, "keys": [image_id], "split": "train" if i % 3 else "test"}
        | {"labels": [LABELS[label]], "width": 8, "height": 8, "image": b""}
        for i, (image_id, label) in enumerate(zip(ids, labels, strict=True))
    ]
    pairs = [
        {"image_id": image_id, "query_id": mined_dataset.query_id(query), "split": "train"}
        | {"clicks": float(clicks), "examined": 9.0, "score": 1.0, "weight": 1.0}
        for image_id, label in zip(ids, labels, strict=True)
        for query, clicks in _clicks(day, label, rng).items()
    ]
    queries = [
        {"query_id": mined_dataset.query_id(q), "query": q, "clicks": 1.0, "images": 1}
        | {"language": q[-2:]}
        for q in [*QUERIES, *new]
    ]
    _write(
        root,
        day,
        {"images": (tables.IMAGES, images), "pairs": (tables.PAIRS, pairs)}
        | {"queries": (tables.QUERIES, queries)},
        {"images.in": day.images + day.dead, "images.out": day.images}
        | {"images.dropped_not_an_image": day.dead},
    )


def _clicks(day: Day, label: int, rng) -> dict[str, int]:
    """Query → clicks of one image."""
    found: dict[str, int] = {}
    for _ in range(4):
        first = f"new {day.seed}" if rng.random() < day.new_queries else LABELS[label]
        query = f"{first} {rng.choice(LANGUAGES, p=day.languages)}"
        found[query] = found.get(query, 0) + int(rng.integers(1, 4))
    return found


def _write_features(root: str, day: Day, ids: list[str], labels: np.ndarray, rng) -> None:
    vectors = {}
    for name, width in WIDTHS.items():
        centres = np.random.default_rng(width).normal(size=(len(LABELS), width))
        vectors[name] = centres[labels] + rng.normal(size=(len(ids), width))
    vectors["pixel_emb"] += day.blur
    rows = [
        {"image_id": image_id, "split": "train", "labels": [LABELS[label]]}
        | {"phrase_ids": [1, 2], "phrases": [f"{LABELS[label]} en", "any"]}
        | {"phrase_scores": [float(day.score + rng.normal(0, 0.1)), 0.1]}
        | {"phrase_probabilities": [0.5, 0.1]}
        | {name: found[i].astype(np.float32) for name, found in vectors.items()}
        | {f"{name}_fingerprint": day.model for name in ("generator", "phrases", "pixel")}
        for i, (image_id, label) in enumerate(zip(ids, labels, strict=True))
    ]
    schema = embedded.features({name: (width,) for name, width in WIDTHS.items()})
    _write(root, day, {"features": (schema, rows)}, {})


def _write(root: str, day: Day, contents: Mapping[str, tuple], counters: dict[str, int]) -> None:
    planned = _plan(root, day)
    written = {}
    for name, (schema, rows) in contents.items():
        shard = shards.write_parquet(
            root, planned.shard_path(name, 0, 1, "parquet"), 0, pa.Table.from_pylist(rows, schema)
        )
        written[name] = manifest.Table("parquet", shards.schema_fingerprint(schema), (shard,))
    commit.commit(root, planned.manifest(written, counters, 1), planned.seen)


def _best_labels(day: Day, labels: np.ndarray, rng) -> tuple[list, list]:
    """Five labels of each image, and their probabilities."""
    scores = rng.random((len(labels), len(LABELS)))
    aim = np.where(rng.random(len(labels)) < day.error_rate, (labels + 1) % len(LABELS), labels)
    scores[np.arange(len(labels)), aim] += 1.5
    best = metrics.top_labels(scores, 5)
    return [[LABELS[k] for k in row] for row in best], np.take_along_axis(scores, best, 1).tolist()


def _write_predictions(root: str, day: Day, ids: list[str], labels: np.ndarray, rng) -> None:
    """What the exported model says, right as often as the classifier."""
    found = zip(ids, *_best_labels(day, labels, rng), strict=True)
    rows = [
        {"key": i, "image_id": i, "labels": names, "probabilities": scores, "phrases": ["any"]}
        for i, names, scores in found
    ]
    _write(root, day, {"predictions": (PREDICTIONS, rows)}, {})


def _write_fusion(root: str, day: Day, ids: list[str], labels: np.ndarray, rng) -> None:
    planned = _plan(root, day)
    names, probabilities = _best_labels(day, labels, rng)
    columns = {
        "image_id": ids,
        "true": [[LABELS[i]] for i in labels],
        "phrases": [["any"]] * len(ids),
    }
    for name in ("pixel", "text", "fused"):
        columns[f"{name}_labels"] = names
        columns[f"{name}_probabilities"] = probabilities
    folder = planned.empty_folder("evaluation")
    pq.write_table(pa.table(columns), f"{folder}/predictions.parquet")
    with open(f"{folder}/evaluation.json", "w") as f:
        json.dump({"test": {}}, f)
    planned.commit_files("evaluation", folder, {}, model_fingerprint=repr(day))
