"""Nearest-neighbour search over the phrases' query-space vectors (equation (3) of the source).

A Faiss index with the tables that give its rows their meaning, saved as one folder:

query_vectors.npy  [K, M] float32    queries.parquet, queries.arrow  the phrases' texts
text_embs.npy      [K, T] float32    partition_rows.npy  [R] int64, the sample of equation (1)
query_ids.npy      [K] int64         config.json
index.faiss        where the kind stores more than the vectors
places.npy         [ids] int64, the row of each id of the index, once it was updated
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import ThreadpoolController

from model_code.index import kinds as index_kinds
from model_code.index import partition
from model_code.index.choice import DEFAULT, IndexSettings, Kind, choose_kind, training_rows
from model_code.index.search import Effort, Searcher, probes_from, tune
from schemas.base.errors import PhraseLensError
from schemas.tables.arrays import load_array
from schemas.tables.vectors import arrow_to_vectors

_TRAINING_KEY, _PARTITION_KEY = 1, 2


def no_phrases() -> PhraseLensError:
    return PhraseLensError(
        "phrases",
        "at least one query with a vector",
        "Lower --min_prototype_images, or mine more clicks on training images.",
    )


def build(
    folder: str,
    phrases: Iterable[pa.RecordBatch],
    temperature: float,
    settings: IndexSettings = DEFAULT,
    probes: np.ndarray | None = None,
) -> int:
    """Builds the index of all phrases in one place and saves it.

    Args:
      folder: an existing local folder.
      phrases: batches with the schema `schemas.tables.embedded.phrases`.
      temperature: τ of equation (1).
      settings: what is asked of the index.
      probes: see `save_index`.

    Returns:
      The number of phrases.

    Raises:
      PhraseLensError: there are no phrases, or the kind does not fit into the memory.
    """
    batches = list(phrases)
    rows = sum(batch.num_rows for batch in batches)
    write_tables(folder, batches, rows)
    vectors, query_ids = open_vectors(folder)
    kind = choose_kind(rows, vectors.shape[1], settings)
    index = index_kinds.build(kind, vectors, training_sample(query_ids, kind))
    save_index(folder, kind, index, temperature, settings, probes)
    return rows


def write_tables(folder: str, phrases: Iterable[pa.RecordBatch], rows: int) -> None:
    """Writes the tables of an index, holding one batch at a time.

    Args:
      folder: an existing local folder.
      phrases: batches with the schema `schemas.tables.embedded.phrases`.
      rows: of all batches together.

    Raises:
      PhraseLensError: there are no phrases.
    """
    if not rows:
        raise no_phrases()
    texts = pa.schema([("query_id", pa.int64()), ("query", pa.string()), ("language", pa.string())])
    query_ids = np.empty(rows, np.int64)
    arrays: dict[str, np.memmap] = {}
    start = 0
    with (
        pq.ParquetWriter(os.path.join(folder, "queries.parquet"), texts) as parquet,
        # The same texts once more, in the form that processes can map and share.
        pa.ipc.new_file(os.path.join(folder, "queries.arrow"), texts) as arrow,
    ):
        for batch in phrases:
            stop = start + batch.num_rows
            for name, column in (("query_vectors", "query_vector"), ("text_embs", "text_emb")):
                values = arrow_to_vectors(batch[column])
                if name not in arrays:
                    path = os.path.join(folder, f"{name}.npy")
                    shape = (rows, values.shape[1])
                    arrays[name] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                arrays[name][start:stop] = values
            query_ids[start:stop] = batch["query_id"].to_numpy()
            table = pa.Table.from_batches([batch]).select(texts.names).cast(texts)
            parquet.write_table(table)
            arrow.write_table(table)
            start = stop
    for array in arrays.values():
        array.flush()
    np.save(os.path.join(folder, "query_ids.npy"), query_ids)
    np.save(os.path.join(folder, "partition_rows.npy"), partition_sample(query_ids))


def open_vectors(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """The memory-mapped query_vectors [K, M] float32 and query_ids [K] int64 of an index."""
    vectors = load_array(os.path.join(folder, "query_vectors.npy"), mmap_mode="r")
    return vectors, load_array(os.path.join(folder, "query_ids.npy"), mmap_mode="r")


def training_sample(query_ids: np.ndarray, kind: Kind) -> np.ndarray:
    """Rows [n] int64 of the phrases that train the kind's quantizer."""
    return partition.sample_rows(query_ids, training_rows(kind), _TRAINING_KEY)


def partition_sample(query_ids: np.ndarray) -> np.ndarray:
    """Rows [R] int64 of the phrases that stand for those that search does not find."""
    return partition.sample_rows(query_ids, partition.SAMPLE_SIZE, _PARTITION_KEY)


def read_config(folder: str) -> dict[str, Any]:
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        return json.load(f)


def save_index(
    folder: str,
    kind: Kind,
    index: Any,
    temperature: float,
    settings: IndexSettings,
    probes: np.ndarray | None = None,
    places: np.ndarray | None = None,
    drift: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Tunes an index, and saves it beside its tables.

    Args:
      folder: has the tables of `write_tables`.
      kind: the index's kind.
      index: the Faiss index; None for flat.
      temperature: τ of equation (1).
      settings: its `recall` is what is tuned for.
      probes: [n, M] float32 query embeddings of images to tune with; None to make some up.
      places: see `Searcher`.
      drift: rows when the quantizer was trained, and how many have changed since.

    Returns:
      What config.json says.
    """
    vectors, query_ids = open_vectors(folder)
    if probes is None or not len(probes):
        probes = probes_from(vectors[load_array(os.path.join(folder, "partition_rows.npy"))])
    effort, reached = tune(Searcher(kind, index, vectors, places), probes, settings.recall)
    index_kinds.save(index, os.path.join(folder, "index.faiss"))
    if places is not None:
        np.save(os.path.join(folder, "places.npy"), places)
    text_embs = load_array(os.path.join(folder, "text_embs.npy"), mmap_mode="r")
    config = {
        "temperature": temperature,
        "phrases": len(query_ids),
        "query_width": vectors.shape[1],
        "text_width": text_embs.shape[1],
        "kind": dataclasses.asdict(kind),
        "effort": dataclasses.asdict(effort),
        "recall": round(reached, 4),
        "drift": drift or {"trained_rows": len(query_ids), "drifted_rows": 0.0},
    }
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
    return config


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
                len(self),
                self._sampled,
                self._sample,
                self.temperature,
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
