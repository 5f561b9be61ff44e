"""Batch normalisation folded into the convolutions before it: the same network with less to do."""

import collections
from typing import Any

import keras
import numpy as np

_LAYERS = keras.layers


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A frozen network whose convolutions scale and shift their own output.

    Once its statistics are fixed, batch normalisation is one factor and one summand a channel,
    which the kernel and the bias of a convolution right before it can take (Jacob et al.,
    arXiv 1712.05877, section 3.2). Any other batch normalisation stays.

    Args:
      model: a functional model that is not trained any more. It is taken apart: layers and
        weights go over to the result.

    Returns:
      A model that computes the same, but for the rounding of float32.
    """
    folded = _pairs(model)
    if not folded:
        return model
    norms = {norm.name for norm in folded.values()}
    biased = {name: _with_bias(model.get_layer(name)) for name in folded}

    def call(layer: keras.layers.Layer, *inputs, **options):
        return inputs[0] if layer.name in norms else layer(*inputs, **options)

    weights = {name: _weights(model.get_layer(name), norm) for name, norm in folded.items()}
    result = keras.models.clone_model(
        model, clone_function=lambda layer: biased.get(layer.name, layer), call_function=call
    )
    for name, (kernel, bias) in weights.items():
        result.get_layer(name).set_weights([kernel, bias])
    return result


def _pairs(model: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """Convolutions by name, with the batch normalisation that alone reads what they compute."""
    layers = [layer for layer in model.layers if not isinstance(layer, _LAYERS.InputLayer)]
    if any(len(layer._inbound_nodes) > 1 for layer in layers):
        return {}  # A layer that is called twice has no input of its own.
    made_by = {id(layer.output): layer for layer in layers if not isinstance(layer.output, list)}
    read = [tensor for layer in layers for tensor in keras.tree.flatten(layer.input)]
    readers = collections.Counter(id(tensor) for tensor in (*read, *model.outputs))
    found = {}
    for norm in layers:
        if isinstance(norm, _LAYERS.BatchNormalization):
            conv = made_by.get(id(norm.input))
            if conv is not None and readers[id(norm.input)] == 1 and _can_take(conv, norm):
                found[conv.name] = norm
    return found


def _can_take(conv: Any, norm: keras.layers.BatchNormalization) -> bool:
    return (
        type(conv) in (_LAYERS.Conv2D, _LAYERS.DepthwiseConv2D)
        and conv.activation is keras.activations.linear
        and conv.data_format == "channels_last"
        and norm.axis in (-1, 3)
    )


def _with_bias(conv: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or one like it that has a bias."""
    if conv.use_bias:
        return conv
    return type(conv).from_config(conv.get_config() | {"use_bias": True})


def _weights(
    conv: keras.layers.Layer, norm: keras.layers.BatchNormalization
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that do the work of both."""
    kernel, *bias = conv.get_weights()
    factor = 1 / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        factor = factor * np.asarray(norm.gamma)
    shift = (bias[0] if bias else 0) - np.asarray(norm.moving_mean)
    shift = shift * factor + (np.asarray(norm.beta) if norm.center else 0)
    # [..., in, out] of a convolution, [..., in, multiplier] of a depthwise one.
    channels = -1 if type(conv) is _LAYERS.Conv2D else kernel.shape[-2:]
    return kernel * factor.reshape(channels), shift
