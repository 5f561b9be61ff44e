"""Pairs of queries of a mined dataset: what trains the text embedder, and against what."""

import dataclasses

import numpy as np
import pyarrow.compute as pc

from schemas.errors import PhraseLensError
from schemas.manifest import Dataset


@dataclasses.dataclass(frozen=True)
class Associations:
    """Queries of training images, and pairs of them.

    Attributes:
      texts: [queries] in the order of their ids.
      pairs: [pairs, 2] int64 indices into `texts`, the lower id first.
      weights: [pairs] float32.
      keys: [pairs] uint64 hashes of the pairs of ids.
      refused: [refused pairs, 2] int64: pairs that surely are none, as the people of one
        query were shown the other's image and did not choose it.
    """

    texts: list[str]
    pairs: np.ndarray
    weights: np.ndarray
    keys: np.ndarray
    refused: np.ndarray

    def select(self, rows: np.ndarray) -> "Associations":
        """Some of the pairs; all that are refused."""
        return dataclasses.replace(
            self, pairs=self.pairs[rows], weights=self.weights[rows], keys=self.keys[rows]
        )


def load_associations(mined: Dataset) -> Associations:
    """Reads the queries with training images, and the associations among them.

    Raises:
      PhraseLensError: fewer than two queries have a training image.
    """
    queries = mined.table("queries", ["query_id", "query", "train_images"]).sort_by("query_id")
    queries = queries.filter(queries["train_images"].to_numpy() > 0)
    if queries.num_rows < 2:
        raise PhraseLensError(
            f"table 'queries' of {mined.root}",
            "at least two queries with training images",
            "Mine a larger log.",
        )
    ids = queries["query_id"].to_numpy()
    found: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0),) * 2]
    for batch in mined.batches("query_pairs", ["query_a", "query_b", "weight", "evidence"], 65536):
        skipped = pc.fill_null(pc.equal(batch["evidence"], "skip"), False).cast("float64")
        found.append(tuple(c.to_numpy() for c in (*batch.columns[:3], skipped)))
    first, second, weights, is_skip = map(np.concatenate, zip(*found, strict=True))
    pairs = np.stack([np.searchsorted(ids, side) for side in (first, second)], axis=1)
    pairs = np.minimum(pairs, len(ids) - 1)
    known = (ids[pairs[:, 0]] == first) & (ids[pairs[:, 1]] == second)
    # Ids are hashes already: an odd multiple of one plus the other is as good a hash.
    keys = first.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.view(np.uint64)
    order = np.argsort(keys, kind="stable")
    order = order[known[order]]
    is_pair, is_refused = weights[order] > 0, is_skip[order] > 0
    chosen = order[is_pair]
    return Associations(
        queries["query"].to_pylist(),
        pairs[chosen],
        weights[chosen].astype(np.float32),
        keys[chosen],
        pairs[order[is_refused & ~is_pair]],
    )


class PairSet:
    """A set of unordered pairs of `queries` things that answers for whole matrices.

    Args:
      pairs: [pairs, 2] int64.
      queries: number of things.
    """

    def __init__(self, pairs: np.ndarray, queries: int):
        self._queries = queries
        self._codes = np.unique(self._encode(pairs[:, 0], pairs[:, 1]))

    def _encode(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.minimum(a, b) * self._queries + np.maximum(a, b)

    def matrix(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Which a[i] and b[j] are a pair or the same thing: [len(a), len(b)] bool."""
        same = a[:, None] == b[None, :]
        if not len(self._codes):
            return same
        codes = self._encode(a[:, None], b[None, :])
        places = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return same | (self._codes[places] == codes)


class RefusedPairs:
    """Draws, for the queries of a batch, others that are hard to tell from them.

    Args:
      pairs: [pairs, 2] int64, see `Associations.refused`.
      queries: number of queries.
    """

    def __init__(self, pairs: np.ndarray, queries: int):
        both_ways = np.concatenate([pairs, pairs[:, ::-1]])
        both_ways = both_ways[np.lexsort((both_ways[:, 1], both_ways[:, 0]))]
        self._partners = both_ways[:, 1]
        self._starts = np.searchsorted(both_ways[:, 0], np.arange(queries + 1))

    def draw(self, batch: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
        """At most `most` different partners of the queries of a batch, [drawn] int64 sorted."""
        batch = np.unique(batch)
        partners = [self._partners[self._starts[q] : self._starts[q + 1]] for q in batch]
        found = np.unique(np.concatenate([np.zeros(0, np.int64), *partners]))
        return np.sort(rng.permutation(found)[:most])
