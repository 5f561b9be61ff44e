"""Prototypes, equation (2), against plain NumPy in float64."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.datasets.clicked_images import WIDTH, image_embs, pairs_table
from transforms.phrases import prototypes
from transforms.shards.blocks import from_blocks, to_block

IDS = [f"image{i}" for i in range(20)]


def found(sums: pa.Table) -> dict[int, np.ndarray]:
    return dict(zip(sums["query_id"].to_pylist(), prototypes.means(sums), strict=True))


@st.composite
def clicks(draw):
    """Unit vectors of images, pairs with scores, and the same pairs in another order, cut up."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.normal(size=(20, WIDTH))
    vectors = np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    scores = st.floats(1e-6, 1e6)
    rows = [
        (image, int(rng.integers(5)), "train", draw(scores))
        for image in rng.choice(IDS, 30).tolist()
    ]
    order = draw(st.permutations(range(len(rows))))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    return vectors, rows, np.split(np.array(order), cuts)


def add_up(vectors, rows, bundles, evidence) -> pa.Table:
    """What Beam does: a block a pair, an accumulator a bundle, then all of them merged."""
    combine, embs = prototypes.SumVectors(WIDTH), image_embs(IDS, vectors)
    accumulators = []
    for bundle in bundles:
        accumulator = combine.create_accumulator()
        for row in bundle:
            part = prototypes.partial_sums(embs, pairs_table([rows[row]]), evidence)
            accumulator = combine.add_input(accumulator, to_block(part))
        accumulators.append(combine.compact(accumulator))
    merged = combine.merge_accumulators(accumulators)
    return from_blocks([combine.extract_output(merged)], prototypes.sums_schema(WIDTH))


@settings(max_examples=30, deadline=None)
@given(clicks(), st.sampled_from(prototypes.EVIDENCE))
def test_prototypes_are_weighted_means_whatever_the_bundles(drawn, evidence):
    vectors, rows, bundles = drawn
    sums = add_up(vectors, rows, bundles, evidence)
    at_once = prototypes.partial_sums(image_embs(IDS, vectors), pairs_table(rows), evidence)
    assert sums.equals(at_once), "equal to the last bit"
    for query, mean in found(sums).items():
        mine = [(vectors[IDS.index(i)].astype(float), s) for i, q, _, s in rows if q == query]
        weights = [max(s / (s + 1), 2.0**-16) if evidence == "clicks" else 1.0 for _, s in mine]
        expected = np.average([vector for vector, _ in mine], axis=0, weights=weights)
        np.testing.assert_allclose(mean, expected, atol=1e-6)
    images = {q: len([1 for _, other, *_ in rows if other == q]) for _, q, *_ in rows}
    assert dict(zip(*map(pa.ChunkedArray.to_pylist, sums.columns[:2]), strict=True)) == images


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=2))
def test_more_clicks_count_more_and_none_dominates(scores):
    few, many = prototypes.evidence_weights(np.sort(scores), "clicks")
    assert 0 < few <= many <= 1
    assert prototypes.evidence_weights(np.array([1.0, 1e9]), "clicks")[0] == 0.5
    np.testing.assert_array_equal(prototypes.evidence_weights(np.array(scores), "equal"), 1)


def test_sums_of_the_largest_summands_stay_in_64_bits():
    # 2^27 - 1 images, each of weight 1 at one corner of the space.
    most = int(prototypes.to_units(np.ones(1))[0]) * (2**27 - 1)
    assert most <= np.iinfo(np.int64).max
    row = pa.table([[7], [2**27 - 1], [most], [[most, 0, 0, -most]]], prototypes.sums_schema(WIDTH))
    np.testing.assert_allclose(prototypes.means(row), [[1, 0, 0, -1]])


def test_held_out_images_make_no_prototype():
    embs = image_embs(["a", "b"], np.eye(2, WIDTH), ["train", "validation"])
    rows = [("a", 1, "train", 1.0), ("b", 1, "validation", 1.0), ("c", 1, "train", 1.0)]
    sums = prototypes.partial_sums(embs, pairs_table(rows))
    assert sums["images"].to_pylist() == [1]
    np.testing.assert_allclose(found(sums)[1], np.eye(2, WIDTH)[0], atol=1e-9)
    held_out = prototypes.hold_out(embs, pairs_table(rows))
    assert held_out.image_embs["image_id"].to_pylist() == ["b"]
    assert held_out.pairs["image_id"].to_pylist() == ["b"]
    np.testing.assert_allclose(held_out.mean, np.eye(2, WIDTH)[0], atol=1e-9)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_held_out_shards_join_in_any_order(order):
    vectors = np.random.default_rng(0).normal(size=(3, 4, WIDTH)) / 9
    parts = [
        prototypes.hold_out(
            image_embs([f"{n}{i}" for i in range(4)], v, ["train", "validation"] * 2),
            pairs_table([(f"{n}1", 5, "validation", 1.0), (f"{n}0", 5, "train", 1.0)]),
        )
        for n, v in enumerate(vectors)
    ]
    joined = prototypes.join_held_out([parts[i] for i in order], WIDTH)
    assert joined.image_embs["image_id"].to_pylist() == ["01", "03", "11", "13", "21", "23"]
    assert joined.pairs["image_id"].to_pylist() == ["01", "11", "21"]
    np.testing.assert_allclose(joined.mean, vectors[:, ::2].reshape(6, -1).mean(0), atol=1e-7)
    nothing = prototypes.join_held_out([], WIDTH)
    assert [getattr(nothing, f.name) for f in dataclasses.fields(nothing)][2] == 0
    assert nothing.mean.tolist() == [0] * WIDTH
