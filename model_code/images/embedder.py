"""Image bytes to query-space and pixel embeddings, with as little work as the models allow."""

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from model_code.images import ops as image_ops
from model_code.images import weights
from model_code.images.folding import fold_batch_norm
from model_code.runtime import devices
from model_code.runtime.batches import BatchLimit, run_in_batches
from model_code.runtime.settings import EmbeddingSettings
from schemas.base import storage
from schemas.tables.vectors import Vectors, joined

DEFAULT = EmbeddingSettings()


# Of n images: "query_emb" [n, M] float32 unit rows, in the space of the queries; and, with a pixel
# embedder, "pixel_emb" [n, P] float32.
Embeddings = dict[str, np.ndarray]

Pixels = tuple[np.ndarray, ...]  # of n images: [n, S, S, 3] uint8 for each size S that is read


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a network is known by, and a folder that has it."""

    backbone_fingerprint: str
    image_size: int
    preprocessing: str
    precision: str
    folder: str = dataclasses.field(compare=False)

    @classmethod
    def of(cls, folder: str, config: dict, precision: str) -> "_Source":
        return cls(
            config["backbone_fingerprint"],
            config["image_size"],
            config["preprocessing"],
            precision,
            folder,
        )


class _Network:
    """A backbone.

    Attributes:
      image_size: S.
    """

    def __init__(self, source: _Source, device: devices.Device):
        self.image_size, self._preprocessing = source.image_size, source.preprocessing
        with device.scope():
            model = weights.load(os.path.join(source.folder, "backbone.keras"))
            self._model = devices.with_precision(fold_batch_norm(model), source.precision)

    def features(self, pixels: tf.Tensor) -> tf.Tensor:
        """[B, S, S, 3] uint8 → [B, features] float32."""
        inputs = image_ops.preprocess(self._preprocessing, pixels)
        return tf.cast(self._model(inputs, training=False), tf.float32)


# To load a network takes seconds. The stages of a process share those that an embedder has: two,
# or one where both models have the same weights.
_load_network = functools.lru_cache(maxsize=2)(_Network)
_loading = threading.Lock()


class ImageEmbedder:
    """The image networks of a text generator and a pixel embedder, as one function of bytes.

    An image is decoded once; resized once when both read one size; and goes through one
    network when both have the same weights. Decoding is a function of its own, so that the
    next images can be decoded by a thread while the networks work.

    Networks get `settings.batch_size` images at once; fewer are filled up, so that an image's
    numbers do not depend on how many others come with it. After memory ran out a batch is half
    as large, which may change the last bits of float32.

    Args:
      generator_folder: files of a text generator's table "model", local or gs://.
      pixel_folder: those of a pixel embedder, or None for query embeddings alone.
      settings: device, precision and batches.

    Raises:
      PhraseLensError: the machine has not the device.
    """

    def __init__(
        self,
        generator_folder: str,
        pixel_folder: str | None = None,
        settings: EmbeddingSettings = DEFAULT,
    ):
        device = devices.open_device(settings.device, settings.tf_threads)
        with _loading:
            self._load(generator_folder, pixel_folder, settings.precision, device)
        self._batch = BatchLimit(settings.batch_size)
        self._decode_batch = BatchLimit(settings.batch_size, settings.batch_bytes)
        strings = tf.TensorSpec([None], tf.string)
        self._decode = tf.function(
            lambda images: image_ops.decode_and_resize_to(images, self._sizes),
            input_signature=[strings],
            autograph=False,
        )
        pixels = tuple(tf.TensorSpec([None, s, s, 3], tf.uint8) for s in self._sizes)
        self._networks = device.compiled(self._embed, pixels)

    def _load(
        self,
        generator_folder: str,
        pixel_folder: str | None,
        precision: str,
        device: devices.Device,
    ) -> None:
        with storage.local_copy(generator_folder) as folder:
            self.generator_config = _read_config(folder)
            source = _Source.of(folder, self.generator_config, precision)
            self._generator = _load_network(source, device)
            with device.scope():
                self._head = weights.load(os.path.join(folder, "head.keras"))
        self.pixel_config: dict | None = None
        self._pixel: _Network | None = None
        if pixel_folder is not None:
            with storage.local_copy(pixel_folder) as folder:
                self.pixel_config = _read_config(folder)
                source = _Source.of(folder, self.pixel_config, precision)
                self._pixel = _load_network(source, device)
        networks = (self._generator, self._pixel)
        self._sizes = tuple(sorted({network.image_size for network in networks if network}))

    @property
    def vectors(self) -> Vectors:
        """What is made of an image: name → shape."""
        configs = {"query_emb": self.generator_config, "pixel_emb": self.pixel_config}
        return {name: (config["width"],) for name, config in configs.items() if config}

    def embed(self, images: Sequence[bytes]) -> Embeddings:
        """Embeds images.

        Args:
          images: [n] JPEG or PNG files.

        Raises:
          tf.errors.InvalidArgumentError: one of them cannot be decoded.
        """
        return self.embed_pixels(self.decode(images))

    def decode(self, images: Sequence[bytes], sizes: Sequence[int] | None = None) -> Pixels:
        """The first half of `embed`, which needs no network.

        Args:
          images: [n] JPEG or PNG files.
          sizes: bytes of the pixels of each; None for images of which any batch fits.

        Raises:
          tf.errors.InvalidArgumentError: one of them cannot be decoded.
        """
        parts = run_in_batches(
            lambda start, end, _: self._decode(tf.constant(images[start:end], tf.string)),
            [0] * len(images) if sizes is None else sizes,
            self._decode_batch,
        )
        if not parts:
            return tuple(np.zeros((0, s, s, 3), np.uint8) for s in self._sizes)
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """The second half of `embed`: what the networks make of pixels."""
        rows = len(pixels[0])

        def run(start: int, end: int, batch: int) -> Embeddings:
            found = self._networks(tuple(_filled(part[start:end], batch) for part in pixels))
            return {name: found[name].numpy()[: end - start] for name in self.vectors}

        parts = run_in_batches(run, [0] * rows, self._batch, filled=True)
        return joined(parts) if parts else self._none()

    def graph(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The pure graph, for an exported model.

        Args:
          images: [B] string.

        Returns:
          Name → [B, width] float32, as in `Embeddings`.
        """
        return self._embed(image_ops.decode_and_resize_to(images, self._sizes))

    def _embed(self, pixels: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        of_size = dict(zip(self._sizes, pixels, strict=True))
        features = self._generator.features(of_size[self._generator.image_size])
        found = {"query_emb": self._head(features, training=False)}
        if self._pixel is self._generator:
            found["pixel_emb"] = features
        elif self._pixel is not None:
            found["pixel_emb"] = self._pixel.features(of_size[self._pixel.image_size])
        return found

    def _none(self) -> Embeddings:
        return {name: np.zeros((0, *shape), np.float32) for name, shape in self.vectors.items()}


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows: these, and the last of them again."""
    if len(rows) == count:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def _read_config(folder: str) -> dict:
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        return json.load(f)
