"""The network of the text generator: a backbone, and a head from its features to the query space.

Source: CN112204575A / US11907337B2, equation (1), whose f_x it is.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model_code.images import backbones
from model_code.images import ops as image_ops
from model_code.images.weights import pretrained
from model_code.models.text_generator.settings import Config
from schemas.base.errors import PhraseLensError


def build_head(
    features: int, hidden: Sequence[int], width: int, dropout: float = 0.0
) -> keras.Model:
    """From a backbone's features to the query space: [B, features] → [B, width] unit rows.

    Args:
      features: width of the features.
      hidden: units of the hidden layers.
      width: M.
      dropout: share of hidden units dropped in training.
    """
    inputs = keras.Input((features,))
    x = inputs
    for units in hidden:
        x = keras.layers.Dense(units, activation="relu")(x)
        if dropout:
            x = keras.layers.Dropout(dropout)(x)
    x = keras.layers.Dense(width)(x)
    return keras.Model(inputs, keras.layers.UnitNormalization()(x), name="head")


@dataclasses.dataclass(frozen=True)
class Network:
    """From pixels to the query space, and which part of the way is trained.

    Attributes:
      name: of the backbone.
      image_size: S, side of the images in pixels.
      backbone: preprocessed [B, S, S, 3] float32 → [B, features] float32.
      head: [B, features] float32 → [B, M] unit rows.
      tower: what is trained: the head alone, or the backbone with it.
      prepare: inputs of a batch, and its seed (None outside training) → inputs of the tower.
    """

    name: str
    image_size: int
    backbone: keras.Model
    head: keras.Model
    tower: keras.Model
    prepare: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]

    @property
    def features(self) -> int:
        """Width of what the backbone makes of an image."""
        return self.backbone.output_shape[1]

    def encoder(self) -> Callable:
        """The backbone as it stands: [B, S, S, 3] uint8 → [B, features] float32."""
        return backbones.encoder(self.backbone, backbones.spec(self.name).preprocessing)

    def check_devices(self, count: int) -> None:
        """Raises PhraseLensError where so many devices cannot train it together."""
        if count > 1 and backbones.trains_batch_norm(self.tower):
            raise PhraseLensError(
                f"{self.name} with random weights on {count} devices",
                "a network whose batch normalisation is frozen: each device would have its own",
                "Give --weights, which freezes it, or --trainable=head, or one device.",
            )

    def describe(self) -> dict[str, Any]:
        """What whoever loads the network has to know of it, for config.json."""
        return {
            "backbone": self.name,
            "backbone_fingerprint": backbones.fingerprint_of(self.name, self.backbone),
            "image_size": self.image_size,
            "preprocessing": backbones.spec(self.name).preprocessing,
        }

    def weights(self) -> list[np.ndarray]:
        """Of the backbone and the head, in the order of their layers."""
        return [*self.backbone.get_weights(), *self.head.get_weights()]

    def save(self, folder: str) -> None:
        """Writes backbone.keras and head.keras."""
        self.backbone.save(os.path.join(folder, "backbone.keras"))
        self.head.save(os.path.join(folder, "head.keras"))


def build(config: Config, prepared_for: str, image_size: int) -> Network:
    """The network to train, with its first weights.

    Args:
      config: of the training.
      prepared_for: the network that the pairs were prepared for.
      image_size: side of their images in pixels.

    Raises:
      PhraseLensError: the images have not the size that the flags ask for, or the weights are of
        another network.
    """
    name = name_of(config, prepared_for, image_size)
    backbone = pretrained(name, image_size, config.weights, "--weights", config.small_resnet_width)
    hidden = [int(units) for units in config.head_hidden if int(units)]
    head = build_head(backbone.output_shape[1], hidden, config.width, config.head_dropout)
    if config.trainable == "head":
        # Its inputs are features that were computed once.
        return Network(name, image_size, backbone, head, head, lambda inputs, seed: inputs)
    if config.weights:
        backbones.freeze_batch_norm(backbone)
    tower = keras.Model(backbone.inputs, head(backbone.output))
    preprocessing = backbones.spec(name).preprocessing

    def prepare(pixels, seed):
        if config.augment and seed is not None:
            pixels = image_ops.augment(pixels, seed)
        return image_ops.preprocess(preprocessing, pixels)

    return Network(name, image_size, backbone, head, tower, prepare)


def name_of(config: Config, prepared_for: str, image_size: int) -> str:
    """The name of the backbone to train; see `build`."""
    name = config.backbone or prepared_for
    own = image_size if name == prepared_for else backbones.spec(name).image_size
    wanted = config.image_size or own
    if wanted != image_size:
        raise PhraseLensError(
            f"images of {config.pairs}",
            f"{wanted} × {wanted} pixels for {name}, found {image_size} × {image_size}",
            f"Run prepare_pairs with --backbone={name} --image_size={wanted}, "
            f"or give --image_size={image_size} here.",
        )
    return name
