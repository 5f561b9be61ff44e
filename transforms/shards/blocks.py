"""How tables cross a shuffle, become shards, and are committed as one dataset.

Rows travel as Arrow tables. Before a shuffle a table is cut into one block (Arrow IPC)
per shard of its ids, so that Beam moves blocks and never single rows.
"""

import dataclasses
import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint, storage
from schemas.base.errors import DeadShareError, PhraseLensError, RetryError
from schemas.base.fingerprint import hash64_array
from schemas.datasets import commit as commit_lib
from schemas.datasets import dataset, manifest
from schemas.datasets import shards as shards_lib
from schemas.datasets.records import Record
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.stage import Stage
from schemas.tables.mined import DEAD_LETTERS
from transforms.shards.ceilings import EXAMPLES, Ceilings, check_counters

DEAD, COUNTS, SHARDS, NOTES = "dead", "counts", "shards", "notes"

# Counter → examples of what it counts, the heaviest first; see `Output`.
Notes = Mapping[str, Sequence[tuple[int, str]]]
# What a job checks at the end: its counters and notes.
Check = Callable[[Mapping[str, int], Notes], None]

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


def par_do(fn: beam.DoFn | Callable, *args: Any, tags: Sequence[str]) -> beam.ParDo:
    """A ParDo with tagged outputs: tables, but for `counts`, `notes` and `shards`."""
    others = {
        COUNTS: tuple[str, int],
        NOTES: tuple[str, tuple[int, str]],
        SHARDS: tuple[str, manifest.Shard],
    }
    types = {tag: others.get(tag, pa.Table) for tag in tags}
    return beam.ParDo(fn, *args).with_output_types(Any, **types).with_outputs(*tags)


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
    table = _in_order(table, order)
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


def _in_order(table: pa.Table, order: np.ndarray) -> pa.Table:
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
    stage: Stage, table: pa.Table, name: str, index: int, num_shards: int, keys: list[str]
) -> tuple[str, manifest.Shard]:
    """Writes one shard with its rows in the order of `keys`, so that equal rows are equal bytes."""
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])
    # Where chunks begin must not show in the file.
    table = _in_order(table, order.to_numpy()).combine_chunks()
    path = stage.shard_path(name, index, num_shards, "parquet")
    return name, shards_lib.write_parquet(stage.output, path, index, table)


class WriteTable(beam.PTransform):
    """Writes tables as Parquet shards: PCollection[pa.Table] → PCollection[(name, Shard)].

    FileBasedSink deals rows out to shards from a random start; here a row's shard and
    its place in it follow from its id, and the shard's checksum is known as it is written.
    """

    def __init__(
        self,
        stage: Stage,
        name: str,
        schema: pa.Schema,
        keys: list[str],
        num_shards: int,
    ):
        super().__init__()
        self._stage, self._name, self._schema = stage, name, schema
        self._keys, self._num_shards = keys, num_shards

    def _write(self, shard: tuple[int, Iterable[Block]]) -> tuple[str, manifest.Shard]:
        index, blocks = shard
        table = from_blocks(blocks, self._schema)
        return write_sorted(self._stage, table, self._name, index, self._num_shards, self._keys)

    def expand(self, tables):
        return (
            tables
            | SplitByShard(self._keys[0], self._num_shards, self._stage.spill)
            | beam.GroupByKey()
            | "Write" >> beam.Map(self._write)
        )


def _dropped(counters: Mapping[str, int]) -> str:
    dropped = {name: rows for name, rows in counters.items() if ".dropped_" in name and rows}
    return ", ".join(f"{name} {rows:,}" for name, rows in sorted(dropped.items()))


def _check_retry(stage: Stage, dead: Iterable[manifest.Shard]) -> None:
    """Raises RetryError when rows have died that were good in the run before.

    One that died then may die of something else now: its old letter is gone. An image and a row
    of the log may have the same key.
    """
    schema = pa.schema([DEAD_LETTERS.field("key"), DEAD_LETTERS.field("reason")])
    before = dataset.Dataset(manifest.run_folder(stage.output, stage.after))
    old = pa.Table.from_batches(before.batches("dead_letters", schema.names), schema)
    found = [read_parquet(stage.absolute(shard.path), schema.names) for shard in dead]
    new = pa.concat_tables([schema.empty_table(), *found])
    old_letters, new_letters = (
        fingerprint.mix(hash64_array(t["key"]), hash64_array(t["reason"])) for t in (old, new)
    )
    gone = hash64_array(old["key"])[~np.isin(old_letters, new_letters)]
    fell = ~np.isin(new_letters, old_letters) & ~np.isin(hash64_array(new["key"]), gone)
    if fell.any():
        key = new["key"].filter(pa.array(fell))[0].as_py()
        raise RetryError(
            f"{stage.output}: {key!r} and maybe others died, which were good in run {stage.after}",
            "a retry in which no other rows die",
            "Nothing was committed. Give the command again when what it reads is well.",
        )


def record_path(stage: Stage, index: int, num_shards: int) -> str:
    """Where a task of `MapShards` notes what it has written, relative to the dataset."""
    return stage.shard_path("records", index, num_shards, "json") + Record.SUFFIX


def _examples(stage: Stage, shards: Iterable[manifest.Shard], reason: str) -> list[str]:
    """Some rows that died of a reason: their keys, and what was found."""
    found: list[str] = []
    for shard in sorted(shards):
        with open_parquet(stage.absolute(shard.path)) as file:
            for batch in file.iter_batches(columns=["key", "reason", "detail"]):
                for row in batch.filter(pc.equal(batch["reason"], reason)).to_pylist():
                    detail = f" ({row['detail']})" if row["detail"] else ""
                    if (text := f"{row['key']!r}{detail}") not in found:
                        found.append(text)
                    if len(found) == EXAMPLES:
                        return found
    return found


def commit(
    _: None,
    shards: Iterable[tuple[str, manifest.Shard]],
    counts: Iterable[tuple[str, int]],
    notes: Iterable[tuple[str, Sequence[tuple[int, str]]]],
    stage: Stage,
    tables: Mapping[str, manifest.Table],
    num_shards: int,
    ceilings: Ceilings,
    required: Sequence[str],
    check: Check | None,
) -> bool:
    """Commits a run's shards, or raises and commits nothing.

    Raises:
      PhraseLensError: a table of `required` has no row; a run that tries dead rows again has
        killed others; or see `check_counters`.
    """
    counters = dict(counts)
    by_table: dict[str, list[manifest.Shard]] = defaultdict(list)
    for name, shard in shards:
        by_table[name].append(shard)
    try:
        letters = by_table["dead_letters"]
        examples = functools.partial(_examples, stage, letters)
        check_counters(counters, ceilings, examples, stage.absolute(stage.folder("dead_letters")))
        if stage.after:
            _check_retry(stage, letters)
    except (DeadShareError, RetryError):
        # What killed them may pass: the next run is to try these shards again.
        for shard in by_table["dead_letters"]:
            storage.remove(stage.absolute(record_path(stage, shard.index, num_shards)))
        raise
    if check:
        check(counters, dict(notes))
    filled = {
        name: dataclasses.replace(table, shards=tuple(sorted(by_table[name])))
        for name, table in tables.items()
    }
    for name in required:
        if not filled[name].rows:
            raise PhraseLensError(
                f"table {name!r}",
                f"at least one row; dropped were {_dropped(counters) or 'none'}",
                f"Check the inputs of {stage.name}, and the flags that drop rows.",
            )
    won = commit_lib.commit(stage.output, stage.manifest(filled, counters, num_shards), stage.seen)
    storage.remove_tree(stage.spill)
    return won


def parquet(schema: pa.Schema) -> manifest.Table:
    """A Parquet table without shards yet."""
    return manifest.Table("parquet", shards_lib.schema_fingerprint(schema), ())


class CommitManifest(beam.PTransform):
    """Commits the dataset when all of its shards are written. The last step of every job.

    Args:
      stage: the run.
      tables: name → format and schema of every table; `dead_letters` is added.
      num_shards: shards that the tables are partitioned into.
      ceilings: how many rows may die.
      required: tables without which the dataset is of no use.
      check: raises PhraseLensError where the counters tell that the dataset is of no use.

    Input: a dict with `shards` (PCollection[(name, Shard)]), `counts`
    (PCollection[(name, rows)]) and, where dead letters are not written yet, `dead`
    (PCollection[pa.Table]), and where `check` is to see some, `notes`
    (PCollection[(name, (weight, text))]).
    """

    def __init__(
        self,
        stage: Stage,
        tables: Mapping[str, manifest.Table],
        num_shards: int,
        ceilings: Ceilings,
        required: Sequence[str] = (),
        check: Check | None = None,
    ):
        super().__init__()
        self._stage, self._num_shards, self._required = stage, num_shards, tuple(required)
        self._tables = dict(tables) | {"dead_letters": parquet(DEAD_LETTERS)}
        self._ceilings, self._check = ceilings, check

    def expand(self, inputs):
        shards = inputs[SHARDS]
        if DEAD in inputs:
            keys = ["key", "reason", "detail", "payload"]
            dead = inputs[DEAD] | "WriteDeadLetters" >> WriteTable(
                self._stage, "dead_letters", DEAD_LETTERS, keys, self._num_shards
            )
            shards = (shards, dead) | beam.Flatten()
        counts = inputs[COUNTS] | "AddCounts" >> beam.CombinePerKey(sum)
        notes: Any = ()
        if NOTES in inputs:
            heaviest = inputs[NOTES] | beam.combiners.Top.LargestPerKey(EXAMPLES)
            notes = beam.pvalue.AsIter(heaviest)
        return (
            shards.pipeline
            | beam.Create([None])
            | beam.Map(
                commit,
                beam.pvalue.AsIter(shards),
                beam.pvalue.AsIter(counts),
                notes,
                self._stage,
                self._tables,
                self._num_shards,
                self._ceilings,
                self._required,
                self._check,
            )
        )
