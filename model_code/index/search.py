"""Search with any kind of index: candidates from Faiss, compared again with their vectors.

How hard a kind has to search is found by tuning.py.
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

CANDIDATES = (32, 64, 128, 256, 512, 1024)
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
