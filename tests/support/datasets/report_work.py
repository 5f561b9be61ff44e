"""A small work folder for tests of the report: colours to tell apart, and three classifiers."""

import dataclasses
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_code.metrics import classification as metrics
from schemas.console.flags import flag
from schemas.datasets import commit, manifest
from schemas.datasets import shards as shards_lib
from schemas.runs import run as run_lib
from schemas.tables import dead_letters
from schemas.tables import mined as tables
from schemas.tables.predictions import PREDICTIONS
from tests.support.datasets import mined_dataset

LABELS = ("red", "green", "blue", "a|b $x$ <b>grey</b>")
COLOURS = ((220, 30, 30), (30, 180, 60), (40, 60, 220), (128, 128, 128))
HOSTILE = "<script>document.title = 'owned'</script><img src=http://evil.example/x.png>"
PHRASES = ("red square", "赤い四角", HOSTILE, "مربع أزرق", "ein blaues Quadrat", 'a "quoted" one')
ERROR_RATES = {"pixel": 0.4, "text": 0.5, "fused": 0.2}


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")
    epochs: int = flag("A setting.", default=3)
    note: str = flag("Another.", default=HOSTILE)


def probabilities(truth: np.ndarray, error_rate: float, seed: int) -> np.ndarray:
    """[n, labels] rows that sum to one, whose best is the true label but for `error_rate`."""
    rng = np.random.default_rng(seed)
    scores = rng.random((len(truth), len(LABELS)))
    aim = np.where(rng.random(len(truth)) < error_rate, (truth + 1) % len(LABELS), truth)
    scores[np.arange(len(truth)), aim] += 1.5
    return scores / scores.sum(1, keepdims=True)


def write(root: str, images: int = 60) -> str:
    """Writes mined, text_generator, features, fusion, model and predictions; returns `root`."""
    labels = np.arange(images) % len(LABELS)
    rows = [_image(i, int(labels[i])) for i in range(images)]
    queries = [
        {"query_id": mined_dataset.query_id(q), "query": q, "language": "en", "clicks": 3.0}
        | {"images": 1, "train_clicks": 3.0, "train_images": 1}
        for q in PHRASES
    ]
    mined_dataset.write_mined(f"{root}/mined", rows, [], queries, [])
    _write_generator(f"{root}/text_generator")
    _write_features(f"{root}/features")
    ids = [row["image_id"] for row in rows]
    write_fusion(f"{root}/fusion", ids, labels)
    write_predictions(root, ids[::2], labels[::2])
    return root


def _image(index: int, label: int) -> dict:
    return {
        "image_id": f"{index:032x}",
        "keys": [f"{index}.jpg"],
        "split": "test",
        "labels": [LABELS[label]],
        "width": 32,
        "height": 32,
        "image": mined_dataset.jpeg(COLOURS[label], index, size=300 if index == 0 else 32),
    }


def _write_generator(root: str) -> None:
    planned = run_lib.plan("train_text_generator", _Config(root), [], {})
    local = f"{planned.scratch}/model"
    os.makedirs(local)
    epochs = [{"epoch": float(e), "loss": 3 / e, "recall@1": e / 10} for e in (1, 2, 3)]
    with open(f"{local}/history.json", "w") as f:
        json.dump({"epochs": epochs, "best_epoch": 3}, f)
    planned.commit_files("model", local, {}, model_fingerprint="f" * 64)


def _write_features(root: str) -> None:
    planned = run_lib.plan("embed_images", _Config(root), [], {})
    dead = dead_letters.dead_letters(
        "embed_images",
        planned.run_id,
        "not_an_image",
        [HOSTILE, "b.jpg"],
        ["HTML"] * 2,
        payloads=[b""] * 2,
    )
    shard = shards_lib.write_parquet(
        root, planned.shard_path("dead_letters", 0, 1, "parquet"), 0, dead
    )
    schema = shards_lib.schema_fingerprint(tables.DEAD_LETTERS)
    counters = {
        "images.in": 62,
        "images.out": 60,
        "images.dropped_not_an_image": 2,
        "images.seen": 9,
    }
    done = planned.manifest({"dead_letters": manifest.Table("parquet", schema, (shard,))}, counters)
    commit.commit(root, done, planned.seen)


def write_fusion(root: str, image_ids: list[str], labels: np.ndarray) -> None:
    """Writes the evaluation of three made-up classifiers, with the metrics that are ours."""
    planned = run_lib.plan("train_fusion", _Config(root), [], {})
    truth = np.eye(len(LABELS), dtype=bool)[labels]
    test, columns = {}, {"image_id": image_ids, "true": [[LABELS[i]] for i in labels]}
    columns["phrases"] = [[PHRASES[(i + k) % len(PHRASES)] for k in range(3)] for i in labels]
    for seed, (name, rate) in enumerate(ERROR_RATES.items()):
        scores = probabilities(labels, rate, seed)
        best = metrics.top_labels(scores, len(LABELS))
        test[name] = _evaluate(scores, truth)
        columns[f"{name}_labels"] = [[LABELS[k] for k in row] for row in best]
        columns[f"{name}_probabilities"] = np.take_along_axis(scores, best, 1).tolist()
    curve = [{"epoch": float(e), "loss": 2 / e, "top1": e / 10} for e in (1, 2, 3)]
    evaluation = {
        "labels": LABELS,
        "task": "single",
        "rows": {"train": 10, "validation": 5, "test": len(labels)},
        "test": test,
        "tuning": {name: [{"settings": {"width": 8}, "metric": 0.5}] for name in test},
        "chosen": {name: {"width": 8} for name in test},
        "pool": {"pixel": 0.25, "text": 0, "fused": 1.5},
        "curves": dict.fromkeys(test, curve),
    }
    folder = planned.absolute(planned.folder("evaluation"))
    os.makedirs(folder)
    with open(f"{folder}/evaluation.json", "w") as f:
        json.dump(evaluation, f)
    pq.write_table(pa.table(columns), f"{folder}/predictions.parquet")
    shards = shards_lib.describe_files(
        root, planned.folder("evaluation"), ["evaluation.json", "predictions.parquet"]
    )
    tables_ = {"evaluation": manifest.Table("files", "", tuple(shards))}
    done = planned.manifest(
        tables_, {"images.in": 60, "images.out": 60}, model_fingerprint="a" * 64
    )
    commit.commit(root, done, planned.seen)


def effect(label: int, phrase: int) -> float:
    """By how much a phrase moved a label's logit, made up."""
    return (label + 1) * (1.5, 0.0, -0.75)[phrase]


def write_predictions(root: str, image_ids: list[str], labels: np.ndarray) -> None:
    """Writes a model of the fused classifier, and what it says of some images."""
    planned = run_lib.plan(
        "export_model", _Config(f"{root}/model"), [], {"fusion": f"{root}/fusion"}
    )
    planned.commit_files("model", planned.empty_folder("model"), {}, model_fingerprint="b" * 64)
    config = _Config(f"{root}/predictions")
    planned = run_lib.plan("classify_images", config, [], {"model": f"{root}/model"})
    rows = [
        {"key": f"{image_id}.jpg", "image_id": image_id, "labels": LABELS}
        | {"phrases": [PHRASES[(i + k) % len(PHRASES)] for k in range(3)]}
        | {"phrase_effects": [[effect(c, k) for k in range(3)] for c in range(len(LABELS))]}
        for image_id, i in zip(image_ids, labels.tolist(), strict=True)
    ]
    table = pa.Table.from_pylist(rows, PREDICTIONS)
    path = planned.shard_path("predictions", 0, 1, "parquet")
    shard = shards_lib.write_parquet(planned.output, path, 0, table)
    schema = shards_lib.schema_fingerprint(PREDICTIONS)
    written = {"predictions": manifest.Table("parquet", schema, (shard,))}
    counters = {"images.in": len(rows), "images.out": len(rows)}
    commit.commit(planned.output, planned.manifest(written, counters), planned.seen)


def _evaluate(scores: np.ndarray, truth: np.ndarray) -> dict:
    reliability = metrics.calibration(scores, truth, multi=False)
    precision, recall, f1 = metrics.precision_recall_f1(metrics.decisions(scores, False), truth)
    return {
        "top1": metrics.top_k_accuracy(scores, truth, 1),
        "top5": metrics.top_k_accuracy(scores, truth, 5),
        "map": metrics.mean_average_precision(scores, truth),
        "nll": metrics.negative_log_likelihood(scores, truth, False),
        "ece": metrics.expected_calibration_error(reliability),
        "brier": metrics.brier(scores, truth, False),
        "recall_at": {str(k): metrics.recall_at_k(scores, truth, k) for k in (1, 3)},
        "per_class": [
            {
                "label": label,
                "support": int(truth[:, i].sum()),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "average_precision": metrics.average_precision(scores[:, i], truth[:, i]),
            }
            for i, label in enumerate(LABELS)
        ],
        "calibration": reliability,
        "confusion": metrics.confusion_matrix(scores, truth).tolist(),
    }
