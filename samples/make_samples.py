"""Draws a collection to try everything on: images, a click log and a few labels.

Writes a dataset with the tables
  images     key, image: JPEG files of small scenes; some are broken, some are duplicates
  click_log  session, user, timestamp (seconds), query, image (a key), position, clicks
  labels     key, label: the main object's shape, for a few of the images

Every image and every session depends on the seed and its own number alone, so the same flags
give the same bytes, any size takes the same memory, and a run that died goes on after the
last shard it had finished.

  ./run.sh make_samples --output work/samples --images 3000
"""

import dataclasses
import functools
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from samples import click_log, scenes
from schemas.base import storage
from schemas.console import launch, program
from schemas.console.flags import flag
from schemas.console.progress import Progress
from schemas.datasets import commit, manifest
from schemas.datasets import shards as shards_lib
from schemas.datasets.records import Record
from schemas.runs import command
from schemas.runs.run import Run

NAME = "make_samples"
MODULES = ("samples.make_samples",)
IMAGES = pa.schema([("key", pa.string()), ("image", pa.binary())])
CLICK_LOG = pa.schema(
    [
        ("session", pa.string()),
        ("user", pa.string()),
        ("timestamp", pa.int64()),  # seconds since 1970, UTC
        ("query", pa.string()),
        ("image", pa.string()),  # the image's key
        ("position", pa.int32()),  # among the results, from 1
        ("clicks", pa.int32()),  # 0: seen, not clicked
    ]
)
LABELS = pa.schema([("key", pa.string()), ("label", pa.string())])
TABLES = {"images": IMAGES, "click_log": CLICK_LOG, "labels": LABELS}


@dataclasses.dataclass(frozen=True)
class Config:
    output: str = flag("Dataset to write: a folder or gs:// path.", role="output")
    images: int = flag(
        "How many images, from 500 to 10 million.",
        default=3000,
        minimum=500,
        maximum=10_000_000,
        essential=True,
    )
    seed: int = flag(
        "Another seed gives another collection.",
        default=0,
        minimum=0,
        maximum=2**63 - 1,
        essential=True,
    )
    image_size: int = flag("Side of the images, in pixels.", default=64, minimum=16, maximum=4096)
    events_per_image: float = flag(
        "Rows of the click log per image, about.", default=50.0, minimum=0.1, maximum=1000
    )
    labelled_share: float = flag(
        "Share of the images that have a label.", default=0.2, minimum=0, maximum=1
    )
    miss_share: float = flag(
        "Share of the results that come up whatever the query, and are clicked all the same.",
        default=0.12,
        minimum=0,
        maximum=1,
    )
    bad_share: float = flag(
        "Share of the log's rows that no system can use.", default=0.006, minimum=0, maximum=1
    )
    images_per_shard: int = flag(
        "Images in a shard; memory grows with it.", default=1000, minimum=1, maximum=100_000
    )
    workers: int = flag("Processes that draw.", default=1, role="runtime", minimum=1, maximum=1024)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


def num_shards(config: Config) -> int:
    return -(-config.images // config.images_per_shard)


def _range(total: int, shard: int, shards: int) -> range:
    """The shard's part of `range(total)`; sizes differ by one at most."""
    return range(total * shard // shards, total * (shard + 1) // shards)


def shard_tables(config: Config, shard: int) -> tuple[dict[str, pa.Table], Counter]:
    """Makes one shard of every table, from nothing but the config.

    Returns:
      The tables by name, and what is in them: the counters of the manifest.
    """
    shards, seed = num_shards(config), config.seed
    rows: dict[str, list] = {"images": [], "labels": []}
    counts: Counter = Counter()
    for index in _range(config.images, shard, shards):
        key = scenes.key_of(index)
        rows["images"].append((key, scenes.image_bytes(seed, index, config.image_size)))
        counts["images.duplicate"] += scenes.original_of(seed, index) != index
        counts["images.broken"] += bool(scenes.defect_of(seed, index))
        if scenes.stream(seed, "labelled", index).random() < config.labelled_share:
            rows["labels"].append((key, scenes.shape_of(seed, index)))
    sessions = click_log.num_sessions(config.images, config.events_per_image)
    events: list[click_log.Event] = []
    for index in _range(sessions, shard, shards):
        events += click_log.session(
            seed,
            index,
            config.images,
            sessions,
            miss_share=config.miss_share,
            bad_share=config.bad_share,
        )
    counts.update(f"click_log.{event.kind}" for event in events)
    rows["click_log"] = [event[:-1] for event in events]
    tables = {name: _table(rows[name], schema) for name, schema in TABLES.items()}
    counts.update({f"{name}.out": table.num_rows for name, table in tables.items()})
    return tables, counts


def _table(rows: Sequence[tuple], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([list(column) for column in columns], schema=schema)


def write_shard(config: Config, run: Run, shard: int) -> Record:
    """Writes one shard of every table, unless an earlier run has, and returns its record."""
    shards = num_shards(config)
    path = run.absolute(run.shard_path("records", shard, shards, "shard") + Record.SUFFIX)
    record = Record.read(path)
    if record is not None and all(
        storage.size(run.absolute(s["path"])) == s["bytes"] for s in record.shards
    ):
        return record
    tables, counts = shard_tables(config, shard)
    written = []
    for name, table in tables.items():
        relative = run.shard_path(name, shard, shards, "parquet")
        made = shards_lib.write_parquet(run.output, relative, shard, table)
        written.append({"table": name, **dataclasses.asdict(made)})
    record = Record(written, dict(counts))
    record.write(path)
    return record


def _records(config: Config, run: Run) -> Iterator[Record]:
    write = functools.partial(write_shard, config, run)
    todo: Iterable[int] = range(num_shards(config))
    if config.workers == 1:
        yield from map(write, todo)
        return
    with launch.interrupts_are_ours():
        pool = multiprocessing.get_context("spawn").Pool(config.workers)
    with pool:
        yield from pool.imap(write, todo)


def work(config: Config, run: Run) -> int:
    """Writes all shards and commits them."""
    counts: Counter = Counter()
    shards: dict[str, list[manifest.Shard]] = {name: [] for name in TABLES}
    progress = Progress("drawing", config.images, "images")
    for record in _records(config, run):
        for fields in record.shards:
            name = fields.pop("table")
            shards[name].append(manifest.Shard(**fields))
        counts.update(record.counts)
        progress.add(record.counts["images.out"])
    progress.close()
    tables = {
        name: manifest.Table("parquet", shards_lib.schema_fingerprint(schema), tuple(shards[name]))
        for name, schema in TABLES.items()
    }
    commit.commit(run.output, run.manifest(tables, counts, num_shards(config)), run.seen)
    for name in TABLES:
        print(f"{name}: {counts[f'{name}.out']:,} rows in {run.absolute(run.folder(name))}")
    for name in sorted(counts):
        if not name.endswith(".out"):
            print(f"  {name}: {counts[name]:,}")
    folders = {name: run.absolute(run.folder(name)) for name in TABLES}
    following = program.command(
        "mine_pairs",
        log=folders["click_log"],
        images=folders["images"],
        labels=folders["labels"],
        output=program.beside(run.output, "mined"),
    )
    print(f"next: {following}")
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME, Config, __doc__, argv, work=work, datasets=lambda config: {}, modules=MODULES
    )


if __name__ == "__main__":
    sys.exit(run())
