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
from model_code.phrases.settings import PhraseSettings
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Table
from schemas.tables import mined as tables
from transforms.shards import commit
from transforms.shards.outputs import COUNTS, DEAD, SHARDS
from transforms.training_data import examples
from transforms.training_data.examples import ANOMALIES
from transforms.training_data.validation import anomalies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CeilingConfig):
    features: str = flag("Dataset of embed_images.", role="input")
    output: str = flag("Dataset to write.", role="output")
    task: str = flag(
        "One label an image (softmax), or any number (sigmoid); auto goes by the labels: any "
        "number where more than 1 in 100 labelled images has several.",
        default="auto",
        choices=("auto", "single", "multi"),
    )
    min_label_images: int = flag(
        "Fewest training images that make a label; 1 keeps labels that only held-out images have, "
        "too, which count as wrong.",
        default=1,
        minimum=1,
    )
    num_shards: int = flag("Shards of a split.", default=4, minimum=1)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


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


def build(pipeline: beam.Pipeline, config: Config, stage) -> None:
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
    from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

    from model_code.models.fusion.preprocessing import preprocessing_fn, raw_schema

    dataset = Dataset(config.features)
    paths = [dataset.path(shard) for shard in dataset.shards("features")]
    widths = examples.widths_of(paths[0])
    schema = raw_schema(**widths)
    shards = pipeline | "Features" >> beam.Create(paths)
    labelled = shards | "ReadLabels" >> beam.Map(examples.read_labels)
    selection = (
        pipeline
        | "Once" >> beam.Create([None])
        | "SelectLabels"
        >> beam.Map(
            lambda _, parts: examples.select(parts, config.min_label_images, config.task),
            beam.pvalue.AsList(labelled),
        )
    )
    selected = shards | examples.SelectRows(selection, schema, stage)
    batches = {
        split: selected[split] | f"ToTFXIO {split}" >> beam.FlatMap(examples.to_large_lists)
        for split in tables.SPLITS
    }
    adapter = TensorAdapterConfig(
        arrow_schema=examples.LARGE_LISTS,
        tensor_representations=InferTensorRepresentationsFromSchema(examples.inputs_of(schema)),
    )
    # tf.Transform's files go through TensorFlow, which knows the real Cloud Storage only: on one
    # machine they stay on its disk; workers elsewhere share a folder that the commit removes. It
    # is made while the graph is drawn, so a plan has it here.
    is_here = config.dry_run or execution.is_one_machine(pipeline.options)
    if is_here:
        os.makedirs(stage.temp, exist_ok=True)
    temp = f"{storage.plain_folder(stage.temp) if is_here else stage.spill}/tft"
    with tft_beam.Context(temp_dir=temp, passthrough_keys={"split"}):
        transform_fn = (batches["train"], adapter) | tft_beam.AnalyzeDataset(preprocessing_fn)
        rows = tuple(batches.values()) | "AllSplits" >> beam.Flatten()
        transformed, _ = ((rows, adapter), transform_fn) | tft_beam.TransformDataset(
            output_record_batches=True
        )
    written = transformed | examples.WriteExamples(stage, config.num_shards)
    saved_model, metadata = transform_fn
    learned = saved_model | "WriteTransformFn" >> beam.FlatMap(
        examples.write_transform_fn,
        beam.pvalue.AsSingleton(metadata.deferred_metadata),
        beam.pvalue.AsSingleton(selection),
        stage,
        # The exported model chooses phrases as those were that the classifier was trained with.
        dataclasses.asdict(PhraseSettings.of(dataset.manifest.config)) | widths,
    )
    found = selected[ANOMALIES] | "CountAnomalies" >> beam.CombinePerKey(sum)
    report = (
        pipeline
        | "OnceMore" >> beam.Create([None])
        | "WriteAnomalies"
        >> beam.FlatMap(
            lambda _, counts: examples.write_anomalies(_, anomalies(counts), stage),
            beam.pvalue.AsIter(found),
        )
    )
    {
        SHARDS: (written, learned, report) | "Shards" >> beam.Flatten(),
        DEAD: selected[DEAD],
        COUNTS: selected[COUNTS],
    } | commit.CommitManifest(
        stage,
        {
            "examples": Table("tfrecord", "", ()),
            "transform_fn": Table("files", "", ()),
            "metadata": Table("files", "", ()),
            "anomalies": Table("files", "", ()),
        },
        config.num_shards,
        config.ceilings(),
    )


JOB = job.Job(
    name="prepare_examples",
    module="beam_jobs.models.prepare_examples",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: f"./run.sh train fusion --examples {c.output} --output …",
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
