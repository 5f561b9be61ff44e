"""Nearest-neighbour search over the phrases' query-space vectors (equation (3) of the source).

What an index consists of, and how it is made: folder.py.
"""

import dataclasses
import functools
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import ThreadpoolController

from model_code.index import kinds as index_kinds
from model_code.index import partition
from model_code.index.choice import Kind
from model_code.index.search import Effort, Searcher
from model_code.phrases.folder import open_vectors, read_config
from schemas.base.errors import PhraseLensError
from schemas.tables.arrays import load_array


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest phrases of n images, nearest first.

    Attributes:
      rows: [n, N] int64, rows of the index.
      scores: [n, N] float32, inner products; cosines for phrases of unit length.
      probabilities: [n, N] float32, equation (1); see `PhraseIndex.search`.
    """

    rows: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray


class PhraseIndex:
    """A saved index, opened for search; what can be is memory-mapped, processes share it.

    Args:
      folder: where it was saved.
      use_gpu: whether it may lie on a GPU, where there is one and Faiss knows its kind there.

    Attributes:
      query_vectors: [K, M] float32.
      query_ids: [K] int64.
      text_embs: [K, T] float32.
      temperature: τ of equation (1).
      searcher: finds the nearest phrases, without their probabilities.
      effort: how hard it searches, as tuned.

    Raises:
      PhraseLensError: an older version wrote it.
    """

    def __init__(self, folder: str, use_gpu: bool = True):
        config = read_config(folder)
        if not isinstance(config["kind"], dict):
            raise PhraseLensError(folder, "an index of this version", "Run embed_phrases again.")
        self.temperature = config["temperature"]
        self.query_vectors, self.query_ids = open_vectors(folder)
        self.text_embs = load_array(os.path.join(folder, "text_embs.npy"), mmap_mode="r")
        self._texts = pa.ipc.open_file(pa.memory_map(os.path.join(folder, "queries.arrow")))
        self._sampled = load_array(os.path.join(folder, "partition_rows.npy"))
        self.effort = Effort(**config["effort"])
        kind = Kind(**config["kind"])
        self.searcher = _open_searcher(folder, kind, self.query_vectors, use_gpu)

    def __len__(self) -> int:
        return len(self.query_ids)

    @functools.cached_property
    def queries(self) -> list[str]:
        """[K] the phrases' texts, all in memory; `texts` reads only those asked for."""
        return self._queries.to_pylist()

    @functools.cached_property
    def _queries(self) -> pa.ChunkedArray:
        return self._texts.read_all()["query"]

    @functools.cached_property
    def _sample(self) -> np.ndarray:
        return self.query_vectors[self._sampled]

    def texts(self, rows: np.ndarray) -> np.ndarray:
        """[…] rows → […] texts (object)."""
        found = self._queries.take(pa.array(rows.reshape(-1)))
        return np.array(found.to_pylist(), dtype=object).reshape(rows.shape)

    def row_of(self, text: str) -> int | None:
        """The row of a phrase; None where there is none of this text."""
        row = pc.index(self._queries, text).as_py()
        return None if row < 0 else row

    def search(self, query_embs: np.ndarray, num_phrases: int) -> Neighbours:
        """Finds the N nearest phrases.

        The probability is equation (1) over the phrases of the index. Its denominator is
        exact up to partition.EXACT_PARTITION_MAX phrases, else estimated (see
        model_code/index/partition.py); never less than the sum over what was found, so that no
        probability passes 1 and those of an image add up to 1 at most.

        Args:
          query_embs: [n, M] float32, unit length.
          num_phrases: N.
        """
        count = min(num_phrases, len(self))
        # Threads of Faiss and BLAS wait for each other by spinning: where networks have the
        # cores, one thread is many times as fast as several.
        with _thread_pools().limit(limits=1):
            rows, scores = self.searcher.nearest(query_embs, count, self.effort)
            log_partition = self.log_partition(query_embs, rows, scores)[:, np.newaxis]
        rows, scores = rows[:, :count], scores[:, :count]
        probabilities = np.exp(scores / np.float64(self.temperature) - log_partition)
        return Neighbours(rows, scores, probabilities.astype(np.float32))

    def log_partition(
        self, query_embs: np.ndarray, rows: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """log of the denominator of equation (1) for n images: [n] float64.

        Args:
          query_embs: [n, M] float32.
          rows: [n, k] int64, phrases that search has found, -1 for none.
          scores: [n, k] float32.
        """
        if len(self) > partition.EXACT_PARTITION_MAX:
            return partition.estimate(
                query_embs,
                rows,
                scores,
                num_phrases=len(self),
                sampled=self._sampled,
                sample=self._sample,
                temperature=self.temperature,
            )
        found = partition.log_sum_exp(scores / np.float64(self.temperature))
        whole = partition.exact(query_embs, self.query_vectors, self.temperature)
        return np.maximum(found, whole)

    def text_features(self, rows: np.ndarray) -> np.ndarray:
        """Mean of the phrases' text embeddings: [n, N] rows of the index → [n, T] float32."""
        return self.text_embs[rows].mean(axis=1, dtype=np.float32)


@functools.cache
def _thread_pools() -> ThreadpoolController:
    """Those of Faiss and NumPy, which are loaded by now."""
    return ThreadpoolController()


def _open_searcher(folder: str, kind: Kind, vectors: np.ndarray, use_gpu: bool) -> Searcher:
    path = os.path.join(folder, "places.npy")
    places = load_array(path, mmap_mode="r") if os.path.exists(path) else None
    index = index_kinds.load(kind, os.path.join(folder, "index.faiss"))
    if use_gpu and index_kinds.is_for_gpu(kind):
        return Searcher(kind, index_kinds.to_gpu(index, vectors), vectors, places, is_on_gpu=True)
    return Searcher(kind, index, vectors, places)
