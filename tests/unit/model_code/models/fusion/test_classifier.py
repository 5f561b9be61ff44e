"""What the classifier says of images with each of several text features."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_code.models.fusion import classifier, serving_graph
from model_code.models.fusion import network as network_lib
from model_code.runtime.settings import InferenceSettings

TEXT, PIXEL, LABELS = 4, 3, 5


@pytest.mark.parametrize("multi", [False, True])
def test_each_variant_is_scored_as_if_it_were_alone(multi):
    keras.utils.set_random_seed(0)
    network = network_lib.build(
        {"text_emb": (TEXT,), "pixel_emb": (PIXEL,)},
        LABELS,
        multi,
        network_lib.Settings((6,), 0.001, 0.5, 0.1, vector_dropout=0.5),
    )
    both = keras.Model(network.input, [network.get_layer("logits").output, network.output])
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(7, 3, TEXT)).astype(np.float32)
    pixel_embs = rng.normal(size=(7, PIXEL)).astype(np.float32)

    def transform(raw: dict) -> dict:
        return {name: 2 * values for name, values in raw.items()}

    logits, probabilities = serving_graph.score_variants(
        transform, both, {"text_emb": tf.constant(texts)}, {"pixel_emb": tf.constant(pixel_embs)}
    )
    assert logits.shape == probabilities.shape == (7, 3, LABELS)
    for variant in range(3):
        alone = network({"text_emb": 2 * texts[:, variant], "pixel_emb": 2 * pixel_embs}).numpy()
        np.testing.assert_allclose(probabilities[:, variant], alone, atol=1e-6)
    exp = np.exp(logits.numpy())
    expected = exp / (1 + exp) if multi else exp / exp.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


class _Brightness(tf.Module):
    """Stands for an exported model: the label is the brightness; there is room for 5 rows."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "images")])
    def embed(self, images):
        def brightness(data):
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(pixels, tf.float32))

        taken = tf.zeros([tf.where(tf.shape(images)[0] > 5, 1 << 45, 1)], tf.float64)
        with tf.control_dependencies([taken]):
            found = tf.map_fn(brightness, images, fn_output_signature=tf.float32)[:, None]
        return {"query_emb": found, "pixel_emb": 2 * found}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 1], tf.float32, "query_emb"),
            tf.TensorSpec([None, 1], tf.float32, "pixel_emb"),
        ]
    )
    def classify(self, query_emb, pixel_emb):
        texts = tf.strings.as_string(query_emb, precision=0)
        return {
            "labels": texts,
            "probabilities": pixel_emb / 510,
            "phrases": texts,
            "phrase_scores": query_emb,
            "phrase_effects": query_emb[:, None],
        }


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    module = _Brightness()
    signatures = {"embed": module.embed, "classify_embeddings": module.classify}
    tf.saved_model.save(module, folder / "saved_model", signatures)
    (folder / "config.json").write_text("{}")
    return str(folder)


def squares(values):
    return [tf.io.encode_png(tf.fill([4, 4, 3], tf.cast(v, tf.uint8))).numpy() for v in values]


@pytest.mark.parametrize("rows", [1, 4, 5, 16])
def test_images_are_classified_in_batches_of_any_size(brightness, rows):
    loaded = classifier.Classifier(brightness, InferenceSettings(batch_size=rows))
    values = list(range(10, 230, 20))
    found = loaded.classify(squares(values))
    assert found.labels == found.phrases == [[str(value)] for value in values]
    np.testing.assert_allclose(found.probabilities[:, 0], np.array(values) / 255, rtol=1e-6)
    assert found.phrase_effects.shape == (11, 1, 1)


def test_large_images_go_a_few_at_a_time(brightness):
    loaded = classifier.Classifier(brightness, InferenceSettings(batch_size=4, batch_bytes=100))
    exported, rows = loaded._embed, []
    black = loaded._filler

    def embed(images):
        rows.append(sum(image != black for image in images.numpy()))
        return exported(images=images)

    loaded._embed = embed
    found = loaded.classify(squares([1, 2, 3, 4, 5, 6]), [48, 48, 48, 400, 10, 10])
    assert found.labels == [[str(value)] for value in range(1, 7)]
    assert rows == [2, 1, 1, 2]
