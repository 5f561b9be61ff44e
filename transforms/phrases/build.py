"""Phrases: every query with its vector in query space and its text embedding."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.shared import Shared

from model_code.phrases.query_vectors import query_vectors
from model_code.runtime.settings import EmbeddingSettings
from schemas.console.progress import Progress
from schemas.datasets.shard_files import read_parquet
from schemas.runs.run import Run
from schemas.tables import embedded
from schemas.tables.vectors import Vectors, vectors_to_arrow
from transforms.inference.batches import UnknownImages, embed_ahead, full_batches, image_embedder
from transforms.inference.bisect import inference_failed
from transforms.inference.folders import Lazy, ModelFolder, load
from transforms.phrases.calibration import Calibrated, HeadWeights
from transforms.phrases.prototypes import image_embs_schema, sums_schema
from transforms.phrases.ranks import rank_phrases
from transforms.shards.blocks import from_blocks
from transforms.shards.outputs import COUNTS, SHARDS, Output, write_sorted
from transforms.shards.reuse import Earlier, read_images

RANKED = "ranked"


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """One shard of images.

    Attributes:
      images, pairs: paths of the shard of images and, of the same ids, of pairs, if any.
      held_out: how many validation images are embedded, the first ones that were clicked.
      earlier: paths of an earlier run's `image_embs` of the same images, by the same generator.
    """

    images: str
    pairs: str | None
    held_out: int
    earlier: Sequence[str] = ()


def share_out(total: int, parts: int) -> list[int]:
    """Cuts a number into `parts` that differ by 1 at most: [parts], which sum to it."""
    return [(total + part) // parts for part in range(parts)]


def clicked_images(pairs: pa.Table, held_out: int) -> pa.Array:
    """The images that are embedded: all that train, and the first validation images.

    Args:
      pairs: rows of tables.PAIRS of one shard.
      held_out: how many validation images, by id.
    """
    found = []
    for split, limit in (("train", None), ("validation", held_out)):
        ids = pc.unique(pairs.filter(pc.equal(pairs["split"], split))["image_id"])
        found.append(ids.sort()[:limit])
    return pa.concat_arrays(found)


@dataclasses.dataclass(frozen=True)
class EmbedClickedImages:
    """Worker of `MapShards`: the `clicked_images` of an `ImageTask` → f(x) in query space."""

    run: Run
    generator: ModelFolder
    width: int
    inference: EmbeddingSettings
    total: int | None
    label: str = "query-space embeddings"
    unit: str = "images"

    def load(self):
        return Lazy(image_embedder, self.generator, None, settings=self.inference)

    def process(self, task: ImageTask, loaded, progress: Progress) -> Output:
        wanted = pa.array([], pa.string())
        if task.pairs:
            columns = ["image_id", "split"]
            pairs = read_parquet(task.pairs, columns=columns)
            wanted = clicked_images(pairs, task.held_out)
        schema = image_embs_schema(self.width)
        parts: list[pa.Table] = [schema.empty_table()]
        dead: list[pa.Table] = []
        splits: list[pa.ChunkedArray] = []
        earlier = Earlier(task.earlier, "image_id", ["query_emb"])
        unknown = UnknownImages(read_images(task.images, earlier, wanted))
        batches = full_batches(unknown, self.inference.batch_size)
        for batch, made in embed_ahead(loaded, batches):
            progress.add(batch.num_rows)
            splits.append(batch["split"])
            for places, embs in made.good:
                rows = batch.take(pa.array(places))
                vectors = vectors_to_arrow(embs["query_emb"])
                parts.append(pa.table([rows["image_id"], rows["split"], vectors], schema))
            if made.bad:
                names, images = batch["image_id"].to_pylist(), batch["image"].to_pylist()
                dead.append(inference_failed(self.run, made.bad, names, images))
        for rows, found in unknown.known:
            progress.add(rows.num_rows)
            splits.append(rows["split"])
            parts.append(pa.table([rows["image_id"], rows["split"], found["query_emb"]], schema))
        table = pa.concat_tables(parts)
        counts = {"reused.rows": unknown.reused}
        for split, kind in (("train", "training_images"), ("validation", "calibration_images")):
            rows = sum(pc.sum(pc.equal(part, split)).as_py() or 0 for part in splits)
            out = pc.sum(pc.equal(table["split"], split)).as_py() or 0
            counts |= {f"{kind}.in": rows, f"{kind}.out": out}
            counts[f"{kind}.dropped_inference_failed"] = rows - out
        return Output({"image_embs": table}, tuple(dead), counts)


def text_embedder(folder: str):
    """Loads a `model_code.models.text_embedder.network.TextEmbedder`."""
    from model_code.models.text_embedder.network import TextEmbedder

    return TextEmbedder(folder)


def choose_vectors(
    queries: pa.Table,
    sums: pa.Table,
    head: HeadWeights,
    calibrated: Calibrated,
    min_images: int,
) -> tuple[pa.Table, np.ndarray]:
    """Gives each query its vector: w_c, φ_c or a mix for the head, φ_c for the tail.

    Args:
      queries: [n] rows of tables.QUERIES.
      sums: rows of `sums_schema` of the same shard.
      head: w_c of the queries that have a weight.
      calibrated: on what scale; see `model_code.phrases.query_vectors`.
      min_images: the fewest images that make a prototype.

    Returns:
      The queries that have a vector, with `source` and `query_vector` added, and which of
      them have a weight, bool.
    """
    known = head.join(queries["query_id"].to_numpy(), sums, min_images)
    vectors, source = query_vectors(known, calibrated.mean, calibrated.calibration)
    has_vector = source != ""
    chosen = queries.append_column("source", pa.array(source.tolist(), pa.string()))
    column = vectors_to_arrow(vectors)
    chosen = chosen.append_column("query_vector", column).filter(pa.array(has_vector))
    return chosen, known.has_weight[has_vector]


class BuildPhrases(beam.PTransform):
    """(shard of queries, {sums, path}), PCollection[Calibrated] → tagged `shards` of phrases,
    `counts` and `ranked` (PCollection[Ranked])."""

    def __init__(
        self,
        run: Run,
        generator: ModelFolder,
        text_embedder: ModelFolder,
        *,
        vectors: Vectors,
        num_shards: int,
        min_images: int,
    ):
        super().__init__()
        self._args = run, generator, text_embedder, vectors, num_shards, min_images

    def expand(self, made):
        shards, calibrated = made
        build = beam.ParDo(_BuildPhrasesFn(*self._args), beam.pvalue.AsSingleton(calibrated))
        return shards | build.with_outputs(SHARDS, COUNTS, RANKED)


@dataclasses.dataclass
class _TextAndHead:
    embedder: Any
    head: HeadWeights


class _BuildPhrasesFn(beam.DoFn):
    def __init__(self, run, generator, text_embedder, vectors, num_shards, min_images):
        self._run, self._generator, self._text_embedder = run, generator, text_embedder
        self._vectors = vectors
        self._num_shards, self._min_images = num_shards, min_images
        self._shared = Shared()

    def setup(self):
        # Once a process: all its threads use the same.
        self._loaded = self._shared.acquire(self._load)

    def _load(self) -> "_TextAndHead":
        return _TextAndHead(
            load(text_embedder, self._text_embedder), HeadWeights.of(self._generator)
        )

    def process(self, shard, calibrated):
        index, grouped = shard
        (path,) = grouped["queries"]
        queries = read_parquet(path)
        (width,) = self._vectors["query_vector"]
        sums = from_blocks(grouped["sums"], sums_schema(width))
        chosen, is_head = choose_vectors(
            queries, sums, self._loaded.head, calibrated, self._min_images
        )
        if chosen.num_rows:
            yield beam.pvalue.TaggedOutput(SHARDS, self._write(chosen, index))
            yield beam.pvalue.TaggedOutput(RANKED, rank_phrases(chosen, is_head, calibrated))
        counts = {
            "queries.in": queries.num_rows,
            "queries.out": chosen.num_rows,
            "queries.dropped_unsupported": queries.num_rows - chosen.num_rows,
        }
        for count in counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, count)

    def _write(self, chosen: pa.Table, index: int):
        schema = embedded.phrases(self._vectors)
        text_embs = self._loaded.embedder.embed(chosen["query"].to_pylist())
        phrases = (
            chosen.append_column("support", chosen["train_images"])
            .append_column("text_emb", vectors_to_arrow(text_embs))
            .select(schema.names)
            .cast(schema)
        )
        return write_sorted(
            self._run, phrases, "phrases", index, num_shards=self._num_shards, keys=["query_id"]
        )
