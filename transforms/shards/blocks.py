"""How tables cross a shuffle, become shards, and are committed as one dataset.

Rows travel as Arrow tables. Before a shuffle a table is cut into one block (Arrow IPC)
per shard of its ids, so that Beam moves blocks and never single rows.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.base import storage
from schemas.base.fingerprint import hash64_array

# A table below this crosses a shuffle as it is, a larger one through a file: thousands of
# tables that are just small enough must not fill the memory of a runner that keeps them there.
SPILL_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Spilled:
    """A block that waits in a file: `size` bytes of it from `start`."""

    path: str
    start: int
    size: int

    def read(self) -> bytes:
        with storage.open_input(self.path) as file:
            file.seek(self.start)
            return file.read(self.size)


Block = bytes | Spilled
NamedBlock = tuple[str, Block]  # of a table


def serialise(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def to_block(table: pa.Table) -> bytes:
    """A table as Beam moves it: `serialise` as bytes."""
    return serialise(table).to_pybytes()


class TableCoder(beam.coders.Coder):
    """How runners move tables, and how large they are: pickling only to see that is slow."""

    def encode(self, value: pa.Table) -> bytes:
        return to_block(value)

    def decode(self, encoded: bytes) -> pa.Table:
        return pa.ipc.open_stream(encoded).read_all()

    def estimate_size(self, value: pa.Table) -> int:
        return value.nbytes

    def is_deterministic(self) -> bool:
        return False  # equal tables may lie in other chunks


beam.coders.registry.register_coder(pa.Table, TableCoder)


def from_blocks(blocks: Iterable[Block], schema: pa.Schema) -> pa.Table:
    """Reads blocks back into one table of `schema`; an empty one when there are none."""
    data = (block.read() if isinstance(block, Spilled) else block for block in blocks)
    tables = [pa.ipc.open_stream(block).read_all() for block in data] or [schema.empty_table()]
    return pa.concat_tables(tables).cast(schema).combine_chunks()


def split_by_hash(
    table: pa.Table, hashes: np.ndarray, num_shards: int, spill: str | None = None
) -> Iterator[tuple[int, Block]]:
    """Cuts a table into one block per shard; empty blocks are left out.

    A large table goes into one file below `spill`, named by its content so that a bundle
    that runs twice writes it once: a runner that keeps its shuffles in memory keeps only
    places in files.

    Args:
      table: [n] rows.
      hashes: [n] int64, of what must come together.
      num_shards: how many shards there are.
      spill: a folder, or None where all blocks are small.
    """
    if not table.num_rows:
        return
    shards = (hashes.view(np.uint64) % np.uint64(num_shards)).astype(np.int64)
    order = np.argsort(shards, kind="stable")
    bounds = np.searchsorted(shards[order], np.arange(num_shards + 1)).tolist()
    table = in_order(table, order)
    parts = [(shard, *bounds[shard : shard + 2]) for shard in range(num_shards)]
    blocks = [
        (shard, serialise(table.slice(start, stop - start)))
        for shard, start, stop in parts
        if stop > start
    ]
    if spill is None or sum(block.size for _, block in blocks) < SPILL_BYTES:
        yield from ((shard, block.to_pybytes()) for shard, block in blocks)
        return
    digest = hashlib.sha256()
    for _, block in blocks:
        digest.update(block)
    path = storage.join(spill, f"{digest.hexdigest()[:32]}.arrow")
    with storage.open_output(path) as file:
        for _, block in blocks:
            file.write(block)
    start = 0
    for shard, block in blocks:
        yield shard, Spilled(path, start, block.size)
        start += block.size


def in_order(table: pa.Table, order: np.ndarray) -> pa.Table:
    """`table.take(order)`, without a copy where the rows lie in that order already."""
    return table if np.array_equal(order, np.arange(len(order))) else table.take(pa.array(order))


def split_by_shard(
    table: pa.Table, ids: str, num_shards: int, spill: str | None = None
) -> Iterator[tuple[int, Block]]:
    """Cuts a table by the column `ids` (see `split_by_hash`)."""
    column = table[ids]
    hashes = column.to_numpy() if pa.types.is_integer(column.type) else hash64_array(column)
    yield from split_by_hash(table, hashes, num_shards, spill)


class SplitByShard(beam.PTransform):
    """PCollection[pa.Table] → PCollection[(shard, block)]."""

    def __init__(self, ids: str, num_shards: int, spill: str | None = None):
        super().__init__()
        self._args = ids, num_shards, spill

    def expand(self, tables):
        return tables | beam.FlatMap(split_by_shard, *self._args)


class GroupShards(beam.PTransform):
    """Brings the blocks of several tables together, shard by shard.

    Args:
      ids: name of a table → its column of ids.
      num_shards: how many shards there are.
      spill: folder for large blocks, or None where all are small.

    Input: a dict of PCollection[pa.Table] with the names of `ids`.
    Output: PCollection[(shard, {name: blocks})].
    """

    def __init__(self, ids: Mapping[str, str], num_shards: int, spill: str | None = None):
        super().__init__()
        self._ids, self._num_shards, self._spill = dict(ids), num_shards, spill

    def _split(self, table: pa.Table, name: str, ids: str) -> Iterator[tuple[int, NamedBlock]]:
        for shard, block in split_by_shard(table, ids, self._num_shards, self._spill):
            yield shard, (name, block)

    def _gather(self, shard: int, named: Iterable[NamedBlock]) -> tuple[int, dict]:
        blocks: dict[str, list[Block]] = {name: [] for name in self._ids}
        for name, block in named:
            blocks[name].append(block)
        return shard, blocks

    def expand(self, tables):
        # CoGroupByKey does the same with one more step for each table.
        split = [
            tables[name] | f"Split {name}" >> beam.FlatMap(self._split, name, ids)
            for name, ids in self._ids.items()
        ]
        return split | beam.Flatten() | beam.GroupByKey() | beam.MapTuple(self._gather)
