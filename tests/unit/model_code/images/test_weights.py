"""Weights of files: those of the network, or an error that says whose they are."""

import keras
import numpy as np
import pytest

from model_code.images import backbones, weights
from schemas.base.errors import PhraseLensError


def images(size, batch=2):
    return np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network with weights of its own, and its files in both formats."""
    keras.utils.set_random_seed(5)
    model, folder = backbones.build("small_resnet", 32, 8), tmp_path_factory.mktemp("weights")
    model.save(folder / "small.keras")
    model.save_weights(folder / "small.weights.h5")
    return model, folder


@pytest.mark.parametrize("file", ["small.keras", "small.weights.h5"])
def test_weights_of_a_file_make_the_same_network(small, file):
    model, folder = small
    found = weights.pretrained("small_resnet", 32, str(folder / file), "--weights", 8)
    np.testing.assert_array_equal(found(images(32)), model(images(32)))
    assert backbones.fingerprint_of("x", found) == backbones.fingerprint_of("x", model)
    other = backbones.build("small_resnet", 32, 8)
    assert backbones.fingerprint_of("x", other) != backbones.fingerprint_of("x", model)


@pytest.fixture(scope="module")
def whole():
    return keras.applications.MobileNet(weights=None, classes=1000)


@pytest.mark.parametrize("suffix", ["weights.h5", "h5", "keras"])
def test_a_classifier_at_the_end_of_a_file_is_dropped(whole, tmp_path, suffix):
    path = str(tmp_path / f"mobilenet.{suffix}")
    whole.save_weights(path) if "weights" in suffix else whole.save(path)
    found = weights.pretrained("mobilenet", 224, path, "--weights")
    pooling = keras.layers.GlobalAveragePooling2D
    pooled = next(layer for layer in whole.layers if isinstance(layer, pooling))
    pooled = keras.Model(whole.inputs, pooled.output)
    expected = pooled(images(224, 1)).numpy().reshape(1, 1024)
    np.testing.assert_allclose(found(images(224, 1)), expected, atol=1e-6)


def test_wrong_weights_name_the_file_the_layers_and_the_remedy(small, tmp_path):
    _, folder = small
    (tmp_path / "text.weights.h5").write_text("no weights")
    wrong = [
        ("mobilenet", folder / "small.keras"),
        ("mobilenet", folder / "small.weights.h5"),
        ("small_resnet", tmp_path / "text.weights.h5"),
        ("small_resnet", tmp_path / "missing.weights.h5"),
    ]
    for name, path in wrong:
        with pytest.raises(PhraseLensError) as error:
            weights.pretrained(name, 32, str(path), "--weights", 8)
        assert error.value.item == str(path)
        assert "--weights" in str(error.value)
        assert ("conv1" in str(error.value)) == (name == "mobilenet")
    with pytest.raises(PhraseLensError, match="imagenet"):
        weights.pretrained("small_resnet", 32, "imagenet", "--weights")


def test_weights_that_would_run_code_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(PhraseLensError, match=r"without code of its own.*lambda"):
        weights.load(str(tmp_path / "lambda.keras"))
