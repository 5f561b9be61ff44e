"""The whole classifier as one SavedModel: image bytes → labels, with the phrases behind them."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from model_code.image_embedder import ImageEmbedder

# Rows of the phrase table that one product with the images covers: 256 MB at batch 256.
SEARCH_CHUNK = 1 << 18
# Images go through in batches of one size, so that none depends on how many come with it.
BATCH_SIZE = 32


def nearest(
    query_embs: tf.Tensor, query_vectors: tf.Variable, count: int, chunk: int = SEARCH_CHUNK
) -> tuple[tf.Tensor, tf.Tensor]:
    """The nearest rows of a table by cosine, exactly.

    Args:
      query_embs: [batch, M] float32 unit rows.
      query_vectors: [K, M] float32 unit rows.
      count: N, at most K.
      chunk: rows of the table compared at once.

    Returns:
      scores [batch, N] float32 and rows [batch, N] int32, nearest first.
    """
    scores, rows = [], []
    for start in range(0, query_vectors.shape[0], chunk):
        part = query_vectors[start : start + chunk]
        found = tf.math.top_k(
            tf.matmul(query_embs, part, transpose_b=True), min(count, part.shape[0])
        )
        scores.append(found.values)
        rows.append(found.indices + start)
    best = tf.math.top_k(tf.concat(scores, axis=1), count)
    return best.values, tf.gather(tf.concat(rows, axis=1), best.indices, batch_dims=1)


class _ImageClassifier(tf.Module):
    """The parts in a row; see `export` for the folders."""

    def __init__(self, folders: Mapping[str, str], top_labels: int):
        import tensorflow_transform as tft

        super().__init__()
        self.embedder = ImageEmbedder(folders["generator"], folders["pixel_embedder"])
        index = folders["index"]
        vectors = np.load(os.path.join(index, "query_vectors.npy"))
        queries = pq.read_table(os.path.join(index, "queries.parquet"))["query"].to_pylist()
        self.query_vectors = tf.Variable(vectors, trainable=False)
        self.text_embs = tf.Variable(np.load(os.path.join(index, "text_embs.npy")), trainable=False)
        self.phrases = tf.Variable(queries, trainable=False)
        self.transform = tft.TFTransformOutput(folders["transform"]).transform_features_layer()
        self.fused = keras.models.load_model(os.path.join(folders["fusion"], "fused.keras"))
        with open(os.path.join(folders["metadata"], "labels.txt"), encoding="utf-8") as f:
            labels = f.read().removesuffix("\n").split("\n")
        self.labels = tf.Variable(labels, trainable=False)
        with open(os.path.join(folders["metadata"], "config.json")) as f:
            self.num_phrases = min(json.load(f)["num_phrases"], len(queries))
        self.top_labels = min(top_labels, len(labels))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "images")])
    def classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        query_embs, pixel_embs = self.embedder.graph(images)
        scores, rows = nearest(query_embs, self.query_vectors, self.num_phrases)
        text_embs = tf.reduce_mean(tf.gather(self.text_embs, rows), axis=1)
        features = self.transform({"text_emb": text_embs, "pixel_emb": pixel_embs})
        probabilities = self.fused(
            {name: features[name] for name in ("text_emb", "pixel_emb")}, training=False
        )
        best = tf.math.top_k(probabilities, self.top_labels)
        return {
            "labels": tf.gather(self.labels, best.indices),
            "probabilities": best.values,
            "phrases": tf.gather(self.phrases, rows),
            "phrase_scores": scores,
        }


def export(folders: Mapping[str, str], output: str, top_labels: int) -> dict[str, int]:
    """Writes the SavedModel.

    Args:
      folders: local folders: generator, pixel_embedder and fusion (their tables "model"),
        index (of phrases), transform and metadata (of examples).
      output: local folder; gets saved_model/.
      top_labels: k, labels of an image.

    Returns:
      Numbers of labels, phrases, num_phrases and top_labels in the model.
    """
    module = _ImageClassifier(folders, top_labels)
    tf.saved_model.save(
        module, os.path.join(output, "saved_model"), {"serving_default": module.classify}
    )
    return {
        "labels": module.labels.shape[0],
        "phrases": module.phrases.shape[0],
        "num_phrases": module.num_phrases,
        "top_labels": module.top_labels,
    }


@dataclasses.dataclass(frozen=True)
class Classified:
    """Of n images.

    Attributes:
      labels: [n][k] most probable first.
      probabilities: [n, k] float32.
      phrases: [n][N] nearest first.
      phrase_scores: [n, N] float32, cosines.
    """

    labels: list[list[str]]
    probabilities: np.ndarray
    phrases: list[list[str]]
    phrase_scores: np.ndarray


class Classifier:
    """An exported model, loaded.

    Args:
      folder: local folder of the table "model".
    """

    def __init__(self, folder: str):
        # The signature is a weak reference into the module that was loaded.
        self._module = tf.saved_model.load(os.path.join(folder, "saved_model"))
        self._classify = self._module.signatures["serving_default"]
        with open(os.path.join(folder, "config.json")) as f:
            self.config = json.load(f)

    def classify(self, images: Sequence[bytes]) -> Classified:
        """Classifies images.

        Args:
          images: [n] JPEG or PNG files.

        Raises:
          tf.errors.InvalidArgumentError: one of them cannot be decoded.
        """
        parts: dict[str, list[np.ndarray]] = {
            "labels": [],
            "probabilities": [],
            "phrases": [],
            "phrase_scores": [],
        }
        for start in range(0, len(images), BATCH_SIZE):
            batch = list(images[start : start + BATCH_SIZE])
            filled = batch + batch[-1:] * (BATCH_SIZE - len(batch))
            found = self._classify(images=tf.constant(filled))
            for name, rows in parts.items():
                rows.append(found[name].numpy()[: len(batch)])
        return Classified(
            _texts(parts["labels"]),
            np.concatenate(parts["probabilities"]),
            _texts(parts["phrases"]),
            np.concatenate(parts["phrase_scores"]),
        )


def _texts(parts: list[np.ndarray]) -> list[list[str]]:
    return [[value.decode() for value in row] for part in parts for row in part]
