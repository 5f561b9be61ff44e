"""Turns mined pairs into training examples of the text generator.

Reads a mined dataset. Each image with a clicked head query is decoded once and resized to
training resolution, by the graph that serving runs; a training run then only reads. A shard
in makes a shard out, and a run that died goes on after its last whole shard.

Writes one dataset with the tables train and validation (TFRecord: an image, the ranks of
its clicked head queries with their click shares, and in validation the texts of all its
clicked queries), vocabulary (the head queries by rank), metadata (config.json) and
dead_letters.

  ./run.sh prepare_pairs --mined work/mined --output work/training_pairs
"""

import dataclasses
import sys
from collections.abc import Iterator

import apache_beam as beam

from beam_jobs.frame import job
from beam_jobs.frame.ceiling_flags import CeilingConfig
from model_code.runtime.settings import BACKBONES
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Table
from schemas.runs.run import Run
from transforms.shards import commit
from transforms.shards.map_shards import MapShards
from transforms.shards.outputs import COUNTS, SHARDS
from transforms.shards.tasks import ListTasks, numbered_paths, paths_of
from transforms.training_data.known_queries import KNOWN, VOCABULARY, LearnQueries, Limits
from transforms.training_data.pairs import PreparePairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CeilingConfig):
    mined: str = flag("Dataset of mine_pairs.", role="input")
    output: str = flag("Dataset to write.", role="output")
    backbone: str = flag(
        "Network to train.", default="resnet101", choices=BACKBONES, essential=True
    )
    image_size: int = flag(
        "Side of the images in pixels; 0 for the network's own.",
        default=0,
        minimum=0,
        essential=True,
    )
    image_encoding: str = flag(
        "How examples hold images. raw: 3 bytes a pixel (150 KB at 224 px), read without decoding; "
        "png: the same pixels in about half the space, jpeg (quality 95): nearly the same in about "
        "a fifth, but each is decoded anew in every epoch that memory cannot hold.",
        default="raw",
        choices=("raw", "jpeg", "png"),
    )
    head_queries: int = flag(
        "Queries with a weight of their own, at most (K).", default=4_000_000, minimum=1
    )
    min_query_images: int = flag("Training images that such a query needs.", default=1, minimum=1)
    validation_images: int = flag(
        "Held-out images for the retrieval metrics.", default=10_000, minimum=0
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


def image_size(config: Config) -> int:
    """Side of the images in pixels.

    Raises:
      PhraseLensError: there is no such network, or the size is below zero.
    """
    from model_code.images import backbones

    own = backbones.spec(config.backbone).image_size
    if config.image_size < 0:
        raise PhraseLensError(
            f"--image_size={config.image_size}", "pixels, or 0", f"{config.backbone} takes {own}."
        )
    return config.image_size or own


def preflight(config: Config) -> job.Inputs:
    mined = Dataset(config.mined)
    rows = {name: sum(s.rows for s in mined.shards(name)) for name in ("images", "pairs")}
    side = image_size(config)
    return job.Inputs(
        {"mined": config.mined},
        facts=(f"{rows['images']:,} images, {rows['pairs']:,} pairs, {side} × {side} pixels",),
    )


def build(pipeline: beam.Pipeline, config: Config, run: Run, _: job.Inputs) -> None:
    mined, size = Dataset(config.mined), image_size(config)
    num_shards = mined.manifest.num_shards
    limits = Limits(config.head_queries, config.min_query_images, config.validation_images)
    described = {
        "backbone": config.backbone,
        "image_size": size,
        "image_encoding": config.image_encoding,
    }
    learnt = (
        pipeline
        | "QueryShards" >> ListTasks(paths_of, mined.run_folder, "queries")
        | "LearnQueries" >> LearnQueries(config.mined, limits, run, described)
    )
    worker = PreparePairs(
        run, size, config.image_encoding, num_shards, mined.manifest.tables["images"].rows
    )
    prepared = (
        pipeline
        | "ImageShards" >> ListTasks(image_tasks, mined.run_folder)
        | "WithKnown"
        >> beam.Map(
            lambda task, known: (task[0], (task[1], known)),
            beam.pvalue.AsSingleton(learnt[KNOWN]),
        )
        | "PreparePairs" >> MapShards(run, worker, {}, num_shards)
    )
    {
        SHARDS: (prepared[SHARDS], learnt[SHARDS]) | "Shards" >> beam.Flatten(),
        COUNTS: prepared[COUNTS],
    } | commit.CommitManifest(
        run,
        {
            "train": Table("tfrecord", "", ()),
            "validation": Table("tfrecord", "", ()),
            "vocabulary": commit.parquet(VOCABULARY),
            "metadata": Table("files", "", ()),
        },
        num_shards,
        config.ceilings(),
        required=("train",),
    )


def image_tasks(mined: str) -> Iterator[tuple[int, tuple[int, str, str | None]]]:
    """For each shard of images: its number, twice, its file, and that of its pairs, if any."""
    pairs = dict(numbered_paths(mined, "pairs"))
    for index, path in numbered_paths(mined, "images"):
        yield index, (index, path, pairs.get(index))


JOB = job.Job(
    name="prepare_pairs",
    module="beam_jobs.models.prepare_pairs",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command(
        "train text_generator", pairs=c.output, output=program.beside(c.output, "text_generator")
    ),
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
