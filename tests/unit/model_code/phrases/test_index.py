"""The phrase index against a plain NumPy scan."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from model_code.index import partition
from model_code.index.choice import KINDS, IndexSettings
from model_code.phrases import folder as folder_lib
from model_code.phrases.index import PhraseIndex
from schemas.base.errors import PhraseLensError
from schemas.tables.vectors import arrow_to_vectors
from tests.support.inputs.phrase_vectors import draw, images, phrases

TEMPERATURE = 0.1


@pytest.fixture(scope="module")
def table():
    return phrases(draw(2000), np.arange(2000) * 7)


@pytest.fixture(scope="module")
def vectors(table):
    return arrow_to_vectors(table["query_vector"])


@pytest.fixture(scope="module", params=KINDS)
def folder(request, table, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp(request.param))
    settings = IndexSettings(request.param)
    assert folder_lib.build(folder, table.to_batches(300), TEMPERATURE, settings) == 2000
    return folder


def test_search_is_equation_1_over_all_phrases(folder, vectors, table):
    index = PhraseIndex(folder)
    asked = images(vectors, 100)
    found = index.search(asked, 3)
    distance = 1 - asked @ vectors.T
    expected = np.exp(-distance / TEMPERATURE)
    expected /= expected.sum(1, keepdims=True)
    order = np.argsort(distance, axis=1)[:, :3]
    assert (found.rows == order).mean() >= 0.97
    np.testing.assert_allclose(
        found.probabilities, np.take_along_axis(expected, found.rows, 1), rtol=1e-4
    )
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(asked @ vectors.T, found.rows, 1), atol=1e-6
    )
    text = arrow_to_vectors(table["text_emb"])
    np.testing.assert_allclose(
        index.text_features(found.rows), text[found.rows].mean(1), atol=1e-5, rtol=1e-5
    )


def test_rows_mean_what_their_tables_say(folder, table):
    index = PhraseIndex(folder)
    assert len(index) == 2000
    assert index.queries == table["query"].to_pylist()
    np.testing.assert_array_equal(index.query_ids, table["query_id"].to_numpy())
    rows = np.array([[1999, 3], [0, 0], [300, 299]])
    texts = [[f"query {7 * row}" for row in pair] for pair in rows]
    np.testing.assert_array_equal(index.texts(rows), np.array(texts, dtype=object))
    # What the exported model reads.
    np.testing.assert_array_equal(
        np.load(f"{folder}/query_vectors.npy"), arrow_to_vectors(table["query_vector"])
    )
    stored = pq.read_table(f"{folder}/queries.parquet")
    assert stored.equals(table.select(["query_id", "query", "language"]))


def test_beyond_the_exact_partition_probabilities_are_near(folder, vectors, monkeypatch):
    monkeypatch.setattr(partition, "SAMPLE_SIZE", 500)
    asked = images(vectors, 100)
    index = PhraseIndex(folder)
    exact = index.search(asked, 3)
    monkeypatch.setattr(partition, "EXACT_PARTITION_MAX", 100)
    index = PhraseIndex(folder)
    index._sampled = folder_lib.partition_sample(index.query_ids)
    found = index.search(asked, 3)
    np.testing.assert_array_equal(found.rows, exact.rows)
    off = np.abs(np.log(found.probabilities[:, 0]) - np.log(exact.probabilities[:, 0]))
    assert np.median(off) < 0.05


def test_fewer_phrases_than_asked_for(folder, vectors):
    index = PhraseIndex(folder)
    found = index.search(vectors[:2], 3000)
    assert found.rows.shape == (2, 2000)
    assert all(len(set(row)) == 2000 for row in found.rows.tolist())
    assert index.search(vectors[:0], 3).rows.shape == (0, 3)


def test_config_says_what_was_built(folder):
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    assert config["temperature"] == TEMPERATURE
    assert config["recall"] >= 0.99
    assert config["phrases"] == 2000
    assert (config["query_width"], config["text_width"]) == (16, 3)
    assert folder.rstrip("0123456789").endswith(config["kind"]["name"])


def test_an_index_of_an_older_version_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"temperature": 0.1, "kind": "Flat"}))
    with pytest.raises(PhraseLensError, match="Run embed_phrases again"):
        PhraseIndex(str(tmp_path))
