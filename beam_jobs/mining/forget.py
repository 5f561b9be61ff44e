"""Deletes images, and what people typed, from the days that mine_log wrote.

Reads a deletion list (a table with the columns image, user and query; a row names an image, or a
person, or a person and one query of theirs) and a folder of days. Rewrites every day that holds
anything of it, as if it had never been there, and deletes what each day held before, and what runs
that died left there. Let no job elsewhere write these days meanwhile: it would fail.

  ./run.sh forget --list deletions.csv --days work/days
  ./run.sh all --days work/days --forget deletions.csv …     this, and all datasets made of them

A log that still holds the rows brings them back: give --forget to mine_log too.
"""

import dataclasses
import sys
import uuid
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import GoogleCloudOptions

from beam_jobs.frame import execution, job, parsing
from beam_jobs.mining import log as log_lib
from beam_jobs.mining.days import find_days, query_parts_of, read_deletions_of
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError, tell
from schemas.console import heartbeat, program
from schemas.console.flags import flag
from schemas.datasets import commit, manifest, shards
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Manifest
from schemas.datasets.shard_files import read_parquet
from schemas.runs import folders as run_folders
from transforms.files.secret_files import FromFiles
from transforms.mining.deletions import Deletions
from transforms.mining.events import without
from transforms.mining.evidence import forget


@dataclasses.dataclass(frozen=True)
class Config:
    list: str = flag("Deletion list: a table with image, user and query.", role="input")
    days: str = flag("Folder of days that mine_log wrote.", role="input")
    person_key: str = flag("The key file that mine_log was given.", default="", role="input")
    dry_run: bool = flag(
        "Say which days there are, and stop.", default=False, role="runtime", essential=True
    )


def _tables(day: Dataset, name: str) -> Iterator[tuple[manifest.Shard, pa.Table]]:
    for shard in day.shards(name):
        yield shard, read_parquet(day.path(shard))


def forget_in_day(root: str, deletions: Deletions) -> int:
    """Rewrites one day without what must be forgotten, if it holds any of it; deletes older runs.

    Returns:
      How many rows of people and dead letters went.

    Raises:
      RivalCommitError: another job has replaced the day meanwhile.
    """
    seen = commit.token(root)
    if manifest.read(root) is None:  # its only runs died, and may have left it there
        run_folders.purge(root)
        return 0
    day = Dataset(root)
    gone, queries = 0, []
    for name in ("evidence", "visits", "languages", "dead_letters"):
        for _, table in _tables(day, name):
            kept = _forget(table, deletions)
            gone += len(table) - len(kept)
            if name == "evidence":
                queries.append(pc.unique(kept["query_id"]))
    heartbeat.say(f"forget: {gone:,} rows of {root}")
    if not gone:
        # An older run may hold it, where this one was mined without, or was left by a forgetting
        # that was killed before its purge.
        run_folders.purge(root)
        return 0
    typed = pc.unique(pa.chunked_array(queries, pa.int64()))
    old = day.manifest
    identity = fingerprint.of_json([old.fingerprint, dataclasses.asdict(deletions)])
    new = dataclasses.replace(old, run_id=identity[:16], fingerprint=identity)
    tables = {
        name: dataclasses.replace(
            table, shards=tuple(_rewrite(root, day, new, name, deletions=deletions, typed=typed))
        )
        for name, table in old.tables.items()
    }
    counters = old.counters | {f"forgotten.{what}": gone for what in ("in", "dropped_forgotten")}
    new = dataclasses.replace(new, tables=tables, counters=counters)
    commit.commit(root, new, seen)
    run_folders.purge(root)
    return gone


def _forget(table: pa.Table, deletions: Deletions) -> pa.Table:
    if "person" in table.column_names:
        return forget(table, deletions)
    return without(table, deletions.keys)


def _rewrite(
    root: str, day: Dataset, new: Manifest, name: str, *, deletions: Deletions, typed: pa.Array
) -> Iterator[manifest.Shard]:
    for shard, table in _tables(day, name):
        if name == "texts":  # what only those people typed is nobody's any more
            table = table.filter(pc.is_in(table["query_id"], value_set=typed))
        else:
            table = _forget(table, deletions)
        path = shard.path.replace(day.manifest.run_id, new.run_id)
        yield shards.write_parquet(root, path, shard.index, table)


def preflight(config: Config) -> job.Inputs:
    days = find_days(config.days)
    deletions = read_deletions_of(days, config.list, config.person_key)
    return job.Inputs(
        facts=(
            f"{len(deletions.keys):,} images, {len(deletions.users):,} people, "
            f"{len(deletions.user_queries):,} queries of people",
            f"days: {len(days)}",
        )
    )


def build(pipeline: beam.Pipeline, config: Config) -> None:
    found = find_days(config.days)
    files = config.list, config.person_key
    deletions = FromFiles.of(log_lib.deletions_of, *files, query_parts_of(found), files=files)
    days = [storage.join(config.days, name) for name in storage.list_folders(config.days)]
    (
        pipeline
        | "Days" >> beam.Create(days)
        | beam.Reshuffle()
        | "ForgetInDay"
        >> beam.Map(lambda day, deletions: forget_in_day(day, deletions()), deletions)
    )


def _next(config: Config) -> str:
    """What deletes the same from the datasets of a work folder."""
    data = {"images": "IMAGES/**", "labels": "LABELS.csv", "workdir": "WORKDIR"}
    return program.command("all", days=config.days, forget=config.list, **data)


def run(argv: list[str] | None = None) -> int:
    """It has no dataset of its own, so it runs without the frame of beam_jobs/frame/job.py."""
    try:
        config, options = parsing.parse("forget", Config, __doc__ or "", argv)
        for fact in preflight(config).facts:
            print(f"  {fact}", flush=True)
    except PhraseLensError as error:
        return tell(error)
    # It has no run whose spill could hold what workers elsewhere read.
    temp = options.view_as(GoogleCloudOptions).temp_location or ""
    folder = storage.join(temp, f"forget-{uuid.uuid4().hex}")
    try:
        return execution.execute(
            "forget",
            lambda pipeline: build(pipeline, execution.for_workers(config, options, folder)),
            config,
            options,
            finish=lambda: print(f"next: {_next(config)}"),
        )
    finally:
        if temp:
            storage.remove_tree(folder)


if __name__ == "__main__":
    sys.exit(run())
