"""Mines click logs: which images people chose for which queries, and which queries want the same.

Reads a click log in any of the formats of docs/use/formats.md, or the days that mine_log made of
it; images as files, as a table with a bytes or path column, as TFRecord of tf.Example or as
WebDataset; and (optionally) labels. Local paths, globs, folders and gs:// alike.

Writes one dataset with the tables images (checked, one row for each picture and its near
duplicates, with split and labels), sources (what came of which file), pairs (query-image pairs
with clicks and what they are worth), queries (text, language, support, spellings), query_days
(their history), query_pairs (co-click, session reformulation, and negatives), examination (how
likely people look at each position) and dead_letters.

  ./run.sh mine_pairs --log 'logs/*.parquet' --images photos/ --labels labels.csv \\
      --columns query=q,image_id=img --output work/mined
  ./run.sh mine_pairs --days work/days --images photos/ --labels labels.csv --output work/mined

A row of the log is one event: rows that are equal in all columns count once. A pair's score is the
lower bound of its click rate, corrected for how likely people look at its position, which is
fitted once and kept; where the log tells only of clicks, their number. A query leaves only if
--min_users people typed it, where the log tells who did. Splits come from the content of an image;
a column `split` in the label file overrules that. Without --images each key of the log stands for
an image: pairs and associations can be looked at, but nothing can be trained on them.
"""

import functools
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.frame import job, reuse
from beam_jobs.mining import images as images_lib
from beam_jobs.mining import log as log_lib
from beam_jobs.mining.days import check_robots_of, deletions_by_flags, find_days
from beam_jobs.mining.flags import Config
from beam_jobs.mining.images import LabelFile, MineImages
from beam_jobs.mining.merged import MineLog, ReadDays
from beam_jobs.mining.queries import MinePairs, MineQueries, MineQueryPairs
from schemas.base.errors import CorruptError, PhraseLensError
from schemas.console import program
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import run as run_lib
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.files.matching import content_hash, match
from transforms.images.plan import ImagePlan, count_images
from transforms.mining import evidence, examination, key_match
from transforms.mining.examination import ReadFacts
from transforms.mining.images import SplitShares
from transforms.mining.labels import LABEL_FIELDS
from transforms.rows.checked import id_texts
from transforms.rows.columns import check_tables, column_mapping
from transforms.rows.logs import check_times, read_log
from transforms.rows.tabular import BadRows, read_table
from transforms.shards import commit, outputs
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS

TABLES = {
    "images": commit.parquet(tables.IMAGES),
    "sources": commit.parquet(tables.SOURCES),
    "pairs": commit.parquet(tables.PAIRS),
    examination.TABLE: commit.parquet(tables.EXAMINATION),
    "queries": commit.parquet(tables.QUERIES),
    "query_days": commit.parquet(tables.QUERY_DAYS),
    "query_pairs": commit.parquet(tables.QUERY_PAIRS),
}
SAMPLED_ROWS = 10_000  # of the log and the labels, to see early that no key can match
Batches = Iterable[pa.Table | pa.RecordBatch | BadRows]
SHARD_BYTES = 128 << 20  # of log, as text, and images for each shard


def preflight(config: Config) -> job.Inputs:
    if config.validation_share + config.test_share >= 1:
        raise PhraseLensError(
            f"--validation_share {config.validation_share} --test_share {config.test_share}",
            "shares that leave some images to train on",
            "Give shares whose sum is below 1.",
        )
    if bool(config.log) == bool(config.days):
        raise PhraseLensError(
            "--log and --days" if config.log else "neither --log nor --days",
            "one of them",
            "Name a log, or the folder of days that mine_log made of it.",
        )
    if config.labels and not config.images:
        raise PhraseLensError("--labels", "images that they are of", "Name them with --images.")
    log_lib.check_rules(config)
    deletions_by_flags(config)
    raw, found, facts = log_lib.raw_inputs(config), {}, []
    tasks: dict[str, Sequence[Any]] = {}
    sizes: dict[str, int] = {}
    log: Batches
    if config.log:
        units, files = log_lib.plan(config)
        check_times(units, None)
        log = read_log(units[0])
        raw["log"] = content_hash(files)
        tasks["log"], sizes["log"] = units, log_lib.text_bytes(files)
        size = sum(file.size_in_bytes for file in files)
        facts.append(f"log: {len(files)} files, {size:,} bytes ({units[0].format})")
    else:
        merged = find_days(config.days)
        found = {f"day {name}": day.root for name, day in merged.items()}
        facts.append(f"days: {len(found)}")
        check_robots_of(merged, config.max_robot_share)
        size = sum(shard.bytes for day in merged.values() for shard in day.shards("evidence"))
        sizes["log"] = log_lib.PACKED * size
        log = next(reversed(merged.values())).batches("evidence", ["key"])
    if config.images:
        images = ImagePlan.of(config)
        raw["images"] = content_hash(images.files)
        tasks["images"] = images.units
        sizes["image_bytes"] = sum(file.size_in_bytes for file in images.files)
        sizes["images"] = count_images(images.units) or 0
        facts += [images.fact, *reuse.facts(config, lambda: images_lib.reused(config))]
    if config.labels:
        labels = match("labels", config.labels)
        mapping = column_mapping("label_columns", config.label_columns, LABEL_FIELDS)
        paths = [file.path for file in labels]
        check_tables(paths, "label_columns", mapping, ("key",), ("label", "split"))
        raw["labels"] = content_hash(labels)
        tasks["labels"] = [LabelFile(path) for path in paths]
        facts.append(f"labels: {len(labels)} files")
    if config.images and (paths := [p for unit in images.units if unit.keys for p in unit.paths]):
        key_match.check_image_key(_some_keys(config, log), paths, config.image_key)
    kept = _kept_examination(config)
    if kept is not None and not _has_fitted(config, found, raw):
        raw[examination.TABLE] = hashlib.sha256(kept.tobytes()).hexdigest()
        facts.append("positions: examined as likely as an earlier run has fitted")
    return job.Inputs(found, raw, tuple(facts), tasks=tasks, sizes=sizes)


def _has_fitted(config: Config, found: Mapping[str, str], raw: Mapping[str, str]) -> bool:
    """Whether this very work has fitted it: that run is not to be done again with what it made."""
    planned = run_lib.plan(JOB.name, config, [JOB.module], found, raw)
    last = manifest.read(config.output)
    return planned.done or (last is not None and last.is_of(planned.fingerprint))


def _some_keys(config: Config, log: Batches) -> dict[str, set[str]]:
    """What the first rows of the log, and of the labels, call images."""
    found = {"the log": log}
    if config.labels:
        mapping = column_mapping("label_columns", config.label_columns, LABEL_FIELDS)
        found["the label file"] = read_table(match("labels", config.labels)[0].path, mapping)
    keys: dict[str, set[str]] = {}
    for name, batches in found.items():
        rows = next((batch for batch in batches if not isinstance(batch, BadRows)), None)
        if rows is not None:
            column = rows["image" if "image" in rows.schema.names else "key"][:SAMPLED_ROWS]
            keys[name] = set(filter(None, id_texts(column, len(column))))
    return keys


def build(pipeline: beam.Pipeline, config: Config, run: Run, inputs: job.Inputs) -> None:
    log_bytes, image_bytes = inputs.sizes["log"], inputs.sizes.get("image_bytes", 0)
    people_shards = log_lib.shards_for(log_bytes, log_lib.EVENT_SHARD_BYTES)
    num_shards = log_lib.shards_for(log_bytes + image_bytes, SHARD_BYTES, config.num_shards)
    shares = SplitShares(config.validation_share, config.test_share)

    log = pipeline | "Log" >> (MineLog if config.log else ReadDays)(config, run, people_shards)
    kept = _kept_examination(config) if examination.TABLE in run.inputs else None
    facts = log["facts"] | "Facts" >> ReadFacts(kept)
    examined = facts | "Examination" >> beam.FlatMap(examination.write_examination, run)
    images = {}
    if config.images:
        images = pipeline | "Images" >> MineImages(
            config, shares, run, num_shards, total=inputs.sizes["images"] or None
        )
    of_log = beam.pvalue.AsSingleton(facts)
    pairs = (log, images) | "Pairs" >> MinePairs(config, shares, of_log, run, num_shards)
    query_pairs = (log, pairs) | "QueryPairs" >> MineQueryPairs(run, num_shards)
    queries = (log, pairs) | "Queries" >> MineQueries(config.head_queries, run, num_shards)

    def all_of(tag: str) -> list[beam.PCollection]:
        return [step[tag] for step in (log, images, pairs) if tag in step]

    {
        SHARDS: (*all_of(SHARDS), examined, query_pairs, queries) | "Shards" >> beam.Flatten(),
        DEAD: all_of(DEAD) | "Dead" >> beam.Flatten(pipeline=pipeline),
        NOTES: all_of(NOTES) | "Notes" >> beam.Flatten(pipeline=pipeline),
        COUNTS: all_of(COUNTS) | "Counts" >> beam.Flatten(),
    } | commit.CommitManifest(
        run,
        TABLES,
        num_shards,
        config.ceilings(),
        required=("images", "pairs") if config.images else ("pairs",),
        check=functools.partial(
            check_counts, max_robot_share=config.max_robot_share, min_match=config.min_match
        ),
    )


def check_counts(
    counters: Mapping[str, int], notes: outputs.Notes, max_robot_share: float, min_match: float
) -> None:
    """Raises PhraseLensError where too much is a robot's, or hardly anything belongs together."""
    evidence.check_robots(counters, notes, max_robot_share)
    key_match.check_matches(counters, notes, min_match)


def _kept_examination(config: Config) -> np.ndarray | None:
    """What an earlier run has fitted and this one is to keep: see `Log`; None to fit it.

    What must be forgotten is forgotten there too: under another deletion list it is fitted anew.
    """
    place = config.reuse or config.output
    earlier = None if config.renew_examination else manifest.read(place)
    if earlier is None or earlier.inputs.get("forget") != log_lib.raw_inputs(config).get("forget"):
        return None
    kept = Dataset(place)
    try:
        for shard in kept.shards(examination.TABLE) if examination.TABLE in earlier.tables else ():
            kept.check(shard)
        return examination.read_examination(kept)
    except CorruptError:  # the run has lost it, and is made again
        return None


JOB = job.Job(
    name="mine_pairs",
    module="beam_jobs.mining.mine_pairs",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command(
        "prepare_pairs", mined=c.output, output=program.beside(c.output, "training_pairs")
    ),
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
