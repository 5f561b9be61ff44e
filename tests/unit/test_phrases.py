"""Prototypes and the choice of query vectors, against plain NumPy."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import tables
from transforms import phrases
from transforms.datasets import from_blocks, to_block

WIDTH = 4


def _image_embs(ids, vectors) -> pa.Table:
    schema = phrases.image_embs_schema(WIDTH)
    columns = [pa.array(ids), tables.vectors_to_arrow(np.float32(vectors), schema.types[1])]
    return pa.table(columns, schema)


def _pairs(rows) -> pa.Table:
    images, queries, splits = zip(*rows, strict=True)
    return pa.table(
        {"image_id": images, "query_id": pa.array(queries, pa.int64()), "split": splits}
    )


def _means(sums: pa.Table) -> dict[int, np.ndarray]:
    means = tables.arrow_to_vectors(sums["sums"]) / phrases.SUM_UNIT
    return {
        query: mean / images
        for query, images, mean in zip(
            sums["query_id"].to_pylist(), sums["images"].to_pylist(), means, strict=True
        )
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_prototypes_are_means_in_any_order(seed, bundles):
    rng = np.random.default_rng(seed)
    ids = [f"image{i}" for i in range(20)]
    vectors = rng.normal(size=(20, WIDTH)).astype(np.float32)
    rows = [(ids[rng.integers(20)], int(rng.integers(5)), "train") for _ in range(40)]
    combine = phrases.SumVectors(WIDTH)
    embs = _image_embs(ids, vectors)

    def add_up(order) -> pa.Table:
        accumulators = []
        for bundle in np.array_split(order, bundles):
            accumulator = combine.create_accumulator()
            for row in bundle:
                block = to_block(phrases.partial_sums(embs, _pairs([rows[row]])))
                accumulator = combine.add_input(accumulator, block)
            accumulators.append(accumulator)
        merged = combine.merge_accumulators(accumulators)
        return from_blocks([combine.extract_output(merged)], phrases.sums_schema(WIDTH))

    sums = add_up(np.arange(40))
    assert sums.equals(add_up(rng.permutation(40)))
    for query, mean in _means(sums).items():
        chosen = [ids.index(image) for image, q, _ in rows if q == query]
        np.testing.assert_allclose(mean, vectors[chosen].astype(float).mean(0), atol=1e-6)


def test_held_out_images_make_no_prototype():
    embs = _image_embs(["a", "b"], np.eye(2, WIDTH))
    sums = phrases.partial_sums(
        embs, _pairs([("a", 1, "train"), ("b", 1, "test"), ("c", 1, "train")])
    )
    assert sums["images"].to_pylist() == [1]
    np.testing.assert_allclose(_means(sums)[1], np.eye(2, WIDTH)[0], atol=1e-9)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("weight", {1: ("weight", 0), 2: ("prototype", 1)}),
        ("prototype", {1: ("prototype", 1), 2: ("prototype", 1), 4: ("weight", 0)}),
    ],
)
def test_head_and_tail_get_their_vectors(head, expected):
    unit = np.eye(WIDTH, dtype=np.float32)
    queries = pa.table({"query_id": pa.array([1, 2, 3] if head == "weight" else [1, 2, 3, 4])})
    embs = _image_embs(["a", "b"], np.stack([unit[1] * 2, unit[1] * 4]))
    sums = phrases.add_sums(
        [
            phrases.partial_sums(
                embs,
                _pairs([(i, q, "train") for i in "ab" for q in (1, 2)] + [("a", 3, "train")]),
            )
        ],
        WIDTH,
    )
    head_ids = np.array([1] if head == "weight" else [1, 4])
    chosen = phrases.choose_vectors(queries, sums, head_ids, unit[[0] * len(head_ids)], 2, head)
    found = {
        query: (source, int(np.argmax(vector)))
        for query, source, vector in zip(
            chosen["query_id"].to_pylist(),
            chosen["source"].to_pylist(),
            tables.arrow_to_vectors(chosen["query_vector"]),
            strict=True,
        )
    }
    assert found == expected
    np.testing.assert_allclose(
        np.linalg.norm(tables.arrow_to_vectors(chosen["query_vector"]), axis=1), 1, atol=1e-6
    )
