"""Convolutional networks that turn preprocessed images into one feature vector, by name."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from model_code.images import ops as image_ops
from model_code.images.small_resnet import small_resnet
from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A kind of network.

    Attributes:
      application: its class in `keras.applications`; "" for our own.
      image_size: side of the square it reads, in pixels, unless another is asked for.
      preprocessing: see `image_ops.preprocess`.
    """

    application: str
    image_size: int
    preprocessing: str


BACKBONES = {
    "resnet101": Backbone("ResNet101", 224, "caffe"),  # 2048 features
    "resnet50": Backbone("ResNet50", 224, "caffe"),  # 2048
    "mobilenet": Backbone("MobileNet", 224, "tf"),  # 1024
    "densenet121": Backbone("DenseNet121", 224, "torch"),  # 1024
    "convnext_base": Backbone("ConvNeXtBase", 224, "torch"),  # 1024
    "small_resnet": Backbone("", 64, "tf"),  # 8 × its width
}


def spec(name: str) -> Backbone:
    """The kind of network of a name.

    Raises:
      PhraseLensError: there is none.
    """
    if name not in BACKBONES:
        raise PhraseLensError(f"--backbone={name}", f"one of {', '.join(BACKBONES)}", "Correct it.")
    return BACKBONES[name]


def build(name: str, image_size: int, small_width: int = 16) -> keras.Model:
    """A backbone with random weights.

    Args:
      name: a key of `BACKBONES`.
      image_size: side of the images in pixels, at least 32 (16 for small_resnet).
      small_width: channels of the first stage of small_resnet; the others have their own.

    Returns:
      A model [B, image_size, image_size, 3] float32 → [B, features] float32, pooled.
    """
    application = BACKBONES[name].application
    if not application:
        return small_resnet(image_size, small_width)
    return getattr(keras.applications, application)(
        weights=None, **application_options(application, image_size)
    )


def application_options(application: str, image_size: int) -> dict:
    """What a class of `keras.applications` is given, for a network without its classifier."""
    options = {
        "include_top": False,
        "pooling": "avg",
        "input_shape": (image_size, image_size, 3),
    }
    if application.startswith("ConvNeXt"):
        options["include_preprocessing"] = False  # `image_ops.preprocess` does it.
    return options


def freeze_batch_norm(model: keras.Model) -> None:
    """Keeps the statistics of pretrained batch normalisation: those of small batches undo it."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def trains_batch_norm(model: keras.Model) -> bool:
    """Whether training changes statistics of batches, which each device has of its own images."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for layer in model._flatten_layers()
    )


def encoder(model: keras.Model, preprocessing: str) -> Callable:
    """The compiled function of a frozen backbone: [B, S, S, 3] uint8 → [B, features] float32."""
    return tf.function(
        lambda pixels: model(image_ops.preprocess(preprocessing, pixels), training=False),
        input_signature=[tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)],
        autograph=False,
    )


def fingerprint_of(name: str, model: keras.Model) -> str:
    """Equal for backbones that compute the same from the same pixels."""
    return fingerprint.of_arrays({"backbone": name}, model.get_weights())
