"""Rows of features → normalised tf.Examples: tf.Transform, TFRecord shards."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.runs.run import Run
from schemas.tables.mined import SPLITS
from transforms.shards.blocks import to_block
from transforms.shards.tfrecords import RecordWriter
from transforms.training_data.select import Selection

SPLIT = "split"  # picks rows, and passes tf.Transform by


def inputs_of(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """The part of the TFMD schema that tf.Transform reads: all but `SPLIT`."""
    inputs = schema_pb2.Schema()
    inputs.feature.extend(feature for feature in schema.feature if feature.name != SPLIT)
    return inputs


def large_lists(schema: schema_pb2.Schema) -> pa.Schema:
    """The columns that a TFMD schema names, as TFXIO's tensor adapters read them."""
    values = {schema_pb2.FLOAT: pa.float32(), schema_pb2.BYTES: pa.large_binary()}
    return pa.schema([(f.name, pa.large_list(values[f.type])) for f in schema.feature])


def to_large_lists(table: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Brings a table to what TFXIO's tensor adapters read, see `large_lists`."""
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
    yield from pa.table(columns).select(schema.names).cast(schema).to_batches()


class Normalise(beam.PTransform):
    """{split: PCollection[table]} → what tf.Transform learned of "train", and all rows after it.

    The result is {"graph": PCollection of one folder, "metadata": PCollection of one
    DatasetMetadata, "rows": PCollection[(record batch, pass-through)]}.

    Args:
      schema: TFMD schema of the tables.
      temp: a folder for tf.Transform's own files.
    """

    def __init__(self, schema: schema_pb2.Schema, temp: str):
        super().__init__()
        self._schema, self._temp = schema, temp

    def expand(self, tables):
        import tensorflow_transform.beam as tft_beam
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
        from tfx_bsl.tfxio.tensor_representation_util import (
            InferTensorRepresentationsFromSchema,
        )

        from model_code.models.fusion.preprocessing import preprocessing_fn

        arrow = large_lists(self._schema)
        batches = {
            split: tables[split] | f"ToTFXIO {split}" >> beam.FlatMap(to_large_lists, arrow)
            for split in SPLITS
        }
        tensors = InferTensorRepresentationsFromSchema(inputs_of(self._schema))
        adapter = TensorAdapterConfig(arrow_schema=arrow, tensor_representations=tensors)
        with tft_beam.Context(temp_dir=self._temp, passthrough_keys={SPLIT}):
            learned = (batches["train"], adapter) | tft_beam.AnalyzeDataset(preprocessing_fn)
            rows = tuple(batches.values()) | "AllSplits" >> beam.Flatten()
            transform = tft_beam.TransformDataset(output_record_batches=True)
            transformed, _ = ((rows, adapter), learned) | transform
        graph, metadata = learned
        return {"graph": graph, "metadata": metadata.deferred_metadata, "rows": transformed}


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
    splits = pc.list_flatten(table[SPLIT]).cast(pa.string())
    table = table.drop_columns([SPLIT])
    for split in SPLITS:
        is_of_split = pc.equal(splits, split).to_numpy()
        for shard in sorted(set(shards[is_of_split].tolist())):
            rows = table.filter(pa.array(is_of_split & (shards == shard)))
            yield (split, shard), to_block(rows)


class WriteExamples(beam.PTransform):
    """PCollection[(record batch, pass-through)] → PCollection[(name, Shard)]."""

    def __init__(self, run: Run, num_shards: int):
        super().__init__()
        self._run, self._num_shards = run, num_shards

    def _write(self, grouped):
        (split, index), blocks = grouped
        path = self._run.shard_path(f"examples/{split}", index, self._num_shards, "tfrecord")
        with RecordWriter(self._run, path, index, split) as writer:
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
    saved_model: str, metadata, selection: Selection, run: Run, config: Mapping[str, Any]
):
    """Publishes what tf.Transform learned as tables of files.

    Args:
      saved_model: the folder where tf.Transform wrote its graph.
      metadata: its DatasetMetadata.
      selection: the labels and the task.
      run: the run.
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
        for shard in run.publish("transform_fn", folder):
            yield "transform_fn", shard
    if not labels or labels == [""]:
        raise PhraseLensError(
            "features",
            "at least one labelled image in the training split",
            "Check --labels of mine_pairs and --min_label_images.",
        )
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        storage.write_bytes(f"{folder}/labels.txt", "".join(f"{v}\n" for v in labels).encode())
        config = {"task": selection.task, **config}
        storage.write_bytes(f"{folder}/config.json", json.dumps(config, indent=1).encode())
        for shard in run.publish("metadata", folder):
            yield "metadata", shard


class WriteTransformFn(beam.PTransform):
    """("graph" and "metadata" of `Normalise`, one `Selection`) → PCollection[(name, Shard)]."""

    def __init__(self, run: Run, config: Mapping[str, Any]):
        super().__init__()
        self._run, self._config = run, config

    def expand(self, made):
        graph, metadata, selection = made
        return graph | beam.FlatMap(
            write_transform_fn,
            beam.pvalue.AsSingleton(metadata),
            beam.pvalue.AsSingleton(selection),
            self._run,
            self._config,
        )
