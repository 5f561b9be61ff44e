"""A phrase index as a folder: its tables, and the Faiss index that is tuned and saved beside them.

query_vectors.npy  [K, M] float32    queries.parquet, queries.arrow  the phrases' texts
text_embs.npy      [K, T] float32    partition_rows.npy  [R] int64, the sample of equation (1)
query_ids.npy      [K] int64         config.json
index.faiss        where the kind stores more than the vectors
places.npy         [ids] int64, the row of each id of the index, once it was updated
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_code.index import kinds as index_kinds
from model_code.index import partition
from model_code.index.choice import DEFAULT, IndexSettings, Kind, choose_kind, training_rows
from model_code.index.search import Searcher
from model_code.index.tuning import probes_from, tune
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
    save_index(folder, kind, index, temperature=temperature, settings=settings, probes=probes)
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
    *,
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
