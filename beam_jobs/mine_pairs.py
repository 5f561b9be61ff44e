"""Mines a click log: which images people chose for which queries.

Reads a click log, images and (optionally) labels; Parquet, TSV, CSV or JSON lines, also
compressed; images as files, as a table with a bytes or path column, or as TFRecord of
tf.Example. Local paths, globs, folders and gs:// alike.

Writes one dataset with the tables images (checked, one row for each content, with split
and labels), pairs (query-image pairs with clicks), queries (text, language, support),
query_pairs (co-click and session reformulation) and dead_letters.

  ./run.sh mine_pairs --log 'logs/*.parquet' --images photos/ --labels labels.csv \\
      --log_columns query=q,image=img --output work/mined

A row of the log is one event: rows that are equal in all columns count once. The column
`clicks` is 1 where there is none, and without timestamps there are no sessions. Splits
come from the content of an image; a column `split` in the label file overrules that.
"""

import dataclasses
import functools
import sys

import apache_beam as beam

from beam_jobs import job
from schemas import tables
from schemas.config import flag
from schemas.errors import PhraseLensError
from transforms import datasets, events, mining
from transforms.datasets import COUNTS, DEAD, SHARDS
from transforms.files import content_hash, match
from transforms.images import IMAGE_FIELDS, IMAGE_FORMATS, ReadImages, count_images, plan_units
from transforms.tabular import check_columns, column_mapping


@dataclasses.dataclass(frozen=True)
class Config:
    log: tuple[str, ...] = flag("Click log: files, globs or folders.", role="input")
    images: tuple[str, ...] = flag("Images: files, globs, folders, tables.", role="input")
    output: str = flag("Dataset to write.", role="runtime")
    labels: tuple[str, ...] = flag(
        "Labels of images: tables with key, label and optionally split.", default=(), role="input"
    )
    log_columns: tuple[str, ...] = flag(
        "Columns of the log as field=column; fields are " + ", ".join(events.LOG_FIELDS) + ".",
        default=(),
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
        "What the images are; auto goes by their names.",
        default="auto",
        choices=IMAGE_FORMATS,
    )
    image_key: str = flag(
        "What the log calls an image file: its name without suffix, its name, or its path.",
        default="stem",
        choices=("stem", "name", "path"),
    )
    validation_share: float = flag("Share of images held out to choose settings.", default=0.1)
    test_share: float = flag("Share of images held out for the final figures.", default=0.2)
    min_pair_clicks: float = flag("Fewest clicks that make a pair.", default=1.0)
    max_queries_per_image: int = flag("Queries of an image that are associated.", default=32)
    session_gap: float = flag("Seconds of pause that end a session.", default=1800.0)
    max_query_chars: int = flag("Longer queries die.", default=1000)
    max_image_pixels: int = flag("Larger images die.", default=100_000_000)
    max_image_side: int = flag("Larger images are shrunk to this many pixels.", default=512)
    num_shards: int = flag("Shards of every table.", default=4)
    max_dead_fraction: float = flag("Share of dead rows that fails the job.", default=0.05)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


TABLES = {
    "images": datasets.parquet(tables.IMAGES),
    "pairs": datasets.parquet(tables.PAIRS),
    "queries": datasets.parquet(tables.QUERIES),
    "query_pairs": datasets.parquet(tables.QUERY_PAIRS),
}


def _mappings(config: Config) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    return (
        column_mapping("log_columns", config.log_columns, events.LOG_FIELDS),
        column_mapping("image_columns", config.image_columns, IMAGE_FIELDS),
        column_mapping("label_columns", config.label_columns, events.LABEL_FIELDS),
    )


def _units(config: Config):
    _, mapping, _ = _mappings(config)
    return plan_units("images", config.images, config.image_format, mapping, config.image_key)


def preflight(config: Config) -> job.Inputs:
    held_out = config.validation_share + config.test_share
    if min(config.validation_share, config.test_share) < 0 or held_out >= 1:
        raise PhraseLensError(
            f"--validation_share {config.validation_share} --test_share {config.test_share}",
            "shares of at least 0 that leave some images to train on",
            "Give shares whose sum is below 1.",
        )
    if config.num_shards < 1:
        raise PhraseLensError(
            f"--num_shards {config.num_shards}", "at least 1", "Leave it out for 4."
        )
    log_mapping, _, label_mapping = _mappings(config)
    log = match("log", config.log)
    for file in log:
        check_columns(file.path, "log_columns", log_mapping, ("query", "image"))
    units, image_files = _units(config)
    labels = match("labels", config.labels) if config.labels else []
    for file in labels:
        check_columns(file.path, "label_columns", label_mapping, ("key",), ("label", "split"))
    return job.Inputs(
        raw={
            name: content_hash(f)
            for name, f in {"log": log, "images": image_files, "labels": labels}.items()
        },
        facts=(
            f"log: {len(log)} files, {sum(f.size_in_bytes for f in log):,} bytes",
            f"images: {len(image_files)} files ({units[0].format})",
            f"labels: {len(labels)} files",
        ),
    )


def build(pipeline: beam.Pipeline, config: Config, stage) -> None:
    log_mapping, _, label_mapping = _mappings(config)
    units, _ = _units(config)
    num_shards = config.num_shards
    rules = mining.MiningRules(
        mining.SplitShares(config.validation_share, config.test_share),
        config.min_pair_clicks,
        config.max_queries_per_image,
        config.session_gap,
    )
    parse_log = functools.partial(
        events.parse_events, stage=stage, max_query_chars=config.max_query_chars
    )
    parse_labels = functools.partial(events.parse_labels, stage=stage)

    log_paths = [file.path for file in match("log", config.log)]
    label_paths = [f.path for f in match("labels", config.labels)] if config.labels else []
    log = (
        pipeline
        | "LogFiles" >> beam.Create(log_paths)
        | "ReadLog" >> events.ReadRows("events", log_mapping, parse_log, stage, ("events", "texts"))
    )
    labels = (
        pipeline
        | "LabelFiles" >> beam.Create(label_paths)
        | "ReadLabels" >> events.ReadRows("labels", label_mapping, parse_labels, stage, ("labels",))
    )
    read = (
        pipeline
        | "ImageUnits" >> beam.Create(units)
        | ReadImages(stage, config.max_image_pixels, config.max_image_side, count_images(units))
    )
    keys = read.clean | "ImageKeys" >> beam.Map(lambda t: t.select(mining.IMAGE_KEYS.names))
    joined = (
        {"images": keys, "events": log.events, "labels": labels.labels}
        | "ByKey"
        >> datasets.GroupShards({"images": "key", "events": "key", "labels": "key"}, num_shards)
        | mining.JoinByKey(stage)
    )
    image_ids = dict.fromkeys(("clean", "attributes", "clicks"), "image_id")
    built = (
        {"clean": read.clean, "attributes": joined.attributes, "clicks": joined.clicks}
        | "ByImage" >> datasets.GroupShards(image_ids, num_shards)
        | mining.BuildImagesAndPairs(stage, rules, num_shards)
    )
    in_sessions = (
        {"sessions": built.sessions}
        | "BySession" >> datasets.GroupShards({"sessions": "session"}, num_shards)
        | mining.Reformulations(config.session_gap)
    )
    query_pairs = (
        {"edges": (built.edges, in_sessions) | "Edges" >> beam.Flatten()}
        | "ByQueryPair" >> datasets.GroupShards({"edges": "query_a"}, num_shards)
        | mining.BuildQueryPairs(stage, num_shards)
    )
    queries = (
        {"stats": built.stats, "texts": log.texts}
        | "ByQuery" >> datasets.GroupShards({"stats": "query_id", "texts": "query_id"}, num_shards)
        | mining.BuildQueries(stage, num_shards)
    )
    sources = (log, labels, read, joined)
    {
        SHARDS: (built[SHARDS], query_pairs, queries) | "Shards" >> beam.Flatten(),
        DEAD: tuple(source[DEAD] for source in sources) | "Dead" >> beam.Flatten(),
        COUNTS: tuple(s[COUNTS] for s in (*sources, built)) | "Counts" >> beam.Flatten(),
    } | datasets.CommitManifest(
        stage, TABLES, num_shards, config.max_dead_fraction, ("images", "pairs")
    )


JOB = job.Job(
    name="mine_pairs",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: f"./run.sh train text_generator --mined {c.output} --output …",
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
