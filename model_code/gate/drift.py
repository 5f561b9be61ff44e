"""How far two distributions are apart: the measures of the quality gate, in NumPy and Arrow.

Every measure is zero for equal inputs and symmetric in them. Counts are tables of `COUNTS`: a
category with its count over each half of the images, so that the halves of one snapshot tell what
chance alone does to a measure.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HALVES = ("first", "second")
_MERGE_ROWS = 1 << 22

Part = tuple[pa.Array, np.ndarray, np.ndarray | None]


def count(parts: Iterable[Part], key_type: pa.DataType) -> pa.Table:
    """Counts categories by half.

    Args:
      parts: of each: [n] the categories, [n] int the halves (0 or 1), [n] float weights or None
        for ones.
      key_type: of the categories.

    Returns:
      [categories]: key, and first and second, float64 sums of weights. Sorted by key.
    """
    schema = pa.schema([("key", key_type), *((half, pa.float64()) for half in HALVES)])
    waiting, rows = [schema.empty_table()], 0
    for keys, halves, weights in parts:
        weights = np.ones(len(halves)) if weights is None else weights.astype(np.float64)
        sums = [pa.array(np.where(halves == half, weights, 0.0)) for half in (0, 1)]
        waiting.append(_merge([pa.Table.from_arrays([keys, *sums], schema=schema)]))
        rows += len(waiting[-1])
        # Memory follows categories; and as much has come as is merged with it, so that all merges
        # together go through a few times the rows.
        if rows >= max(len(waiting[0]), _MERGE_ROWS):
            waiting, rows = [_merge(waiting)], 0
    return _merge(waiting).sort_by("key")


def _merge(tables: list[pa.Table]) -> pa.Table:
    grouped = pa.concat_tables(tables).group_by("key")
    sums = grouped.aggregate([(half, "sum") for half in HALVES])
    return sums.select(["key", *(f"{half}_sum" for half in HALVES)]).rename_columns(
        ["key", *HALVES]
    )


def totals(counts: pa.Table) -> np.ndarray:
    """[categories] float64: the count over both halves."""
    return sum(counts[half].to_numpy() for half in HALVES)


def align(a: pa.Table, b: pa.Table, head: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The totals of two counts over the categories of either.

    Args:
      a: counts.
      b: counts.
      head: keep this many categories, those with the largest shares of the two together, and put
        the others into one; 0 keeps all.

    Returns:
      [categories] float64 of a, of b.
    """

    def named(counts: pa.Table, name: str) -> pa.Table:
        return pa.table({"key": counts["key"], name: totals(counts)})

    both = named(a, "a").join(named(b, "b"), "key", join_type="full outer").sort_by("key")
    p, q = (pc.fill_null(both[name], 0.0).to_numpy() for name in ("a", "b"))
    return fold(p, q, head) if head else (p, q)


def movers(a: pa.Table, b: pa.Table, most: int = 5) -> list[tuple[int | str, float, float]]:
    """The categories that make most of the divergence between two counts.

    Args:
      a: counts.
      b: counts.
      most: how many at most.

    Returns:
      (category, its share of a, its share of b), those with the largest terms of the
      Jensen–Shannon divergence first; none whose share is the same.
    """
    keys = pa.concat_tables([a.select(["key"]), b.select(["key"])])["key"].unique().sort()
    p, q = map(shares, align(a, b))
    middle = (p + q) / 2
    terms = sum(x * np.log2(np.where(x > 0, x, middle) / middle) for x in (p, q))
    order = [i for i in np.argsort(-terms, kind="stable")[:most] if p[i] != q[i]]
    return [(keys[int(i)].as_py(), float(p[i]), float(q[i])) for i in order]


def only_in(a: pa.Table, b: pa.Table) -> list[int | str]:
    """The categories that a has and b has not, sorted."""
    missing = pc.invert(pc.is_in(a["key"], value_set=b["key"].combine_chunks()))
    return a["key"].filter(missing).to_pylist()


def fold(p: np.ndarray, q: np.ndarray, head: int) -> tuple[np.ndarray, np.ndarray]:
    """All but the `head` largest categories of two counts as one: [categories] → [head + 1]."""
    if len(p) <= head:
        return p, q
    order = np.argsort(-(shares(p) + shares(q)), kind="stable")
    kept, rest = order[:head], order[head:]
    return np.append(p[kept], p[rest].sum()), np.append(q[kept], q[rest].sum())


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts divided by their sum; zeros stay zeros."""
    total = counts.sum()
    return counts / total if total else counts.astype(np.float64)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """The Jensen–Shannon divergence of two counts, in bits: 0 for equal shares, 1 for disjoint.

    Source: Lin, IEEE Transactions on Information Theory 37(1), 1991.

    Args:
      p: [categories] counts.
      q: [categories] counts.
    """
    p, q = shares(p), shares(q)
    middle = (p + q) / 2
    return float(max(0.0, (_relative(p, middle) + _relative(q, middle)) / 2))


def _relative(p: np.ndarray, q: np.ndarray) -> float:
    known = p > 0
    return float(np.sum(p[known] * np.log2(p[known] / q[known])))


def population_stability(p: np.ndarray, q: np.ndarray) -> float:
    """The population stability index: Σ (p − q) ln(p / q), of shares.

    Half a row is added to each category, as an empty one would make the index infinite.

    Args:
      p: [categories] counts.
      q: [categories] counts.
    """
    p, q = shares(p + 0.5), shares(q + 0.5)
    return float(np.sum((p - q) * np.log(p / q)))


def unknown_share(p: np.ndarray, q: np.ndarray) -> float:
    """The share of p's counts that lies in categories which q has not."""
    return float(shares(p)[q == 0].sum())


def mean_shift(a: np.ndarray, b: np.ndarray) -> float:
    """By how many standard deviations two means differ (Cohen's d, of equal weights).

    Args:
      a: [3] number of values, their sum, the sum of their squares.
      b: [3] likewise.
    """
    means, variances = [], []
    for n, total, squares in (a, b):
        means.append(total / n)
        variances.append(max(squares / n - (total / n) ** 2, 0.0))
    if means[0] == means[1]:
        return 0.0
    deviation = np.sqrt(np.mean(variances))
    return float(abs(means[0] - means[1]) / deviation) if deviation else float("inf")


def frechet(a: np.ndarray, b: np.ndarray, components: int = 32) -> float:
    """The Fréchet distance of two sets of vectors, as a share of their variance.

    |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), divided by the mean of tr Σ_a and tr Σ_b, over
    the principal components of both sets together. In a space of a thousand dimensions, what is
    far down in the spectrum is noise of few rows, and twice as much in half of them.

    Source: Dowson and Landau, Journal of Multivariate Analysis 12(3), 1982.

    Args:
      a: [n, width].
      b: [m, width].
      components: at most so many principal components.

    Returns:
      The distance; NaN where a value is not finite.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    means = a.mean(axis=0), b.mean(axis=0)
    within = [_covariance(x, mean) for x, mean in zip((a, b), means, strict=True)]
    gap = means[0] - means[1]
    pooled = (within[0] + within[1]) / 2 + np.outer(gap, gap) / 4
    basis = np.linalg.eigh(pooled)[1][:, ::-1][:, :components]
    sigma_a, sigma_b = (basis.T @ sigma @ basis for sigma in within)
    root_a = _square_root(sigma_a)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root_a @ sigma_b @ root_a), 0, None)).sum()
    distance = float(np.sum((gap @ basis) ** 2) + np.trace(sigma_a + sigma_b) - 2 * cross)
    variance = float(np.trace(sigma_a + sigma_b)) / 2
    # What rounding leaves of equal sets is no drift.
    if distance <= 1e-9 * max(variance, np.finfo(float).tiny):
        return 0.0
    return distance / variance if variance else float("inf")


def _covariance(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centred = x - mean
    return centred.T @ centred / len(x)


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
