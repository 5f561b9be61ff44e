"""Examples with a vector of several dimensions: from TFRecord to batches, and through a network."""

import json

import keras
import numpy as np
import pytest

from model_code.models.fusion import fit as fusion
from model_code.models.fusion.data import open_examples
from model_code.models.fusion.parts import PARTS
from model_code.runtime import training
from schemas.base.errors import PhraseLensError
from tests.support.datasets.examples_dataset import Rows, write_examples

VECTORS = {"text_emb": (3,), "pixel_emb": (5,), "patch_embs": (4, 6)}


def rows_of(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    found = {n: rng.normal(size=(count, *s)).astype(np.float32) for n, s in VECTORS.items()}
    # Of the label only the patches know.
    ids = (found["patch_embs"][:, 2, 1] > 0).astype(int)
    patches = {"patch_embs": found["patch_embs"]}
    return Rows(found["text_emb"], found["pixel_emb"], ids[:, None].tolist(), patches)


@pytest.fixture(scope="module")
def splits():
    return {"train": rows_of(300, 0), "validation": rows_of(50, 1), "test": rows_of(70, 2)}


@pytest.fixture(scope="module")
def examples(splits, tmp_path_factory):
    root = str(tmp_path_factory.mktemp("examples"))
    write_examples(root, splits, ["no", "yes"])
    return root


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_each_vector_comes_by_its_name_in_its_shape(examples, splits, cache_bytes):
    with open_examples(examples, 16, cache_bytes) as reader:
        assert reader.vectors == VECTORS
        ids, _ = reader.names("test")
        places = [int(image_id.removeprefix("test-")) for image_id in ids]
        batches = list(reader.batches("test"))
    assert [len(batch["label_ids"]) for batch in batches] == [16, 16, 16, 16, 6]
    for name, expected in splits["test"].vectors.items():
        found = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(found, expected[places], strict=True)
    assert all(batch.keys() == {*VECTORS, "label_ids"} for batch in batches)


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_few_labels_keep_all_vectors_of_a_row_together(examples, splits, cache_bytes):
    with open_examples(examples, 16, cache_bytes) as reader:
        batches = list(reader.few_labels(4, 0).shuffled("train", 3, 1))
    train, found = splits["train"], {n: np.concatenate([b[n] for b in batches]) for n in VECTORS}
    assert len(found["patch_embs"]) == 8
    for row, text_emb in enumerate(found["text_emb"]):
        (place,) = np.flatnonzero((train.text_emb == text_emb).all(axis=1))
        for name, expected in train.vectors.items():
            np.testing.assert_array_equal(found[name][row], expected[place])


@pytest.mark.parametrize("seen", [["patch_embs"], ["patch_embs", "text_emb"], list(VECTORS)])
def test_a_network_reads_the_vectors_that_its_mapping_names(examples, seen):
    settings = fusion.Settings((), 0.01, 0.0, 0.0, part_dropout=0.2, pixel_scale=0.5)
    training.set_seed(0)
    with open_examples(examples, 16, 10**9) as reader:
        model = fusion.build({name: reader.vectors[name] for name in seen}, 2, False, settings)
        assert {name: tensor.shape[1:] for name, tensor in model.input.items()} == {
            name: VECTORS[name] for name in seen
        }
        (weights,) = (v for v in model.trainable_variables if v.name == "kernel")
        assert weights.shape[0] == sum(np.prod(VECTORS[name], dtype=int) for name in seen)
        predict = fusion.predictor(model, reader)
        assert predict("test").shape == (70, 2)


def test_training_learns_from_a_vector_of_several_dimensions(examples, tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "fused", ("text_emb", "patch_embs"))
    budget = {
        "epochs": 12,
        "patience": 12,
        "min_steps": 20,
        "class_weights": np.ones(2, np.float32),
    }
    with open_examples(examples, 16, 10**9) as reader:
        args = "patches", "fused", str(tmp_path), reader, fusion.Settings((), 0.03, 0.0, 0.0)
        model, _ = fusion.train(*args, seed=0, **budget)
        probabilities = fusion.predictor(model, reader)("test")
        truth = fusion.truth(reader, "test")
    assert (probabilities.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.85
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.input["patch_embs"].shape == (None, 4, 6)


def test_examples_that_do_not_say_their_vectors_are_an_error(splits, tmp_path):
    dataset = write_examples(str(tmp_path), splits, ["no", "yes"])
    path = tmp_path / f"{dataset.folder('metadata')}/config.json"
    path.write_text(json.dumps({"task": "single", "text_width": 3, "pixel_width": 5}))
    with (
        pytest.raises(PhraseLensError, match="prepare_examples again"),
        open_examples(dataset.root, 16, 0),
    ):
        pass
