"""What a day costs: reprocessing after one per cent of new images, against doing it all.

Draws a collection, trains the models shortly on a few of its images, and then measures runs of
`reprocess` with these models in use: the first finds nothing to reuse, each day after it adds
images and finds the rows of the run before. A day is short, and a machine is faster now and slower
then: the table shows the median of several. Networks are MobileNet at 224 px, with random weights
unless --weights gives others: what they cost does not depend on that. Batches and shards suit one
machine without a GPU: a shard's last batch is filled up, which few new images in many shards of
large batches pay for.

  ./run.sh bench incremental --workdir /tmp/incremental
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.runs.chosen import MODELS
from schemas.base import storage
from schemas.console import launch
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line

TRAINING_IMAGES = 600


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for data and results; what it holds is overwritten.", role="output")
    images: int = flag("Images of the first run.", default=10_000, minimum=1)
    added: float = flag("Share of images that each day adds.", default=0.01, minimum=0, maximum=1)
    days: int = flag("Runs after the first, 1 to 30.", default=3, minimum=1, maximum=30)
    image_size: int = flag("Side of the drawn images, in pixels.", default=256, minimum=1)
    backbone: str = flag("Both image networks.", default="mobilenet")
    network_size: int = flag("Side of the images that they see, in pixels.", default=224, minimum=1)
    weights: str = flag("Their weights; see train_text_generator.", default="")
    batch_size: int = flag("Images that go through the networks at once.", default=8, minimum=1)
    num_shards: int = flag(
        "Shards of every dataset; one machine needs no more.", default=1, minimum=1
    )


def date_of(run: int) -> str:
    return f"2026-01-{run + 1:02}"


def unpack(
    samples: str, folder: str, first: int, *, last: int, run: int = 0, runs: int = 1
) -> None:
    """Adds images of a collection to a folder, as people have them.

    Args:
      samples: dataset of make_samples.
      folder: gets images/KEY.jpg, log/DATE.parquet (a day's share of the clicks on all images that
        are there, and on new ones also the shares of the days before) and labels.csv (of all).
      first, last: which images are new, by their place in the collection.
      run, runs: which day it is, of how many.
    """
    dataset = Dataset(samples)
    known = dataset.table("images", ["key", "image"]).slice(0, last)
    images = known.slice(first)
    for row in images.to_pylist():
        storage.write_bytes(f"{folder}/images/{row['key']}.jpg", row["image"])
    log = dataset.table("click_log")
    is_there, is_new = (
        pc.is_in(log["image"], value_set=keys["key"].combine_chunks()).to_numpy()
        for keys in (known, images)
    )
    day = np.arange(len(log)) % runs
    told = is_there & np.where(is_new, day <= run, day == run)
    os.makedirs(f"{folder}/log", exist_ok=True)
    pq.write_table(log.filter(pa.array(told)), f"{folder}/log/{date_of(run)}.parquet")
    labels = dataset.table("labels")
    labels = labels.filter(pc.is_in(labels["key"], value_set=known["key"].combine_chunks()))
    rows = zip(labels["key"].to_pylist(), labels["label"].to_pylist(), strict=True)
    text = "".join(f"{key},{label}\n" for key, label in [("key", "label"), *rows])
    storage.write_bytes(f"{folder}/labels.csv", text.encode())


def settings(config: Config) -> str:
    """--set of all runs: short training, real networks, small batches."""
    network = {"backbone": config.backbone, "image_size": str(config.network_size)}
    weights = {"weights": config.weights} if config.weights else {}
    batches = {"batch_size": str(config.batch_size)}
    flags = {
        "mine_pairs": {
            "min_users": "1",
            "one_person_pairs": "true",
            "num_shards": str(config.num_shards),
        },
        **dict.fromkeys(("embed_phrases", "embed_images", "classify_images"), batches),
        "prepare_pairs": network,
        "train_text_generator": {"epochs": "1", "batch_size": "32"} | weights,
        "train_text_embedder": {"epochs": "1", "max_steps_per_epoch": "10", "buckets": "16384"},
        "train_pixel_embedder": network | {"epochs": "1"} | weights,
        "train_fusion": {"epochs": "2", "layers": "64", "weight_decays": "0.1"},
    }
    return ",".join(f"{s}.{k}={v}" for s, of in flags.items() for k, v in of.items())


def run_command(module: str, *flags: str) -> float:
    """Runs a command as people do; returns the seconds that it took.

    Raises:
      CalledProcessError: it failed.
    """
    start = time.monotonic()
    subprocess.run(launch.part([sys.executable, "-m", module, *flags]), check=True)
    return time.monotonic() - start


def _inputs(data: str) -> list[str]:
    return [f"--images={data}/images", f"--labels={data}/labels.csv", f"--log={data}/log"]


def train(config: Config, samples: str, work: str) -> None:
    """Leaves trained models in the work folder, and nothing else."""
    few = f"{config.workdir}/few"
    unpack(samples, few, 0, last=TRAINING_IMAGES)
    made = [f"--workdir={work}", f"--set={settings(config)}", "--until=train_fusion"]
    run_command("beam_jobs.runs.all_stages", *made, *_inputs(few))
    for name in os.listdir(work):
        if name not in MODELS:
            shutil.rmtree(os.path.join(work, name))


def reprocess(config: Config, work: str, data: str, day: str) -> dict:
    """Runs it; returns its summary, and the seconds from start to end of the process."""
    summary = f"{config.workdir}/{day}.json"
    flags = [f"--workdir={work}", f"--set={settings(config)}", f"--date={day}", *_inputs(data)]
    seconds = run_command("beam_jobs.runs.reprocess", *flags, f"--summary={summary}")
    with open(summary, encoding="utf-8") as f:
        stages = json.load(f)["stages"]
    rest = seconds - sum(stage["seconds"] for stage in stages)
    start = {"stage": "(start of the process)", "seconds": rest, "images": 0, "reused": 0}
    return {"seconds": seconds, "stages": [start, *stages]}


def table(full: dict, day: dict) -> str:
    """Both runs side by side, in Markdown."""
    lines = [
        "| stage | full: s | images | day: s | images | taken over | time | rows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    total = {"stage": "all", **dict.fromkeys(("seconds", "images", "reused"), 0)}
    totals = [dict(total), dict(total)]
    pairs = list(zip(full["stages"], day["stages"], strict=True))
    for row in pairs:
        for sums, part in zip(totals, row, strict=True):
            for key in ("seconds", "images", "reused"):
                sums[key] += part[key]
    for a, b in (*pairs, tuple(totals)):
        rows = f"{b['images'] / a['images']:.1%}" if a["images"] else ""
        lines.append(
            f"| {a['stage']} | {a['seconds']:.1f} | {a['images']:,} | {b['seconds']:.1f} | "
            f"{b['images']:,} | {b['reused']:,} | {b['seconds'] / a['seconds']:.1%} | {rows} |"
        )
    return "\n".join(lines)


def work(config: Config) -> None:
    samples, made, data = (f"{config.workdir}/{name}" for name in ("samples", "work", "data"))
    for folder in (made, data, f"{config.workdir}/few"):
        shutil.rmtree(folder, ignore_errors=True)
    new = round(config.images * config.added)
    drawn = [f"--output={samples}", f"--images={config.images + config.days * new}"]
    drawn += [f"--image_size={config.image_size}", "--events_per_image=12", "--workers=2"]
    run_command("samples.make_samples", *drawn)
    train(config, samples, made)
    known, done = 0, []
    for run, added in enumerate([config.images] + [new] * config.days):
        unpack(samples, data, known, last=known + added, run=run, runs=config.days + 1)
        known += added
        done.append(reprocess(config, made, data, date_of(run)))
    full, *days = done
    days.sort(key=lambda day: day["seconds"])
    median = days[(len(days) - 1) // 2]
    print(f"\n{config.images:,} images, then {new:,} more a day: the median of {len(days)} days\n")
    print(table(full, median))
    shares = ", ".join(f"{day['seconds'] / full['seconds']:.2%}" for day in days)
    print(f"\nall days, of the time of the first run: {shares}")


def run(argv: Sequence[str] | None = None) -> int:
    return command_line.main(Config, "bench incremental", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
