"""Small clustered vectors, and the phrases that have them."""

import numpy as np
import pyarrow as pa

from schemas.tables import embedded
from schemas.tables.vectors import vectors_to_arrow

TEXT_WIDTH = 3


def draw(rows: int, width: int = 16, seed: int = 0, clusters: int = 60) -> np.ndarray:
    """[rows, width] float32: clusters on the sphere, some vectors shorter than 1."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, width))
    vectors = centres[rng.integers(0, clusters, rows)] + 0.5 * rng.normal(size=(rows, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors * rng.uniform(0.8, 1, (rows, 1))).astype(np.float32)


def images(vectors: np.ndarray, count: int = 200, seed: int = 1) -> np.ndarray:
    """[count, width] float32 unit rows, each near one of the vectors."""
    rng = np.random.default_rng(seed)
    near = vectors[rng.integers(0, len(vectors), count)]
    near = near + 0.1 * rng.normal(size=near.shape)
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def phrases(vectors: np.ndarray, query_ids: np.ndarray) -> pa.Table:
    """Rows of `schemas.tables.embedded.phrases`; all but the vectors follows from the ids."""
    schema = embedded.phrases({"query_vector": vectors.shape[1:], "text_emb": (TEXT_WIDTH,)})
    text_embs = np.stack([query_ids % p for p in (7, 11, 13)], axis=1).astype(np.float32)
    columns = [
        pa.array(query_ids),
        pa.array([f"query {i}" for i in query_ids]),
        pa.array(["en"] * len(query_ids)),
        pa.array(["weight"] * len(query_ids)),
        pa.array(np.ones(len(query_ids), np.int64)),
        vectors_to_arrow(vectors),
        vectors_to_arrow(text_embs),
    ]
    return pa.table(columns, schema)


def scan(vectors: np.ndarray, query_embs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores of the highest inner products: the oracle."""
    scores = query_embs @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(scores, rows, 1)
