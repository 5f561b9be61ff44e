"""Phrases: every query with its vector in query space (w_c or φ_c) and its text embedding."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_code.progress import Progress
from schemas import manifest, storage, tables
from schemas.dead_letter import dead_letters
from schemas.stage import Stage
from schemas.tables import arrow_to_vectors, vectors_to_arrow
from transforms.datasets import (
    COUNTS,
    SHARDS,
    Output,
    from_blocks,
    split_by_shard,
    to_block,
    write_sorted,
)
from transforms.models import ModelFolder, load
from transforms.shards import run_or_bisect

# Vectors are added up in units of 2^-32: integers, whose sum no order of bundles changes.
SUM_UNIT = float(1 << 32)
READ_BATCH = 64


def image_embs_schema(width: int) -> pa.Schema:
    return pa.schema([("image_id", pa.string()), ("query_emb", tables.vector(width))])


def sums_schema(width: int) -> pa.Schema:
    """Per query: how many images, and the sum of their vectors in units of 1 / SUM_UNIT."""
    return pa.schema(
        [
            ("query_id", pa.int64()),
            ("images", pa.int64()),
            ("sums", pa.list_(pa.int64(), width)),
        ]
    )


@dataclasses.dataclass(frozen=True)
class EmbedTrainingImages:
    """Worker of `MapShards`: images that train → f(x) in query space.

    The task is the paths of one shard of images and, of the same ids, of pairs.
    """

    stage: Stage
    generator: ModelFolder
    width: int
    total: int | None
    label: str = "query-space embeddings"
    unit: str = "images"

    def load(self):
        return load("image_embedder", self.generator, None)

    def process(self, task: tuple[str, str | None], loaded, progress: Progress) -> Output:
        images_path, pairs_path = task
        wanted = pa.array([], pa.string())
        if pairs_path:
            pairs = pq.read_table(storage.open_input(pairs_path), columns=["image_id", "split"])
            wanted = pc.unique(pairs.filter(pc.equal(pairs["split"], "train"))["image_id"])
        ids: list[str] = []
        vectors: list[np.ndarray] = []
        dead: list[pa.Table] = []
        rows = 0
        with pq.ParquetFile(storage.open_input(images_path)) as file:
            for batch in file.iter_batches(READ_BATCH, columns=["image_id", "image"]):
                progress.add(batch.num_rows)
                batch = batch.filter(pc.is_in(batch["image_id"], value_set=wanted))
                rows += batch.num_rows
                names = batch["image_id"].to_pylist()
                images = batch["image"].to_pylist()
                good, bad = run_or_bisect(loaded.embed_queries_only, images)
                for start, embs in good:
                    ids += names[start : start + len(embs)]
                    vectors.append(embs)
                dead.append(inference_failed(self.stage, bad, names, images))
        schema = image_embs_schema(self.width)
        embs = np.concatenate(vectors) if vectors else np.empty((0, self.width), np.float32)
        columns = [pa.array(ids, pa.string()), vectors_to_arrow(embs, schema.types[1])]
        table = pa.table(columns, schema)
        counts = {"training_images.in": rows, "training_images.out": len(ids)}
        counts["training_images.dropped_inference_failed"] = rows - len(ids)
        return Output({"image_embs": table}, tuple(dead), counts)


def inference_failed(
    stage: Stage, bad: list[tuple[int, Exception]], keys: list[str], images: list[bytes]
) -> pa.Table:
    """Dead letters of the items on which a model failed by themselves."""
    return dead_letters(
        stage.name,
        stage.run_id,
        "inference_failed",
        [keys[place] for place, _ in bad],
        [f"{type(error).__name__}: {error}" for _, error in bad],
        [images[place] for place, _ in bad],
    )


def partial_sums(image_embs: pa.Table, pairs: pa.Table) -> pa.Table:
    """The summands of φ_c (equation (2)) from one shard of images.

    Args:
      image_embs: f(x) of the images.
      pairs: rows of tables.PAIRS of the same shard.

    Returns:
      Rows of `sums_schema`, one a query.
    """
    width = image_embs.schema.field("query_emb").type.list_size
    place = pc.index_in(pairs["image_id"], value_set=image_embs["image_id"])
    known = pc.and_(pc.is_valid(place), pc.equal(pairs["split"], "train"))
    queries = pairs["query_id"].filter(known).to_numpy()
    vectors = arrow_to_vectors(image_embs["query_emb"])[place.filter(known).to_numpy()]
    sums = np.round(vectors.astype(np.float64) * SUM_UNIT).astype(np.int64)
    return _sum_by_query(queries, np.ones(len(queries), np.int64), sums, width)


def _sum_by_query(queries, images, sums, width: int) -> pa.Table:
    order = np.argsort(queries, kind="stable")
    queries, images, sums = queries[order], images[order], sums[order]
    starts = np.flatnonzero(np.r_[True, queries[1:] != queries[:-1]][: len(queries)])
    if len(starts):
        images, sums = np.add.reduceat(images, starts), np.add.reduceat(sums, starts)
    schema = sums_schema(width)
    columns = [pa.array(queries[starts], pa.int64()), pa.array(images, pa.int64())]
    return pa.table([*columns, vectors_to_arrow(sums, schema.types[2])], schema)


def add_sums(parts: list[pa.Table], width: int) -> pa.Table:
    """Adds up rows of `sums_schema` by query; the same in any order, to the last bit."""
    table = pa.concat_tables([sums_schema(width).empty_table(), *parts])
    return _sum_by_query(
        table["query_id"].to_numpy(),
        table["images"].to_numpy(),
        arrow_to_vectors(table["sums"]),
        width,
    )


class SumVectors(beam.CombineFn):
    """Adds up vectors by query, for `CombinePerKey` over shards of queries.

    A key is a whole shard of queries and a value a block of sums, so that the lifted
    combiner adds vectors in NumPy before the shuffle instead of moving each by itself.
    """

    COMPACT_AFTER = 16

    def __init__(self, width: int):
        self._width = width

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, accumulator: list[pa.Table], block: bytes) -> list[pa.Table]:
        accumulator.append(from_blocks([block], sums_schema(self._width)))
        return self.compact(accumulator) if len(accumulator) > self.COMPACT_AFTER else accumulator

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        return self.compact([table for tables_ in accumulators for table in tables_])

    def compact(self, accumulator: list[pa.Table]) -> list[pa.Table]:
        return [add_sums(accumulator, self._width)] if accumulator else []

    def extract_output(self, accumulator: list[pa.Table]) -> bytes:
        return to_block(add_sums(accumulator, self._width))


class Prototypes(beam.PTransform):
    """PCollection[(paths of image_embs and pairs)] → PCollection[(shard, block of sums)]."""

    def __init__(self, width: int, num_shards: int):
        super().__init__()
        self._width, self._num_shards = width, num_shards

    def _sum(self, paths: tuple[str, str]):
        embs_path, pairs_path = paths
        columns = ["image_id", "query_id", "split"]
        sums = partial_sums(
            pq.read_table(storage.open_input(embs_path)),
            pq.read_table(storage.open_input(pairs_path), columns=columns),
        )
        yield from split_by_shard(sums, "query_id", self._num_shards)

    def expand(self, paths):
        return paths | beam.FlatMap(self._sum) | beam.CombinePerKey(SumVectors(self._width))


def choose_vectors(
    queries: pa.Table,
    sums: pa.Table,
    head_ids: np.ndarray,
    head_vectors: np.ndarray,
    min_images: int,
    head: str,
) -> pa.Table:
    """Gives each query its vector: w_c for the head, φ_c for the tail (equation (2)).

    Args:
      queries: [n] rows of tables.QUERIES.
      sums: rows of `sums_schema` of the same shard.
      head_ids: [K] int64, queries with a weight.
      head_vectors: [K, M] float32, w_c, unit length.
      min_images: the fewest images that make a prototype.
      head: "weight" or "prototype": what head queries get where both exist.

    Returns:
      The queries that have a vector, with `source` and `query_vector` added; φ_c is
      brought to unit length, since distance is the cosine's.
    """
    n, width = queries.num_rows, head_vectors.shape[1]
    ids = queries["query_id"]
    vectors = np.zeros((n, width), np.float32)
    source = np.full(n, "", dtype=object)
    place = pc.index_in(ids, value_set=sums["query_id"]).fill_null(-1).to_numpy()
    enough = sums["images"].to_numpy()[place] >= min_images if sums.num_rows else np.zeros(n, bool)
    tail = np.flatnonzero((place >= 0) & enough)
    if len(tail):
        means = arrow_to_vectors(sums["sums"])[place[tail]].astype(np.float64)
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        vectors[tail] = means / np.maximum(norms, 1e-12)
        source[tail] = np.where(norms[:, 0] > 0, "prototype", "")
    place = pc.index_in(ids, value_set=pa.array(head_ids)).fill_null(-1).to_numpy()
    weighted = place >= 0
    if head == "prototype":
        weighted &= source == ""
    vectors[weighted] = head_vectors[place[weighted]]
    source[weighted] = "weight"
    chosen = queries.append_column("source", pa.array(source, pa.string())).append_column(
        "query_vector", vectors_to_arrow(vectors, tables.vector(width))
    )
    return chosen.filter(pa.array(source != ""))


class BuildPhrases(beam.PTransform):
    """(shard of queries, {sums, path}) → tagged `shards` of phrases and `counts`."""

    def __init__(
        self,
        stage: Stage,
        generator: ModelFolder,
        text_embedder: ModelFolder,
        widths: tuple[int, int],
        num_shards: int,
        min_images: int,
        head: str,
    ):
        super().__init__()
        self._args = stage, generator, text_embedder, widths, num_shards, min_images, head

    def expand(self, shards):
        return shards | beam.ParDo(_BuildPhrasesFn(*self._args)).with_outputs(SHARDS, COUNTS)


class _BuildPhrasesFn(beam.DoFn):
    def __init__(self, stage, generator, text_embedder, widths, num_shards, min_images, head):
        self._stage, self._generator, self._text_embedder = stage, generator, text_embedder
        self._query_width, self._text_width = widths
        self._num_shards, self._min_images, self._head = num_shards, min_images, head

    def setup(self):
        self._embedder = load("text_embedder", self._text_embedder)
        read = functools.partial(np.load, allow_pickle=False)
        with storage.local_copy(self._generator.path) as folder:
            self._head_ids = read(os.path.join(folder, "query_ids.npy"))
            self._head_vectors = read(os.path.join(folder, "query_vectors.npy"))

    def process(self, shard):
        index, grouped = shard
        (path,) = grouped["queries"]
        queries = pq.read_table(storage.open_input(path))
        chosen = choose_vectors(
            queries,
            from_blocks(grouped["sums"], sums_schema(self._query_width)),
            self._head_ids,
            self._head_vectors,
            self._min_images,
            self._head,
        )
        if chosen.num_rows:
            yield beam.pvalue.TaggedOutput(SHARDS, self._write(chosen, index))
        counts = {
            "queries.in": queries.num_rows,
            "queries.out": chosen.num_rows,
            "queries.dropped_unsupported": queries.num_rows - chosen.num_rows,
        }
        for count in counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, count)

    def _write(self, chosen: pa.Table, index: int):
        schema = tables.phrases(self._query_width, self._text_width)
        text_embs = self._embedder.embed(chosen["query"].to_pylist())
        phrases = (
            chosen.append_column("support", chosen["train_images"])
            .append_column("text_emb", vectors_to_arrow(text_embs, tables.vector(self._text_width)))
            .select(schema.names)
            .cast(schema)
        )
        return write_sorted(self._stage, phrases, "phrases", index, self._num_shards, ["query_id"])


def build_index(
    _: None, shards: Iterable[tuple[str, manifest.Shard]], stage: Stage, temperature: float
) -> Iterable[tuple[str, manifest.Shard]]:
    """Builds the Faiss index of all phrases, in the order of their shards, and writes its files."""
    from model_code import phrase_index

    written = sorted(shard for name, shard in shards if name == "phrases")
    batches = [
        batch
        for shard in written
        for batch in pq.read_table(storage.open_input(stage.absolute(shard.path))).to_batches()
    ]
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        phrase_index.build(folder, batches, temperature)
        names = storage.upload_dir(folder, stage.absolute(stage.folder("index")))
    for shard in manifest.describe_files(stage.output, stage.folder("index"), names):
        yield "index", shard
