"""Search with any kind of index: candidates from Faiss, compared again with their vectors.

How hard a kind searches is tuned: the least effort that finds what an exact scan finds.
"""

import contextlib
import dataclasses
import threading
from typing import Any

import faiss as typed_faiss
import numpy as np

from model_code.index.choice import Kind

# Faiss's own type stubs lack much of it.
faiss: Any = typed_faiss

# What recall is measured at: the default number of phrases of an image.
RECALL_AT = 3
PROBES = 1024
# A candidate's vector lies anywhere in memory; codes are read in a row, 32 at once.
_CANDIDATE_COST = 48.0
CANDIDATES = (32, 64, 128, 256, 512, 1024)
_LISTS = tuple(sorted({1 << p for p in range(15)} | {3 << p for p in range(13)}))
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard to search.

    Attributes:
      candidates: how many phrases the index proposes; for hnsw, also how many nodes it keeps
        on its way (efSearch).
      lists: inverted lists to look into (nprobe).
    """

    candidates: int = CANDIDATES[0]
    lists: int = 1


class Searcher:
    """An index with the vectors that it is about.

    Args:
      kind: the index's kind.
      index: the Faiss index; None for flat.
      vectors: [K, M] float32, may be memory-mapped.
      places: [ids] int64, the row of each id of the index, -1 where it was removed; None
        where ids are rows.
      is_on_gpu: whether the index lies on a GPU, where one thread at a time may search (Faiss wiki,
        "Threads and asynchronous calls").
    """

    def __init__(
        self,
        kind: Kind,
        index: Any,
        vectors: np.ndarray,
        places: np.ndarray | None = None,
        is_on_gpu: bool = False,
    ):
        self._turn = threading.Lock() if is_on_gpu else contextlib.nullcontext()
        self.kind, self.vectors = kind, vectors
        self._index, self._places = index, places
        self._selector = None
        if kind.name == "hnsw" and places is not None:
            # A graph forgets nothing: what was removed is passed through, never returned.
            self._selector = faiss.IDSelectorBatch(np.flatnonzero(places >= 0))

    def nearest(
        self, query_embs: np.ndarray, count: int, effort: Effort
    ) -> tuple[np.ndarray, np.ndarray]:
        """The phrases of highest inner product, highest first; of equals, the lower row.

        Args:
          query_embs: [n, M] float32.
          count: how many, at most K.
          effort: how hard to search; at least `count` candidates are looked at.

        Returns:
          rows [n, c] int64 and scores [n, c] float32, c = min(K, max(count, candidates)). Past
          the first `count`, rows may be -1, with score -inf.
        """
        query_embs = np.ascontiguousarray(query_embs, np.float32)
        deep = min(max(count, effort.candidates), len(self.vectors))
        parts = [
            self._nearest(query_embs[start : start + _BATCH], count, deep, effort)
            for start in range(0, len(query_embs), _BATCH)
        ]
        if not parts:
            return np.empty((0, deep), np.int64), np.empty((0, deep), np.float32)
        rows, scores = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(scores)

    def exact(self, query_embs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, by comparing every vector."""
        query_embs = np.ascontiguousarray(query_embs, np.float32)
        _, rows = faiss.knn(query_embs, self.vectors, count, faiss.METRIC_INNER_PRODUCT)
        return self._rank(query_embs, rows)

    def _nearest(self, query_embs, count, deep, effort):
        if self._index is None:
            return self.exact(query_embs, deep)
        with self._turn:
            _, ids = self._index.search(query_embs, deep, params=self._parameters(deep, effort))
        rows = ids if self._places is None else np.where(ids < 0, -1, self._places[ids])
        rows, scores = self._rank(query_embs, rows)
        # Lists that hold too few vectors leave gaps.
        short = np.flatnonzero(rows[:, count - 1] < 0)
        if len(short):
            rows[short], scores[short] = self.exact(query_embs[short], deep)
        return rows, scores

    def _parameters(self, deep: int, effort: Effort) -> Any:
        if self.kind.name == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=deep, sel=self._selector)
        return faiss.SearchParametersIVF(nprobe=effort.lists) if self.kind.lists else None

    def _rank(self, query_embs, rows):
        """Scores rows [n, c] by their vectors, one product an image, whatever the batch."""
        found = np.matmul(self.vectors[rows], query_embs[:, :, np.newaxis])[:, :, 0]
        scores = np.where(rows < 0, np.float32(-np.inf), found)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def recall(scores: np.ndarray, exact_scores: np.ndarray) -> float:
    """Share of the N best that were found; of phrases equally near, any will do.

    Args:
      scores: [n, ≥ N] float32, of what was found, falling.
      exact_scores: [n, N] float32, of an exact scan, falling.
    """
    count = exact_scores.shape[1]
    enough = exact_scores[:, -1:] - 1e-6
    return float((scores[:, :count] >= enough).mean())


def probes_from(sample: np.ndarray, count: int = PROBES) -> np.ndarray:
    """Questions where no images are at hand: vectors of phrases, moved by as much again.

    Args:
      sample: [n, M] float32, vectors of phrases.
      count: at most so many.

    Returns:
      [min(n, count), M] float32 unit rows.
    """
    chosen = sample[:count]
    noise = np.random.default_rng(0).normal(size=chosen.shape)
    norms = np.linalg.norm(chosen, axis=1, keepdims=True)
    moved = chosen + noise * norms / np.sqrt(chosen.shape[1])
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def tune(searcher: Searcher, probes: np.ndarray, target: float) -> tuple[Effort, float]:
    """The least effort whose recall@3 of the probes reaches the target, with a margin.

    The margin is the standard error of that recall, half of what is missing to 1 at most:
    other images than the probes are to reach the target too. Effort is counted in vectors
    compared, not in seconds, so that it is the same every time.

    Args:
      searcher: the index.
      probes: [n, M] float32.
      target: recall, in (0, 1].

    Returns:
      The effort and its recall; the hardest one where none reaches the target.
    """
    count = min(RECALL_AT, len(searcher.vectors))
    if searcher.kind.name == "flat":
        return Effort(), 1.0
    _, exact_scores = searcher.exact(probes, count)

    error = (target * (1 - target) / (count * len(probes))) ** 0.5
    target += min(error, (1 - target) / 2)

    def measured(effort: Effort) -> float:
        return recall(searcher.nearest(probes, count, effort)[1], exact_scores)

    if searcher.kind.name == "hnsw":
        return _first([Effort(candidates) for candidates in CANDIDATES], measured, target)
    lists = [n for n in _LISTS if n < searcher.kind.lists] + [searcher.kind.lists]
    if searcher.kind.name == "ivf_flat":
        return _first([Effort(lists=n) for n in lists], measured, target)
    hardest, reached = _first([Effort(CANDIDATES[-1], n) for n in lists], measured, target)
    # More lists need fewer candidates: the cheapest of the next few is taken.
    start = lists.index(hardest.lists)
    best = hardest, reached
    per_list = len(searcher.vectors) / searcher.kind.lists
    for n in lists[start : start + 4]:
        found = _first([Effort(c, n) for c in CANDIDATES], measured, target)
        if found[1] >= target and _cost(found[0], per_list) < _cost(best[0], per_list):
            best = found
    return best


def _first(efforts, measured, target: float) -> tuple[Effort, float]:
    """The first of rising efforts that reaches the target, or the last."""
    for effort in efforts:
        reached = measured(effort)
        if reached >= target:
            break
    return effort, reached


def _cost(effort: Effort, per_list: float) -> float:
    return effort.lists * per_list + effort.candidates * _CANDIDATE_COST
