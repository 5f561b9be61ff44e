"""Associations of queries, as mining writes them."""

import numpy as np
import pyarrow as pa

from model_code.models.text_embedder.data import Associations


def as_array(pairs) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def associations(queries: int, pairs: np.ndarray, refused=(), languages=None) -> Associations:
    """Queries named by their index, with keys that hash them."""
    keys = np.random.default_rng(5).integers(0, 2**64, queries + len(pairs), np.uint64)
    return Associations(
        texts=pa.array([f"query{i}" for i in range(queries)], pa.large_string()),
        languages=np.array(languages or ["und"] * queries, object),
        query_keys=keys[:queries],
        pairs=pairs,
        weights=np.arange(1, len(pairs) + 1, dtype=np.float32),
        keys=keys[queries:],
        refused=as_array(refused),
    )
