"""Classifies any number of images with an exported model.

Reads a model and images: files, globs, folders, tables with a bytes or path column,
TFRecord of tf.Example; local or gs://. Needs nothing but pixels.

Writes one dataset with the tables predictions (labels with probabilities, and the phrases
that the classifier read into the image), embeddings (what the networks made of the images)
and dead_letters.

  ./run.sh classify_images --model work/model --images photos/ --output work/predictions
  ./run.sh classify_images --model work/current/model …      the model that is in use
"""

import dataclasses
import sys

import apache_beam as beam

from beam_jobs.dataflow import hints as hints_lib
from beam_jobs.frame import job, reuse
from beam_jobs.frame.ceiling_flags import CeilingConfig
from beam_jobs.frame.image_flags import ImageConfig
from beam_jobs.frame.reuse import Reused, WaitForCheck
from beam_jobs.frame.reuse_flags import ReuseConfig
from model_code.runtime import settings as inference_settings
from model_code.runtime.settings import InferenceSettings
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets.manifest import Manifest
from schemas.runs.run import Run
from schemas.tables.predictions import PREDICTIONS
from transforms.files.image_choice import IMAGE_FORMATS
from transforms.files.matching import content_hash
from transforms.images.clean import ImageLimits
from transforms.images.plan import ImagePlan, count_images
from transforms.inference.classify import ClassifyImages, Networks, UnitsOfShard, shard_units
from transforms.inference.folders import ModelFolder
from transforms.shards import commit
from transforms.shards import outputs as outputs_lib
from transforms.shards.map_shards import MapShards
from transforms.shards.tasks import ReadTasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(InferenceSettings, ImageConfig, ReuseConfig, CeilingConfig):
    model: str = flag("Exported model.", role="input")
    images: tuple[str, ...] = flag("Images: files, globs, folders, tables.", role="input")
    output: str = flag("Dataset to write.", role="output")
    image_columns: tuple[str, ...] = flag(
        "Columns of an image table, or features of a TFRecord, as field=column; fields are key, "
        "image (bytes) and path (relative to the table).",
        default=(),
    )
    image_format: str = flag(
        "What the images are; auto goes by their names.", default="auto", choices=IMAGE_FORMATS
    )
    image_key: str = flag(
        "What names an image file: its name without suffix, its name, or its path.",
        default="path",
        choices=("stem", "name", "path"),
        essential=True,
    )
    images_per_shard: int = flag("Image files of a shard.", default=1024, minimum=1)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


def preflight(config: Config) -> job.Inputs:
    if config.device == "tpu":
        raise PhraseLensError(
            "--device=tpu", "auto, cpu or gpu", "The exported model decodes images in its graph."
        )
    Networks.of(ModelFolder.of(config.model))
    images = ImagePlan.of(config)
    tasks = shard_units(images.units, config.images_per_shard)
    return job.Inputs(
        {"model": config.model},
        {"images": content_hash(images.files)},
        (images.fact, *reuse.facts(config, lambda: _reused(config))),
        tasks={"shards": tasks},
        sizes={"shards": len(tasks), "images": count_images(images.units) or 0},
    )


def build(pipeline: beam.Pipeline, config: Config, run: Run, inputs: job.Inputs) -> None:
    num_shards = inputs.sizes["shards"]
    model = ModelFolder.of(config.model)
    hints = hints_lib.inference_hints(pipeline, model.bytes)
    networks = Networks.of(model)
    reused = _reused(config)
    worker = ClassifyImages(
        run,
        model,
        networks,
        reused.paths("embeddings"),
        ImageLimits.of(config),
        inference_settings.of_config(config),
        inputs.sizes["images"] or None,
    )
    classified = (
        pipeline
        | "Shards" >> ReadTasks(run, "shards", UnitsOfShard.of_json)
        | "Numbered" >> beam.Map(lambda task: (task.index, task.units))
        | WaitForCheck(reused)
        | "ClassifyImages"
        >> MapShards(
            run,
            worker,
            {"predictions": ["key", "image_id"], "embeddings": ["source"]},
            num_shards,
            hints,
        )
    )
    outputs = {name: classified[name] for name in (outputs_lib.SHARDS, outputs_lib.COUNTS)}
    outputs | commit.CommitManifest(
        run,
        {
            "predictions": commit.parquet(PREDICTIONS),
            "embeddings": commit.parquet(networks.schema),
        },
        num_shards,
        config.ceilings(),
    )


def _reused(config: Config) -> Reused:
    """The embeddings of the output to reuse, if it was made with the same limits."""

    def made_alike(earlier: Manifest) -> bool:
        return config.same_limits(earlier.config)

    return Reused.of(config, "embeddings", made_alike=made_alike)


JOB = job.Job(
    name="classify_images",
    module="beam_jobs.models.classify_images",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command("verify", c.output),
    runs_networks=True,
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
