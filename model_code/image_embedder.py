"""Image bytes to query-space and pixel embeddings, with as little work as the models allow."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from model_code import backbones, image_ops
from schemas import storage


@dataclasses.dataclass(frozen=True)
class ImageEmbeddings:
    """Of a batch of images.

    Attributes:
      query_embs: [B, M] float32 unit rows, in the space of the queries.
      pixel_embs: [B, P] float32; P is 0 without a pixel embedder.
    """

    query_embs: np.ndarray
    pixel_embs: np.ndarray


class ImageEmbedder(tf.Module):
    """The image networks of a text generator and a pixel embedder, as one function of bytes.

    An image is decoded once; resized once when both read one size; and goes through one
    network when both have the same weights.

    Args:
      generator_folder: files of a text generator's table "model", local or gs://.
      pixel_folder: those of a pixel embedder, or None for query embeddings alone.
      batch_size: images that go through the networks at once; fewer are filled up, so that
        an image's numbers do not depend on how many others come with it.
    """

    def __init__(
        self, generator_folder: str, pixel_folder: str | None = None, batch_size: int = 32
    ):
        super().__init__()
        self.batch_size = batch_size
        with storage.local_copy(generator_folder) as folder:
            self.generator_config = _read_config(folder)
            self._generator = backbones.load(os.path.join(folder, "backbone.keras"))
            self._head = backbones.load(os.path.join(folder, "head.keras"))
        self.pixel_config: dict | None = None
        self._pixel = None
        if pixel_folder is not None:
            with storage.local_copy(pixel_folder) as folder:
                self.pixel_config = _read_config(folder)
                same = ("backbone_fingerprint", "image_size", "preprocessing")
                if all(self.pixel_config[k] == self.generator_config[k] for k in same):
                    self._pixel = self._generator
                else:
                    self._pixel = backbones.load(os.path.join(folder, "backbone.keras"))
        signature = [tf.TensorSpec([None], tf.string)]
        self._embed = tf.function(self.graph, input_signature=signature)
        self._embed_queries = tf.function(self.query_graph, input_signature=signature)

    def embed(self, images: Sequence[bytes]) -> ImageEmbeddings:
        """Embeds images.

        Args:
          images: [B] JPEG or PNG files.

        Raises:
          tf.errors.InvalidArgumentError: one of them cannot be decoded.
        """
        if self._pixel is None:
            query_embs = self.embed_queries_only(images)
            return ImageEmbeddings(query_embs, np.zeros((len(query_embs), 0), np.float32))
        query_embs, pixel_embs = self._in_batches(self._embed, images)
        return ImageEmbeddings(query_embs, pixel_embs)

    def embed_queries_only(self, images: Sequence[bytes]) -> np.ndarray:
        """[B, M] float32 unit rows of the generator alone; see `embed`."""
        return self._in_batches(lambda batch: [self._embed_queries(batch)], images)[0]

    def graph(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The pure graph, for an exported model.

        Args:
          images: [B] string.

        Returns:
          [B, M] and [B, P] float32, as in `ImageEmbeddings`.
        """
        assert self.pixel_config is not None
        configs = (self.generator_config, self.pixel_config)
        sizes = sorted({config["image_size"] for config in configs})
        pixels = dict(zip(sizes, image_ops.decode_and_resize_to(images, sizes), strict=True))
        features = _features(self._generator, self.generator_config, pixels)
        shared = self._pixel is self._generator
        pixel_embs = features if shared else _features(self._pixel, self.pixel_config, pixels)
        return self._head(features, training=False), pixel_embs

    def query_graph(self, images: tf.Tensor) -> tf.Tensor:
        """[B] string → [B, M] float32 unit rows."""
        size = self.generator_config["image_size"]
        pixels = {size: image_ops.decode_and_resize(images, size)}
        features = _features(self._generator, self.generator_config, pixels)
        return self._head(features, training=False)

    def _in_batches(self, embed: Callable, images: Sequence[bytes]) -> list[np.ndarray]:
        """Runs `embed` on batches of one size and joins each of its results."""
        results = []
        for start in range(0, len(images), self.batch_size):
            batch = list(images[start : start + self.batch_size])
            filled = batch + batch[-1:] * (self.batch_size - len(batch))
            results.append([part.numpy()[: len(batch)] for part in embed(tf.constant(filled))])
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def _features(model, config: dict, pixels: dict[int, tf.Tensor]) -> tf.Tensor:
    inputs = image_ops.preprocess(config["preprocessing"], pixels[config["image_size"]])
    return model(inputs, training=False)


def _read_config(folder: str) -> dict:
    with open(os.path.join(folder, "config.json")) as f:
        return json.load(f)
