"""How tables cross a shuffle, become shards, and are committed as one dataset.

Rows travel as Arrow tables. Before a shuffle a table is cut into one block (Arrow IPC)
per shard of its ids, so that Beam moves blocks and never single rows.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas import fingerprint, manifest
from schemas.dead_letter import REASONS
from schemas.errors import AccountingError, DeadShareError, PhraseLensError
from schemas.stage import Stage
from schemas.tables import DEAD_LETTERS

DEAD, COUNTS, SHARDS = "dead", "counts", "shards"


def to_block(table: pa.Table) -> bytes:
    """Serialises a table (Arrow IPC stream)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_blocks(blocks: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    """Reads blocks back into one table of `schema`; an empty one when there are none."""
    tables = [pa.ipc.open_stream(block).read_all() for block in blocks]
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def split_by_shard(table: pa.Table, ids: str, num_shards: int) -> Iterator[tuple[int, bytes]]:
    """Cuts a table into one block per shard of the column `ids`; empty blocks are left out."""
    if not table.num_rows:
        return
    shards = fingerprint.shard_of(table[ids], num_shards)
    order = np.argsort(shards, kind="stable")
    table = table.take(pa.array(order))
    starts = np.searchsorted(shards[order], np.arange(num_shards + 1))
    for shard in range(num_shards):
        rows = int(starts[shard + 1] - starts[shard])
        if rows:
            yield shard, to_block(table.slice(int(starts[shard]), rows))


class SplitByShard(beam.PTransform):
    """PCollection[pa.Table] → PCollection[(shard, block)]."""

    def __init__(self, ids: str, num_shards: int):
        super().__init__()
        self._ids, self._num_shards = ids, num_shards

    def expand(self, tables):
        return tables | beam.FlatMap(split_by_shard, self._ids, self._num_shards)


class GroupShards(beam.PTransform):
    """Brings the blocks of several tables together, shard by shard.

    Args:
      ids: name of a table → its column of ids.
      num_shards: how many shards there are.

    Input: a dict of PCollection[pa.Table] with the names of `ids`.
    Output: PCollection[(shard, {name: blocks})].
    """

    def __init__(self, ids: Mapping[str, str], num_shards: int):
        super().__init__()
        self._ids, self._num_shards = dict(ids), num_shards

    def expand(self, tables):
        blocks = {
            name: tables[name] | f"Split {name}" >> SplitByShard(ids, self._num_shards)
            for name, ids in self._ids.items()
        }
        return blocks | beam.CoGroupByKey()


@dataclasses.dataclass(frozen=True)
class Output:
    """What the pure functions of a job return: tables by name, dead letters, counts of rows."""

    tables: dict[str, pa.Table] = dataclasses.field(default_factory=dict)
    dead: tuple[pa.Table, ...] = ()
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def tagged(self) -> Iterator[beam.pvalue.TaggedOutput]:
        """The outputs for Beam: one tag a table, and `dead` and `counts`."""
        for name, table in self.tables.items():
            if table.num_rows:
                yield beam.pvalue.TaggedOutput(name, table)
        for table in self.dead:
            if table.num_rows:
                yield beam.pvalue.TaggedOutput(DEAD, table)
        for item in self.counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, item)


def write_sorted(
    stage: Stage, table: pa.Table, name: str, index: int, num_shards: int, keys: list[str]
) -> tuple[str, manifest.Shard]:
    """Writes one shard with its rows in the order of `keys`, so that equal rows are equal bytes."""
    table = table.sort_by([(key, "ascending") for key in keys])
    path = stage.shard_path(name, index, num_shards, "parquet")
    return name, manifest.write_parquet(stage.output, path, index, table)


class WriteTable(beam.PTransform):
    """Writes tables as Parquet shards: PCollection[pa.Table] → PCollection[(name, Shard)].

    FileBasedSink deals rows out to shards from a random start; here a row's shard and
    its place in it follow from its id, and the shard's checksum is known as it is written.
    """

    def __init__(
        self, stage: Stage, name: str, schema: pa.Schema, keys: list[str], num_shards: int
    ):
        super().__init__()
        self._stage, self._name, self._schema = stage, name, schema
        self._keys, self._num_shards = keys, num_shards

    def _write(self, shard: tuple[int, Iterable[bytes]]) -> tuple[str, manifest.Shard]:
        index, blocks = shard
        table = from_blocks(blocks, self._schema)
        return write_sorted(self._stage, table, self._name, index, self._num_shards, self._keys)

    def expand(self, tables):
        return (
            tables
            | SplitByShard(self._keys[0], self._num_shards)
            | beam.GroupByKey()
            | "Write" >> beam.Map(self._write)
        )


def dead_share(counters: Mapping[str, int]) -> dict[str, float]:
    """Share of dead rows among the rows in, by kind of row."""
    dead: dict[str, int] = defaultdict(int)
    for name, rows in counters.items():
        kind, _, what = name.partition(".")
        if what.removeprefix("dropped_") in REASONS:
            dead[kind] += rows
    return {
        kind: rows / counters[f"{kind}.in"]
        for kind, rows in dead.items()
        if counters.get(f"{kind}.in")
    }


def check_counters(counters: Mapping[str, int], max_dead_fraction: float) -> None:
    """Refuses a run that lost rows, or in which too many died.

    Raises:
      AccountingError: rows in ≠ rows out + rows dropped.
      DeadShareError: a kind of row passes `max_dead_fraction`.
    """
    lost = manifest.unbalanced(dict(counters))
    if lost:
        raise AccountingError("counters", "in = out + dropped", "; ".join(lost))
    for kind, share in dead_share(counters).items():
        if share > max_dead_fraction:
            reasons = {
                name.partition(".dropped_")[2]: rows
                for name, rows in counters.items()
                if name.startswith(f"{kind}.dropped_") and name.partition(".dropped_")[2] in REASONS
            }
            worst = max(reasons, key=lambda reason: reasons[reason])
            raise DeadShareError(
                f"{share:.1%} of {kind} died ({reasons})",
                f"at most {max_dead_fraction:.1%}",
                f"Most are {worst}: {REASONS[worst]} Or raise --max_dead_fraction.",
            )


def commit(
    _: None,
    shards: Iterable[tuple[str, manifest.Shard]],
    counts: Iterable[tuple[str, int]],
    stage: Stage,
    tables: Mapping[str, manifest.Table],
    num_shards: int,
    max_dead_fraction: float,
    required: Sequence[str],
) -> bool:
    """Commits a run's shards, or raises and commits nothing.

    Raises:
      PhraseLensError: a table of `required` has no row; or see `check_counters`.
    """
    counters = dict(counts)
    check_counters(counters, max_dead_fraction)
    by_table: dict[str, list[manifest.Shard]] = defaultdict(list)
    for name, shard in shards:
        by_table[name].append(shard)
    filled = {
        name: dataclasses.replace(table, shards=tuple(sorted(by_table[name])))
        for name, table in tables.items()
    }
    for name in required:
        if not filled[name].rows:
            raise PhraseLensError(
                f"table {name!r}",
                f"at least one row, found none; rows were {counters}",
                f"Check the inputs of {stage.name}.",
            )
    return manifest.commit(stage.output, stage.manifest(filled, counters, num_shards), stage.seen)


def parquet(schema: pa.Schema) -> manifest.Table:
    """A Parquet table without shards yet."""
    return manifest.Table("parquet", manifest.schema_fingerprint(schema), ())


class CommitManifest(beam.PTransform):
    """Commits the dataset when all of its shards are written. The last step of every job.

    Args:
      stage: the run.
      tables: name → format and schema of every table; `dead_letters` is added.
      num_shards: shards that the tables are partitioned into.
      max_dead_fraction: see `check_counters`.
      required: tables without which the dataset is of no use.

    Input: a dict with `shards` (PCollection[(name, Shard)]), `counts`
    (PCollection[(name, rows)]) and, where dead letters are not written yet, `dead`
    (PCollection[pa.Table]).
    """

    def __init__(
        self,
        stage: Stage,
        tables: Mapping[str, manifest.Table],
        num_shards: int,
        max_dead_fraction: float,
        required: Sequence[str] = (),
    ):
        super().__init__()
        self._stage, self._num_shards, self._required = stage, num_shards, tuple(required)
        self._tables = dict(tables) | {"dead_letters": parquet(DEAD_LETTERS)}
        self._max_dead_fraction = max_dead_fraction

    def expand(self, inputs):
        shards = inputs[SHARDS]
        if DEAD in inputs:
            keys = ["key", "reason", "detail", "payload"]
            dead = inputs[DEAD] | "WriteDeadLetters" >> WriteTable(
                self._stage, "dead_letters", DEAD_LETTERS, keys, 1
            )
            shards = (shards, dead) | beam.Flatten()
        counts = inputs[COUNTS] | "AddCounts" >> beam.CombinePerKey(sum)
        return (
            shards.pipeline
            | beam.Create([None])
            | beam.Map(
                commit,
                beam.pvalue.AsIter(shards),
                beam.pvalue.AsIter(counts),
                self._stage,
                self._tables,
                self._num_shards,
                self._max_dead_fraction,
                self._required,
            )
        )
