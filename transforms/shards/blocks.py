"""How tables cross a shuffle, become shards, and are committed as one dataset.

Rows travel as Arrow tables. Before a shuffle a table is cut into one block (Arrow IPC)
per shard of its ids, so that Beam moves blocks and never single rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from schemas.base import storage
from schemas.base.fingerprint import hash64_array
from transforms.shards.records import write_file

# A table below this crosses a shuffle as it is, a larger one through a file: thousands of
# tables that are just small enough must not fill the memory of a runner that keeps them there.
SPILL_BYTES = 1 << 16
# A block below this crosses as it is, too: a request for each would cost more than its bytes.
SMALL_BYTES = 1 << 13
# Of the tables that a bundle has, so many bytes go into one file.
FILE_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class Spilled:
    """A block that waits in a file: `size` bytes of it from `start`."""

    path: str
    start: int
    size: int

    def read(self) -> bytes:
        return storage.read_range(self.path, self.start, self.size)


Block = bytes | Spilled
NamedBlock = tuple[str, Block]  # of a table
Key = TypeVar("Key")


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
    cut = (
        (shard, table.slice(start, stop - start)) for shard, start, stop in parts if stop > start
    )
    yield from spill_blocks(cut, spill)


def spill_blocks(
    tables: Iterable[tuple[Key, pa.Table]], spill: str | None
) -> Iterator[tuple[Key, Block]]:
    """Tables with their keys as blocks: large ones together in files below `spill`.

    Few files are written, and no more than one of them is in memory.
    """
    blocks: list[tuple[Key, pa.Buffer]] = []
    size = 0
    for key, table in tables:
        block = serialise(table)
        if spill is None or block.size < SMALL_BYTES:
            yield key, block.to_pybytes()
            continue
        blocks.append((key, block))
        size += block.size
        if size >= FILE_BYTES:
            yield from _in_file(blocks, spill)
            blocks, size = [], 0
    if spill is not None and size >= SPILL_BYTES:
        yield from _in_file(blocks, spill)
    else:
        yield from ((key, block.to_pybytes()) for key, block in blocks)


def _in_file(blocks: Sequence[tuple[Key, pa.Buffer]], spill: str) -> Iterator[tuple[Key, Spilled]]:
    path = storage.join(spill, write_file(spill, [block for _, block in blocks]))
    start = 0
    for key, block in blocks:
        yield key, Spilled(path, start, block.size)
        start += block.size


def in_order(table: pa.Table, order: np.ndarray) -> pa.Table:
    """`table.take(order)`, without a copy where the rows lie in that order already."""
    return table if np.array_equal(order, np.arange(len(order))) else table.take(pa.array(order))


class Together(beam.DoFn):
    """Has a function of the tables of a bundle together: few large blocks and files, not many.

    Args:
      fn: a table → elements.
      limit: bytes of tables that are not kept waiting for more; another table may come on top.
    """

    def __init__(self, fn: Callable[[pa.Table], Iterable[Any]], limit: int = FILE_BYTES):
        self._fn, self._limit = fn, limit

    def start_bundle(self):
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    def process(self, table):
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes >= self._limit:
            yield from self._flush()

    def finish_bundle(self):
        for element in self._flush():
            yield GlobalWindows.windowed_value(element)

    def _flush(self) -> Iterator[Any]:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self.start_bundle()
            yield from self._fn(table)


def hashes_of(table: pa.Table, ids: str) -> np.ndarray:
    """[n] int64 of a column of ids: themselves, or the hashes of texts."""
    column = table[ids]
    return column.to_numpy() if pa.types.is_integer(column.type) else hash64_array(column)


def split_by_shard(
    table: pa.Table, ids: str, num_shards: int, spill: str | None = None
) -> Iterator[tuple[int, Block]]:
    """Cuts a table by the column `ids` (see `split_by_hash`)."""
    yield from split_by_hash(table, hashes_of(table, ids), num_shards, spill)


class SplitTables(beam.PTransform):
    """PCollection[pa.Table] → PCollection[(shard, block)], tables of a bundle together.

    Args:
      hashes: a table → [n] int64, of what must come together.
      num_shards, spill: see `split_by_hash`.
    """

    def __init__(
        self, hashes: Callable[[pa.Table], np.ndarray], num_shards: int, spill: str | None = None
    ):
        super().__init__()
        self._hashes, self._num_shards, self._spill = hashes, num_shards, spill

    def _split(self, table: pa.Table) -> Iterator[tuple[int, Block]]:
        yield from split_by_hash(table, self._hashes(table), self._num_shards, self._spill)

    def expand(self, tables):
        return tables | beam.ParDo(Together(self._split)).with_output_types(tuple[int, Block])


class SplitByShard(SplitTables):
    """As SplitTables, by a column of ids."""

    def __init__(self, ids: str, num_shards: int, spill: str | None = None):
        super().__init__(functools.partial(hashes_of, ids=ids), num_shards, spill)


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

    def _gather(self, shard: int, named: Iterable[NamedBlock]) -> tuple[int, dict]:
        blocks: dict[str, list[Block]] = {name: [] for name in self._ids}
        for name, block in named:
            blocks[name].append(block)
        return shard, blocks

    def expand(self, tables):
        # CoGroupByKey does the same with one more step for each table.
        split = [
            tables[name]
            | f"Split {name}" >> SplitByShard(ids, self._num_shards, self._spill)
            | f"Name {name}" >> beam.Map(_named, name).with_output_types(tuple[int, NamedBlock])
            for name, ids in self._ids.items()
        ]
        return split | beam.Flatten() | beam.GroupByKey() | beam.MapTuple(self._gather)


def _named(block: tuple[int, Block], name: str) -> tuple[int, NamedBlock]:
    shard, found = block
    return shard, (name, found)
