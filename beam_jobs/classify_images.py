"""Classifies any number of images with an exported model.

Reads a model and images: files, globs, folders, tables with a bytes or path column,
TFRecord of tf.Example; local or gs://. Needs nothing but pixels.

Writes one dataset with the tables predictions (labels with probabilities, and the phrases
that the classifier read into the image) and dead_letters.

  ./run.sh classify_images --model work/model --images photos/ --output work/predictions
"""

import dataclasses
import sys

import apache_beam as beam

from beam_jobs import job
from model_code import inference_settings
from model_code.inference_settings import InferenceSettings
from schemas import tables
from schemas.config import flag
from schemas.errors import PhraseLensError
from transforms import datasets
from transforms.files import content_hash
from transforms.image_units import IMAGE_FIELDS, IMAGE_FORMATS, count_images, plan_units
from transforms.models import ModelFolder
from transforms.predictions import ClassifyImages, group_units
from transforms.shards import MapShards
from transforms.tabular import column_mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(InferenceSettings):
    model: str = flag("Exported model.", role="input")
    images: tuple[str, ...] = flag("Images: files, globs, folders, tables.", role="input")
    output: str = flag("Dataset to write.", role="runtime")
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
    )
    images_per_shard: int = flag("Image files of a shard.", default=1024)
    max_image_pixels: int = flag("Larger images die.", default=100_000_000)
    max_image_side: int = flag("Larger images are shrunk to this many pixels.", default=512)
    max_dead_fraction: float = flag("Share of dead rows that fails the job.", default=0.05)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


def _units(config: Config):
    mapping = column_mapping("image_columns", config.image_columns, IMAGE_FIELDS)
    return plan_units("images", config.images, config.image_format, mapping, config.image_key)


def preflight(config: Config) -> job.Inputs:
    config.check()
    if config.device == "tpu":
        raise PhraseLensError(
            "--device=tpu", "auto, cpu or gpu", "The exported model decodes images in its graph."
        )
    ModelFolder.of(config.model)
    units, files = _units(config)
    return job.Inputs(
        {"model": config.model},
        {"images": content_hash(files)},
        (f"images: {len(files)} files ({units[0].format})",),
    )


def build(pipeline: beam.Pipeline, config: Config, stage) -> None:
    units, _ = _units(config)
    tasks = list(enumerate(group_units(units, config.images_per_shard)))
    worker = ClassifyImages(
        stage,
        ModelFolder.of(config.model),
        config.max_image_pixels,
        config.max_image_side,
        inference_settings.of_config(config),
        count_images(units),
    )
    classified = (
        pipeline
        | "Units" >> beam.Create(tasks)
        | "ClassifyImages"
        >> MapShards(stage, worker, {"predictions": ["key", "image_id"]}, len(tasks))
    )
    outputs = {name: classified[name] for name in (datasets.SHARDS, datasets.COUNTS)}
    outputs | datasets.CommitManifest(
        stage,
        {"predictions": datasets.parquet(tables.PREDICTIONS)},
        len(tasks),
        config.max_dead_fraction,
    )


JOB = job.Job(
    name="classify_images",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: f"./run.sh verify {c.output}",
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
