"""The pixel embedder's command, and image bytes to embeddings however the networks are shared."""

import collections
import functools
import json

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from model_code.images import backbones, weights
from model_code.images import ops as image_ops
from model_code.images.embedder import ImageEmbedder
from model_code.models.pixel_embedder import train as train_pixel_embedder
from model_code.models.text_generator import train as train_text_generator
from model_code.runtime import training
from model_code.runtime.few_labels import keep_first
from model_code.runtime.settings import EmbeddingSettings
from schemas.base import fingerprint
from schemas.datasets import checks, dataset, manifest
from tests.support.datasets.mined_dataset import COLOURS, jpeg, prepare, write_colours, write_mined

TINY = ["--backbone=small_resnet", "--small_resnet_width=8"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with mined data, weights, a generator on them, and pixel embedders."""
    root = tmp_path_factory.mktemp("work")
    write_colours(str(root / "mined"))
    keras.utils.set_random_seed(2)
    backbones.build("small_resnet", 16, 8).save_weights(root / "start.weights.h5")
    shared = [f"--mined={root / 'mined'}", *TINY, f"--weights={root / 'start.weights.h5'}"]
    pairs = prepare(str(root / "mined"), str(root / "pairs"), "--image_size=16")
    generator = [f"--pairs={pairs}", *shared[1:], "--trainable=head", "--epochs=2"]
    assert train_text_generator.run([*generator, f"--output={root / 'generator'}"]) == 0
    for name, size in (("same", 16), ("larger", 32)):
        argv = [*shared, f"--image_size={size}", f"--output={root / name}"]
        assert train_pixel_embedder.run(argv) == 0
    assert train_pixel_embedder.run(trained(root, root / "trained")) == 0
    return root


def trained(root, output):
    flags = ["--image_size=16", "--pixel_width=24", "--epochs=6", "--batch_size=8"]
    return [
        f"--mined={root / 'mined'}",
        f"--output={output}",
        *TINY,
        *flags,
        "--learning_rate=0.01",
    ]


def folder(work, name):
    return dataset.Dataset(str(work / name)).folder("model")


def batches_of(rows):
    return EmbeddingSettings(batch_size=rows)


@pytest.fixture(scope="module")
def files():
    return [jpeg(colour, seed) for seed in range(3) for colour in COLOURS.values()]


@pytest.mark.parametrize("name", ["same", "larger", "trained"])
def test_embeddings_are_those_of_the_networks_one_by_one(work, files, name):
    embedder = ImageEmbedder(folder(work, "generator"), folder(work, name), batches_of(4))
    found = embedder.embed(files)

    def features(of):
        with open(f"{folder(work, of)}/config.json") as f:
            config = json.load(f)
        pixels = image_ops.decode_and_resize(tf.constant(files), config["image_size"])
        model = keras.saving.load_model(f"{folder(work, of)}/backbone.keras")
        return model(image_ops.preprocess(config["preprocessing"], pixels))

    head = keras.saving.load_model(f"{folder(work, 'generator')}/head.keras")
    np.testing.assert_allclose(found["query_emb"], head(features("generator")), atol=1e-5)
    np.testing.assert_allclose(found["pixel_emb"], features(name), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found["query_emb"], axis=1), 1, rtol=1e-5)
    assert (found["query_emb"].dtype, found["pixel_emb"].dtype) == (np.float32, np.float32)


def test_equal_networks_run_once(work):
    shared = ImageEmbedder(folder(work, "generator"), folder(work, "same"))
    apart = ImageEmbedder(folder(work, "generator"), folder(work, "larger"))
    signature = tf.TensorSpec([None], tf.string)

    def convolutions(embedder):
        graph = tf.function(embedder.graph).get_concrete_function(signature).graph
        return sum(op.type == "Conv2D" for op in graph.get_operations())

    assert 2 * convolutions(shared) == convolutions(apart)


def test_embedders_of_a_process_share_networks(work):
    def networks(pixel_name, precision="float32"):
        settings = EmbeddingSettings(precision=precision)
        embedder = ImageEmbedder(folder(work, "generator"), folder(work, pixel_name), settings)
        return embedder._generator, embedder._pixel

    generator, same = networks("same")
    assert same is generator
    again, trained = networks("trained")
    assert again is generator
    assert trained is not generator
    assert networks("trained") == (generator, trained)
    assert networks("same", "mixed_bfloat16")[0] is not generator


def test_an_image_has_the_same_numbers_in_any_company(work, files):
    embedder = ImageEmbedder(folder(work, "generator"), folder(work, "trained"), batches_of(4))
    together = embedder.embed(files)
    for row, data in enumerate(files):
        alone = embedder.embed([data])
        np.testing.assert_array_equal(alone["query_emb"][0], together["query_emb"][row])
        np.testing.assert_array_equal(alone["pixel_emb"][0], together["pixel_emb"][row])


def test_the_generator_alone(work, files):
    alone = ImageEmbedder(folder(work, "generator"), settings=batches_of(4))
    both = ImageEmbedder(folder(work, "generator"), folder(work, "same"), batches_of(4))
    found = alone.embed(files)
    np.testing.assert_array_equal(found["query_emb"], both.embed(files)["query_emb"])
    assert found.keys() == {"query_emb"}


def test_no_image_has_no_embedding(work):
    embedder = ImageEmbedder(folder(work, "generator"), folder(work, "same"), batches_of(4))
    found = embedder.embed([])
    assert found["query_emb"].shape == (0, embedder.generator_config["width"])
    assert found["pixel_emb"].shape == (0, embedder.pixel_config["width"])


def test_a_bad_image_raises(work, files):
    embedder = ImageEmbedder(folder(work, "generator"), folder(work, "same"), batches_of(4))
    with pytest.raises(tf.errors.InvalidArgumentError):
        embedder.embed([files[0], b"<html></html>"])


def test_the_graph_goes_into_a_saved_model(work, files, tmp_path):
    embedder = ImageEmbedder(folder(work, "generator"), folder(work, "trained"), batches_of(9))
    module = tf.Module()
    graph = tf.function(embedder.graph, input_signature=[tf.TensorSpec([None], tf.string)])
    module.serve, module.weights = graph, graph.get_concrete_function().variables
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    served = loaded.serve(tf.constant(files))
    found = embedder.embed(files)
    np.testing.assert_allclose(served["query_emb"], found["query_emb"], atol=1e-6)
    np.testing.assert_allclose(served["pixel_emb"], found["pixel_emb"], atol=1e-6)


def test_weights_alone_make_a_pixel_embedder(work):
    model = keras.saving.load_model(f"{folder(work, 'same')}/backbone.keras")
    start = weights.pretrained("small_resnet", 16, str(work / "start.weights.h5"), "--weights", 8)
    for found, expected in zip(model.get_weights(), start.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert dataset.Dataset(str(work / "same")).manifest.inputs.keys() == {"weights"}


def test_training_learns_the_labels_and_drops_the_classifier(work):
    with open(f"{folder(work, 'trained')}/history.json") as f:
        history = json.load(f)
    assert history["epochs"][history["best_epoch"] - 1]["validation_top1"] == 1
    model = keras.saving.load_model(f"{folder(work, 'trained')}/backbone.keras")
    assert model.output_shape == (None, 24)
    assert checks.verify(str(work / "trained")) == []


def test_killed_and_run_again_it_makes_the_same_model(work, tmp_path, monkeypatch):
    whole = training.fit

    def die(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    argv = trained(work, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", functools.partial(whole, after_epoch=die))
        with pytest.raises(KeyboardInterrupt):
            train_pixel_embedder.run(argv)
    assert manifest.read(str(tmp_path)) is None
    assert train_pixel_embedder.run(argv) == 0
    found, expected = (manifest.read(str(root)) for root in (tmp_path, work / "trained"))
    assert found.model_fingerprint == expected.model_fingerprint


def test_several_labels_an_image_and_few_of_them(work, tmp_path):
    images = dataset.Dataset(str(work / "mined")).table("images").to_pylist()
    for image in images:
        if image["labels"] == ["red"]:
            image["labels"] = ["red", "warm"]
    write_mined(str(tmp_path / "mined"), images, [], [], [])
    argv = [f"--mined={tmp_path / 'mined'}", f"--output={tmp_path / 'out'}", *TINY]
    argv += ["--image_size=16", "--epochs=2", "--labels_per_class=3", "--pixel_width=8"]
    assert train_pixel_embedder.run(argv) == 0


def test_training_needs_two_classes(work, tmp_path, capsys):
    images = dataset.Dataset(str(work / "mined")).table("images").to_pylist()
    bare = [image | {"labels": []} for image in images]
    write_mined(str(tmp_path / "mined"), bare, [], [], [])
    argv = [f"--mined={tmp_path / 'mined'}", f"--output={tmp_path / 'out'}", *TINY]
    assert train_pixel_embedder.run(argv) == 2
    assert "two classes, found 0" in capsys.readouterr().err


def test_keep_first_takes_the_first_of_each_class_by_id():
    labels = [["a"], [], ["a"], ["b"], ["a", "b"], ["a"]]
    ids = ["5", "0", "1", "2", "3", "4"]
    images = np.repeat(np.arange(6), [len(of) for of in labels])
    classes = np.array(["ab".index(label) for of in labels for label in of])

    def kept(n):
        return keep_first(images, classes, pa.array(ids), n).tolist()

    assert kept(0) == [True, False, True, True, True, True]
    assert kept(1) == [False, False, True, True, False, False]
    assert kept(2) == [False, False, True, True, True, False]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_keep_first_equals_a_walk_through_the_images(n, seed):
    rng = np.random.default_rng(3)
    lists = [rng.choice(9, rng.integers(0, 4), replace=False).tolist() for _ in range(300)]
    ids = [f"{number:032x}" for number in rng.permutation(300)]
    names = [fingerprint.of_json([seed, name]) if seed else name for name in ids]
    expected, counts = np.zeros(300, bool), collections.Counter()
    for row in sorted(range(300), key=names.__getitem__):
        counts.update(lists[row])
        expected[row] = any(counts[of] <= n for of in lists[row])
    images = np.repeat(np.arange(300), [len(of) for of in lists])
    classes = np.array([of for row in lists for of in row])
    np.testing.assert_array_equal(keep_first(images, classes, pa.array(ids), n, seed), expected)
