"""Which images are embedded, and the vectors that queries get, against plain NumPy."""

import numpy as np
import pyarrow as pa
import pytest

from model_code.phrases.query_vectors import Calibration
from schemas.tables.vectors import arrow_to_vectors
from tests.support.datasets.clicked_images import WIDTH, image_embs, pairs_table
from transforms.phrases import build as phrases
from transforms.phrases import prototypes
from transforms.phrases.calibration import Calibrated, HeadWeights
from transforms.phrases.ranks import rank_phrases

UNIT = np.eye(WIDTH, dtype=np.float32)


def calibrated(mean=None, **settings) -> Calibrated:
    none = np.empty(0, np.int64)
    embs = np.empty((0, WIDTH), np.float32)
    mean = np.zeros(WIDTH) if mean is None else mean
    return Calibrated(Calibration(**settings), mean, embs, none, none, none, none, {})


@pytest.fixture
def sums() -> pa.Table:
    """Queries 1 and 2 with two images that lie between axes 1 and 2, query 3 with one."""
    embs = image_embs(["a", "b"], UNIT[1:3])
    rows = [(i, q, "train", 1.0) for i in "ab" for q in (1, 2)] + [("a", 3, "train", 1.0)]
    return prototypes.partial_sums(embs, pairs_table(rows))


# Queries 1 and 4 have a weight; 2 has a prototype; 3 has too few images; 5 has nothing.
QUERIES = pa.table({"query_id": pa.array([1, 2, 3, 4, 5], pa.int64()), "language": ["en"] * 5})
HEAD = HeadWeights(np.array([4, 1]), UNIT[[3, 0]])
BETWEEN = (UNIT[1] + UNIT[2]) / np.sqrt(2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {1: ("weight", UNIT[0]), 2: ("prototype", BETWEEN)}),
        (
            {"head": "prototype", "scale": 0.5},
            {1: ("prototype", BETWEEN), 2: ("prototype", BETWEEN / 2)},
        ),
        (
            {"head": "mix", "alpha": 0.25},
            {
                1: ("mix", (UNIT[0] + 3 * BETWEEN) / np.sqrt(10)),
                2: ("prototype", BETWEEN),
            },
        ),
        # With all of axis 2 taken out, what is left of the prototype is axis 1.
        ({"centring": 1.0, "scale": 2.0}, {1: ("weight", UNIT[0]), 2: ("prototype", 2 * UNIT[1])}),
    ],
)
def test_head_and_tail_get_their_vectors(sums, settings, expected):
    made, is_head = phrases.choose_vectors(
        QUERIES, sums, HEAD, calibrated(UNIT[2] / 2, **settings), 2
    )
    expected = expected | {4: ("weight", UNIT[3])}
    assert made["query_id"].to_pylist() == [1, 2, 4]
    assert is_head.tolist() == [True, False, True]
    assert made["source"].to_pylist() == [source for source, _ in expected.values()]
    np.testing.assert_allclose(
        arrow_to_vectors(made["query_vector"]),
        [vector for _, vector in expected.values()],
        atol=1e-6,
    )


def test_a_prototype_that_is_the_mean_of_all_images_has_no_direction(sums):
    mean = np.array([0, 0.5, 0.5, 0])
    made, _ = phrases.choose_vectors(QUERIES, sums, HEAD, calibrated(mean, centring=1.0), 2)
    assert made["query_id"].to_pylist() == [1, 4]


@pytest.mark.parametrize(("floor", "kept"), [(1, [1, 2, 3, 4]), (2, [1, 2, 4]), (3, [1, 4])])
def test_floor_counts_images(sums, floor, kept):
    made, _ = phrases.choose_vectors(QUERIES, sums, HEAD, calibrated(), floor)
    assert made["query_id"].to_pylist() == kept


def test_all_training_and_the_first_validation_images_are_embedded():
    rows = [("d", "validation"), ("b", "validation"), ("a", "train"), ("b", "validation")]
    rows += [("e", "test"), ("c", "train"), ("d", "validation")]
    pairs = pa.table(
        dict(zip(["image_id", "split"], map(list, zip(*rows, strict=True)), strict=True))
    )
    assert phrases.clicked_images(pairs, 1).to_pylist() == ["a", "c", "b"]
    assert phrases.clicked_images(pairs, 9).to_pylist() == ["a", "c", "b", "d"]
    assert phrases.clicked_images(pairs, 0).to_pylist() == ["a", "c"]
    assert phrases.share_out(10, 4) == [2, 2, 3, 3]


def test_shards_of_phrases_count_what_scores_above(sums):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, WIDTH)).astype(np.float32)
    made, is_head = phrases.choose_vectors(QUERIES, sums, HEAD, calibrated(), 2)
    vectors = arrow_to_vectors(made["query_vector"])
    rows, ids = np.array([0, 1, 1, 2]), np.array([4, 1, 2, 77])
    scores = np.array([images[0] @ UNIT[3], images[1] @ UNIT[0], images[1] @ BETWEEN, 0.0])
    of = Calibrated(Calibration(), np.zeros(WIDTH), images, rows, ids, scores, 0 * scores, {})
    ranked = rank_phrases(made, is_head, of)
    above = (images[rows] @ vectors.T > scores[:, None] + 1e-4).sum(1)
    np.testing.assert_array_equal(ranked.above, above + np.array([0.5, 0.5, 0.5, 0]))
    assert ranked.queries == {1: ("en", "head"), 2: ("en", "tail"), 4: ("en", "head")}
