"""Weights of networks, from files, hubs and Keras; never code from them."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import keras

from model_code.images.backbones import BACKBONES, application_options, build
from schemas.base import storage
from schemas.base.errors import PhraseLensError


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
            weights="imagenet", **application_options(application, image_size)
        )
    except Exception as error:  # keras.utils.get_file raises bare Exception.
        raise PhraseLensError(
            f"{flag}=imagenet ({error})",
            f"a network that serves the weights of {name}",
            f"Download them elsewhere and give the file with {flag}.",
        ) from error


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
