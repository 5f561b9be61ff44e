"""What the classifier says of images with each of several text features."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_code import classifier, fusion

TEXT, PIXEL, LABELS = 4, 3, 5


@pytest.mark.parametrize("multi", [False, True])
def test_each_variant_is_scored_as_if_it_were_alone(multi):
    keras.utils.set_random_seed(0)
    network = fusion.build(
        fusion.PARTS["fused"],
        {"text_emb": TEXT, "pixel_emb": PIXEL},
        LABELS,
        multi,
        fusion.Settings((6,), 0.001, 0.5, 0.1, part_dropout=0.5),
    )
    both = keras.Model(network.input, [network.get_layer("logits").output, network.output])
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(7, 3, TEXT)).astype(np.float32)
    pixel_embs = rng.normal(size=(7, PIXEL)).astype(np.float32)

    def transform(raw: dict) -> dict:
        return {name: 2 * values for name, values in raw.items()}

    logits, probabilities = classifier.score_variants(
        transform, both, tf.constant(texts), tf.constant(pixel_embs)
    )
    assert logits.shape == probabilities.shape == (7, 3, LABELS)
    for variant in range(3):
        alone = network({"text_emb": 2 * texts[:, variant], "pixel_emb": 2 * pixel_embs}).numpy()
        np.testing.assert_allclose(probabilities[:, variant], alone, atol=1e-6)
    exp = np.exp(logits.numpy())
    expected = exp / (1 + exp) if multi else exp / exp.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
