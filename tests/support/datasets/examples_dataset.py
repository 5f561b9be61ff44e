"""Tiny examples datasets for tests, as beam_jobs.models.prepare_examples writes them."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from schemas.base import fingerprint, storage
from schemas.console.flags import flag
from schemas.datasets import commit, dataset, manifest
from schemas.datasets import shards as shards_lib
from schemas.runs import run as run_lib

NUM_SHARDS = 2


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The examples of a split.

    Attributes:
      text_emb: [rows, T] float32.
      pixel_emb: [rows, P] float32.
      label_ids: [rows][any] int.
      others: more vectors, name → [rows, *shape] float32.
    """

    text_emb: np.ndarray
    pixel_emb: np.ndarray
    label_ids: Sequence[Sequence[int]]
    others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def vectors(self) -> dict[str, np.ndarray]:
        return {"text_emb": self.text_emb, "pixel_emb": self.pixel_emb, **self.others}


def _example(split: str, index: int, rows: Rows) -> bytes:
    def floats(values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def texts(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode() for v in values]))

    features = {
        "image_id": texts([f"{split}-{index}"]),
        "phrases": texts(["eins", f"Nr. {index}"]),
        **{name: floats(values[index].reshape(-1)) for name, values in rows.vectors.items()},
        "label_ids": tf.train.Feature(int64_list=tf.train.Int64List(value=rows.label_ids[index])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_examples(
    root: str, splits: Mapping[str, Rows], labels: Sequence[str], task: str = "single"
) -> dataset.Dataset:
    """Writes and commits an examples dataset without a transform_fn."""
    raw = {
        split: fingerprint.of_arrays([list(map(list, rows.label_ids))], [rows.text_emb])
        for split, rows in splits.items()
    }
    planned = run_lib.plan("prepare_examples", _Config(root), [], {}, raw)
    shards = []
    for split, rows in splits.items():
        for index in range(NUM_SHARDS):
            name = planned.shard_path(f"examples/{split}", index, NUM_SHARDS, "tfrecord")
            os.makedirs(os.path.dirname(planned.absolute(name)), exist_ok=True)
            places = range(index, len(rows.label_ids), NUM_SHARDS)
            with tf.io.TFRecordWriter(planned.absolute(name)) as writer:
                for place in places:
                    writer.write(_example(split, place, rows))
            data = storage.read_bytes(planned.absolute(name))
            shards.append(shards_lib.write_shard(root, name, index, len(places), data, group=split))
    any_rows = next(iter(splits.values()))
    config = {
        "task": task,
        "vectors": {name: values.shape[1:] for name, values in any_rows.vectors.items()},
    }
    files = {"labels.txt": "".join(f"{v}\n" for v in labels), "config.json": json.dumps(config)}
    for name, text in files.items():
        storage.write_bytes(planned.absolute(f"{planned.folder('metadata')}/{name}"), text.encode())
    described = shards_lib.describe_files(root, planned.folder("metadata"), list(files))
    tables = {
        "examples": manifest.Table("tfrecord", "", tuple(shards)),
        "metadata": manifest.Table("files", "", tuple(described)),
    }
    commit.commit(root, planned.manifest(tables, {}, NUM_SHARDS), planned.seen)
    return dataset.Dataset(root)
