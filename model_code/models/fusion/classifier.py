"""The whole classifier as one SavedModel: image bytes → labels, with the phrases behind them."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from model_code.images import weights
from model_code.images.embedder import ImageEmbedder, ImageEmbeddings
from model_code.models.fusion.preprocessing import Normaliser
from model_code.phrases import diversity
from model_code.phrases.settings import PhraseSettings
from model_code.runtime import devices, saved_models
from model_code.runtime.batches import BatchLimit, run_in_batches
from model_code.runtime.settings import InferenceSettings
from schemas.base.errors import PhraseLensError
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
    transform: Callable, network: Callable, texts: tf.Tensor, pixel_embs: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What the classifier says of images with each of several text features.

    Args:
      transform: vectors → normalised vectors.
      network: normalised features → (logits, probabilities), [batch, labels] each.
      texts: [batch, V, T] float32.
      pixel_embs: [batch, P] float32.

    Returns:
      logits and probabilities, [batch, V, labels] float32 each.
    """
    variants, width = texts.shape[1:]
    features = transform(
        {
            "text_emb": tf.reshape(texts, [-1, width]),
            "pixel_emb": tf.repeat(pixel_embs, variants, axis=0),
        }
    )
    scores = network({name: features[name] for name in ("text_emb", "pixel_emb")}, training=False)
    logits, probabilities = (tf.reshape(s, [-1, variants, s.shape[1]]) for s in scores)
    return logits, probabilities


@dataclasses.dataclass(frozen=True)
class Classified:
    """Of n images.

    Attributes:
      labels: [n][k] most probable first.
      probabilities: [n, k] float32.
      phrases: [n][N] nearest first.
      phrase_scores: [n, N] float32, inner products with the image's query embedding.
      phrase_effects: [n, k, N] float32, by how much each phrase moved each label's logit: the
        logit with all phrases minus the one without it. The text feature without the only
        phrase is zero.
    """

    labels: list[list[str]]
    probabilities: np.ndarray
    phrases: list[list[str]]
    phrase_scores: np.ndarray
    phrase_effects: np.ndarray


# The model's outputs, as the fields of `Classified`, and of its first half.
OUTPUTS = tuple(field.name for field in dataclasses.fields(Classified))
EMBEDDINGS = tuple(field.name for field in dataclasses.fields(ImageEmbeddings))

# Images that are classified at once by their embeddings, however few the networks take: that is
# little work for an image, and a call costs more.
EMBEDDINGS_AT_ONCE = 64

# Its signatures that the third, serving_default, is made of.
HALVES = ("embed", "classify_embeddings")


class _ImageClassifier:
    """The parts in a row; see `export` for the folders."""

    def __init__(self, folders: Mapping[str, str], top_labels: int):
        self.embedder = ImageEmbedder(folders["generator"], folders["pixel_embedder"])
        index = folders["index"]
        vectors = load_array(os.path.join(index, "query_vectors.npy"))
        queries = pq.read_table(os.path.join(index, "queries.parquet"))["query"].to_pylist()
        self.query_vectors = tf.Variable(vectors, trainable=False)
        assert self.embedder.pixel_config is not None
        self.widths = vectors.shape[1], self.embedder.pixel_config["width"]
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
        specs = [
            tf.TensorSpec([None, width], tf.float32, name)
            for name, width in zip(EMBEDDINGS, self.widths, strict=True)
        ]
        images = tf.TensorSpec([None], tf.string, "images")
        embed = tf.function(self.embed, autograph=False).get_concrete_function(images)
        classify_embeddings = tf.function(
            self.classify_embeddings, autograph=False
        ).get_concrete_function(*specs)
        classify = tf.function(
            lambda images: classify_embeddings(**embed(images=images)), autograph=False
        )
        return {
            "serving_default": classify.get_concrete_function(images),
            "embed": embed,
            "classify_embeddings": classify_embeddings,
        }

    def embed(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(EMBEDDINGS, self.embedder.graph(images), strict=True))

    def classify_embeddings(
        self, query_embs: tf.Tensor, pixel_embs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        scores, rows, text_embs = self._phrases(query_embs)
        args = self.phrase_settings, scores, text_embs, self.temperature
        texts = diversity.text_features(*args)
        # With all phrases first, then without each: what one is said to have done is what it did.
        texts = tf.concat([texts[:, tf.newaxis], diversity.without_each(*args)], axis=1)
        logits, probabilities = score_variants(self.normaliser, self.fused, texts, pixel_embs)
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
      Numbers of labels, phrases, num_phrases and top_labels in the model, and how its phrases
      are chosen ("phrase_settings").
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
        "query_width": model.widths[0],
        "pixel_width": model.widths[1],
        "phrase_settings": dataclasses.asdict(model.phrase_settings),
    }


def _variables(function: tf.types.experimental.ConcreteFunction) -> list[tf.Variable]:
    """Those that a graph reads, in the order in which it was traced.

    `function.variables` has the order of a set, by addresses in memory: files would differ.
    """
    places = {id(handle): place for place, handle in enumerate(function.captured_inputs)}
    return sorted(function.variables, key=lambda variable: places[id(variable.handle)])


DEFAULT = InferenceSettings()


class Classifier:
    """An exported model, loaded.

    Images go through in batches of one size, so that none depends on how many come with it.

    Args:
      folder: local folder of the table "model".
      settings: device and batches.

    Raises:
      PhraseLensError: it was exported by a version that knew fewer outputs, or the machine has
        not the device.
    """

    def __init__(self, folder: str, settings: InferenceSettings = DEFAULT):
        self._device = devices.open_device(settings.device, settings.tf_threads)
        self._batch = BatchLimit(settings.batch_size, settings.batch_bytes)
        self._embeddings_batch = BatchLimit(EMBEDDINGS_AT_ONCE)
        # What batches are filled up with: one black pixel, the cheapest there is to decode.
        self._filler = tf.io.encode_png(tf.zeros([1, 1, 3], tf.uint8)).numpy()
        # The signatures are weak references into the module that was loaded.
        self._module = saved_models.load(os.path.join(folder, "saved_model"))
        signatures = self._module.signatures
        self._embed, self._classify = (signatures.get(name) for name in HALVES)
        known = set(self._classify.structured_outputs if self._classify else ())
        if self._embed is None or not known >= set(OUTPUTS):
            raise PhraseLensError(
                folder, f"a model with {', '.join(OUTPUTS)}", "Run ./run.sh export again."
            )
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)

    def classify(self, images: Sequence[bytes], sizes: Sequence[int] | None = None) -> Classified:
        """Classifies images.

        Args:
          images: [n] JPEG or PNG files, at least one.
          sizes: bytes of the pixels of each; None for images of which any batch fits.

        Raises:
          tf.errors.InvalidArgumentError: one of them cannot be decoded.
        """
        return self.classify_embeddings(self.embed(images, sizes))

    def embed(self, images: Sequence[bytes], sizes: Sequence[int] | None = None) -> ImageEmbeddings:
        """The half that needs pixels; see `classify`."""

        def run(start: int, end: int, batch: int) -> dict[str, np.ndarray]:
            filler = [self._filler] * (batch - (end - start))
            return self._run(self._embed, end - start, images=[*images[start:end], *filler])

        known = [0] * len(images) if sizes is None else sizes
        found = run_in_batches(run, known, self._batch, filled=True)
        return ImageEmbeddings(*(np.concatenate([f[name] for f in found]) for name in EMBEDDINGS))

    def classify_embeddings(self, embs: ImageEmbeddings) -> Classified:
        """The half that needs none.

        Args:
          embs: of n images, made by the very networks of this model.
        """
        rows = len(embs.query_embs)

        def run(start: int, end: int, batch: int) -> dict[str, np.ndarray]:
            missing = batch - (end - start)
            inputs = {
                name: np.pad(getattr(embs, name)[start:end], ((0, missing), (0, 0)))
                for name in EMBEDDINGS
            }
            return self._run(self._classify, end - start, **inputs)

        found = run_in_batches(run, [0] * rows, self._embeddings_batch, filled=True)
        parts = {name: [one[name] for one in found] for name in OUTPUTS}
        return Classified(
            _texts(parts["labels"]),
            np.concatenate(parts["probabilities"]),
            _texts(parts["phrases"]),
            np.concatenate(parts["phrase_scores"]),
            np.concatenate(parts["phrase_effects"]),
        )

    def _run(self, signature: Any, rows: int, **inputs: Any) -> dict[str, np.ndarray]:
        """What a signature makes of a batch of one size, without the rows that fill it up."""
        with self._device.scope():
            found = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: values.numpy()[:rows] for name, values in found.items()}


def _texts(parts: list[np.ndarray]) -> list[list[str]]:
    return [[value.decode() for value in row] for part in parts for row in part]
