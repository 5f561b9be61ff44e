"""How well phrases are predicted: the ranks of clicked queries among all, recall and MRR."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from model_code.metrics.clicked_queries import ClickedQueries

# Scores are computed in blocks that stay in a processor's cache.
_IMAGES, _QUERIES = 256, 8192
# Scores closer than this are level: a product of whole matrices and one of single rows differ.
_LEVEL = np.float32(1e-5)


def pair_scores(
    image_embs: np.ndarray, vectors: np.ndarray, clicked: ClickedQueries
) -> tuple[np.ndarray, np.ndarray]:
    """The score of every clicked query: its image [pairs] int64 and inner product [pairs] float32.

    Args:
      image_embs: [rows, M] float32.
      vectors: [K, M] float32.
      clicked: of these images, places in `vectors`; each has at least one.
    """
    image, query, _ = clicked.pairs()
    return image, np.einsum("ij,ij->i", image_embs[image], vectors[query])


def count_own(
    clicked: ClickedQueries, pairs: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """What `count_above` counts of an image's own clicked queries, which are no mistakes.

    Args:
      clicked: of the images.
      pairs: [pairs] float32, the scores of `pair_scores`.
      rows, scores: [p], see `count_above`.

    Returns:
      [p] float64.
    """
    places = dataclasses.replace(clicked, queries=np.arange(len(pairs)))
    of, pair, _ = places.of(rows)
    own = 0.5 * sum((pairs[pair] > (scores + d)[of]).astype(float) for d in (_LEVEL, -_LEVEL))
    return np.bincount(of, own, len(rows))


def count_above(
    image_embs: np.ndarray,
    vectors: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """How many queries an image is nearer to than a score says; level ones count half.

    The counts of parts of the vectors add up. 1 + the sum − `count_own` is the rank, from 1,
    expected of an order that breaks ties at random: equal vectors win nothing.

    Args:
      image_embs: [n, M] float32.
      vectors: [K, M] float32.
      rows: [p] int64, rising, an image of each score.
      scores: [p] float32, inner products.
      counts: [K] how many queries each vector stands for; 1 if None.

    Returns:
      [p] float64.
    """
    above = np.zeros(len(rows))
    image_embs, vectors = (x.astype(np.float32, copy=False) for x in (image_embs, vectors))
    for start in range(0, len(image_embs), _IMAGES):
        mine = slice(*np.searchsorted(rows, [start, start + _IMAGES]))
        local = rows[mine] - start
        bounds = [(scores[mine] + d)[:, None] for d in (_LEVEL, -_LEVEL)]
        for first in range(0, len(vectors) if len(local) else 0, _QUERIES):
            part = slice(first, first + _QUERIES)
            found = (image_embs[start : start + _IMAGES] @ vectors[part].T)[local]
            for bound in bounds:
                is_above = found > bound
                above[mine] += 0.5 * (
                    np.count_nonzero(is_above, 1) if counts is None else is_above @ counts[part]
                )
    return above


def best_ranks(
    image_embs: np.ndarray,
    vectors: np.ndarray,
    clicked: ClickedQueries,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """The rank, from 1, of the best placed clicked query of each image.

    Args:
      image_embs: [rows, M] float32.
      vectors: [K, M] float32.
      clicked: of these images, places in `vectors`; each has at least one.
      counts: see `count_above`.

    Returns:
      [rows] float64; n other queries with the same score add n / 2.
    """
    if not clicked.rows:
        return np.zeros(0)
    rows = np.arange(clicked.rows)
    pairs = pair_scores(image_embs, vectors, clicked)[1]
    best = np.maximum.reduceat(pairs, clicked.offsets[:-1])
    above = count_above(image_embs, vectors, rows, best, counts)
    return np.maximum(1 + above - count_own(clicked, pairs, rows, best), 1)


def retrieval_metrics(ranks: np.ndarray) -> dict[str, float]:
    """The share of images with a clicked query in the top n, and the mean reciprocal rank."""
    metrics = {f"recall_at_{n}": float(np.mean(ranks <= n)) for n in (1, 3, 10)}
    return metrics | {"mrr": float(np.mean(1 / ranks))}


def retrieval(
    image_embs: np.ndarray,
    vectors: np.ndarray,
    clicked: ClickedQueries,
    kinds: Mapping[str, Sequence[str]],
) -> dict[str, dict]:
    """Retrieval of the clicked queries of held-out images among all phrases.

    Args:
      image_embs, vectors, clicked: see `pair_scores`.
      kinds: name of a grouping, such as "language" → the group of each of the [K] queries.

    Returns:
      See `metrics_by_kind`.
    """
    rows, scores = pair_scores(image_embs, vectors, clicked)
    above = count_above(image_embs, vectors, rows, scores)
    ranks = np.maximum(1 + above - count_own(clicked, scores, rows, scores), 1)
    groups = {kind: [names[query] for query in clicked.queries] for kind, names in kinds.items()}
    return metrics_by_kind(rows, ranks, groups)


def metrics_by_kind(
    images: np.ndarray, ranks: np.ndarray, kinds: Mapping[str, Sequence[str]]
) -> dict[str, dict]:
    """`metrics_by_group` for several groupings of the pairs, and for all of them under "all"."""
    every = metrics_by_group(images, ranks, ["all"] * len(ranks))
    grouped = {kind: metrics_by_group(images, ranks, groups) for kind, groups in kinds.items()}
    return {"all": every.get("all", {})} | grouped


def metrics_by_group(
    images: np.ndarray, ranks: np.ndarray, groups: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Retrieval of the queries of each group, such as a language, among all queries.

    Args:
      images: [p] int64, the image of each clicked query.
      ranks: [p] its rank, from 1.
      groups: [p] its group.

    Returns:
      group → `retrieval_metrics` of the images with a clicked query of it, each by its best
      placed one, and `images`, how many they are.
    """
    names = np.asarray(groups, dtype=object)
    found = {}
    for group in sorted(set(groups)):
        mine = names == group
        _, image = np.unique(images[mine], return_inverse=True)
        best = np.full(image.max() + 1, np.inf)
        np.minimum.at(best, image, ranks[mine])
        found[group] = retrieval_metrics(best) | {"images": len(best)}
    return found
