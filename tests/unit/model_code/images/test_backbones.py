"""Backbones by name, and weights from files, right and wrong."""

import keras
import numpy as np
import pytest

from model_code.images import backbones
from model_code.runtime import settings as inference_settings
from schemas.base.errors import PhraseLensError


@pytest.mark.parametrize(
    ("name", "features"),
    [("mobilenet", 1024), ("densenet121", 1024), ("resnet50", 2048), ("small_resnet", 64)],
)
def test_a_name_makes_a_pooled_network(name, features):
    model = backbones.build(name, 32, small_width=8)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, features)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(PhraseLensError, match="densenet121"):
        backbones.spec("vgg")


def test_frozen_batch_norm_keeps_its_statistics():
    keras.utils.set_random_seed(5)
    model = backbones.build("small_resnet", 32, 8)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    backbones.freeze_batch_norm(model)
    before = [w.numpy() for w in model.non_trainable_variables]
    model(images, training=True)
    for old, new in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model(images, training=True), model(images))


def test_flags_name_the_networks_that_there_are():
    assert set(inference_settings.BACKBONES) == set(backbones.BACKBONES)
