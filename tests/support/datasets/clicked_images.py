"""Embedded images and the pairs that they are clicked in."""

import numpy as np
import pyarrow as pa

from schemas.tables.vectors import vectors_to_arrow
from transforms.phrases import prototypes

WIDTH = 4


def image_embs(ids, vectors, splits=None) -> pa.Table:
    schema = prototypes.image_embs_schema(WIDTH)
    column = vectors_to_arrow(np.float32(vectors))
    return pa.table([pa.array(ids), pa.array(splits or ["train"] * len(ids)), column], schema)


def pairs_table(rows) -> pa.Table:
    """(image_id, query_id, split, score) → a table with what prototypes read of PAIRS."""
    images, queries, splits, scores = zip(*rows, strict=True)
    columns = {"image_id": images, "query_id": pa.array(queries, pa.int64()), "split": splits}
    return pa.table(columns | {"score": scores, "weight": pa.array(scores, pa.float32())})
