"""What the report says, read from datasets and counted; no page and no picture is made here."""

import base64
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from model_code.images.rows import read_rows
from model_code.metrics.classification import mean_and_error
from model_code.metrics.evaluation import with_nan
from model_code.models.fusion.family import FUSION
from schemas.base import fingerprint, storage
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Manifest
from schemas.datasets.shard_files import read_parquet
from schemas.tables.dead_letters import REASONS
from schemas.tables.mined import SPLITS

VERDICTS = {
    "corrected": "The words corrected the pixels",
    "broke": "The words misled the pixels",
    "wrong": "Wrong with and without words",
    "right": "Right with and without words",
}
EXAMPLES_PER_REASON = 3
THUMBNAIL = 224  # pixels


def read_evaluation(fusion: Dataset) -> dict:
    """The contents of evaluation.json: settings and metrics of each classifier by split.

    A metric that has no value is NaN.
    """
    path = storage.join(fusion.folder("evaluation"), "evaluation.json")
    return with_nan(json.loads(storage.read_bytes(path)))


def read_history(dataset: Dataset) -> dict | None:
    """The training history of a model, or None of what was not trained."""
    if "model" not in dataset.manifest.tables:
        return None
    path = storage.join(dataset.folder("model"), "history.json")
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else None


@dataclasses.dataclass(frozen=True)
class Case:
    """A test image and what was predicted for it.

    Attributes:
      image_id: the image.
      true: its labels.
      phrases: the phrases predicted for it, nearest first.
      predictions: classifier → (label, probability) of its best labels, best first.
    """

    image_id: str
    true: tuple[str, ...]
    phrases: tuple[str, ...]
    predictions: Mapping[str, tuple[tuple[str, float], ...]]

    def right(self, classifier: str) -> bool:
        """Whether the classifier's first label is a true one."""
        return self.predictions[classifier][0][0] in self.true

    @property
    def verdict(self) -> str:
        """What the words changed: a key of `VERDICTS`."""
        pixel, fused = self.right("pixel"), self.right("fused")
        if pixel == fused:
            return "right" if fused else "wrong"
        return "corrected" if fused else "broke"


def read_cases(dataset: Dataset, systems: Collection[str] = tuple(FUSION.systems)) -> list[Case]:
    """All test images of a family that makes labels, with its predictions, in order of their ids.

    Args:
      dataset: of the family.
      systems: its classifiers.
    """
    path = storage.join(dataset.folder("evaluation"), "predictions.parquet")
    rows = read_parquet(path).to_pylist()
    cases = [
        Case(
            image_id=row["image_id"],
            true=tuple(row["true"]),
            phrases=tuple(row["phrases"]),
            predictions={
                name: tuple(zip(row[f"{name}_labels"], row[f"{name}_probabilities"], strict=True))
                for name in systems
            },
        )
        for row in rows
    ]
    return sorted(cases, key=lambda case: case.image_id)


def gallery(cases: Iterable[Case], per_verdict: int) -> dict[str, list[Case]]:
    """Picks the cases to show: those where the fused classifier was surest, for each verdict."""
    chosen: dict[str, list[Case]] = {verdict: [] for verdict in VERDICTS}
    for case in sorted(cases, key=lambda c: (-c.predictions["fused"][0][1], c.image_id)):
        if len(chosen[case.verdict]) < per_verdict:
            chosen[case.verdict].append(case)
    return chosen


def paired_difference(cases: Sequence[Case], better: str, base: str) -> tuple[float, float]:
    """By how much one classifier's top-1 accuracy is above another's on the same images.

    Returns:
      The mean difference per image in [-1, 1], and its standard error (NaN below two images).
    """
    return mean_and_error(
        np.array([int(case.right(better)) - int(case.right(base)) for case in cases])
    )


def most_confused(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], limit: int
) -> list[tuple[str, str, int]]:
    """The most frequent mistakes.

    Args:
      confusion: [labels, labels] rows by true and predicted label.
      labels: the labels' names.
      limit: at most this many.

    Returns:
      (true label, predicted label, rows), most frequent first.
    """
    mistakes = [
        (labels[i], labels[j], rows)
        for i, row in enumerate(confusion)
        for j, rows in enumerate(row)
        if i != j and rows
    ]
    return sorted(mistakes, key=lambda m: (-m[2], m[0], m[1]))[:limit]


def row_counts(counters: Mapping[str, int]) -> list[dict]:
    """Good and dead rows by kind, from the counters of a manifest.

    Returns:
      For each kind of row: `kind`, `rows_in`, `rows_out`, `dead` (reason → rows), and `left_out`
      (reason → rows that were dropped on purpose, such as duplicates).
    """
    counts = []
    for key, rows_in in sorted(counters.items()):
        kind, _, what = key.rpartition(".")
        if what == "in":
            prefix = f"{kind}.dropped_"
            dropped = {k[len(prefix) :]: v for k, v in counters.items() if k.startswith(prefix)}
            counts.append(
                {
                    "kind": kind,
                    "rows_in": rows_in,
                    "rows_out": counters.get(f"{kind}.out", 0),
                    "dead": {k: v for k, v in dropped.items() if k in REASONS},
                    "left_out": {k: v for k, v in dropped.items() if k not in REASONS},
                }
            )
    return counts


def other_counters(counters: Mapping[str, int]) -> dict[str, int]:
    """The counters that are neither in, out nor dropped."""
    return {
        key: value
        for key, value in sorted(counters.items())
        if key.rpartition(".")[2] not in ("in", "out") and ".dropped_" not in key
    }


def dead_rows(dataset: Dataset) -> list[dict]:
    """The dead letters of a dataset by reason, most frequent first.

    Returns:
      For each reason: `reason`, `meaning`, `rows`, `examples` (key, detail).
    """
    rows: Counter[str] = Counter()
    examples: dict[str, list[tuple[str, str]]] = {}
    if "dead_letters" in dataset.manifest.tables:
        for batch in dataset.batches("dead_letters", ["key", "reason", "detail"]):
            for row in batch.to_pylist():
                rows[row["reason"]] += 1
                shown = examples.setdefault(row["reason"], [])
                if len(shown) < EXAMPLES_PER_REASON:
                    shown.append((row["key"], row["detail"]))
    return [
        {
            "reason": reason,
            "meaning": REASONS.get(reason, ""),
            "rows": count,
            "examples": examples[reason],
        }
        for reason, count in sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    ]


@dataclasses.dataclass(frozen=True)
class Counts:
    """The data in numbers.

    Attributes:
      images: split → images.
      labelled: split → images with a label.
      labels: label → images, most frequent first.
      languages: language → (queries, clicks), most queries first.
      pairs: query–image pairs.
      associations: query–query associations.
    """

    images: Mapping[str, int]
    labelled: Mapping[str, int]
    labels: Mapping[str, int]
    languages: Mapping[str, tuple[int, float]]
    pairs: int
    associations: int


def read_collection(mined: Dataset) -> Counts:
    """Counts a mined dataset without reading an image."""
    images, labelled, labels = Counter[str](), Counter[str](), Counter[str]()
    for batch in mined.batches("images", ["split", "labels"]):
        for row in batch.to_pylist():
            images[row["split"]] += 1
            labelled[row["split"]] += bool(row["labels"])
            labels.update(row["labels"])
    queries, clicks = Counter[str](), Counter[str]()
    for batch in mined.batches("queries", ["language", "clicks"]):
        for row in batch.to_pylist():
            queries[row["language"]] += 1
            clicks[row["language"]] += row["clicks"]
    return Counts(
        images={split: images[split] for split in SPLITS},
        labelled={split: labelled[split] for split in SPLITS},
        labels=dict(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        languages={
            language: (rows, clicks[language])
            for language, rows in sorted(queries.items(), key=lambda item: (-item[1], item[0]))
        },
        pairs=mined.manifest.tables["pairs"].rows,
        associations=mined.manifest.tables["query_pairs"].rows,
    )


def read_images(mined: Dataset, image_ids: Sequence[str]) -> dict[str, bytes]:
    """The encoded images of some ids, from the shards where these ids lie."""
    rows = read_rows(mined, "images", image_ids, ["image"])
    return {image_id: row["image"] for image_id, row in rows.items()}


def data_uri(image: bytes) -> str:
    """An encoded image as a data URI, at most `THUMBNAIL` pixels wide and high."""
    picture = Image.open(io.BytesIO(image))
    kind = picture.format or "PNG"
    if max(picture.size) > THUMBNAIL:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {}))
        image = buffer.getvalue()
    return f"data:image/{kind.lower()};base64,{base64.b64encode(image).decode()}"


def provenance(name: str, manifest: Manifest) -> dict:
    """Where a dataset comes from, with fingerprints cut to 12 digits."""
    return {
        "name": name,
        "stage": manifest.stage,
        "run": manifest.run_id,
        "fingerprint": manifest.fingerprint[:12],
        "code": manifest.code[:12],
        "model": manifest.model_fingerprint[:12],
        "inputs": fingerprint.short(manifest.inputs),
        "settings": manifest.config,
        "bytes": sum(s.bytes for table in manifest.tables.values() for s in table.shards),
    }
