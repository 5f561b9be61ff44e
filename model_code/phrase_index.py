"""Nearest-neighbour search over the phrases' query-space vectors (equation (3) of the source).

A Faiss index with the tables that give its rows their meaning, saved as one folder.
"""

import dataclasses
import json
import os
from collections.abc import Iterable

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import PhraseLensError
from schemas.tables import arrow_to_vectors

# Up to here the whole of equation (1)'s denominator is computed for every image.
EXACT_PARTITION_MAX = 1 << 18
NEIGHBOURS_BEYOND = 1024


def build(folder: str, phrases: Iterable[pa.RecordBatch], temperature: float) -> int:
    """Builds the index of all phrases and saves it.

    Args:
      folder: an existing local folder.
      phrases: batches with the schema `schemas.tables.phrases`.
      temperature: τ of equation (1).

    Returns:
      The number of phrases.

    Raises:
      PhraseLensError: there are no phrases.
    """
    batches = list(phrases)
    if not batches:
        raise PhraseLensError(
            "phrases",
            "at least one query with a vector",
            "Lower --min_prototype_images, or mine more clicks on training images.",
        )
    table = pa.Table.from_batches(batches)
    vectors = arrow_to_vectors(table["query_vector"])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, os.path.join(folder, "index.faiss"))
    np.save(os.path.join(folder, "query_vectors.npy"), vectors)
    text_embs = arrow_to_vectors(table["text_emb"])
    np.save(os.path.join(folder, "text_embs.npy"), text_embs)
    np.save(os.path.join(folder, "query_ids.npy"), table["query_id"].to_numpy())
    texts = table.select(["query_id", "query", "language"])
    pq.write_table(texts, os.path.join(folder, "queries.parquet"))
    with open(os.path.join(folder, "config.json"), "w") as f:
        widths = {"query_width": vectors.shape[1], "text_width": text_embs.shape[1]}
        json.dump({"temperature": temperature, "phrases": len(vectors), "kind": "Flat"} | widths, f)
    return len(vectors)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest phrases of n images, nearest first.

    Attributes:
      rows: [n, N] int64, rows of the index.
      scores: [n, N] float32, cosines.
      probabilities: [n, N] float32, equation (1); see `PhraseIndex.search`.
    """

    rows: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray


class PhraseIndex:
    """A saved index, opened for search; vectors are memory-mapped, processes share them.

    Attributes:
      queries: [K] the phrases' texts.
      query_ids: [K] int64.
      text_embs: [K, T] float32.
    """

    def __init__(self, folder: str):
        self._index = faiss.read_index(os.path.join(folder, "index.faiss"))
        self._vectors = np.load(os.path.join(folder, "query_vectors.npy"), mmap_mode="r")
        self.text_embs = np.load(os.path.join(folder, "text_embs.npy"), mmap_mode="r")
        self.query_ids = np.load(os.path.join(folder, "query_ids.npy"))
        self.queries = pq.read_table(os.path.join(folder, "queries.parquet"))["query"].to_pylist()
        with open(os.path.join(folder, "config.json")) as f:
            self.temperature = json.load(f)["temperature"]

    def __len__(self) -> int:
        return len(self.query_ids)

    def search(self, query_embs: np.ndarray, num_phrases: int) -> Neighbours:
        """Finds the N nearest phrases.

        The probability is equation (1) over the phrases of the index: exact up to
        EXACT_PARTITION_MAX phrases; beyond, the denominator is that of the nearest
        NEIGHBOURS_BEYOND only, which makes it an upper bound.

        Args:
          query_embs: [n, M] float32, unit length.
          num_phrases: N.
        """
        count = min(num_phrases, len(self))
        exact = len(self) <= EXACT_PARTITION_MAX
        deep = count if exact else max(count, NEIGHBOURS_BEYOND)
        scores, rows = self._index.search(np.ascontiguousarray(query_embs, np.float32), deep)
        logits = (query_embs @ self._vectors.T if exact else scores) / self.temperature
        top = logits.max(axis=1, keepdims=True)
        log_partition = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        scores, rows = scores[:, :count], rows[:, :count]
        probabilities = np.exp(scores / self.temperature - log_partition)
        return Neighbours(rows, scores, probabilities.astype(np.float32))

    def text_features(self, rows: np.ndarray) -> np.ndarray:
        """Mean of the phrases' text embeddings: [n, N] rows of the index → [n, T] float32."""
        return self.text_embs[rows].mean(axis=1, dtype=np.float32)
