"""Turns features of labelled images into normalised tf.Examples.

Reads a features dataset. tf.Transform learns the label vocabulary and the mean and
deviation of every feature from the training split, and applies them to all splits.
Rows that break schemas/tables/features.pbtxt become dead letters and are counted by field.

Writes one dataset with the tables examples (TFRecord, one group a split), transform_fn,
metadata (labels.txt, config.json), anomalies (TFMD Anomalies proto) and dead_letters.

  ./run.sh prepare_examples --features work/features --output work/examples
"""

import dataclasses
import hashlib
import os
import sys
from importlib import resources

import apache_beam as beam

from beam_jobs.frame import execution, job
from beam_jobs.frame.ceiling_flags import CeilingConfig
from model_code.models.fusion.family import INPUTS
from model_code.phrases.settings import PhraseSettings
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Table
from schemas.runs.run import Run
from schemas.tables.mined import SPLITS
from transforms.shards import commit
from transforms.shards.outputs import COUNTS, DEAD, SHARDS
from transforms.shards.tasks import ListTasks, paths_of
from transforms.training_data import examples, select

_TABLES = {
    "examples": Table("tfrecord", "", ()),
    "transform_fn": Table("files", "", ()),
    "metadata": Table("files", "", ()),
    "anomalies": Table("files", "", ()),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CeilingConfig):
    features: str = flag("Dataset of embed_images.", role="input")
    output: str = flag("Dataset to write.", role="output")
    task: str = flag(
        "One label an image (softmax), or any number (sigmoid); auto goes by the labels: any "
        "number where more than 1 in 100 labelled images has several.",
        default="auto",
        choices=("auto", "single", "multi"),
        essential=True,
    )
    min_label_images: int = flag(
        "Fewest training images that make a label; 1 keeps labels that only held-out images have, "
        "too, which count as wrong.",
        default=1,
        minimum=1,
    )
    num_shards: int = flag("Shards of a split.", default=4, minimum=1)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


def preflight(config: Config) -> job.Inputs:
    rows = sum(shard.rows for shard in Dataset(config.features).shards("features"))
    if not rows:
        raise PhraseLensError(
            config.features, "rows of features", "See why its images died in its dead_letters."
        )
    # What rows have to be decides which of them die, as code does.
    rules = resources.files("schemas.tables").joinpath("features.pbtxt").read_bytes()
    return job.Inputs(
        {"features": config.features},
        {"schema": hashlib.sha256(rules).hexdigest()},
        (f"{rows:,} rows of features",),
    )


def build(pipeline: beam.Pipeline, config: Config, run: Run, _: job.Inputs) -> None:
    from model_code.models.fusion.preprocessing import raw_schema

    dataset = Dataset(config.features)
    first = next(paths_of(dataset.run_folder, "features"))
    vectors = select.shapes_of(first, INPUTS["fused"])
    schema = raw_schema(vectors)
    # The exported model chooses phrases as those were that the classifier was trained with.
    phrases = dataclasses.asdict(PhraseSettings.of(dataset.manifest.config))

    features = pipeline | "Features" >> ListTasks(paths_of, dataset.run_folder, "features")
    selection = features | select.SelectLabels(config.min_label_images, config.task)
    selected = features | select.SelectRows(selection, schema, run)
    rows = {split: selected[split] for split in SPLITS}
    temp = _temp_folder(pipeline, config, run)
    normalised = rows | examples.Normalise(schema, temp)
    written = normalised["rows"] | examples.WriteExamples(run, config.num_shards)
    learned = (normalised["graph"], normalised["metadata"], selection)
    transform_fn = learned | examples.WriteTransformFn(run, phrases | {"vectors": vectors})
    anomalies = selected[select.ANOMALIES] | select.WriteAnomalies(run)
    {
        SHARDS: (written, transform_fn, anomalies) | "Shards" >> beam.Flatten(),
        DEAD: selected[DEAD],
        COUNTS: selected[COUNTS],
    } | commit.CommitManifest(run, _TABLES, config.num_shards, config.ceilings())


def _temp_folder(pipeline: beam.Pipeline, config: Config, run) -> str:
    """Where tf.Transform puts its own files.

    They go through TensorFlow, which knows the real Cloud Storage only: on one machine they stay on
    its disk; workers elsewhere share a folder that the commit removes. It is made while the graph
    is drawn, so a plan has it here.
    """
    if not config.dry_run and not execution.is_one_machine(pipeline.options):
        return f"{run.spill}/tft"
    os.makedirs(run.temp, exist_ok=True)
    return f"{storage.plain_folder(run.temp)}/tft"


JOB = job.Job(
    name="prepare_examples",
    module="beam_jobs.models.prepare_examples",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command(
        "train fusion", examples=c.output, output=program.beside(c.output, "fusion")
    ),
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
