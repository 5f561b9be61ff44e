"""The exported model: all networks in one graph, from image bytes to labels and phrases."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import pyarrow.parquet as pq
import tensorflow as tf

from model_code.images import weights
from model_code.images.embedder import ImageEmbedder
from model_code.models.fusion.classifier import HALVES
from model_code.models.fusion.preprocessing import Normaliser
from model_code.phrases import diversity
from model_code.phrases.settings import PhraseSettings
from schemas.tables.arrays import load_array

# Rows of the phrase table that one product with the images covers: 256 MB at batch 256.
SEARCH_CHUNK = 1 << 18


def nearest(
    query_embs: tf.Tensor, query_vectors: tf.Variable, count: int, chunk: int = SEARCH_CHUNK
) -> tuple[tf.Tensor, tf.Tensor]:
    """The nearest rows of a table by inner product, exactly.

    Args:
      query_embs: [batch, M] float32 unit rows.
      query_vectors: [K, M] float32; of unit length for the head, scaled for the tail.
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


def score_variants(
    transform: Callable,
    network: Callable,
    varied: Mapping[str, tf.Tensor],
    fixed: Mapping[str, tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """What the classifier says of images of which some vectors come in several variants.

    Args:
      transform: vectors by name → normalised vectors by name.
      network: normalised vectors by name → (logits, probabilities), [batch, labels] each.
      varied: name → [batch, V, *shape] float32.
      fixed: name → [batch, *shape] float32, of an image with every variant.

    Returns:
      logits and probabilities, [batch, V, labels] float32 each.
    """
    variants = next(iter(varied.values())).shape[1]
    vectors = {name: tf.reshape(v, [-1, *v.shape[2:]]) for name, v in varied.items()}
    vectors |= {name: tf.repeat(v, variants, axis=0) for name, v in fixed.items()}
    features = transform(vectors)
    scores = network({name: features[name] for name in vectors}, training=False)
    logits, probabilities = (tf.reshape(s, [-1, variants, s.shape[1]]) for s in scores)
    return logits, probabilities


class _ImageClassifier:
    """The parts in a row; see `export` for the folders."""

    def __init__(self, folders: Mapping[str, str], top_labels: int):
        self.embedder = ImageEmbedder(folders["generator"], folders["pixel_embedder"])
        index = folders["index"]
        vectors = load_array(os.path.join(index, "query_vectors.npy"))
        queries = pq.read_table(os.path.join(index, "queries.parquet"))["query"].to_pylist()
        self.query_vectors = tf.Variable(vectors, trainable=False)
        text_embs = load_array(os.path.join(index, "text_embs.npy"))
        self.text_embs = tf.Variable(text_embs, trainable=False)
        self.phrases = tf.Variable(queries, trainable=False)
        with open(os.path.join(index, "config.json"), encoding="utf-8") as f:
            self.temperature = json.load(f)["temperature"]
        self.normaliser = Normaliser(folders["transform"])
        fused = weights.load(os.path.join(folders["fusion"], "fused.keras"))
        self.fused = keras.Model(fused.input, [fused.get_layer("logits").output, fused.output])
        with open(os.path.join(folders["metadata"], "labels.txt"), encoding="utf-8") as f:
            labels = f.read().removesuffix("\n").split("\n")
        self.labels = tf.Variable(labels, trainable=False)
        with open(os.path.join(folders["metadata"], "config.json"), encoding="utf-8") as f:
            self.phrase_settings = PhraseSettings.of(json.load(f))
        self.pool = min(self.phrase_settings.pool, len(queries))
        self.num_phrases = min(self.phrase_settings.num_phrases, len(queries))
        self.top_labels = min(top_labels, len(labels))

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """All in one for who serves; its two halves for who has the embeddings already.

        The one calls the other two: networks of hundreds of layers are traced once.
        """
        specs = {
            name: tf.TensorSpec([None, *shape], tf.float32, name)
            for name, shape in self.embedder.vectors.items()
        }
        images = tf.TensorSpec([None], tf.string, "images")
        embed = tf.function(self.embed, autograph=False).get_concrete_function(images)
        classify_embeddings = tf.function(
            self.classify_embeddings, autograph=False
        ).get_concrete_function(**specs)
        classify = tf.function(
            lambda images: classify_embeddings(**embed(images=images)), autograph=False
        )
        return {
            "serving_default": classify.get_concrete_function(images),
            "embed": embed,
            "classify_embeddings": classify_embeddings,
        }

    def embed(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.embedder.graph(images)

    def classify_embeddings(self, **embs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, rows, text_embs = self._phrases(embs["query_emb"])
        args = self.phrase_settings, scores, text_embs, self.temperature
        texts = diversity.text_features(*args)
        # With all phrases first, then without each: what one is said to have done is what it did.
        texts = tf.concat([texts[:, tf.newaxis], diversity.without_each(*args)], axis=1)
        varied = {"text_emb": texts}
        fixed = {name: embs[name] for name in self.fused.input if name not in varied}
        logits, probabilities = score_variants(self.normaliser, self.fused, varied, fixed)
        best = tf.math.top_k(probabilities[:, 0], self.top_labels)
        effects = tf.transpose(logits[:, :1] - logits[:, 1:], [0, 2, 1])
        return {
            "labels": tf.gather(self.labels, best.indices),
            "probabilities": best.values,
            "phrases": tf.gather(self.phrases, rows),
            "phrase_scores": scores,
            "phrase_effects": tf.gather(effects, best.indices, batch_dims=1),
        }

    def _phrases(self, query_embs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Scores [batch, N], rows [batch, N] and text embeddings [batch, N, T] of the phrases."""
        scores, rows = nearest(query_embs, self.query_vectors, self.pool)
        text_embs = tf.gather(self.text_embs, rows)
        phrases = tf.gather(self.phrases, rows)
        places = diversity.choose(self.phrase_settings, scores, text_embs, phrases)
        return tuple(tf.gather(v, places, batch_dims=1) for v in (scores, rows, text_embs))


def export(folders: Mapping[str, str], output: str, top_labels: int) -> dict[str, Any]:
    """Writes the SavedModel.

    Args:
      folders: local folders: generator, pixel_embedder and fusion (their tables "model"),
        index (of phrases), transform and metadata (of examples).
      output: local folder; gets saved_model/.
      top_labels: k, labels of an image.

    Returns:
      Numbers of labels, phrases, num_phrases and top_labels in the model; what its image networks
      make ("vectors", name → shape), and how its phrases are chosen ("phrase_settings").
    """
    model = _ImageClassifier(folders, top_labels)
    signatures = model.signatures()
    # What the graphs read, and nothing of the layers around it: to walk Keras' objects takes
    # longer than all else.
    module = tf.Module()
    module.normaliser = model.normaliser.tracked
    module.weights = [v for name in HALVES for v in _variables(signatures[name])]
    tf.saved_model.save(module, os.path.join(output, "saved_model"), signatures)
    return {
        "labels": model.labels.shape[0],
        "phrases": model.phrases.shape[0],
        "num_phrases": model.num_phrases,
        "top_labels": model.top_labels,
        "vectors": model.embedder.vectors,
        "phrase_settings": dataclasses.asdict(model.phrase_settings),
    }


def _variables(function: tf.types.experimental.ConcreteFunction) -> list[tf.Variable]:
    """Those that a graph reads, in the order in which it was traced.

    `function.variables` has the order of a set, by addresses in memory: files would differ.
    """
    places = {id(handle): place for place, handle in enumerate(function.captured_inputs)}
    return sorted(function.variables, key=lambda variable: places[id(variable.handle)])
