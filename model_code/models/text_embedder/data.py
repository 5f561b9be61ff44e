"""Pairs of queries of a mined dataset: what trains the text embedder, and against what."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset

# Ids are hashes already: an odd multiple of one is as good a hash, and in another order.
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Associations:
    """Queries of training images, and pairs of them.

    Attributes:
      texts: [queries] large_string, in the order of their ids.
      languages: [queries] codes, as objects of which there is one a language.
      query_keys: [queries] uint64 hashes of the ids.
      pairs: [pairs, 2] int64 indices into `texts`, the lower id first.
      weights: [pairs] float32.
      keys: [pairs] uint64 hashes of the pairs of ids.
      refused: [refused pairs, 2] int64: pairs that surely are none, as the people of one
        query were shown the other's image and did not choose it.
    """

    texts: pa.Array
    languages: np.ndarray
    query_keys: np.ndarray
    pairs: np.ndarray
    weights: np.ndarray
    keys: np.ndarray
    refused: np.ndarray

    def select(self, rows: np.ndarray) -> "Associations":
        """Some of the pairs; all that are refused."""
        return dataclasses.replace(
            self, pairs=self.pairs[rows], weights=self.weights[rows], keys=self.keys[rows]
        )


class HeldOut(NamedTuple):
    """Associations cut in three, none of which shares a pair with another.

    Attributes:
      train: what is left for training; refused pairs of held-out queries are left out too.
      queries: [left] int64: the queries that may train.
      unseen_pairs: [pairs, 2] int64: single pairs of queries that may train. The others of
        an image may still tie the two together.
      unseen_queries: [pairs, 2] int64: a query none of whose pairs trains, and its partner.
    """

    train: Associations
    queries: np.ndarray
    unseen_pairs: np.ndarray
    unseen_queries: np.ndarray


def load_associations(mined: Dataset) -> Associations:
    """Reads the queries with training images, and the associations among them.

    Raises:
      PhraseLensError: fewer than two queries have a training image.
    """
    columns = ["query_id", "query", "language", "train_images"]
    queries = mined.table("queries", columns).sort_by("query_id")
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
    keys = first.view(np.uint64) * _MIX + second.view(np.uint64)
    order = np.argsort(keys, kind="stable")
    order = order[known[order]]
    is_pair, is_refused = weights[order] > 0, is_skip[order] > 0
    chosen = order[is_pair]
    return Associations(
        queries["query"].cast(pa.large_string()).combine_chunks(),
        _shared(queries["language"]),
        ids.view(np.uint64) * _MIX,
        pairs[chosen],
        weights[chosen].astype(np.float32),
        keys[chosen],
        pairs[order[is_refused & ~is_pair]],
    )


def _shared(languages: pa.ChunkedArray) -> np.ndarray:
    """[n] codes, "und" where there is none: 8 bytes each."""
    encoded = pc.fill_null(languages, "und").combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def hold_out(everything: Associations, pair_share: float, query_share: float) -> HeldOut:
    """Keeps some pairs, and all pairs of some queries, from training: by their hashes alone.

    Args:
      everything: all associations.
      pair_share: share of the pairs of the other queries.
      query_share: share of the queries.
    """
    is_held = _below(everything.query_keys, query_share)
    touched = is_held[everything.pairs]
    single = _below(everything.keys, pair_share) & ~touched.any(axis=1)
    train = everything.select(~single & ~touched.any(axis=1))
    refused = everything.refused[~is_held[everything.refused].any(axis=1)]
    directed = [everything.pairs[touched[:, 0]], everything.pairs[touched[:, 1]][:, ::-1]]
    return HeldOut(
        dataclasses.replace(train, refused=refused),
        np.flatnonzero(~is_held),
        everything.pairs[single],
        np.concatenate(directed),
    )


def _below(keys: np.ndarray, share: float) -> np.ndarray:
    return keys < np.uint64(int(share * (2**64 - 1)))


class Neighbours:
    """The partners of each of `queries` things in a set of unordered pairs.

    Args:
      pairs: [pairs, 2] int64.
      queries: number of things.
    """

    def __init__(self, pairs: np.ndarray, queries: int):
        codes = np.concatenate([pairs @ [queries, 1], pairs @ [1, queries]])
        codes.sort()
        codes = codes[np.diff(codes, prepend=-1) > 0]
        self._partners = codes % queries
        self._starts = np.searchsorted(codes, np.arange(queries + 1) * queries)

    def of(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All partners of some things: [found] row in `some`, [found] partner."""
        starts, sizes = self._starts[some], self._starts[some + 1] - self._starts[some]
        ends = np.cumsum(sizes)
        rows = np.repeat(np.arange(len(some)), sizes)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + sizes, sizes)
        return rows, self._partners[places]

    def count(self) -> np.ndarray:
        """[queries] int64: the number of partners of each thing."""
        return np.diff(self._starts)

    def matrix(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Which a[i] and b[j] are a pair or the same thing: [len(a), len(b)] bool."""
        columns, column_of = np.unique(b, return_inverse=True)
        known = a[:, None] == columns[None, :]
        rows, partners = self.of(a)
        places = np.searchsorted(columns, partners)
        places[places == len(columns)] = 0
        # What is no partner of a row marks nothing: most partners are not in `b`.
        hits = columns[places] == partners
        known[rows[hits], places[hits]] = True
        return known[:, column_of]


def draw_refused(
    refused: Neighbours, batch: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Others that are hard to tell from the queries of a batch: at most `most` refused partners.

    Returns:
      [drawn] int64, different and sorted.
    """
    found = np.unique(refused.of(np.unique(batch))[1])
    return np.sort(rng.permutation(found)[:most])
