"""Networks with folded batch normalisation compute what they did before."""

import keras
import numpy as np
import pytest

from model_code.images import backbones
from model_code.images.folding import fold_batch_norm

BATCH_NORM = keras.layers.BatchNormalization


def with_statistics(model: keras.Model) -> keras.Model:
    """As after training: batch normalisation that does something."""
    rng = np.random.default_rng(5)
    for layer in model._flatten_layers():
        if isinstance(layer, BATCH_NORM):
            for weight in layer.weights:
                low = 0.5 if weight.name.endswith(("variance", "gamma")) else -0.5
                weight.assign(rng.uniform(low, low + 1, weight.shape))
    return model


def norms(model: keras.Model) -> int:
    return sum(isinstance(layer, BATCH_NORM) for layer in model._flatten_layers())


def assert_same(model: keras.Model, pixels: np.ndarray) -> keras.Model:
    expected = model(pixels, training=False).numpy()
    folded = fold_batch_norm(model)
    found = folded(pixels, training=False).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    return folded


# Of the others some normalise what no convolution, or what two layers read.
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet50", 0),
        ("mobilenet", 0),
        ("densenet121", 62),
        pytest.param("convnext_base", 0, marks=pytest.mark.slow),  # 88 million weights
    ],
)
def test_a_backbone_computes_the_same(name, left):
    model = with_statistics(backbones.build(name, 32))
    before = norms(model)
    pixels = np.random.default_rng(1).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    folded = assert_same(model, pixels)
    assert norms(folded) == left
    assert len(folded.weights) <= len(model.weights) - 2 * (before - left)


def test_a_network_without_batch_normalisation_stays_as_it_is():
    model = keras.applications.ConvNeXtTiny(
        weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3)
    )
    assert norms(model) == 0
    assert fold_batch_norm(model) is model


def conv(**options):
    return keras.layers.Conv2D(8, 3, **options)


def after(inputs, layer, **options):
    return BATCH_NORM(**options)(layer(inputs))


def two_readers(inputs):
    x = conv()(inputs)
    return keras.layers.Add()([x, BATCH_NORM()(x)])


def called_twice(inputs):
    layer = BATCH_NORM()
    return layer(layer(conv()(inputs)))


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda x: after(x, conv()), 0),
        (lambda x: after(x, conv(use_bias=False)), 0),
        (lambda x: after(x, conv(), scale=False, center=False), 0),
        (lambda x: after(x, keras.layers.DepthwiseConv2D(3, depth_multiplier=2)), 0),
        (lambda x: after(x, conv(activation="relu")), 1),
        (lambda x: after(x, conv(), axis=1), 1),
        (lambda x: after(x, keras.layers.MaxPooling2D()), 1),
        (two_readers, 1),
        (called_twice, 1),
    ],
    ids=["bias", "no_bias", "plain", "depthwise", "relu", "axis", "pooling", "readers", "twice"],
)
def test_only_what_a_convolution_can_take_is_folded(build, left):
    inputs = keras.Input((12, 12, 3))
    model = with_statistics(keras.Model(inputs, build(inputs)))
    pixels = np.random.default_rng(2).normal(size=(2, 12, 12, 3)).astype(np.float32)
    assert norms(assert_same(model, pixels)) == left


def test_what_the_model_gives_out_is_not_folded():
    inputs = keras.Input((12, 12, 3))
    x = conv()(inputs)
    model = with_statistics(keras.Model(inputs, [x, BATCH_NORM()(x)]))
    pixels = np.ones((1, 12, 12, 3), np.float32)
    expected = [part.numpy() for part in model(pixels, training=False)]
    found = fold_batch_norm(model)(pixels, training=False)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
