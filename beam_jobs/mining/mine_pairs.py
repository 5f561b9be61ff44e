"""Mines click logs: which images people chose for which queries, and which queries want the same.

Reads a click log in any of the formats of docs/formats.md, or the days that mine_log made of it;
images as files, as a table with a bytes or path column, as TFRecord of tf.Example or as WebDataset;
and (optionally) labels. Local paths, globs, folders and gs:// alike.

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

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterable, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.frame import job, reuse
from beam_jobs.frame.ceiling_flags import CeilingConfig
from beam_jobs.frame.image_flags import ImageConfig
from beam_jobs.frame.reuse import ReuseConfig, Reused, WaitForCheck
from beam_jobs.mining import mine_log
from beam_jobs.mining.days import check_robots_of, find_days, query_parts_of, read_deletions_of
from schemas.base.errors import CorruptError, PhraseLensError
from schemas.console.flags import flag
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import stage as stage_lib
from schemas.runs.stage import Stage
from schemas.tables import mined as tables
from transforms.duplicates.find import FindDuplicates
from transforms.files.matching import content_hash, match
from transforms.files.secret_files import FromFiles
from transforms.images.changed import ReadChangedImages, shards_of_known
from transforms.images.clean import ImageLimits
from transforms.images.places import Places
from transforms.images.read import ReadImages
from transforms.images.units import (
    IMAGE_FIELDS,
    IMAGE_FORMATS,
    ImagePlan,
    count_images,
    plan_images,
)
from transforms.mining import (
    associations,
    days,
    evidence,
    examination,
    key_match,
    pairs,
    queries,
    spelling,
)
from transforms.mining import images as mined_images
from transforms.mining.deletions import Deletions
from transforms.mining.examination import ReadFacts
from transforms.mining.labels import LABEL_FIELDS, parse_labels
from transforms.rows.checked import ReadRows, id_texts
from transforms.rows.columns import check_tables, column_mapping
from transforms.rows.logs import check_times, read_log
from transforms.rows.tabular import BadRows, read_table
from transforms.shards import commit, outputs
from transforms.shards.blocks import GroupShards
from transforms.shards.ceilings import Ceilings
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS, Output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(mine_log.LogConfig, ImageConfig, ReuseConfig, CeilingConfig):
    output: str = flag("Dataset to write.", role="output")
    days: str = flag(
        "Folder of days that mine_log wrote, instead of --log.", default="", role="input"
    )
    images: tuple[str, ...] = flag(
        "Images: files, globs, folders, tables, TFRecord, WebDataset.", default=(), role="input"
    )
    labels: tuple[str, ...] = flag(
        "Labels of images: tables with key, label and optionally split.", default=(), role="input"
    )
    image_columns: tuple[str, ...] = flag(
        "Columns of an image table, or features of a TFRecord, as field=column; fields are key, "
        "image (bytes) and path (relative to the table). Several images may share a key.",
        default=(),
    )
    label_columns: tuple[str, ...] = flag(
        "Columns of the label file as field=column; fields are key, label and split.", default=()
    )
    image_format: str = flag(
        "What the images are; auto goes by their names.", default="auto", choices=IMAGE_FORMATS
    )
    image_key: str = flag(
        "What the log calls an image file: its name without suffix, its name, or its path.",
        default="stem",
        choices=("stem", "name", "path"),
    )
    near_duplicates: bool = flag("Take near duplicates for one image.", default=True)
    validation_share: float = flag(
        "Share of images held out to choose settings.", default=0.1, minimum=0, below=1
    )
    test_share: float = flag(
        "Share of images held out for the final figures.", default=0.2, minimum=0, below=1
    )
    min_users: int = flag(
        "People who must have typed a query, where people are known.", default=5, minimum=1
    )
    min_pair_clicks: float = flag("Fewest clicks that make a pair.", default=1.0, minimum=0)
    one_person_pairs: bool = flag("Let the clicks of one person make a pair.", default=False)
    max_images_per_query: int = flag(
        "Best images of a query that are kept.", default=10_000, minimum=1
    )
    max_queries_per_image: int = flag(
        "Best queries of an image that are kept.", default=256, minimum=1
    )
    evidence: str = flag(
        "What a pair's score is: the lower bound of its corrected click rate, or its clicks; auto "
        "is rate where the log tells of images that were shown and not clicked.",
        default="auto",
        choices=("auto", "rate", "count"),
    )
    max_linked_queries: int = flag(
        "Queries of an image that are associated.", default=32, minimum=0
    )
    variant_steps: int = flag(
        "Times that people must have gone from one spelling to another to merge them.",
        default=3,
        minimum=1,
    )
    head_queries: int = flag("Best supported queries that are head.", default=4_000_000, minimum=1)
    session_gap: float = flag("Seconds of pause that end a session.", default=1800.0, above=0)
    num_shards: int = flag(
        "Shards of every table; 0 goes by the size of the input.", default=0, minimum=0
    )
    min_match: float = flag(
        "Share of the log's rows, or of the images, that must belong together, and so of the "
        "labels: the larger one counts.",
        default=0.05,
        minimum=0,
        maximum=1,
    )
    max_dead_images: float | None = flag(
        "Share of images that may die, where it is another than --max_dead_fraction.",
        default=None,
        minimum=0,
        maximum=1,
    )
    max_dead_labels: float | None = flag(
        "Share of rows of the label files that may die, likewise.",
        default=None,
        minimum=0,
        maximum=1,
    )
    renew_examination: bool = flag(
        "Fit anew how likely people look at each position: all scores may move. Else what the "
        "output's last run, or that of --reuse, has fitted is kept.",
        default=False,
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")

    def ceilings(self) -> Ceilings:
        """How many rows of each kind may die."""
        own = {"images": self.max_dead_images, "labels": self.max_dead_labels}
        shares = tuple((kind, share) for kind, share in own.items() if share is not None)
        return dataclasses.replace(super().ceilings(), of_kinds=shares)


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


def rules_of(config: Config) -> pairs.PairRules:
    return pairs.PairRules(
        min_users=config.min_users,
        min_pair_clicks=config.min_pair_clicks,
        one_person_pairs=config.one_person_pairs,
        max_images_per_query=config.max_images_per_query,
        max_queries_per_image=config.max_queries_per_image,
        evidence=config.evidence,
        max_linked_queries=config.max_linked_queries,
    )


def _deletions(config: Config) -> Deletions:
    if config.days and config.forget:
        return read_deletions_of(find_days(config.days), config.forget, config.person_key)
    return mine_log.deletions(config)


def _forgotten(config: Config) -> FromFiles[Deletions]:
    """The same, once it is on a worker."""
    parts = config.query_parts
    if config.days and config.forget:
        parts = query_parts_of(find_days(config.days))
    files = config.forget, config.person_key
    return FromFiles.of(mine_log.deletions_of, *files, parts, files=files)


def _image_plan(config: Config) -> ImagePlan:
    mapping = column_mapping("image_columns", config.image_columns, IMAGE_FIELDS)
    args = "images", config.images, config.image_format, mapping, config.image_key
    return plan_images(*args, Places.of(config))


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
    mine_log.check_rules(config)
    _deletions(config)
    raw, found, facts = mine_log.raw_inputs(config), {}, []
    log: Batches
    if config.log:
        units, files = mine_log.plan(config)
        check_times(units, None)
        log = read_log(units[0])
        raw["log"] = content_hash(files)
        size = sum(file.size_in_bytes for file in files)
        facts.append(f"log: {len(files)} files, {size:,} bytes ({units[0].format})")
    else:
        merged = find_days(config.days)
        found = {f"day {name}": day.root for name, day in merged.items()}
        facts.append(f"days: {len(found)}")
        check_robots_of(merged, config.max_robot_share)
        log = next(reversed(merged.values())).batches("evidence", ["key"])
    if config.images:
        images = _image_plan(config)
        raw["images"] = content_hash(images.files)
        facts += [images.fact, *reuse.facts(config, lambda: _reused(config))]
    if config.labels:
        labels = match("labels", config.labels)
        mapping = column_mapping("label_columns", config.label_columns, LABEL_FIELDS)
        paths = [file.path for file in labels]
        check_tables(paths, "label_columns", mapping, ("key",), ("label", "split"))
        raw["labels"] = content_hash(labels)
        facts.append(f"labels: {len(labels)} files")
    if config.images and (paths := [p for unit in images.units if unit.keys for p in unit.paths]):
        key_match.check_image_key(_some_keys(config, log), paths, config.image_key)
    kept = _kept_examination(config)
    if kept is not None and not _has_fitted(config, found, raw):
        raw[examination.TABLE] = hashlib.sha256(kept.tobytes()).hexdigest()
        facts.append("positions: examined as likely as an earlier run has fitted")
    return job.Inputs(found, raw, tuple(facts))


def _has_fitted(config: Config, found: Mapping[str, str], raw: Mapping[str, str]) -> bool:
    """Whether this very work has fitted it: that run is not to be done again with what it made."""
    planned = stage_lib.plan(JOB.name, config, [JOB.module], found, raw)
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


def _size(config: Config) -> tuple[int, int]:
    """Bytes of the log and of the images."""
    if config.log:
        log = mine_log.text_bytes(mine_log.plan(config)[1])
    else:
        found = find_days(config.days).values()
        evidence_bytes = sum(s.bytes for day in found for s in day.shards("evidence"))
        log = mine_log.PACKED * evidence_bytes
    images = sum(f.size_in_bytes for f in _image_plan(config).files) if config.images else 0
    return log, images


def build(pipeline: beam.Pipeline, config: Config, stage) -> None:
    log_bytes, image_bytes = _size(config)
    num_shards = config.num_shards or mine_log.shards_for(log_bytes + image_bytes, SHARD_BYTES)
    shares = mined_images.SplitShares(config.validation_share, config.test_share)
    rules = rules_of(config)

    def group(**ids: str) -> GroupShards:
        return GroupShards(ids, num_shards, stage.spill)

    people_shards = mine_log.shards_for(log_bytes, mine_log.EVENT_SHARD_BYTES)
    merged = (
        _mine_log(pipeline, config, stage, people_shards)
        if config.log
        else _read_days(pipeline, config, stage, people_shards)
    )
    kept = _kept_examination(config) if examination.TABLE in stage.inputs else None
    of_log = merged["facts"] | ReadFacts(kept)
    log = beam.pvalue.AsSingleton(of_log)
    curve = of_log | "WriteExamination" >> beam.FlatMap(examination.write_examination, stage)
    if config.images:
        pictures = _mine_images(pipeline, config, stage, shares, num_shards)
        joined = (
            {"evidence": merged["pairs"], "keys": pictures["keys"], "earlier": pictures["earlier"]}
            | "ByKey" >> group(evidence="key", keys="key", earlier="key")
            | pairs.JoinImages()
        )
        named, sources = joined.evidence, [joined]
        splits, shards = pictures["splits"], [pictures[SHARDS]]
    else:
        pictures, sources, shards = {DEAD: (), COUNTS: (), NOTES: ()}, [], []
        named = merged["pairs"] | "NameImages" >> beam.Map(pairs.name_images)
        splits = None

    weighed = (
        {"evidence": named} | "ByImage" >> group(evidence="image_id") | pairs.Weigh(log, rules)
    )
    chosen = (
        {"candidates": weighed.candidates, "users": merged["users"], "texts": merged["texts"]}
        | "ByCandidate" >> group(candidates="query_id", users="query_id", texts="query_id")
        | pairs.Choose(log, rules)
    )
    by_image = {"chosen": chosen.chosen} | ({"splits": splits} if splits else {})
    grouped = by_image | "ByChosenImage" >> group(**dict.fromkeys(by_image, "image_id"))
    spelled = {
        "steps": merged["steps"],
        "known": chosen.known,
        "images": grouped,
    } | spelling.FindVariants(config.variant_steps, num_shards, stage.spill)
    variants = beam.pvalue.AsSingleton(spelled.variants)
    built = grouped | pairs.BuildPairs(
        stage, log, variants, rules, None if config.images else shares, num_shards
    )
    steps = merged["steps"] | "StepEdges" >> beam.Map(associations.step_edges)
    steps = (
        {"edges": steps, "known": chosen.known}
        | "KeepSteps" >> associations.KeepKnown(num_shards, stage.spill)
        | "RenameSteps" >> beam.Map(associations.rename_queries, variants)
    )
    query_pairs = (
        {"edges": (built.edges, steps) | "Edges" >> beam.Flatten(), "known": built.stats}
        | associations.KeepKnown(num_shards, stage.spill)
        | associations.BuildQueryPairs(stage, num_shards)
    )
    history = (
        {
            "languages": merged["languages"],
            "days": merged["days"],
            "known": chosen.known | "KnownIds" >> beam.Map(queries.ids_of),
        }
        | "HistoryByQuery" >> group(languages="query_id", days="query_id", known="query_id")
        | queries.KeepHistory()
    )
    of_queries = {
        name: history[name] | f"Rename {name}" >> beam.Map(queries.rename_variants, variants)
        for name in ("languages", "days")
    }
    of_queries |= {"stats": built.stats, "spellings": spelled.spellings}
    of_queries |= {name: merged[name] for name in ("texts", "users")}
    built_queries = (
        of_queries
        | "ByQuery" >> group(**dict.fromkeys(of_queries, "query_id"))
        | queries.BuildQueries(stage, num_shards, config.head_queries)
    )
    counted = [*sources, weighed, chosen, built]
    {
        SHARDS: (*shards, curve, built[SHARDS], query_pairs, built_queries)
        | "Shards" >> beam.Flatten(),
        DEAD: (*merged[DEAD], *pictures[DEAD]) | "Dead" >> beam.Flatten(pipeline=pipeline),
        NOTES: (*merged[NOTES], *pictures[NOTES], *(s[NOTES] for s in sources))
        | "Notes" >> beam.Flatten(pipeline=pipeline),
        COUNTS: (*merged[COUNTS], *pictures[COUNTS], *(c[COUNTS] for c in counted))
        | "Counts" >> beam.Flatten(),
    } | commit.CommitManifest(
        stage,
        TABLES,
        num_shards,
        config.ceilings(),
        ("images", "pairs") if config.images else ("pairs",),
        functools.partial(
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
    if earlier is None or earlier.inputs.get("forget") != mine_log.raw_inputs(config).get("forget"):
        return None
    kept = Dataset(place)
    try:
        for shard in kept.shards(examination.TABLE) if examination.TABLE in earlier.tables else ():
            kept.check(shard)
        return examination.read_examination(kept)
    except CorruptError:  # the run has lost it, and is made again
        return None


def _mine_log(pipeline, config, stage, num_shards) -> dict:
    """The tables of days.MERGED, texts and languages of a log; lists of dead, counts, notes."""
    read = pipeline | mine_log.ReadEvents(
        mine_log.plan(config)[0], mine_log.log_rules(config, None), stage
    )
    mined = (
        read.events
        | "ByPerson" >> evidence.GroupPeople(num_shards, stage.spill)
        | days.MineAndMergeDays(mine_log.day_rules(config, None), config.session_gap)
    )
    found = {name: mined[name] for name in (*days.MERGED, "languages")}
    return found | {
        "texts": read.texts,
        DEAD: [read[DEAD]],
        COUNTS: [read[COUNTS], mined[COUNTS]],
        NOTES: [mined[NOTES]],
    }


def _read_days(pipeline, config, stage, num_shards) -> dict:
    """The same of the days that mine_log wrote."""
    found_days = find_days(config.days).values()
    deletions = _forgotten(config)
    read = {
        name: pipeline
        | f"Shards of {name}"
        >> beam.Create([day.path(shard) for day in found_days for shard in day.shards(name)])
        | f"Read {name}" >> days.ReadDays(mine_log.SCHEMAS[name], deletions)
        for name in mine_log.SCHEMAS
    }
    merged = (
        {name: read[name] for name in ("evidence", "visits")}
        | "ByPerson"
        >> GroupShards({"evidence": "person", "visits": "person"}, num_shards, stage.spill)
        | days.MergeDays(config.session_gap)
    )
    found = {name: merged[name] for name in days.MERGED}
    found |= {name: read[name] for name in ("texts", "languages")}
    return found | {DEAD: [], COUNTS: [], NOTES: []}


def _mine_images(pipeline, config, stage, shares, num_shards) -> dict:
    """Written images; `keys` and `splits` of them, `earlier` keys; lists of dead, counts, notes."""

    def group(**ids: str) -> GroupShards:
        return GroupShards(ids, num_shards, stage.spill)

    units = _image_plan(config).units
    deletions = _forgotten(config)
    args = stage, ImageLimits.of(config), count_images(units), deletions
    reused = _reused(config)
    known = (
        pipeline
        | "KnownShards" >> beam.Create(shards_of_known(reused.dataset) if reused.dataset else [])
        | WaitForCheck(reused)
    )
    read = (
        pipeline
        | "ImageUnits" >> beam.Create(units)
        | (
            ReadChangedImages(known, num_shards, stage.spill, *args)
            if reused.dataset
            else ReadImages(*args)
        )
    )
    duplicates = (
        read["clean"] | FindDuplicates(num_shards, stage.spill)
        if config.near_duplicates
        else pipeline | "NoDuplicates" >> beam.Create([])
    )
    copies = (
        {"clean": read["clean"], "duplicates": duplicates}
        | "ByCopy" >> group(clean="image_id", duplicates="image_id")
        | mined_images.FindCopies()
    )
    label_files = [f.path for f in match("labels", config.labels)] if config.labels else []
    mapping = column_mapping("label_columns", config.label_columns, LABEL_FIELDS)
    labels = (
        pipeline
        | "LabelFiles" >> beam.Create(label_files)
        | "ReadLabels"
        >> ReadRows(
            "labels",
            functools.partial(read_table, mapping=mapping),
            functools.partial(_parse_labels, stage=stage, deletions=deletions),
            stage,
            ("labels",),
        )
    )
    earlier_keys = known | mined_images.ReadEarlierKeys(deletions)
    labelled = (
        {"labels": labels.labels, "keys": copies["keys"], "earlier": earlier_keys}
        | "LabelsByKey" >> group(labels="key", keys="key", earlier="key")
        | mined_images.JoinLabels()
    )
    built = (
        {"copies": copies.copies, "attributes": labelled.attributes}
        | "ByPicture" >> group(copies="representative", attributes="image_id")
        | mined_images.BuildImages(stage, shares, num_shards)
    )
    return {
        SHARDS: built[SHARDS],
        "keys": copies["keys"],
        "earlier": earlier_keys,
        "splits": built.splits,
        DEAD: [read[DEAD], labels[DEAD]],
        NOTES: [labelled[NOTES]],
        COUNTS: [s[COUNTS] for s in (read, labels, labelled, built)],
    }


def _parse_labels(table: pa.Table, stage: Stage, deletions: FromFiles[Deletions]) -> Output:
    return parse_labels(table, stage, deletions().key_array)


def _reused(config: Config) -> Reused:
    """The images of the output to reuse, if it was made with the same limits."""

    def made_alike(earlier: manifest.Manifest) -> bool:
        return config.same_limits(earlier.config)

    return Reused.of(config, "sources", "images", made_alike=made_alike)


JOB = job.Job(
    name="mine_pairs",
    module="beam_jobs.mining.mine_pairs",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: f"./run.sh prepare_pairs --mined {c.output} --output …",
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
