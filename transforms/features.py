"""Images → features: query-space embedding, predicted phrases, text and pixel embeddings."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_code.progress import Progress
from schemas import storage, tables
from schemas.stage import Stage
from schemas.tables import vectors_to_arrow
from transforms.datasets import Output
from transforms.models import ModelFolder, load
from transforms.phrases import inference_failed
from transforms.shards import run_or_bisect


@dataclasses.dataclass(frozen=True)
class Widths:
    """Widths of the vectors: query space M, text embedding, pixel embedding."""

    query: int
    text: int
    pixel: int

    @property
    def schema(self) -> pa.Schema:
        return tables.features(self.query, self.text, self.pixel)


@dataclasses.dataclass(frozen=True)
class EmbedImages:
    """Worker of `MapShards`: a shard of images (the task is its path) → a shard of features."""

    stage: Stage
    generator: ModelFolder
    pixel_embedder: ModelFolder
    index: ModelFolder
    widths: Widths
    num_phrases: int
    batch_size: int
    total: int | None
    label: str = "features"
    unit: str = "images"

    def load(self):
        embedder = load("image_embedder", self.generator, self.pixel_embedder)
        return embedder, load("phrase_index", self.index)

    def process(self, path: str, loaded, progress: Progress) -> Output:
        embedder, index = loaded
        parts, dead, rows = [], [], 0
        with pq.ParquetFile(storage.open_input(path)) as file:
            columns = ["image_id", "split", "labels", "image"]
            for batch in file.iter_batches(self.batch_size, columns=columns):
                images = batch["image"].to_pylist()
                good, bad = run_or_bisect(embedder.embed, images)
                for start, embs in good:
                    rows_of = batch.slice(start, len(embs.query_embs))
                    parts.append(self._features(rows_of, embs, index))
                names = batch["image_id"].to_pylist()
                dead.append(inference_failed(self.stage, bad, names, images))
                rows += batch.num_rows
                progress.add(batch.num_rows)
        features = pa.concat_tables([self.widths.schema.empty_table(), *parts])
        counts = {
            "images.in": rows,
            "images.out": features.num_rows,
            "images.dropped_inference_failed": rows - features.num_rows,
        }
        return Output({"features": features}, tuple(dead), counts)

    def _features(self, batch: pa.RecordBatch, embs, index) -> pa.Table:
        found = index.search(embs.query_embs, self.num_phrases)
        rows = batch.num_rows
        columns = {
            "image_id": batch["image_id"],
            "split": batch["split"],
            "labels": batch["labels"],
            "query_emb": vectors_to_arrow(embs.query_embs, tables.vector(self.widths.query)),
            "phrase_ids": _lists(index.query_ids[found.rows], pa.int64()),
            "phrases": _lists(np.array(index.queries, dtype=object)[found.rows], pa.string()),
            "phrase_scores": _lists(found.scores, pa.float32()),
            "phrase_probabilities": _lists(found.probabilities, pa.float32()),
            "text_emb": vectors_to_arrow(
                index.text_features(found.rows), tables.vector(self.widths.text)
            ),
            "pixel_emb": vectors_to_arrow(embs.pixel_embs, tables.vector(self.widths.pixel)),
            "generator_fingerprint": pa.array([self.generator.fingerprint] * rows),
            "phrases_fingerprint": pa.array([self.index.fingerprint] * rows),
            "pixel_fingerprint": pa.array([self.pixel_embedder.fingerprint] * rows),
        }
        return pa.table(columns, self.widths.schema)


def _lists(values: np.ndarray, type_: pa.DataType) -> pa.ListArray:
    """[n, N] → a column of n lists."""
    rows, count = values.shape
    offsets = np.arange(0, rows * count + 1, count, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), type_))
