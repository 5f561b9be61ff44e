"""How many workers, hours, bytes and how much money a number of images and queries takes.

A formula over figures; --help says of each what measured it, or that it is assumed. Give your own
with the flags. Prices are examples. With --measure_events and --measure_images the bytes that
mining shuffles are measured here, on a drawn log and drawn photos.

  ./run.sh bench sizing --images 1e6,1e8,1e10 --queries 4e6,4e8
  ./run.sh bench sizing --workdir work/sizing --measure_events 200000 --measure_images 500
"""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks import measured
from benchmarks.logs import mining_log
from benchmarks.runs import embed
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag

GB, TB = 1e9, 1e12


@dataclasses.dataclass(frozen=True)
class Config:
    images: tuple[str, ...] = flag("Numbers of images.", default=("1e6", "1e8", "1e10"))
    queries: tuple[str, ...] = flag("Numbers of queries.", default=("4e6", "4e8"))
    events_per_image: float = flag("Rows of the log for each image.", default=10.0, above=0)
    hours: float = flag("Hours in which all has to be done.", default=24.0, above=0)
    cores: int = flag("Cores of a worker.", default=4, minimum=1)
    image_bytes: float = flag(
        "Of an image as it is kept. [drawn photos]", default=30_800.0, above=0
    )
    embed_ms: float = flag(
        "Core milliseconds to embed an image. [bench embed]", default=14.4, minimum=0
    )
    feature_bytes: float = flag(
        "Of an image's features. [4 bytes a number]", default=5_152.0, above=0
    )
    clean_ms: float = flag("Core milliseconds to check an image in mining.", default=5.7, minimum=0)
    event_us: float = flag(
        "Core microseconds to mine an event. [bench mining]", default=4.67, minimum=0
    )
    event_shuffle: float = flag("Bytes shuffled for an event.", default=161.0, minimum=0)
    image_shuffle: float = flag(
        "Bytes shuffled for each byte of an image: of rows that say where its bytes are.",
        default=0.02,
        minimum=0,
    )
    build_us: float = flag(
        "Core microseconds to index a phrase, of 4 million. [bench phrases]",
        default=108.5,
        minimum=0,
    )
    phrase_bytes: float = flag(
        "Of a phrase's vectors and index. [docs/how_it_works/phrase_index.md]",
        default=1080.0,
        minimum=0,
    )
    search_ms: float = flag(
        "Core milliseconds to search 4 million phrases. [bench phrases]", default=1.02, minimum=0
    )
    core_price: float = flag("Of a core for an hour, with its memory.", default=0.07, minimum=0)
    shuffle_price: float = flag("Of a GB shuffled.", default=0.011, minimum=0)
    storage_price: float = flag("Of a GB stored for a month.", default=0.02, minimum=0)
    workdir: str = flag("Folder for what is measured.", default="", role="output")
    measure_events: int = flag("Events of a log whose shuffle is measured.", default=0, minimum=0)
    measure_images: int = flag("Images whose shuffle is measured.", default=0, minimum=0)


@dataclasses.dataclass(frozen=True)
class Size:
    """What one combination takes.

    Attributes:
      images, queries: their numbers.
      mine_hours, embed_hours, index_hours: core hours.
      workers: of `Config.cores` cores that are done within `Config.hours`.
      shuffle, stored: bytes.
      index: bytes of the phrases, all of which a worker maps.
      run_price, month_price: of one run, and of keeping for a month what it wrote.
    """

    images: float
    queries: float
    mine_hours: float
    embed_hours: float
    index_hours: float
    workers: int
    shuffle: float
    stored: float
    index: float
    run_price: float
    month_price: float


def size(config: Config, images: float, queries: float) -> Size:
    """Applies the formula; see docs/operate/sizing.md."""
    events = images * config.events_per_image
    mine = (events * config.event_us / 1e6 + images * config.clean_ms / 1e3) / 3600
    # Lists are as many as √K, and so is what a search looks into.
    search_ms = config.search_ms * (queries / 4e6) ** 0.5
    embedding = images * (config.embed_ms + search_ms) / 1e3 / 3600
    index_hours = queries * config.build_us / 1e6 / 3600
    shuffle = events * config.event_shuffle + images * config.image_bytes * config.image_shuffle
    index = queries * config.phrase_bytes
    stored = images * (config.image_bytes + config.feature_bytes) + index
    hours = mine + embedding + index_hours
    return Size(
        images,
        queries,
        mine,
        embedding,
        index_hours,
        math.ceil(hours / (config.hours * config.cores)),
        shuffle,
        stored,
        index,
        hours * config.core_price + shuffle / GB * config.shuffle_price,
        stored / GB * config.storage_price,
    )


HEADER = (
    "| images | queries | core hours: mine | embed | index | workers | shuffled, TB "
    "| stored, TB | phrases, GB | a run | a month |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def line(found: Size) -> str:
    return (
        f"| {found.images:,.0f} | {found.queries:,.0f} | {found.mine_hours:,.1f} "
        f"| {found.embed_hours:,.1f} | {found.index_hours:,.1f} | {found.workers:,} "
        f"| {found.shuffle / TB:,.3f} | {found.stored / TB:,.3f} | {found.index / GB:,.1f} "
        f"| {found.run_price:,.0f} | {found.month_price:,.0f} |"
    )


def numbers(name: str, texts: tuple[str, ...]) -> Iterator[float]:
    """Raises PhraseLensError for what is no number above 0."""
    for text in texts:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if number <= 0:
            raise PhraseLensError(f"--{name}={text}", "a number above 0, as 1e8", "Correct it.")
        yield number


def shuffled(*flags: str) -> int:
    """Bytes that one run of mine_pairs in this process hands from worker to worker.

    Raises:
      PhraseLensError: it failed.
    """
    from beam_jobs.mining import mine_pairs
    from transforms.shards import blocks

    total = 0
    serialise = blocks.serialise

    def counting(table):
        nonlocal total
        block = serialise(table)
        total += block.size
        return block

    with mock.patch.object(blocks, "serialise", counting):
        if mine_pairs.run([*flags, "--min_users=1", "--one_person_pairs", "--max_dead_fraction=1"]):
            raise PhraseLensError("mine_pairs", "to succeed", "See what it said above.")
    return total


def measure(config: Config) -> list[str]:
    """What mining shuffles, and what an image costs it, as lines for people."""
    if not config.workdir:
        raise PhraseLensError("--workdir", "a folder to measure in", "Add --workdir work/sizing.")
    folder = Path(config.workdir)
    log, mined = str(folder / "log"), str(folder / "mined")
    mining_log.run([f"--events={config.measure_events}", f"--output={log}"])
    storage.remove_tree(mined)
    alone = shuffled(f"--log={log}", f"--output={mined}")
    lines = [f"--event_shuffle={alone / config.measure_events:.0f}"]
    if config.measure_images:
        photos = folder / "photos"
        photos.mkdir(parents=True, exist_ok=True)
        for number in range(config.measure_images):
            (photos / f"{mining_log.image_name(number)}.jpg").write_bytes(embed.photo(number))
        kept = sum(path.stat().st_size for path in photos.iterdir())
        storage.remove_tree(mined)
        crossed: list[int] = []

        def mine_images() -> int:
            crossed.append(shuffled(f"--log={log}", f"--images={photos}", f"--output={mined}"))
            return 1

        took = embed.timed(mine_images)
        storage.remove_tree(mined)
        bare = embed.timed(lambda: shuffled(f"--log={log}", f"--output={mined}") and 1)
        cpu_ms = (took.cpu_ms - bare.cpu_ms) / config.measure_images
        lines += [
            f"--image_shuffle={(crossed[0] - alone) / kept:.2f}",
            f"--clean_ms={cpu_ms:.1f}",
            f"--image_bytes={kept / config.measure_images:.0f}",
        ]
    return lines


def work(config: Config) -> str:
    if config.measure_events:
        return "\n".join(f"- `{figure}`" for figure in measure(config))
    sizes = [
        size(config, images, queries)
        for images in numbers("images", config.images)
        for queries in numbers("queries", config.queries)
    ]
    return "\n".join([HEADER, *map(line, sizes)]) + (
        f"\n\nWorkers of {config.cores} cores, done in {config.hours:g} hours; "
        f"{config.events_per_image:g} events an image; prices are examples: --help."
    )


def run(argv: list[str] | None = None) -> int:
    return measured.main(Config, __file__, __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
