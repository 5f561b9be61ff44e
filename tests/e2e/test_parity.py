"""One image, one answer: the exported model, the jobs' features and the predictions agree."""

import io
import os

import numpy as np
import pytest

from beam_jobs import classify_images
from schemas.manifest import Dataset
from schemas.tables import arrow_to_vectors
from tests.work_folder import TinyRun

IMAGES = 64
NUM_PHRASES = 4
# Batches of other sizes sum in another order: the last bits of a float32 differ.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def images(tiny_run: TinyRun) -> dict[str, bytes]:
    """Image id → bytes, of some images of every split."""
    table = Dataset(tiny_run.dataset("mine_pairs")).table("images", ["image_id", "image"])
    rows = table.sort_by("image_id").slice(0, IMAGES).to_pylist()
    return {row["image_id"]: row["image"] for row in rows}


@pytest.fixture(scope="module")
def classified(tiny_run, images):
    """What the exported SavedModel says of the images."""
    from model_code.classifier import Classifier

    folder = Dataset(tiny_run.dataset("export_model")).folder("model")
    return Classifier(folder).classify(list(images.values()))


@pytest.fixture(scope="module")
def features(tiny_run, images):
    """What embed_images wrote of the same images, in the same order."""
    table = Dataset(tiny_run.dataset("embed_images")).table("features").sort_by("image_id")
    assert table["image_id"][: len(images)].to_pylist() == list(images)
    return table.slice(0, len(images))


def test_model_says_what_features_and_classifier_say(tiny_run, classified, features):
    """The long way: features → tf.Transform → fused.keras."""
    import keras
    import tensorflow_transform as tft

    examples = Dataset(tiny_run.dataset("prepare_examples"))
    transform = tft.TFTransformOutput(examples.folder("transform_fn")).transform_features_layer()
    vectors = {name: arrow_to_vectors(features[name]) for name in ("text_emb", "pixel_emb")}
    normalised = transform({name: _tensor(values) for name, values in vectors.items()})
    fusion = Dataset(tiny_run.dataset("train_fusion")).folder("model")
    fused = keras.models.load_model(os.path.join(fusion, "fused.keras"))
    probabilities = np.asarray(fused({name: normalised[name] for name in vectors}))
    with open(os.path.join(examples.folder("metadata"), "labels.txt"), encoding="utf-8") as f:
        labels = np.array(f.read().splitlines())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    best = np.sort(probabilities, axis=1)[:, ::-1][:, : classified.probabilities.shape[1]]
    np.testing.assert_allclose(classified.probabilities, best, **TOLERANCE)
    place = {label: i for i, label in enumerate(labels)}
    for row, names in enumerate(classified.labels):
        of_names = probabilities[row, [place[name] for name in names]]
        np.testing.assert_allclose(of_names, classified.probabilities[row], **TOLERANCE)


def _tensor(values: np.ndarray):
    import tensorflow as tf

    return tf.constant(values)


def test_model_finds_the_phrases_of_the_faiss_index(tiny_run, classified, features):
    from model_code.phrase_index import PhraseIndex

    index = PhraseIndex(Dataset(tiny_run.dataset("embed_phrases")).folder("index"))
    found = index.search(arrow_to_vectors(features["query_emb"]), NUM_PHRASES + 1)
    np.testing.assert_allclose(classified.phrase_scores, found.scores[:, :NUM_PHRASES], atol=1e-5)
    # Where two phrases are equally near, either may come first.
    clear = (-np.diff(found.scores, axis=1) > 1e-5).all(axis=1)
    assert clear.mean() > 0.8
    for row in np.flatnonzero(clear):
        expected = [index.queries[place] for place in found.rows[row, :NUM_PHRASES]]
        assert classified.phrases[row] == expected == features["phrases"][int(row)].as_py()


def test_predictions_are_what_the_model_says(tiny_run, images, classified):
    table = Dataset(tiny_run.dataset("classify_images")).table("predictions")
    rows = {row["image_id"]: row for row in table.to_pylist()}
    for place, image_id in enumerate(images):
        row = rows[image_id]
        assert row["labels"] == classified.labels[place]
        assert row["phrases"] == classified.phrases[place]
        np.testing.assert_allclose(
            row["probabilities"], classified.probabilities[place], **TOLERANCE
        )
        np.testing.assert_allclose(
            row["phrase_scores"], classified.phrase_scores[place], **TOLERANCE
        )


def test_one_bad_image_of_32_kills_one_row(tiny_run, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    some = list(images.items())[:32]
    for place, (image_id, data) in enumerate(some):
        cut = len(data) // 2 if place == 17 else len(data)
        io.FileIO(folder / f"{image_id}.jpg", "w").write(data[:cut])
    output = str(tmp_path / "predictions")
    flags = [f"--model={tiny_run.dataset('export_model')}", f"--images={folder}"]
    assert classify_images.run([*flags, f"--output={output}"]) == 0
    found = Dataset(output)
    predicted = {row["image_id"]: row for row in found.table("predictions").to_pylist()}
    (dead,) = found.table("dead_letters").to_pylist()
    assert dead["reason"] == "truncated_image"
    assert some[17][0] in dead["key"]
    assert set(predicted) == {image_id for image_id, _ in some} - {some[17][0]}
    before = Dataset(tiny_run.dataset("classify_images")).table("predictions").to_pylist()
    for row in before:
        if row["image_id"] in predicted:
            assert predicted[row["image_id"]]["labels"] == row["labels"]
