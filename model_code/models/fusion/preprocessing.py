"""From features to what the classifier reads, as one tf.Transform graph.

Training and serving run this same graph, so that they cannot drift apart.
"""

import os
import shutil
from collections.abc import Mapping
from importlib import resources

import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

from model_code.runtime import saved_models
from schemas.tables.vectors import Vectors

# A dimension that is nearly constant in training may be far out in a new image.
MAX_Z_SCORE = 8.0
# A deviation below this share of the mean is what rounding makes of a constant.
CONSTANT = 1e-7

VOCABULARY = "labels"


def raw_schema(vectors: Vectors) -> schema_pb2.Schema:
    """The TFMD schema of features: features.pbtxt, with the named vectors and no others.

    A vector that features.pbtxt does not know may hold any finite numbers.
    """
    text = resources.files("schemas.tables").joinpath("features.pbtxt").read_text(encoding="utf-8")
    schema = text_format.Parse(text, schema_pb2.Schema())
    known = {f.name: f for f in schema.feature if f.type == schema_pb2.FLOAT}
    for name in known.keys() - vectors.keys():
        schema.feature.remove(known[name])
    for name, shape in vectors.items():
        feature = known.get(name)
        if feature is None:
            feature = schema.feature.add(name=name, type=schema_pb2.FLOAT)
            feature.presence.min_fraction = 1
            feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
        feature.ClearField("shape")
        for size in shape:
            feature.shape.dim.add(size=size)
    return schema


def preprocessing_fn(inputs: dict) -> dict:
    """Normalises vectors and turns labels into numbers.

    Args:
      inputs: image_id [batch] string; labels and phrases [batch, any] sparse string; and vectors,
        [batch, *shape] float32 each.

    Returns:
      image_id and phrases as they came; each vector with mean 0 and deviation 1 in each of its
      numbers over the training split; label_ids [batch, any] sparse int64 by
      falling frequency in training, −1 for a label that is not in training.
    """
    vectors = sorted(name for name, value in inputs.items() if value.dtype == tf.float32)
    return {
        "image_id": inputs["image_id"],
        "phrases": inputs["phrases"],
        **{name: _z_scores(inputs[name]) for name in vectors},
        "label_ids": tft.compute_and_apply_vocabulary(
            inputs["labels"], default_value=-1, vocab_filename=VOCABULARY
        ),
    }


def _z_scores(vectors: tf.Tensor) -> tf.Tensor:
    # Workers add up in any order. In float64 that shows in the last digits only, and not at all
    # once the sums are rounded to float32, so that one worker or many give the same rows.
    wide = tf.cast(vectors, tf.float64)
    mean = tf.cast(tft.mean(wide, reduce_instance_dims=False), tf.float32)
    deviation = tf.sqrt(tf.cast(tft.var(wide, reduce_instance_dims=False), tf.float32))
    # A constant dimension comes out as its distance from the mean: 0 in training.
    varies = deviation > CONSTANT * tf.abs(mean)
    scores = (vectors - mean) / tf.where(varies, deviation, tf.ones_like(deviation))
    return tf.clip_by_value(scores, -MAX_Z_SCORE, MAX_Z_SCORE)


def write_output(saved_model: str, metadata: dataset_metadata.DatasetMetadata, folder: str) -> None:
    """Lays out what tf.Transform learned as `tft.TFTransformOutput` reads it.

    Args:
      saved_model: the local folder of its graph.
      metadata: of the transformed examples.
      folder: a local folder, filled.
    """
    shutil.copytree(saved_model, os.path.join(folder, tft.TFTransformOutput.TRANSFORM_FN_DIR))
    metadata_io.write_metadata(
        metadata, os.path.join(folder, tft.TFTransformOutput.TRANSFORMED_METADATA_DIR)
    )


class Normaliser:
    """What tf.Transform learned, for vectors alone.

    tf.Transform's own layer does the same; but SavedModel traces each Keras layer that it saves,
    which takes longer than the rest of an export.

    Args:
      folder: that `write_output` wrote.

    Attributes:
      tracked: what a module has to hold so that a graph with the normalisation can be saved.
    """

    def __init__(self, folder: str):
        self.tracked = saved_models.load(tft.TFTransformOutput(folder).transform_savedmodel_dir)

    def __call__(self, vectors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """All vectors of the examples, [batch, *shape] each, as training saw them."""
        rows = tf.shape(next(iter(vectors.values())), out_type=tf.int64)[0]
        none = tf.SparseTensor(
            tf.zeros([0, 2], tf.int64), tf.zeros([0], tf.string), tf.stack([rows, 0])
        )
        others = {"image_id": tf.fill([rows], ""), "labels": none, "phrases": none}
        found = self.tracked.transform_fn({**vectors, **others})
        return {name: found[name] for name in vectors}


def read_labels(folder: str) -> list[str]:
    """The labels in the order of their ids, from what `write_output` wrote."""
    vocabulary = tft.TFTransformOutput(folder).vocabulary_by_name(VOCABULARY)
    return [label.decode() for label in vocabulary]


def canonical_example(serialized: bytes) -> bytes:
    """The same tf.Example with its features in the order of their names.

    They are a map, which protobuf writes in an order of the moment: equal rows would be
    different bytes in every run.
    """
    return tf.train.Example.FromString(serialized).SerializeToString(deterministic=True)
