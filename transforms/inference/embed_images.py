"""Images → features: query-space embedding, predicted phrases, text and pixel embeddings."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from model_code.phrases.settings import PhraseSettings
from model_code.runtime.settings import EmbeddingSettings
from schemas.console.progress import Progress
from schemas.runs.stage import Stage
from schemas.tables import mined as tables
from schemas.tables.mined import vectors_to_arrow
from transforms.inference.batches import (
    UnknownImages,
    embed_ahead,
    embeddings_of,
    full_batches,
    image_embedder,
)
from transforms.inference.bisect import inference_failed
from transforms.inference.folders import Lazy, ModelFolder, load
from transforms.shards.outputs import Output
from transforms.shards.reuse import Earlier, read_images

ROW = ["image_id", "split", "labels"]  # of an image, as its features have them
# Images that phrases are chosen for: a call has its costs, and scores with all phrases their size.
CHOSEN_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Widths:
    """Widths of the vectors: query space M, text embedding, pixel embedding."""

    query: int
    text: int
    pixel: int

    @property
    def schema(self) -> pa.Schema:
        return tables.features(self.query, self.text, self.pixel)


def phrase_index(folder: str, settings: EmbeddingSettings):
    """Loads a `model_code.phrases.index.PhraseIndex`."""
    from model_code.phrases.index import PhraseIndex

    return PhraseIndex(folder, settings.device != "cpu")


@dataclasses.dataclass(frozen=True)
class EmbedImages:
    """Worker of `MapShards`: a shard of images → a shard of features.

    The task is its path and those of an earlier run's features of the same images, if any.
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
        from model_code.phrases.chooser import PhraseChooser
        from model_code.runtime.devices import open_device

        # Before the first graph starts TensorFlow: a shard of known images needs no embedder.
        open_device(self.inference.device, self.inference.tf_threads)
        embedder = Lazy(
            image_embedder, self.generator, self.pixel_embedder, settings=self.inference
        )
        index = load(phrase_index, self.index, settings=self.inference)
        return embedder, PhraseChooser(index, self.phrase_settings)

    def process(self, task: tuple[str, Sequence[str]], loaded, progress: Progress) -> Output:
        path, earlier_paths = task
        embedder, chooser = loaded
        rows = [tables.IMAGES.empty_table().select(ROW)]
        embs, dead = [], []
        earlier = Earlier(
            earlier_paths,
            "image_id",
            ["query_emb", "pixel_emb"],
            {
                "generator_fingerprint": self.generator.fingerprint,
                "pixel_fingerprint": self.pixel_embedder.fingerprint,
            },
        )
        unknown = UnknownImages(read_images(path, earlier))
        batches = full_batches(unknown, self.inference.batch_size)
        for batch, embedded in embed_ahead(embedder, batches):
            progress.add(batch.num_rows)
            for places, found in embedded.good:
                rows.append(batch.select(ROW).take(pa.array(places)))
                embs.append(found)
            if embedded.bad:
                names, images = batch["image_id"].to_pylist(), batch["image"].to_pylist()
                dead.append(inference_failed(self.stage, embedded.bad, names, images))
        for known, found in unknown.known:
            progress.add(known.num_rows)
            rows.append(known.select(ROW))
            embs.append(embeddings_of(found))
        features = self._features(pa.concat_tables(rows), embs, chooser)
        counts = {
            "images.in": unknown.rows,
            "images.out": features.num_rows,
            "images.dropped_inference_failed": unknown.rows - features.num_rows,
            "reused.rows": unknown.reused,
        }
        return Output({"features": features}, tuple(dead), counts)

    def _features(self, rows: pa.Table, embs: Sequence, chooser) -> pa.Table:
        """The features of a shard: phrases are chosen for many images at once."""
        parts = [self.widths.schema.empty_table()]
        if rows.num_rows:
            query_embs = np.concatenate([part.query_embs for part in embs])
            pixel_embs = np.concatenate([part.pixel_embs for part in embs])
            for start in range(0, rows.num_rows, CHOSEN_AT_ONCE):
                part = slice(start, start + CHOSEN_AT_ONCE)
                images = rows.slice(start, CHOSEN_AT_ONCE)
                parts.append(self._table(images, query_embs[part], pixel_embs[part], chooser))
        return pa.concat_tables(parts)

    def _table(
        self, images: pa.Table, query_embs: np.ndarray, pixel_embs: np.ndarray, chooser
    ) -> pa.Table:
        found = chooser.choose(query_embs)
        rows = images.num_rows
        columns = {
            **{name: images[name] for name in ROW},
            "query_emb": vectors_to_arrow(query_embs, tables.vector(self.widths.query)),
            "phrase_ids": _lists(chooser.index.query_ids[found.rows], pa.int64()),
            "phrases": _lists(found.phrases, pa.string()),
            "phrase_scores": _lists(found.scores, pa.float32()),
            "phrase_probabilities": _lists(found.probabilities, pa.float32()),
            "text_emb": vectors_to_arrow(found.text_embs, tables.vector(self.widths.text)),
            "pixel_emb": vectors_to_arrow(pixel_embs, tables.vector(self.widths.pixel)),
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
