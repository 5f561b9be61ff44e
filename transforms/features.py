"""Images → features: query-space embedding, predicted phrases, text and pixel embeddings."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_code.inference_settings import EmbeddingSettings
from model_code.phrase_settings import PhraseSettings
from model_code.progress import Progress
from schemas import storage, tables
from schemas.stage import Stage
from schemas.tables import arrow_to_vectors, vectors_to_arrow
from transforms.datasets import Output
from transforms.inference import COLUMNS, embed_ahead, full_batches
from transforms.models import ModelFolder, load
from transforms.phrases import inference_failed


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
    """Worker of `MapShards`: a shard of images → a shard of features.

    The task is its path and that of an earlier run's features of the same shard, or None.
    """

    stage: Stage
    generator: ModelFolder
    pixel_embedder: ModelFolder
    index: ModelFolder
    widths: Widths
    phrase_settings: PhraseSettings
    inference: EmbeddingSettings
    total: int | None
    label: str = "features"
    unit: str = "images"

    def load(self):
        from model_code.phrase_chooser import PhraseChooser

        embedder = load(
            "image_embedder", self.generator, self.pixel_embedder, settings=self.inference
        )
        return embedder, PhraseChooser(load("phrase_index", self.index), self.phrase_settings)

    def process(self, task: tuple[str, str | None], loaded, progress: Progress) -> Output:
        path, earlier_path = task
        embedder, chooser = loaded
        parts, dead = [], []
        earlier = self._earlier(earlier_path)
        with pq.ParquetFile(storage.open_input(path)) as file:
            whole = file.read(["image_id", "split", "labels"])
            place = pc.index_in(whole["image_id"], value_set=earlier["image_id"])
            for known in whole.filter(pc.is_valid(place)).to_batches(KNOWN_BATCH):
                embs = take_embeddings(earlier, known["image_id"])
                parts.append(self._features(known, embs, chooser))
                progress.add(known.num_rows)
            for batch, embedded in embed_ahead(embedder, self._unknown(file, earlier)):
                progress.add(batch.num_rows)
                for places, embs in embedded.good:
                    parts.append(self._features(batch.take(pa.array(places)), embs, chooser))
                if embedded.bad:
                    names, images = batch["image_id"].to_pylist(), batch["image"].to_pylist()
                    dead.append(inference_failed(self.stage, embedded.bad, names, images))
        features = pa.concat_tables([self.widths.schema.empty_table(), *parts])
        counts = {
            "images.in": whole.num_rows,
            "images.out": features.num_rows,
            "images.dropped_inference_failed": whole.num_rows - features.num_rows,
            "reused.rows": len(place) - place.null_count,
        }
        return Output({"features": features}, tuple(dead), counts)

    def _unknown(self, file: pq.ParquetFile, earlier: pa.Table) -> Iterator[pa.Table]:
        """Batches of the images that were not embedded earlier."""
        size, columns = self.inference.batch_size, ["image_id", "split", "labels", *COLUMNS]
        read = file.iter_batches(size, columns=columns)
        ids = earlier["image_id"]
        return full_batches(
            (b.filter(pc.invert(pc.is_in(b["image_id"], value_set=ids))) for b in read), size
        )

    def _earlier(self, path: str | None) -> pa.Table:
        """The vectors that the very same networks computed for an earlier run."""
        if path is None:
            return self.widths.schema.empty_table().select(EARLIER)
        table = pq.read_table(storage.open_input(path), columns=EARLIER)
        return table.filter(
            pc.and_(
                pc.equal(table["generator_fingerprint"], self.generator.fingerprint),
                pc.equal(table["pixel_fingerprint"], self.pixel_embedder.fingerprint),
            )
        )

    def _features(self, batch: pa.RecordBatch | pa.Table, embs, chooser) -> pa.Table:
        found = chooser.choose(embs.query_embs)
        rows = batch.num_rows
        columns = {
            "image_id": batch["image_id"],
            "split": batch["split"],
            "labels": batch["labels"],
            "query_emb": vectors_to_arrow(embs.query_embs, tables.vector(self.widths.query)),
            "phrase_ids": _lists(chooser.index.query_ids[found.rows], pa.int64()),
            "phrases": _lists(found.phrases, pa.string()),
            "phrase_scores": _lists(found.scores, pa.float32()),
            "phrase_probabilities": _lists(found.probabilities, pa.float32()),
            "text_emb": vectors_to_arrow(found.text_embs, tables.vector(self.widths.text)),
            "pixel_emb": vectors_to_arrow(embs.pixel_embs, tables.vector(self.widths.pixel)),
            "generator_fingerprint": pa.array([self.generator.fingerprint] * rows),
            "phrases_fingerprint": pa.array([self.index.fingerprint] * rows),
            "pixel_fingerprint": pa.array([self.pixel_embedder.fingerprint] * rows),
        }
        return pa.table(columns, self.widths.schema)


KNOWN_BATCH = 1024  # images whose phrases are found at once
EARLIER = ["image_id", "query_emb", "pixel_emb", "generator_fingerprint", "pixel_fingerprint"]


def take_embeddings(features: pa.Table, image_ids: pa.Array):
    """The `ImageEmbeddings` of images whose features are known."""
    from model_code.image_embedder import ImageEmbeddings

    rows = features.take(pc.index_in(image_ids, value_set=features["image_id"]))
    return ImageEmbeddings(*(arrow_to_vectors(rows[name]) for name in ("query_emb", "pixel_emb")))


def _lists(values: np.ndarray, type_: pa.DataType) -> pa.ListArray:
    """[n, N] → a column of n lists."""
    rows, count = values.shape
    offsets = np.arange(0, rows * count + 1, count, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), type_))
