"""Convolutional networks that turn preprocessed images into one feature vector, by name."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from model_code.images import ops as image_ops
from schemas.base import fingerprint, storage
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
        weights=None, **_options(application, image_size)
    )


def small_resnet(image_size: int, width: int = 16) -> keras.Model:
    """A residual network of 4 stages for CPUs: `width` channels, then 2, 4 and 8 times as many.

    Source: He et al., Identity Mappings in Deep Residual Networks, arXiv 1603.05027,
    with one block a stage; pooled by the maximum, so that a small object counts as much as
    its background.
    """
    layers = keras.layers

    def conv(x, channels: int, kernel: int, stride: int):
        return layers.Conv2D(
            channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(x)

    def normalise(x):
        # A short memory: the quickstart trains for a few hundred steps only.
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((image_size, image_size, 3))
    x = conv(inputs, width, 3, 2)
    for stage in range(4):
        channels, stride = width << stage, 1 if stage == 0 else 2
        y = normalise(x)
        shortcut = x if stage == 0 else conv(y, channels, 1, stride)
        x = layers.Add()([shortcut, conv(normalise(conv(y, channels, 3, stride)), channels, 3, 1)])
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(normalise(x)), name="small_resnet")


def pretrained(
    name: str, image_size: int, weights: str, flag: str, small_width: int = 16
) -> keras.Model:
    """A backbone with the weights of a file, a hub or none.

    Args:
      weights: a .weights.h5, .h5 or .keras file, local or gs://, with or without its
        classifier; "imagenet" to download those of `keras.applications`; "" for random ones.
      flag: the flag that named the weights, for the errors.
      name, image_size, small_width: see `build`.

    Raises:
      PhraseLensError: the weights are missing or are those of another network.
    """
    if not weights:
        return build(name, image_size, small_width)
    application = BACKBONES[name].application
    if weights != "imagenet":
        return _from_file(name, image_size, weights, flag, small_width)
    if not application:
        raise PhraseLensError(
            f"{flag}=imagenet", f"a file for {name}", "Give a file or leave the flag out."
        )
    try:
        return getattr(keras.applications, application)(
            weights="imagenet", **_options(application, image_size)
        )
    except Exception as error:  # keras.utils.get_file raises bare Exception.
        raise PhraseLensError(
            f"{flag}=imagenet ({error})",
            f"a network that serves the weights of {name}",
            f"Download them elsewhere and give the file with {flag}.",
        ) from error


def _options(application: str, image_size: int) -> dict:
    options = {
        "include_top": False,
        "pooling": "avg",
        "input_shape": (image_size, image_size, 3),
    }
    if application.startswith("ConvNeXt"):
        options["include_preprocessing"] = False  # `image_ops.preprocess` does it.
    return options


def _from_file(name: str, image_size: int, path: str, flag: str, small_width: int) -> keras.Model:
    model = build(name, image_size, small_width)
    try:
        with _local_file(path) as local:
            if path.endswith(".keras"):
                _copy_weights(load(local), model)
            else:
                _load_weights(local, name, model)
    except FileNotFoundError as error:
        raise PhraseLensError(path, f"the file that {flag} names", "Check the path.") from error
    except (ValueError, OSError, KeyError) as error:
        layers = [layer.name for layer in model.layers if layer.weights]
        raise PhraseLensError(
            path,
            f"weights of {name}: {len(model.weights)} arrays in {len(layers)} layers, "
            f"{layers[0]} … {layers[-1]} ({str(error).splitlines()[0]})",
            f"Give a .weights.h5, .h5 or .keras file of this network with {flag}, "
            "or name the network it belongs to with --backbone.",
        ) from error
    return model


def _load_weights(local: str, name: str, model: keras.Model) -> None:
    try:
        model.load_weights(local)
    except ValueError:
        # A legacy .h5 with its classifier loads into the whole network only.
        application = BACKBONES[name].application
        if not application:
            raise
        options = {"include_preprocessing": False} if application.startswith("ConvNeXt") else {}
        whole = getattr(keras.applications, application)(weights=None, **options)
        whole.load_weights(local)
        _copy_weights(whole, model)


def _copy_weights(source: keras.Model, model: keras.Model) -> None:
    """Copies the weights of a network, or of one with a classifier at its end."""
    arrays = source.get_weights()[: len(model.weights)]
    found = [array.shape for array in arrays]
    if found != [tuple(weight.shape) for weight in model.weights]:
        raise ValueError(f"the file holds {len(source.weights)} arrays of other shapes")
    model.set_weights(arrays)


@contextlib.contextmanager
def _local_file(path: str) -> Iterator[str]:
    """The path itself, or of a local copy for one in Cloud Storage. Raises FileNotFoundError."""
    if not path.startswith(storage.GCS_PREFIX):
        with open(path, "rb"):
            yield path
        return
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        local = os.path.join(folder, os.path.basename(path))
        with open(local, "wb") as f:
            f.write(storage.read_bytes(path))
        yield local


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


def load(path: str) -> keras.Model:
    """Opens a network in a .keras file, never running code from it.

    Raises:
      PhraseLensError: it holds code (a Lambda layer), or classes that nobody knows.
      OSError: it cannot be read.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        # Keras goes on to say how to run it all the same.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise PhraseLensError(
            path,
            f"a network of layers that Keras has, without code of its own ({reason})",
            "Save its weights alone, as .weights.h5, or make it without Lambda layers.",
        ) from error
