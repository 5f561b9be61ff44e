"""Features → normalised tf.Examples: selection of labelled rows, tf.Transform, TFRecord shards."""

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics.labelling import task_of
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.datasets import manifest
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.stage import Stage
from schemas.tables import mined as tables
from schemas.tables.dead_letters import dead_letters
from transforms.shards.blocks import to_block
from transforms.shards.outputs import COUNTS, DEAD, Output
from transforms.shards.tfrecords import RecordWriter
from transforms.training_data.validation import validate

READ_BATCH = 1024
LABEL_COLUMNS = ["image_id", "split", "labels"]
LABELLED = pa.schema([tables.IMAGES.field(name) for name in LABEL_COLUMNS])
INPUT_COLUMNS = ["image_id", "labels", "phrases", "text_emb", "pixel_emb"]
ANOMALIES = "anomalies"
ROW_COLUMNS = [*INPUT_COLUMNS, "split"]
LARGE_LISTS = pa.schema(
    [
        (name, pa.large_list(pa.float32() if name.endswith("_emb") else pa.large_binary()))
        for name in ROW_COLUMNS
    ]
)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What is learned.

    Attributes:
      labels: the labels.
      task: "single" (one label an image) or "multi" (any number).
    """

    labels: frozenset[str]
    task: str


def select(labelled: Iterable[pa.Table], min_label_images: int, task: str) -> Selection:
    """Chooses labels by their support in training: what is held out decides over none.

    Args:
      labelled: rows of LABELLED of all images.
      min_label_images: a label with fewer training images is left out; with 1 all stay, also
        those that only held-out images have.
      task: "single", "multi", or "auto" for what `task_of` finds.
    """
    table = pa.concat_tables([LABELLED.empty_table(), *labelled])
    counted = table if min_label_images == 1 else table.filter(pc.equal(table["split"], "train"))
    counts = Counter(label for labels in counted["labels"].to_pylist() for label in labels)
    chosen = frozenset(label for label, images in counts.items() if images >= min_label_images)
    if task == "auto":
        per_image = [len(chosen.intersection(labels)) for labels in table["labels"].to_pylist()]
        task = task_of(sum(n > 1 for n in per_image), sum(n > 0 for n in per_image))
    return Selection(chosen, task)


def select_rows(
    table: pa.Table, selection: Selection, schema, stage: Stage
) -> tuple[Output, Counter]:
    """Takes the rows of a batch of features that become examples.

    Args:
      table: [n] rows of features.
      selection: what `select` chose; where the task is "single", rows of several labels are dead.
      schema: TFMD schema of the features.
      stage: the run, named in dead letters.

    Returns:
      One table for each split, dead letters of rows that break the schema, counts of
      `features`; and how many rows have which anomaly, by (field, what is wrong).
    """
    rows = table.num_rows
    ids = table["image_id"].to_pylist()
    reasons = [""] * rows
    findings = validate(table, schema)
    details: dict[int, str] = {}
    for row, field, text in findings:
        reasons[row] = "schema_anomaly"
        details[row] = f"{details[row]}; {field}: {text}" if row in details else f"{field}: {text}"
    kept = []
    for row, labels in enumerate(table["labels"].to_pylist()):
        labels = labels or []
        chosen = [label for label in labels if label in selection.labels]
        kept.append(chosen)
        if reasons[row]:
            continue
        if not labels:
            reasons[row] = "unlabelled"
        elif not chosen:
            reasons[row] = "rare_label"
        elif selection.task == "single" and len(chosen) > 1:
            reasons[row] = "schema_anomaly"
            details[row] = f"labels: {len(chosen)} labels, expected one; use --task=multi"
            findings.append((row, "labels", "several labels where the task is single"))
    place = table.schema.get_field_index("labels")
    table = table.set_column(place, "labels", pa.array(kept, pa.list_(pa.string())))
    good = table.filter(pa.array([not reason for reason in reasons], pa.bool_()))
    splits = {
        split: good.filter(pc.equal(good["split"], split)).select(ROW_COLUMNS)
        for split in tables.SPLITS
    }
    dead = [row for row in range(rows) if reasons[row] == "schema_anomaly"]
    letters = dead_letters(
        stage.name,
        stage.run_id,
        "schema_anomaly",
        [ids[row] or "" for row in dead],
        [details[row] for row in dead],
        [b""] * len(dead),
    )
    dropped = Counter(reason for reason in reasons if reason)
    counts = {"features.in": rows, "features.out": good.num_rows}
    counts |= {f"features.dropped_{reason}": n for reason, n in dropped.items()}
    counts |= {f"examples_{split}.rows": part.num_rows for split, part in splits.items()}
    return Output(splits, (letters,), counts), Counter((field, text) for _, field, text in findings)


class SelectRows(beam.PTransform):
    """PCollection[path of a features shard] → tagged tables by split, dead, counts, anomalies."""

    def __init__(self, selection, schema, stage: Stage):
        super().__init__()
        self._selection, self._schema, self._stage = selection, schema, stage

    def _select(self, path, selection):
        with open_parquet(path) as file:
            for batch in file.iter_batches(READ_BATCH, columns=ROW_COLUMNS):
                table = pa.Table.from_batches([batch])
                output, found = select_rows(table, selection, self._schema, self._stage)
                yield from output.tagged()
                for item in found.items():
                    yield beam.pvalue.TaggedOutput(ANOMALIES, item)

    def expand(self, paths):
        return paths | beam.FlatMap(
            self._select, beam.pvalue.AsSingleton(self._selection)
        ).with_outputs(DEAD, COUNTS, ANOMALIES, *tables.SPLITS)


def read_labels(path: str) -> pa.Table:
    """Rows of LABELLED of one features shard, labelled images only."""
    table = read_parquet(path, columns=LABEL_COLUMNS).cast(LABELLED)
    return table.filter(pc.greater(pc.list_value_length(table["labels"]), 0))


def widths_of(path: str) -> dict[str, int]:
    """Widths of the text and pixel embeddings of a features shard."""
    with open_parquet(path) as file:
        schema = file.schema_arrow
    return {
        f"{name}_width": schema.field(f"{name}_emb").type.list_size for name in ("text", "pixel")
    }


def inputs_of(schema):
    """The part of the TFMD schema that tf.Transform reads: `split` picks rows and stays out."""
    inputs = type(schema)()
    inputs.feature.extend(f for f in schema.feature if f.name in INPUT_COLUMNS)
    return inputs


def to_large_lists(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Brings a table to what TFXIO's tensor adapters read: large lists of large values."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_nested(column.type):
            lengths = pc.list_value_length(column).to_numpy()
            values = pc.list_flatten(column)
            offsets = pa.array([0, *lengths.cumsum()], pa.int64())
        else:
            values, offsets = column, pa.array(range(len(column) + 1), pa.int64())
        if pa.types.is_string(values.type):
            values = values.cast(pa.large_binary())
        columns[name] = pa.LargeListArray.from_arrays(offsets, values)
    yield from pa.table(columns).cast(LARGE_LISTS).to_batches()


def encode_examples(blocks: Iterable[bytes]) -> list[bytes]:
    """Serialised tf.Examples of transformed record batches, in the order of their image ids."""
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    from model_code.models.fusion.preprocessing import canonical_example

    tables_ = [pa.ipc.open_stream(block).read_all() for block in blocks]
    table = pa.concat_tables(tables_).combine_chunks()
    table = table.take(pc.sort_indices(_image_ids(table)))
    encoder = RecordBatchToExamplesEncoder()
    rows = [row for batch in table.to_batches() for row in encoder.encode(batch)]
    return [canonical_example(row) for row in rows]


def _image_ids(table: pa.Table) -> pa.Array:
    return pc.list_flatten(table["image_id"].combine_chunks()).cast(pa.string())


Place = tuple[str, int]  # of an example: its split, and its shard of that


def split_transformed(transformed, num_shards: int) -> Iterator[tuple[Place, bytes]]:
    """Cuts a (record batch, pass-through) of tf.Transform into a block for each shard."""
    batch, _ = transformed
    table = pa.Table.from_batches([batch])
    shards = fingerprint.shard_of(_image_ids(table), num_shards)
    splits = pc.list_flatten(table["split"]).cast(pa.string())
    table = table.drop_columns(["split"])
    for split in tables.SPLITS:
        is_of_split = pc.equal(splits, split).to_numpy()
        for shard in sorted(set(shards[is_of_split].tolist())):
            rows = table.filter(pa.array(is_of_split & (shards == shard)))
            yield (split, shard), to_block(rows)


class WriteExamples(beam.PTransform):
    """PCollection[(record batch, pass-through)] → PCollection[(name, Shard)]."""

    def __init__(self, stage: Stage, num_shards: int):
        super().__init__()
        self._stage, self._num_shards = stage, num_shards

    def _write(self, grouped):
        (split, index), blocks = grouped
        path = self._stage.shard_path(f"examples/{split}", index, self._num_shards, "tfrecord")
        with RecordWriter(self._stage, path, index, split) as writer:
            for example in encode_examples(blocks):
                writer.add(example)
        return [("examples", shard) for shard in writer.shards]

    def expand(self, transformed):
        return (
            transformed
            | beam.FlatMap(split_transformed, self._num_shards)
            | beam.GroupByKey()
            | "Write" >> beam.FlatMap(self._write)
        )


def write_transform_fn(
    saved_model: str, metadata, selection: Selection, stage: Stage, config: dict
):
    """Publishes what tf.Transform learned as tables of files.

    Args:
      saved_model: the folder where tf.Transform wrote its graph.
      metadata: its DatasetMetadata.
      selection: the labels and the task.
      stage: the run.
      config: what else the trainer must know; with the task it is written as metadata/config.json.

    Yields:
      (name, Shard) of `transform_fn` and `metadata` (labels.txt, config.json).

    Raises:
      PhraseLensError: no training row has a label.
    """
    from model_code.models.fusion import preprocessing

    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        with storage.local_copy(saved_model) as source:
            preprocessing.write_output(source, metadata, folder)
        labels = preprocessing.read_labels(folder)
        for shard in stage.publish("transform_fn", folder):
            yield "transform_fn", shard
    if not labels or labels == [""]:
        raise PhraseLensError(
            "features",
            "at least one labelled image in the training split",
            "Check --labels of mine_pairs and --min_label_images.",
        )
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        storage.write_bytes(f"{folder}/labels.txt", "".join(f"{v}\n" for v in labels).encode())
        config = {"task": selection.task} | config
        storage.write_bytes(f"{folder}/config.json", json.dumps(config, indent=1).encode())
        for shard in stage.publish("metadata", folder):
            yield "metadata", shard


def write_anomalies(_: None, text: str, stage: Stage) -> Iterator[tuple[str, manifest.Shard]]:
    """Publishes the Anomalies proto."""
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        storage.write_bytes(f"{folder}/anomalies.pbtxt", text.encode())
        for shard in stage.publish("anomalies", folder):
            yield "anomalies", shard
