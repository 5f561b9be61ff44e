"""Schemas made of a mapping: each named vector is a column of its shape, and of nothing else."""

import pyarrow as pa
import pytest

from schemas.tables import embedded
from schemas.tables.vectors import vector, vectors_of

VECTORS = {"query_emb": (2,), "text_emb": (3,), "patch_embs": (4, 6)}


@pytest.mark.parametrize("schema_of", [embedded.features, embedded.embeddings, embedded.phrases])
def test_a_schema_has_the_vectors_of_its_mapping_and_no_others(schema_of):
    schema = schema_of(VECTORS)
    assert vectors_of(schema, VECTORS) == VECTORS
    assert [f.name for f in schema if pa.types.is_fixed_size_list(f.type)] == list(VECTORS)
    assert schema.field("patch_embs").type == vector((4, 6))
    others = [name for name in schema.names if name not in VECTORS]
    assert schema_of({}).names == others
