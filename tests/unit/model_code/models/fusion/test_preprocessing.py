import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from model_code.models.fusion.preprocessing import MAX_Z_SCORE, preprocessing_fn, raw_schema

TEXT, PIXEL = 3, 4


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    vectors = rng.normal(2, 3, (200, TEXT + PIXEL)).astype(np.float32)
    vectors[:, -1] = 7
    names = ["b", "a", "a", "c d", "a", "b"]
    return [
        {
            "image_id": f"{i:03d}".encode(),
            "labels": [names[i % 6].encode()],
            "phrases": [b"one", "zwölf".encode()],
            "text_emb": vector[:TEXT],
            "pixel_emb": vector[TEXT:],
        }
        for i, vector in enumerate(vectors)
    ]


@pytest.fixture(scope="module")
def transform(rows, tmp_path_factory):
    """What tf.Transform learned from the rows, written and read again."""
    folder = str(tmp_path_factory.mktemp("tft"))
    schema = raw_schema({"text_emb": (TEXT,), "pixel_emb": (PIXEL,)})
    schema.feature.remove(next(f for f in schema.feature if f.name == "split"))
    metadata = dataset_metadata.DatasetMetadata(schema)
    with beam.Pipeline("FnApiRunner") as pipeline, tft_beam.Context(temp_dir=folder):
        data = (pipeline | beam.Create(rows), metadata)
        _ = data | tft_beam.AnalyzeDataset(preprocessing_fn) | tft_beam.WriteTransformFn(folder)
    return tft.TFTransformOutput(folder)


def _stack(rows, name):
    return np.stack([row[name] for row in rows])


def test_vectors_are_z_scores_of_the_training_rows(rows, transform):
    raw = {name: tf.constant(_stack(rows, name)) for name in ("text_emb", "pixel_emb")}
    found = transform.transform_raw_features(raw, drop_unused_features=True)
    text = _stack(rows, "text_emb")
    expected = (text - text.mean(axis=0)) / text.std(axis=0)
    np.testing.assert_allclose(found["text_emb"], expected, atol=1e-4)
    assert np.all(found["pixel_emb"][:, -1] == 0), "a constant dimension says nothing"


def test_an_outlier_is_clipped(transform):
    raw = {"text_emb": tf.fill([1, TEXT], 1e6), "pixel_emb": tf.fill([1, PIXEL], -1e6)}
    found = transform.transform_raw_features(raw, drop_unused_features=True)
    assert np.all(found["text_emb"] == MAX_Z_SCORE)
    assert np.all(found["pixel_emb"] == -MAX_Z_SCORE)


def test_labels_are_numbered_by_frequency_and_unseen_ones_are_minus_one(transform):
    assert transform.vocabulary_by_name("labels") == [b"a", b"b", b"c d"]
    raw = {"labels": tf.sparse.from_dense([["c d", "a"], ["new", ""]])}
    found = transform.transform_raw_features(raw, drop_unused_features=True)
    np.testing.assert_array_equal(found["label_ids"].values, [2, 0, -1])


def test_the_schema_has_the_widths_it_is_given():
    schema = raw_schema({"text_emb": (5,), "pixel_emb": (6,)})
    specs = schema_utils.schema_as_feature_spec(schema).feature_spec
    assert specs["text_emb"].shape == [5]
    assert specs["pixel_emb"].shape == [6]
    assert specs["image_id"].shape == []


def test_the_schema_has_the_vectors_of_its_mapping_and_no_others():
    schema = raw_schema({"patch_embs": (4, 6), "text_emb": (5,)})
    specs = schema_utils.schema_as_feature_spec(schema).feature_spec
    assert specs["patch_embs"].shape == [4, 6]
    assert specs["text_emb"].shape == [5]
    assert "pixel_emb" not in specs
    by_name = {feature.name: feature for feature in schema.feature}
    assert by_name["patch_embs"].float_domain.disallow_nan
    assert by_name["text_emb"].float_domain.max == pytest.approx(1.01)
