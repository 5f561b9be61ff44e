"""Images → features: query-space embedding, predicted phrases, text and pixel embeddings."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from model_code.phrases.settings import PhraseSettings
from model_code.runtime.settings import EmbeddingSettings
from schemas.console.progress import Progress
from schemas.runs.run import Run
from schemas.tables import embedded
from schemas.tables import mined as tables
from schemas.tables.vectors import Vectors, joined, vectors_to_arrow
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

TEXT = "text_emb"  # the vector of the phrases; the others are made of pixels
ROW = ["image_id", "split", "labels"]  # of an image, as its features have them
# Images that phrases are chosen for: a call has its costs, and scores with all phrases their size.
CHOSEN_AT_ONCE = 256


def phrase_index(folder: str, settings: EmbeddingSettings):
    """Loads a `model_code.phrases.index.PhraseIndex`."""
    from model_code.phrases.index import PhraseIndex

    return PhraseIndex(folder, settings.device != "cpu")


@dataclasses.dataclass(frozen=True)
class EmbedImages:
    """Worker of `MapShards`: a shard of images → a shard of features.

    The task is its path and those of an earlier run's features of the same images, if any.

    Attributes:
      vectors: of the features: what the image networks make, and "text_emb".
    """

    run: Run
    generator: ModelFolder
    pixel_embedder: ModelFolder
    index: ModelFolder
    vectors: Vectors
    phrase_settings: PhraseSettings
    inference: EmbeddingSettings
    total: int | None
    label: str = "features"
    unit: str = "images"

    @property
    def schema(self) -> pa.Schema:
        """Of the features."""
        return embedded.features(self.vectors)

    @property
    def embeddings(self) -> Vectors:
        """Those of the vectors that the image networks make."""
        return {name: shape for name, shape in self.vectors.items() if name != TEXT}

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
            list(self.embeddings),
            {
                "generator_fingerprint": self.generator.fingerprint,
                "pixel_fingerprint": self.pixel_embedder.fingerprint,
            },
        )
        unknown = UnknownImages(read_images(path, earlier))
        batches = full_batches(unknown, self.inference.batch_size)
        for batch, made in embed_ahead(embedder, batches):
            progress.add(batch.num_rows)
            for places, found in made.good:
                rows.append(batch.select(ROW).take(pa.array(places)))
                embs.append(found)
            if made.bad:
                names, images = batch["image_id"].to_pylist(), batch["image"].to_pylist()
                dead.append(inference_failed(self.run, made.bad, names, images))
        for known, found in unknown.known:
            progress.add(known.num_rows)
            rows.append(known.select(ROW))
            embs.append(embeddings_of(found, self.embeddings))
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
        parts = [self.schema.empty_table()]
        vectors = joined(embs) if embs else {}
        for start in range(0, rows.num_rows, CHOSEN_AT_ONCE):
            part = {n: values[start : start + CHOSEN_AT_ONCE] for n, values in vectors.items()}
            parts.append(self._table(rows.slice(start, CHOSEN_AT_ONCE), part, chooser))
        return pa.concat_tables(parts)

    def _table(self, images: pa.Table, embs: Mapping[str, np.ndarray], chooser) -> pa.Table:
        found = chooser.choose(embs["query_emb"])
        rows = images.num_rows
        vectors = {**embs, TEXT: found.text_embs}
        columns = {
            **{name: images[name] for name in ROW},
            "phrase_ids": _lists(chooser.index.query_ids[found.rows], pa.int64()),
            "phrases": _lists(found.phrases, pa.string()),
            "phrase_scores": _lists(found.scores, pa.float32()),
            "phrase_probabilities": _lists(found.probabilities, pa.float32()),
            **{name: vectors_to_arrow(vectors[name]) for name in self.vectors},
            "generator_fingerprint": pa.array([self.generator.fingerprint] * rows),
            "phrases_fingerprint": pa.array([self.index.fingerprint] * rows),
            "pixel_fingerprint": pa.array([self.pixel_embedder.fingerprint] * rows),
        }
        return pa.table(columns, self.schema)


def _lists(values: np.ndarray, type_: pa.DataType) -> pa.ListArray:
    """[n, N] → a column of n lists."""
    rows, count = values.shape
    offsets = np.arange(0, rows * count + 1, count, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), type_))
