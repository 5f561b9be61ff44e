"""Tiny mined datasets for tests: colour squares, and the queries that people click them for."""

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from schemas.base import fingerprint
from schemas.console.flags import flag
from schemas.datasets import commit, dataset, manifest
from schemas.datasets import shards as shards_lib
from schemas.runs import run as run_lib
from schemas.tables import mined as tables

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
NAMES = {"en": ("red", "green", "blue"), "de": ("rot", "grün", "blau"), "ja": ("赤", "緑", "青")}
NUM_SHARDS = 2


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")


def query_id(query: str) -> int:
    return fingerprint.hash64(query)


def jpeg(colour: Sequence[int], seed: int, size: int = 32, format: str = "JPEG") -> bytes:
    """A noisy square of one colour, encoded."""
    noise = np.random.default_rng(seed).normal(0, 12, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def write_mined(
    root: str,
    images: Sequence[Mapping],
    pairs: Sequence[Mapping],
    queries: Sequence[Mapping],
    query_pairs: Sequence[Mapping],
) -> dataset.Dataset:
    """Writes and commits a mined dataset; rows are mappings by column of `schemas.tables.mined`.

    Images and pairs are partitioned by image_id and sorted, as beam_jobs.mining.mine_pairs does.
    """
    contents = {
        "images": (tables.IMAGES, images, "image_id"),
        "pairs": (tables.PAIRS, pairs, "image_id"),
        "queries": (tables.QUERIES, queries, "query_id"),
        "query_days": (tables.QUERY_DAYS, [], "query_id"),
        "query_pairs": (tables.QUERY_PAIRS, query_pairs, "query_a"),
        "dead_letters": (tables.DEAD_LETTERS, [], "key"),
    }
    raw = {name: fingerprint.of_json(repr(rows)) for name, (_, rows, _) in contents.items()}
    planned = run_lib.plan("mine_pairs", _Config(root), [], {}, raw)
    written = {}
    for name, (schema, rows, key) in contents.items():
        table = pa.Table.from_pylist([dict(row) for row in rows], schema).sort_by(
            [(key, "ascending"), (schema.names[1], "ascending")]
            if name in ("pairs", "query_pairs")
            else key
        )
        shard_of = pa.array(fingerprint.shard_of(table[key], NUM_SHARDS))
        shards = [
            shards_lib.write_parquet(
                root,
                planned.shard_path(name, index, NUM_SHARDS, "parquet"),
                index,
                table.filter(pc.equal(shard_of, index)),
            )
            for index in range(NUM_SHARDS)
        ]
        written[name] = manifest.Table(
            "parquet", shards_lib.schema_fingerprint(schema), tuple(shards)
        )
    counters = {"images.in": len(images), "images.out": len(images)}
    commit.commit(root, planned.manifest(written, counters, NUM_SHARDS), planned.seen)
    return dataset.Dataset(root)


def prepare(mined: str, output: str, *flags: str) -> str:
    """Prepares the training pairs of a mined dataset for a tiny network; returns `output`."""
    from beam_jobs.models import prepare_pairs

    argv = [f"--mined={mined}", f"--output={output}", "--backbone=small_resnet", *flags]
    assert prepare_pairs.run(argv) == 0
    return output


def write_colours(root: str, per_colour: int = 20, size: int = 32) -> dataset.Dataset:
    """A mined dataset of red, green and blue squares, labelled so, with queries in 3 languages.

    Of every 10 images of a colour 7 are train, 1 is validation and 2 are test. Each is
    clicked for two of its colour's three names.
    """
    images, pairs = [], []
    for c, (label, colour) in enumerate(COLOURS.items()):
        for i in range(per_colour):
            data = jpeg(colour, seed=c * 10_000 + i, size=size)
            image_id = fingerprint.of_arrays("image", [np.frombuffer(data, np.uint8)])
            split = "train" if i % 10 < 7 else "validation" if i % 10 == 7 else "test"
            images.append(
                {
                    "image_id": image_id,
                    "keys": [f"{label}-{i}.jpg"],
                    "split": split,
                    "labels": [label],
                    "width": size,
                    "height": size,
                    "image": data,
                }
            )
            spoken = [names[c] for names in NAMES.values()]
            for query, clicks in ((spoken[i % 3], 3.0), (spoken[(i + 1) % 3], 1.0)):
                pairs.append(
                    {
                        "image_id": image_id,
                        "query_id": query_id(query),
                        "split": split,
                        "clicks": clicks,
                        "examined": clicks,
                        "score": clicks,
                        "weight": clicks / 4,
                    }
                )
    queries = []
    for language, names in NAMES.items():
        for query in names:
            mine = [pair for pair in pairs if pair["query_id"] == query_id(query)]
            train = [pair for pair in mine if pair["split"] == "train"]
            queries.append(
                {
                    "query_id": query_id(query),
                    "query": query,
                    "language": language,
                    "clicks": sum(pair["clicks"] for pair in mine),
                    "images": len(mine),
                    "train_clicks": sum(pair["clicks"] for pair in train),
                    "train_images": len(train),
                    "users": 0,
                    "head": True,
                    "variants": [],
                }
            )
    query_pairs = []
    for spoken in zip(*NAMES.values(), strict=True):
        for i, first in enumerate(spoken):
            for second in spoken[i + 1 :]:
                a, b = sorted((query_id(first), query_id(second)))
                query_pairs.append(
                    {
                        "query_a": a,
                        "query_b": b,
                        "co_clicks": 4.0,
                        "reformulations": 1.0,
                        "skips": 0.0,
                        "weight": 5.0,
                        "evidence": "both",
                    }
                )
    return write_mined(root, images, pairs, queries, query_pairs)
