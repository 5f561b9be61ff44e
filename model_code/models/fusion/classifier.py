"""The whole classifier as one SavedModel: image bytes → labels, with the phrases behind them."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model_code.images.embedder import Embeddings
from model_code.runtime import devices, saved_models
from model_code.runtime.batches import BatchLimit, run_in_batches
from model_code.runtime.settings import InferenceSettings
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.tables.vectors import joined


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


# The model's outputs, as the fields of `Classified`.
OUTPUTS = tuple(field.name for field in dataclasses.fields(Classified))

# Images that are classified at once by their embeddings, however few the networks take: that is
# little work for an image, and a call costs more.
EMBEDDINGS_AT_ONCE = 64

# Its signatures that the third, serving_default, is made of.
HALVES = ("embed", "classify_embeddings")


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
                folder,
                f"a model with {', '.join(OUTPUTS)}",
                f"Run {program.command('export_model')} again.",
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

    def embed(self, images: Sequence[bytes], sizes: Sequence[int] | None = None) -> Embeddings:
        """The half that needs pixels; see `classify`."""

        def run(start: int, end: int, batch: int) -> dict[str, np.ndarray]:
            filler = [self._filler] * (batch - (end - start))
            return self._run(self._embed, end - start, images=[*images[start:end], *filler])

        known = [0] * len(images) if sizes is None else sizes
        return joined(run_in_batches(run, known, self._batch, filled=True))

    def classify_embeddings(self, embs: Embeddings) -> Classified:
        """The half that needs none.

        Args:
          embs: of n images, made by the very networks of this model.
        """
        rows = len(next(iter(embs.values())))

        def run(start: int, end: int, batch: int) -> dict[str, np.ndarray]:
            inputs = {name: _padded(values[start:end], batch) for name, values in embs.items()}
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


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    """[n, *shape] → [rows, *shape], with zeros after the n."""
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _texts(parts: list[np.ndarray]) -> list[list[str]]:
    return [[value.decode() for value in row] for part in parts for row in part]
