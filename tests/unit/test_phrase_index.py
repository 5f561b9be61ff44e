"""The phrase index against a plain NumPy scan."""

import numpy as np
import pyarrow as pa
import pytest

from model_code import phrase_index
from schemas import tables
from schemas.errors import PhraseLensError


@pytest.fixture
def index(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    schema = tables.phrases(8, 5)
    table = pa.table(
        {
            "query_id": np.arange(300) * 7,
            "query": [f"query {i}" for i in range(300)],
            "language": ["en"] * 300,
            "source": ["weight"] * 300,
            "support": np.ones(300, np.int64),
            "query_vector": tables.vectors_to_arrow(vectors, tables.vector(8)),
            "text_emb": tables.vectors_to_arrow(
                rng.normal(size=(300, 5)).astype(np.float32), tables.vector(5)
            ),
        },
        schema,
    )
    phrase_index.build(str(tmp_path), table.to_batches(100), temperature=0.1)
    return phrase_index.PhraseIndex(str(tmp_path)), vectors, table


def test_search_is_equation_1_over_all_phrases(index):
    opened, vectors, table = index
    images = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    found = opened.search(images, 3)
    distance = 1 - images @ vectors.T
    expected = np.exp(-distance / 0.1)
    expected /= expected.sum(1, keepdims=True)
    order = np.argsort(distance, axis=1)[:, :3]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(
        found.probabilities, np.take_along_axis(expected, order, 1), rtol=1e-4
    )
    assert [opened.queries[i] for i in order[0]] == [
        table["query"][int(i)].as_py() for i in order[0]
    ]
    text = tables.arrow_to_vectors(table["text_emb"])
    np.testing.assert_allclose(opened.text_features(found.rows), text[order].mean(1), atol=1e-6)


def test_fewer_phrases_than_asked_for(index):
    opened, vectors, _ = index
    assert opened.search(vectors[:2], 1000).rows.shape == (2, 300)


def test_no_phrases_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(PhraseLensError, match="min_prototype_images"):
        phrase_index.build(str(tmp_path), [], 0.1)
