"""One image, one answer: the exported model, the jobs' features and the predictions agree."""

import dataclasses
import io
import json
import os
import shutil

import numpy as np
import pytest

from beam_jobs.models import classify_images, embed_images
from beam_jobs.runs import overrides
from model_code.models.fusion import export as export_model
from model_code.phrases.settings import PhraseSettings
from schemas.datasets.dataset import Dataset
from schemas.tables.vectors import arrow_to_vectors
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES, TinyRun
from tests.support.inputs import image_files
from tests.support.inputs.image_files import encode, photo

IMAGES = 64
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
    from model_code.models.fusion.classifier import Classifier

    folder = Dataset(tiny_run.dataset("export_model")).folder("model")
    return Classifier(folder).classify(list(images.values()))


@pytest.fixture(scope="module")
def features(tiny_run, images):
    """What embed_images wrote of the same images, in the same order."""
    table = Dataset(tiny_run.dataset("embed_images")).table("features").sort_by("image_id")
    assert table["image_id"][: len(images)].to_pylist() == list(images)
    return table.slice(0, len(images))


@pytest.fixture(scope="module")
def long_way(tiny_run):
    """Text features [n, T] and pixel embeddings [n, P] → tf.Transform → fused.keras: [n] logits
    and probabilities by label."""
    import keras
    import tensorflow as tf
    import tensorflow_transform as tft

    examples = Dataset(tiny_run.dataset("prepare_examples"))
    transform = tft.TFTransformOutput(examples.folder("transform_fn")).transform_features_layer()
    fusion = Dataset(tiny_run.dataset("train_fusion")).folder("model")
    fused = keras.models.load_model(os.path.join(fusion, "fused.keras"))
    logits_of = keras.Model(fused.input, fused.get_layer("logits").output)
    with open(os.path.join(examples.folder("metadata"), "labels.txt"), encoding="utf-8") as f:
        labels = f.read().splitlines()

    def run(text_embs: np.ndarray, pixel_embs: np.ndarray) -> tuple[list[dict], list[dict]]:
        raw = {"text_emb": tf.constant(text_embs), "pixel_emb": tf.constant(pixel_embs)}
        normalised = transform(raw)
        vectors = {name: normalised[name] for name in raw}
        scores = (np.asarray(network(vectors)) for network in (logits_of, fused))
        logits, probabilities = (
            [dict(zip(labels, row.tolist(), strict=True)) for row in values] for values in scores
        )
        return logits, probabilities

    return run


@pytest.fixture(scope="module")
def index(tiny_run):
    from model_code.phrases.index import PhraseIndex

    return PhraseIndex(Dataset(tiny_run.dataset("embed_phrases")).folder("index"))


def test_model_says_what_features_and_classifier_say(long_way, classified, features):
    _, probabilities = long_way(
        *(arrow_to_vectors(features[f"{n}_emb"]) for n in ("text", "pixel"))
    )
    for row, by_label in enumerate(probabilities):
        assert sum(by_label.values()) == pytest.approx(1, rel=1e-5)
        best = sorted(by_label.values(), reverse=True)[: len(classified.labels[row])]
        np.testing.assert_allclose(classified.probabilities[row], best, **TOLERANCE)
        of_names = [by_label[name] for name in classified.labels[row]]
        np.testing.assert_allclose(of_names, classified.probabilities[row], **TOLERANCE)


def test_model_chooses_phrases_as_the_features_were_made(tiny_run, classified, features, index):
    made_with = PhraseSettings.of(Dataset(tiny_run.dataset("embed_images")).manifest.config)
    assert made_with.diversity == "mmr"
    folder = Dataset(tiny_run.dataset("export_model")).folder("model")
    with open(os.path.join(folder, "config.json")) as f:
        assert json.load(f)["phrase_settings"] == dataclasses.asdict(made_with)
    clear = _clear(index, made_with, arrow_to_vectors(features["query_emb"]))
    for row in np.flatnonzero(clear):
        assert classified.phrases[row] == features["phrases"][int(row)].as_py()
        scores = features["phrase_scores"][int(row)].as_py()
        np.testing.assert_allclose(classified.phrase_scores[row], scores, atol=1e-5)


def _clear(index, settings: PhraseSettings, query_embs: np.ndarray) -> np.ndarray:
    """[n] bool, where no two phrases are so close that the last bits decide; most must be."""
    from model_code.phrases.chooser import PhraseChooser

    chooser, rng = PhraseChooser(index, settings), np.random.default_rng(0)
    found = [
        chooser.choose(query_embs + rng.normal(0, 1e-5, query_embs.shape).astype(np.float32)).rows
        for _ in range(4)
    ]
    clear = np.all([rows == found[0] for rows in found], axis=(0, 2))
    assert clear.mean() > 0.8
    return clear


@pytest.mark.parametrize(
    "settings",
    [
        PhraseSettings(1),
        PhraseSettings(5),
        PhraseSettings(3, phrase_weights="probability"),
        PhraseSettings(5, "merge", phrase_pool=20, merge_similarity=0.5),
        PhraseSettings(5, "mmr", phrase_pool=20, mmr_lambda=0.3, phrase_weights="probability"),
    ],
    ids=lambda s: f"{s.num_phrases}-{s.diversity}-{s.phrase_weights}",
)
def test_serving_chooses_and_explains_as_training_does(
    tiny_run, images, features, index, long_way, settings, tmp_path
):
    import tensorflow as tf

    from model_code.models.fusion import serving_graph
    from model_code.phrases.chooser import PhraseChooser

    examples = Dataset(tiny_run.dataset("prepare_examples"))
    shutil.copytree(examples.folder("metadata"), tmp_path / "metadata")
    config = json.loads((tmp_path / "metadata" / "config.json").read_text())
    (tmp_path / "metadata" / "config.json").write_text(
        json.dumps(config | dataclasses.asdict(settings))
    )
    parts = {
        "generator": ("train_text_generator", "model"),
        "pixel_embedder": ("train_pixel_embedder", "model"),
        "index": ("embed_phrases", "index"),
        "transform": ("prepare_examples", "transform_fn"),
        "fusion": ("train_fusion", "model"),
    }
    folders = {
        name: Dataset(tiny_run.dataset(stage)).folder(table)
        for name, (stage, table) in parts.items()
    }
    model = serving_graph._ImageClassifier(folders | {"metadata": str(tmp_path / "metadata")}, 3)
    served = model.signatures()["serving_default"](images=tf.constant(list(images.values())))

    query_embs, pixel_embs = (arrow_to_vectors(features[f"{n}_emb"]) for n in ("query", "pixel"))
    chosen = PhraseChooser(index, settings).choose(query_embs)
    clear = np.flatnonzero(_clear(index, settings, query_embs))
    phrases = [[text.decode() for text in row] for row in served["phrases"].numpy()]
    assert [phrases[row] for row in clear] == chosen.phrases[clear].tolist()
    logits, probabilities = long_way(chosen.text_embs, pixel_embs)
    for left_out in range(settings.num_phrases):
        without = _texts_without(index, chosen, left_out, settings)
        logits_without, _ = long_way(without, pixel_embs)
        for row in clear:
            labels = [label.decode() for label in served["labels"].numpy()[row]]
            np.testing.assert_allclose(
                served["probabilities"][row], [probabilities[row][n] for n in labels], **TOLERANCE
            )
            moved = [logits[row][name] - logits_without[row][name] for name in labels]
            np.testing.assert_allclose(
                served["phrase_effects"][row, :, left_out], moved, rtol=0, atol=1e-4
            )


def _texts_without(index, chosen, left_out: int, settings: PhraseSettings) -> np.ndarray:
    """[n, T] float32: the mean of all phrases but one, 0 without any."""
    rest = [place for place in range(settings.num_phrases) if place != left_out]
    if not rest:
        return np.zeros_like(chosen.text_embs)
    weights = np.ones((len(chosen.rows), len(rest)))
    if settings.phrase_weights == "probability":
        weights = chosen.probabilities[:, rest].astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    means = (weights[:, :, None] * index.text_embs[chosen.rows[:, rest]]).sum(axis=1)
    return means.astype(np.float32)


def test_the_exported_model_has_each_network_once(tiny_run):
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    from model_code.images.embedder import ImageEmbedder

    names = ("train_text_generator", "train_pixel_embedder")
    folders = [Dataset(tiny_run.dataset(name)).folder("model") for name in names]
    embed = tf.function(ImageEmbedder(*folders).graph)
    graph = embed.get_concrete_function(tf.TensorSpec([None], tf.string)).graph
    expected = sum(op.type == "Conv2D" for op in graph.get_operations())

    exported = Dataset(tiny_run.dataset("export_model")).folder("model")
    with open(os.path.join(exported, "saved_model", "saved_model.pb"), "rb") as file:
        library = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    functions = library.library.function
    found = sum(node.op == "Conv2D" for function in functions for node in function.node_def)
    assert found == expected > 0


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
        np.testing.assert_allclose(
            row["phrase_effects"], classified.phrase_effects[place], atol=1e-4
        )


def test_vectors_of_the_same_networks_are_taken_from_an_earlier_run(tiny_run, tmp_path):
    before = Dataset(tiny_run.dataset("embed_images"))
    flags = overrides.flags_of(STAGES["embed_images"], tiny_run.config)
    flags |= {"num_phrases": "2", "reuse": before.root, "output": str(tmp_path / "features")}
    assert embed_images.run([f"--{name}={value}" for name, value in flags.items()]) == 0
    after = Dataset(flags["output"])
    rows = before.manifest.tables["features"].rows
    assert after.manifest.counters["reused.rows"] == rows > 0
    old, new = (found.table("features").sort_by("image_id") for found in (before, after))
    same = ["image_id", "split", "labels", "query_emb", "pixel_emb", "generator_fingerprint"]
    assert new.select(same) == old.select(same)
    for fewer, phrases in zip(new["phrases"].to_pylist(), old["phrases"].to_pylist(), strict=True):
        assert len(fewer) == 2
        assert fewer[0] == phrases[0]


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


def test_what_is_exported_twice_is_the_same(tiny_run, tmp_path):
    """In one process, where objects lie elsewhere in memory the second time."""
    found = []
    for name in ("first", "second"):
        output = str(tmp_path / name)
        command = work_folder.command_into("export_model", tiny_run.config, output)
        assert export_model.run(command[3:]) == 0
        found.append(work_folder.rows_of(output))
    assert found[0] == found[1]


def test_pages_and_broken_pictures_among_photos_cost_no_prediction(tiny_run, images, tmp_path):
    """A page, a PNG with a flipped bit, litter: each is told of, and every photo is classified."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photos = list(images.values())[:10]
    for n, data in enumerate(photos):
        (folder / f"{n}.png").write_bytes(data)
    flipped = bytearray(encode(photo(1), "PNG"))
    flipped[-20] ^= 1  # the end of the pixels, or their checksum
    others = {
        "page.jpg": image_files.HTML,
        "bit.png": flipped,
        "._0.png": b"Mac",
        "Thumbs.db": b"W",
    }
    for name, data in others.items():
        (folder / name).write_bytes(data)
    model, output = tiny_run.dataset("export_model"), tmp_path / "predictions"
    argv = [f"--model={model}", f"--images={folder}", f"--output={output}"]
    assert classify_images.run(argv) == 0
    made = Dataset(str(output))
    keys = made.table("predictions")["key"].to_pylist()
    assert sorted(keys) == sorted(str(folder / f"{n}.png") for n in range(len(photos)))
    dead = {row["key"]: row["reason"] for row in made.table("dead_letters").to_pylist()}
    assert dead == {
        str(folder / "page.jpg"): "not_an_image",
        str(folder / "bit.png"): "truncated_image",
    }
