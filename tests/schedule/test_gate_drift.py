"""The gate's measures against SciPy, formulas by hand, and the rules that any distance keeps."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import linalg
from scipy.spatial import distance

from model_code.gate import drift as gate_drift

COUNT_MEASURES = [gate_drift.jensen_shannon, gate_drift.population_stability]


@st.composite
def two_counts(draw):
    size = draw(st.integers(1, 12))
    counts = hnp.arrays(np.float64, size, elements=st.integers(0, 1000).map(float))
    p, q = draw(counts), draw(counts)
    # Every snapshot has a row.
    p[draw(st.integers(0, size - 1))] += 1
    q[draw(st.integers(0, size - 1))] += 1
    return p, q


@given(two_counts())
def test_jensen_shannon_is_scipys(counts):
    p, q = counts
    expected = distance.jensenshannon(p, q, base=2) ** 2
    assert gate_drift.jensen_shannon(p, q) == pytest.approx(expected, abs=1e-7)


@given(two_counts())
def test_stability_index_is_jeffreys_divergence(counts):
    p, q = ((c + 0.5) / (c + 0.5).sum() for c in counts)
    expected = math.fsum(
        a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True)
    )
    assert gate_drift.population_stability(*counts) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", COUNT_MEASURES)
@given(counts=two_counts())
def test_measures_of_counts_are_symmetric_and_zero_for_equal(measure, counts):
    p, q = counts
    assert measure(p, p) == 0
    assert measure(p, q) >= 0
    assert measure(p, q) == pytest.approx(measure(q, p), abs=1e-12)


@pytest.mark.parametrize("measure", COUNT_MEASURES)
@given(counts=two_counts(), nearer=st.floats(0, 1))
def test_measures_of_counts_grow_with_the_shift(measure, counts, nearer):
    p, q = counts
    q = q * p.sum() / q.sum()
    halfway = (1 - nearer) * p + nearer * q
    assert measure(p, halfway) <= measure(p, q) + 1e-9


def test_jensen_shannon_of_disjoint_counts_is_one_bit():
    assert gate_drift.jensen_shannon(np.array([3.0, 0]), np.array([0, 8.0])) == 1


def test_fold_keeps_the_largest_categories_and_every_row():
    p, q = np.array([1.0, 50, 2, 40]), np.array([1.0, 0, 70, 4])
    kept = gate_drift.fold(p, q, 2)
    np.testing.assert_array_equal(kept, [[2, 50, 41], [70, 0, 5]])
    assert gate_drift.fold(p, q, 4)[0] is p


def vectors(width, seed, rows=300):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def test_frechet_is_the_formula_with_scipys_matrix_root():
    a, b = vectors(6, 0), vectors(6, 1)
    sigma_a, sigma_b = (np.cov(x.T, bias=True) for x in (a, b))
    distance_ = np.sum((a.mean(0) - b.mean(0)) ** 2)
    distance_ += np.trace(sigma_a + sigma_b - 2 * linalg.sqrtm(sigma_a @ sigma_b).real)
    expected = distance_ / (np.trace(sigma_a + sigma_b) / 2)
    assert gate_drift.frechet(a, b) == pytest.approx(expected, rel=1e-6)


@given(st.integers(2, 8), st.integers(0, 50), st.floats(0, 3), st.floats(0, 3))
def test_frechet_is_zero_for_equal_symmetric_and_grows_with_the_shift(width, seed, one, other):
    a, direction = vectors(width, seed, 60), vectors(width, seed + 1, 1)[0]
    near, far = (a + direction * share for share in sorted((one, other)))
    assert gate_drift.frechet(a, a) == 0
    assert gate_drift.frechet(a, far) == pytest.approx(gate_drift.frechet(far, a), abs=1e-9)
    assert gate_drift.frechet(a, near) <= gate_drift.frechet(a, far) + 1e-9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_frechet_of_what_is_not_finite_is_nan(value):
    """Which the gate refuses."""
    broken = np.ones((30, 4))
    broken[7, 2] = value
    assert np.isnan(gate_drift.frechet(np.ones((30, 4)), broken))


def test_frechet_of_a_pure_shift_and_a_pure_scale():
    # Means apart by one: 1 / variance. Deviations 1 and 2 in one dimension: (2 − 1)² / 2.5.
    a = np.array([[-1.0], [1.0]])
    assert gate_drift.frechet(a, a + 1) == pytest.approx(1)
    assert gate_drift.frechet(a, 2 * a) == pytest.approx(1 / 2.5)


def test_frechet_sees_correlation_where_means_and_variances_are_equal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    together, apart = np.stack([x, x], 1), np.stack([x, rng.permutation(x)], 1)
    assert gate_drift.frechet(together, apart) > 0.25


def moments(x):
    return np.array([len(x), x.sum(), np.square(x).sum()])


@given(st.integers(0, 100), st.floats(-5, 5))
def test_mean_shift_is_cohens_d(seed, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=50), rng.normal(shift, 2, 80)
    expected = abs(a.mean() - b.mean()) / math.sqrt((a.var() + b.var()) / 2)
    assert gate_drift.mean_shift(moments(a), moments(b)) == pytest.approx(expected)
    assert gate_drift.mean_shift(moments(a), moments(a)) == 0


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1), st.integers(0, 9))),
        max_size=70,
    ),
)
def test_count_sums_weights_by_category_and_half(parts):
    rows = [
        (
            pa.array([key for key, _, _ in part], pa.string()),
            np.array([half for _, half, _ in part], np.int64),
            np.array([weight for _, _, weight in part], np.float64),
        )
        for part in parts
    ]
    expected: dict[str, list[int]] = {}
    for key, half, weight in (row for part in parts for row in part):
        expected.setdefault(key, [0, 0])[half] += weight
    found = gate_drift.count(rows, pa.string()).to_pylist()
    assert {row["key"]: [row["first"], row["second"]] for row in found} == expected
    assert [row["key"] for row in found] == sorted(expected)


def table(**counts):
    return gate_drift.count(
        [(pa.array([key]), np.array([0]), np.array([n])) for key, n in counts.items()], pa.string()
    )


def test_align_gives_both_counts_over_the_categories_of_either():
    p, q = gate_drift.align(table(cat=3, dog=1), table(dog=5, emu=2))
    np.testing.assert_array_equal(p, [3, 1, 0])
    np.testing.assert_array_equal(q, [0, 5, 2])
    assert gate_drift.unknown_share(q, p) == 2 / 7
    assert gate_drift.unknown_share(p, q) == 3 / 4


@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 2000))
def test_all_merges_together_go_through_a_few_times_the_rows(parts, rows, categories):
    """However many parts there are: each row is merged with as many that were counted before."""
    merged = []

    def counting(tables):
        merged.append(sum(map(len, tables)))
        return merge(tables)

    merge = gate_drift._merge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_drift, "_merge", counting)
        patch.setattr(gate_drift, "_MERGE_ROWS", 16)
        rng = np.random.default_rng(parts)
        drawn = [pa.array(rng.integers(0, categories, rows)) for _ in range(parts)]
        found = gate_drift.count(((keys, np.zeros(rows, int), None) for keys in drawn), pa.int64())
    assert sum(found["first"].to_pylist()) == parts * rows
    assert sum(merged) <= 5 * parts * rows + 32
