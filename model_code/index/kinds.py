"""Faiss indexes of each kind: trained, filled, merged, saved and opened."""

import os
from collections.abc import Iterable
from typing import Any

import faiss as typed_faiss
import numpy as np

from model_code.index.choice import Kind, sub_vectors
from schemas.base.errors import PhraseLensError

# Faiss's own type stubs lack much of it.
faiss: Any = typed_faiss

EF_CONSTRUCTION = 64
_ADD_CHUNK = 1 << 16

# Faiss compares more questions than this as a matrix product, which is several times as fast;
# its own limit is far above the size of a batch of images.
faiss.cvar.distance_compute_blas_threshold = 20


def empty(kind: Kind, width: int) -> Any:
    """An index of no vectors, not trained; None for flat."""
    if kind.name == "flat":
        return None
    if kind.name == "hnsw":
        index = faiss.IndexHNSWFlat(width, kind.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index
    codes = "Flat" if kind.name == "ivf_flat" else f"PQ{sub_vectors(width)}x4fs"
    index = faiss.index_factory(width, f"IVF{kind.lists},{codes}", faiss.METRIC_INNER_PRODUCT)
    # Small samples are meant; Faiss would warn on stderr.
    index.cp.min_points_per_centroid = 1
    return index


def train(kind: Kind, sample: np.ndarray) -> Any:
    """An empty index, trained where the kind needs it. Equal samples give equal bytes.

    Args:
      kind: its kind.
      sample: [n, M] float32.
    """
    index = empty(kind, sample.shape[1])
    if kind.is_mergeable:
        index.train(np.ascontiguousarray(sample, np.float32))
    return index


def add(index: Any, vectors: np.ndarray, first_id: int) -> None:
    """Adds [n, M] float32 vectors with ids from `first_id` on, a chunk at a time.

    A graph numbers its nodes by itself: `first_id` must be what it holds already.
    """
    for start in range(0, len(vectors), _ADD_CHUNK):
        chunk = np.ascontiguousarray(vectors[start : start + _ADD_CHUNK], np.float32)
        if isinstance(index, faiss.IndexIVF):
            ids = np.arange(first_id + start, first_id + start + len(chunk))
            index.add_with_ids(chunk, ids)
        else:
            index.add(chunk)


def build(kind: Kind, vectors: np.ndarray, sample: np.ndarray, threads: int = 1) -> Any:
    """A whole index in one place.

    Args:
      kind: its kind.
      vectors: [K, M] float32, may be memory-mapped.
      sample: rows of them that train it.
      threads: for adding to a graph. With one, equal vectors give equal bytes.
    """
    index = train(kind, vectors[sample] if kind.is_mergeable else vectors[:0])
    if index is None:
        return None
    with _threads(threads if kind.name == "hnsw" else faiss.omp_get_max_threads()):
        add(index, vectors, 0)
    return index


class _threads:
    """Lets Faiss use so many threads for a while."""

    def __init__(self, count: int):
        self._count = count

    def __enter__(self) -> None:
        self._before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        faiss.omp_set_num_threads(self._before)


def merge(index: Any, parts: Iterable[Any]) -> Any:
    """Moves the vectors of parts, which keep their ids, into a trained index; parts end empty."""
    for part in parts:
        index.merge_from(part, 0)
    return index


def _clear_padding(index: Any) -> None:
    """Zeroes the places of Fast Scan's last blocks that hold no code, but whatever was there."""
    if not isinstance(index, faiss.IndexIVFFastScan):
        return
    lists = faiss.downcast_InvertedLists(index.invlists)
    packer = lists.packer
    nothing = np.zeros(packer.code_size, np.uint8)
    for number in range(lists.nlist):
        length = lists.list_size(number)
        blocks = -(-length // lists.n_per_block)
        codes = faiss.rev_swig_ptr(lists.get_codes(number), blocks * lists.block_size)
        codes = codes.reshape(blocks, lists.block_size)
        for place in range(length, blocks * lists.n_per_block):
            packer.pack_1(nothing, place, codes)


def to_bytes(index: Any) -> bytes:
    _clear_padding(index)
    return faiss.serialize_index(index).tobytes()


def from_bytes(data: bytes) -> Any:
    return faiss.deserialize_index(np.frombuffer(data, np.uint8))


def save(index: Any, path: str) -> None:
    if index is not None:
        _clear_padding(index)
        faiss.write_index(index, path)


def load(kind: Kind, path: str, is_mapped: bool = True) -> Any:
    """Opens a saved index; mapped, processes of one host share its pages.

    Not everything can be mapped: of ivf_pq the codes are copied into each process, since
    Faiss reads the blocks of Fast Scan so; of the other inverted files the centroids are, and
    of a graph the levels of its nodes.
    """
    if kind.name == "flat":
        return None
    if not os.path.exists(path):
        raise PhraseLensError(path, "the index's file", "Run embed_phrases again.")
    if not is_mapped:
        return faiss.read_index(path)
    flag = faiss.IO_FLAG_MMAP if kind.name == "ivf_flat" else faiss.IO_FLAG_MMAP_IFC
    return faiss.read_index(path, flag | faiss.IO_FLAG_READ_ONLY)


def is_for_gpu(kind: Kind) -> bool:
    """Whether Faiss has a GPU that knows a kind; a graph and Fast Scan's codes stay on the CPU."""
    return faiss.get_num_gpus() > 0 and kind.name in ("flat", "ivf_flat")


def to_gpu(index: Any, vectors: np.ndarray) -> Any:
    """The index on the first GPU."""
    if index is None:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors))
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
