"""Named vectors come back from columns and files as they went in, whatever their shape."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from schemas.tables.vectors import (
    arrow_to_vectors,
    fields,
    joined,
    vector,
    vectors_of,
    vectors_to_arrow,
)

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@st.composite
def batches(draw):
    """[n, *shape] float32 of any bits: infinities, both zeros, and what is no number."""
    shape = (draw(st.integers(0, 4)), *draw(SHAPES))
    return draw(arrays.arrays(np.uint32, shape)).view(np.float32)


def assert_same_bits(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@given(batches())
def test_a_round_trip_keeps_every_bit(values):
    shape = values.shape[1:]
    column = vectors_to_arrow(values)
    assert column.type == vector(shape)
    assert_same_bits(arrow_to_vectors(column, shape), values)
    chunks = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    assert_same_bits(arrow_to_vectors(chunks, shape), values)
    assert_same_bits(arrow_to_vectors(column), values.reshape(len(values), column.type.list_size))


@given(batches())
def test_a_file_says_the_shapes_of_its_vectors(values):
    named = {"some_embs": values.shape[1:]}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table([vectors_to_arrow(values)], pa.schema(fields(named))), buffer)
    table = pq.read_table(pa.BufferReader(buffer.getvalue()))
    assert vectors_of(table.schema, ["some_embs"]) == named
    assert_same_bits(arrow_to_vectors(table["some_embs"], named["some_embs"]), values)


@given(batches())
def test_vectors_that_do_not_lie_in_a_row_come_back_too(values):
    column = vectors_to_arrow(np.asfortranarray(values))
    assert_same_bits(arrow_to_vectors(column, values.shape[1:]), values)


def test_columns_follow_the_mapping():
    named = {"pixel_emb": (7,), "patch_embs": (4, 6), "text_emb": (3,)}
    schema = pa.schema(fields(named))
    assert schema.names == list(named)
    assert schema.field("patch_embs").type == pa.list_(pa.float32(), 24)
    assert schema.field("pixel_emb").metadata is None, "one dimension says its own size"
    assert vectors_of(schema, ["text_emb", "patch_embs"]) == {
        "text_emb": (3,),
        "patch_embs": (4, 6),
    }


def test_what_is_no_vector_is_an_error():
    schema = pa.schema([("labels", pa.list_(pa.string())), *fields({"text_emb": (3,)})])
    with pytest.raises(ValueError, match="labels is list"):
        vectors_of(schema, ["text_emb", "labels"])
    with pytest.raises(KeyError, match="pixel_emb"):
        vectors_of(schema, ["pixel_emb"])
    with pytest.raises(ValueError, match="reshape"):
        arrow_to_vectors(vectors_to_arrow(np.zeros((2, 6), np.float32)), (4,))


def test_batches_are_joined_by_name():
    parts = [{"a": np.full((n, 2), n), "b": np.full((n, 2, 3), -n)} for n in (1, 0, 2)]
    found = joined(parts)
    np.testing.assert_array_equal(found["a"], [[1, 1], [2, 2], [2, 2]])
    assert found["b"].shape == (3, 2, 3)
