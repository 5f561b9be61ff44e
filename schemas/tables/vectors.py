"""Named vectors: what networks make of an image or a text, as columns of tables.

A vector has a name, such as `pixel_emb`, and a shape, such as (1024,) or (196, 768) for one vector
of each patch. Tables, config files, readers and networks find it by its name.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

# Name → shape of one row's vector.
Vectors = Mapping[str, tuple[int, ...]]

_SHAPE = b"shape"  # in the metadata of a field


def vector(shape: Sequence[int]) -> pa.DataType:
    """The type of a column of vectors: a fixed-size list of float32, all dimensions in a row.

    Args:
      shape: of one vector; each dimension at least 1.
    """
    return pa.list_(pa.float32(), math.prod(shape))


def fields(vectors: Vectors) -> list[pa.Field]:
    """The columns of a table that hold named vectors, in the order of the mapping.

    Of several dimensions a list holds the product only; the field's metadata has the shape.
    """
    return [
        pa.field(name, vector(shape), metadata=_metadata(shape)) for name, shape in vectors.items()
    ]


def _metadata(shape: Sequence[int]) -> dict[bytes, bytes] | None:
    return {_SHAPE: json.dumps(list(shape)).encode()} if len(shape) > 1 else None


def vectors_of(schema: pa.Schema, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of named vectors of a table.

    Args:
      schema: the table's.
      names: of its columns of vectors.

    Raises:
      KeyError: it has no such column.
      ValueError: a column holds no vectors of one size.
    """
    return {name: _shape(schema.field(name)) for name in names}


def _shape(field: pa.Field) -> tuple[int, ...]:
    if not pa.types.is_fixed_size_list(field.type):
        raise ValueError(f"{field.name} is {field.type}, not a column of vectors of one size")
    told = (field.metadata or {}).get(_SHAPE)
    return tuple(json.loads(told)) if told else (field.type.list_size,)


def vectors_to_arrow(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """[n, *shape] of any type of numbers → a column of n fixed-size lists of that type."""
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, math.prod(vectors.shape[1:]))


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The rows of several batches of vectors, one after the other.

    Args:
      parts: at least one; each name → [n, *shape], n of its own, with the same names.
    """
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def arrow_to_vectors(
    column: pa.ChunkedArray | pa.Array, shape: Sequence[int] | None = None
) -> np.ndarray:
    """A column of n fixed-size lists → [n, *shape].

    Args:
      column: without nulls.
      shape: of one vector, see `vectors_of`; None for one dimension.

    Raises:
      ValueError: a list has another number of values.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    shape = (column.type.list_size,) if shape is None else shape
    return column.flatten().to_numpy().reshape(len(column), *shape)
