"""What a step gives out beside its rows, and tables in shards."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.datasets import manifest
from schemas.datasets import shards as shards_lib
from schemas.runs.run import Run
from transforms.shards.blocks import Block, SplitByShard, from_blocks

DEAD, COUNTS, SHARDS, NOTES = "dead", "counts", "shards", "notes"


# Counter → examples of what it counts, the heaviest first; see `Output`.
Notes = Mapping[str, Sequence[tuple[int, str]]]


def par_do(fn: beam.DoFn | Callable, *args: Any, tags: Sequence[str]) -> beam.ParDo:
    """A ParDo with tagged outputs: tables, but for `counts`, `notes` and `shards`."""
    others = {
        COUNTS: tuple[str, int],
        NOTES: tuple[str, tuple[int, str]],
        SHARDS: tuple[str, manifest.Shard],
    }
    types = {tag: others.get(tag, pa.Table) for tag in tags}
    return beam.ParDo(fn, *args).with_output_types(Any, **types).with_outputs(*tags)


@dataclasses.dataclass(frozen=True)
class Output:
    """What the pure functions of a job return: tables by name, dead letters, counts of rows.

    Of a function that writes its rows as they come, `shards` are what it wrote, by table.
    `notes` are examples of what a counter counts, as (weight, text): an error that the counter
    leads to names the heaviest of all shards.
    """

    tables: dict[str, pa.Table] = dataclasses.field(default_factory=dict)
    dead: tuple[pa.Table, ...] = ()
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    shards: tuple[tuple[str, manifest.Shard], ...] = ()
    notes: dict[str, list[tuple[int, str]]] = dataclasses.field(default_factory=dict)

    def tagged(self) -> Iterator[beam.pvalue.TaggedOutput]:
        """The outputs for Beam: one tag a table, and `dead`, `counts` and `notes`."""
        for name, table in self.tables.items():
            if table.num_rows:
                yield beam.pvalue.TaggedOutput(name, table)
        for table in self.dead:
            if table.num_rows:
                yield beam.pvalue.TaggedOutput(DEAD, table)
        for item in self.counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, item)
        for name, notes in self.notes.items():
            for note in notes:
                yield beam.pvalue.TaggedOutput(NOTES, (name, note))


def write_sorted(
    run: Run, table: pa.Table, name: str, index: int, *, num_shards: int, keys: list[str]
) -> tuple[str, manifest.Shard]:
    """Writes one shard with its rows in the order of `keys`, so that equal rows are equal bytes."""
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys]).to_numpy()
    path = run.shard_path(name, index, num_shards, "parquet")
    parts = _parts_in_order(table, order)
    return name, shards_lib.write_parts(run.output, path, index, table.schema, parts)


def _parts_in_order(table: pa.Table, order: np.ndarray) -> Iterator[pa.Table]:
    """The rows of each row group, in one chunk: where chunks begin must not show in the file."""
    rows = _with_large_columns(table)
    for start in range(0, len(order), shards_lib.GROUP_ROWS):
        part = rows.take(pa.array(order[start : start + shards_lib.GROUP_ROWS]))
        for first, stop in shards_lib.row_groups(part):
            # A slice would keep offsets beyond 2 GiB.
            group = (
                part.take(pa.array(np.arange(first, stop))) if stop - first < len(part) else part
            )
            yield group.cast(table.schema).combine_chunks()


def _with_large_columns(table: pa.Table) -> pa.Table:
    """Texts and bytes in several chunks as types with 64-bit offsets.

    Arrow takes rows of one piece, and a piece of the others has less than 2 GiB.
    """
    large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    fields = [
        field.with_type(large.get(field.type, field.type) if column.num_chunks > 1 else field.type)
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    return table.cast(pa.schema(fields)).combine_chunks()


class WriteTable(beam.PTransform):
    """Writes tables as Parquet shards: PCollection[pa.Table] → PCollection[(name, Shard)].

    FileBasedSink deals rows out to shards from a random start; here a row's shard and
    its place in it follow from its id, and the shard's checksum is known as it is written.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        schema: pa.Schema,
        keys: list[str],
        num_shards: int,
    ):
        super().__init__()
        self._run, self._name, self._schema = run, name, schema
        self._keys, self._num_shards = keys, num_shards

    def _write(self, shard: tuple[int, Iterable[Block]]) -> tuple[str, manifest.Shard]:
        index, blocks = shard
        table = from_blocks(blocks, self._schema)
        return write_sorted(
            self._run, table, self._name, index, num_shards=self._num_shards, keys=self._keys
        )

    def expand(self, tables):
        return (
            tables
            | SplitByShard(self._keys[0], self._num_shards, self._run.spill)
            | beam.GroupByKey()
            | "Write" >> beam.Map(self._write)
        )
