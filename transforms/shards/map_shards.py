"""Work done shard by shard, so that a stage that died goes on after its last whole shard.

A shard in makes a shard out: no shuffle moves the vectors, memory is that of one
shard, and what an earlier attempt of the same run finished is not done again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.shared import Shared

from schemas.base import storage
from schemas.console import progress
from schemas.console.progress import Progress
from schemas.datasets import manifest
from schemas.datasets.records import Record
from schemas.runs.run import Run
from transforms.shards.commit import record_path
from transforms.shards.outputs import COUNTS, SHARDS, Output, write_sorted

Item = TypeVar("Item")
Result = TypeVar("Result")


class ShardWorker(Protocol):
    """What is done to one shard.

    Attributes:
      label: what is being done, for progress.
      unit: what a row is, in plural.
      total: rows of all shards, or None.
    """

    @property
    def label(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def total(self) -> int | None: ...

    def load(self) -> Any:
        """Loads models; called once a process, and the result is shared by its threads."""

    def process(self, task: Any, loaded: Any, progress: Progress) -> Output:
        """The tables, dead letters and counts that the shard makes, and what it wrote itself."""


class MapShards(beam.PTransform):
    """PCollection[(index, task)] → tagged `shards` ((name, Shard)) and `counts`.

    Args:
      run: the run.
      worker: what is done to a task.
      keys: table → the columns that its rows are sorted by.
      num_shards: how many tasks there are.
      hints: resource hints of the step that does it.
    """

    def __init__(
        self,
        run: Run,
        worker: ShardWorker,
        keys: Mapping[str, list[str]],
        num_shards: int,
        hints: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self._args = run, worker, dict(keys), num_shards
        self._hints = dict(hints or {})

    def expand(self, tasks):
        fn = _MapShardsFn(*self._args)
        step = beam.ParDo(fn)
        # Not of the shuffle before it, which needs no more than any other step.
        step.with_resource_hints(**self._hints)
        return tasks | beam.Reshuffle() | step.with_outputs(SHARDS, COUNTS)


class _MapShardsFn(beam.DoFn):
    def __init__(self, run, worker, keys, num_shards):
        self._run, self._worker, self._keys = run, worker, keys
        self._num_shards = num_shards
        self._shared = Shared()
        self._progress = None

    def setup(self):
        self._loaded = self._shared.acquire(lambda: _Loaded(self._worker.load()))
        worker = self._worker
        self._progress = progress.shared(worker.label, worker.total, worker.unit)

    def teardown(self):
        if self._progress:
            self._progress.close()

    def process(self, task):
        index, work = task
        path = self._run.absolute(record_path(self._run, index, self._num_shards))
        record = finished(self._run, path)
        if record is None:
            output = self._worker.process(work, self._loaded.value, self._progress)
            record = self._write(index, output)
            record.write(path)
        for name, shard in _shards(record):
            yield beam.pvalue.TaggedOutput(SHARDS, (name, shard))
        for count in record.counts.items():
            yield beam.pvalue.TaggedOutput(COUNTS, count)

    def _write(self, index: int, output: Output) -> Record:
        tables = dict(output.tables)
        dead = [table for table in output.dead if table.num_rows]
        if dead:
            tables["dead_letters"] = pa.concat_tables(dead)
        keys = {"dead_letters": ["key", "reason"], **self._keys}
        written = [
            write_sorted(
                self._run, table, name, index, num_shards=self._num_shards, keys=keys[name]
            )
            for name, table in tables.items()
            if table.num_rows
        ]
        shards = [*output.shards, *written]
        rows = [{"table": name} | dataclasses.asdict(shard) for name, shard in shards]
        return Record(rows, output.counts)


@dataclasses.dataclass
class _Loaded:
    """`Shared` holds its object weakly, which tuples and arrays do not allow."""

    value: Any


def _shards(record: Record) -> list[tuple[str, manifest.Shard]]:
    return [
        (row["table"], manifest.Shard(**{k: v for k, v in row.items() if k != "table"}))
        for row in record.shards
    ]


def finished(run: Run, path: str) -> Record | None:
    """The record of a task that an earlier attempt finished and whose files are whole, or None."""
    record = Record.read(path)
    if record is None:
        return None
    whole = all(
        storage.size(run.absolute(shard.path)) == shard.bytes for _, shard in _shards(record)
    )
    return record if whole else None
