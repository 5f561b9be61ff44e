"""The end of a graph: all counts are checked, and the run is committed."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from schemas.runs.run import Run
from schemas.tables.mined import DEAD_LETTERS
from transforms.shards.ceilings import EXAMPLES, Ceilings, check_counters
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS, Notes, WriteTable

# What a job checks at the end: its counters and notes.
Check = Callable[[Mapping[str, int], Notes], None]


def _dropped(counters: Mapping[str, int]) -> str:
    dropped = {name: rows for name, rows in counters.items() if ".dropped_" in name and rows}
    return ", ".join(f"{name} {rows:,}" for name, rows in sorted(dropped.items()))


def _check_retry(run: Run, dead: Iterable[manifest.Shard]) -> None:
    """Raises RetryError when rows have died that were good in the run before.

    One that died then may die of something else now: its old letter is gone. An image and a row
    of the log may have the same key.
    """
    schema = pa.schema([DEAD_LETTERS.field("key"), DEAD_LETTERS.field("reason")])
    before = dataset.Dataset(manifest.run_folder(run.output, run.after))
    old = pa.Table.from_batches(before.batches("dead_letters", schema.names), schema)
    found = [read_parquet(run.absolute(shard.path), schema.names) for shard in dead]
    new = pa.concat_tables([schema.empty_table(), *found])
    old_letters, new_letters = (
        fingerprint.mix(hash64_array(t["key"]), hash64_array(t["reason"])) for t in (old, new)
    )
    gone = hash64_array(old["key"])[~np.isin(old_letters, new_letters)]
    fell = ~np.isin(new_letters, old_letters) & ~np.isin(hash64_array(new["key"]), gone)
    if fell.any():
        key = new["key"].filter(pa.array(fell))[0].as_py()
        raise RetryError(
            f"{run.output}: {key!r} and maybe others died, which were good in run {run.after}",
            "a retry in which no other rows die",
            "Nothing was committed. Give the command again when what it reads is well.",
        )


def record_path(run: Run, index: int, num_shards: int) -> str:
    """Where a task of `MapShards` notes what it has written, relative to the dataset."""
    return run.shard_path("records", index, num_shards, "json") + Record.SUFFIX


def _examples(run: Run, shards: Iterable[manifest.Shard], reason: str) -> list[str]:
    """Some rows that died of a reason: their keys, and what was found."""
    found: list[str] = []
    for shard in sorted(shards):
        with open_parquet(run.absolute(shard.path)) as file:
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
    run: Run,
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
        examples = functools.partial(_examples, run, letters)
        check_counters(counters, ceilings, examples, run.absolute(run.folder("dead_letters")))
        if run.after:
            _check_retry(run, letters)
    except (DeadShareError, RetryError):
        # What killed them may pass: the next run is to try these shards again.
        for shard in by_table["dead_letters"]:
            storage.remove(run.absolute(record_path(run, shard.index, num_shards)))
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
                f"Check the inputs of {run.name}, and the flags that drop rows.",
            )
    won = commit_lib.commit(run.output, run.manifest(filled, counters, num_shards), run.seen)
    storage.remove_tree(run.spill)
    return won


def parquet(schema: pa.Schema) -> manifest.Table:
    """A Parquet table without shards yet."""
    return manifest.Table("parquet", shards_lib.schema_fingerprint(schema), ())


class CommitManifest(beam.PTransform):
    """Commits the dataset when all of its shards are written. The last step of every job.

    Args:
      run: the run.
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
        run: Run,
        tables: Mapping[str, manifest.Table],
        num_shards: int,
        ceilings: Ceilings,
        *,
        required: Sequence[str] = (),
        check: Check | None = None,
    ):
        super().__init__()
        self._run, self._num_shards, self._required = run, num_shards, tuple(required)
        self._tables = dict(tables) | {"dead_letters": parquet(DEAD_LETTERS)}
        self._ceilings, self._check = ceilings, check

    def expand(self, inputs):
        shards = inputs[SHARDS]
        if DEAD in inputs:
            keys = ["key", "reason", "detail", "payload"]
            dead = inputs[DEAD] | "WriteDeadLetters" >> WriteTable(
                self._run, "dead_letters", DEAD_LETTERS, keys, self._num_shards
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
                self._run,
                self._tables,
                self._num_shards,
                self._ceilings,
                self._required,
                self._check,
            )
        )
