"""What tf.Transform learns from the features and applies to them, in training and serving."""

from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

SCHEMA_FILE = Path(__file__).resolve().parent.parent / "schemas" / "features.pbtxt"
UNKNOWN_LABEL = -1


def raw_schema(text_width: int, pixel_width: int) -> schema_pb2.Schema:
    """The TFMD schema of the features table for vectors of these widths."""
    schema = text_format.Parse(SCHEMA_FILE.read_text(), schema_pb2.Schema())
    widths = {"text_emb": text_width, "pixel_emb": pixel_width}
    for feature in schema.feature:
        if feature.name in widths:
            feature.shape.dim.add(size=widths[feature.name])
    return schema


def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The graph of tf.Transform.

    Args:
      inputs: `image_id` [B] string, `labels` and `phrases` sparse string, `text_emb` [B, T]
        and `pixel_emb` [B, P] float32.

    Returns:
      `image_id` and `phrases` as they are; `text_emb` and `pixel_emb` with mean 0 and
      deviation 1 in every dimension over the training rows (constant dimensions become 0);
      `label_ids` sparse int64, places in the vocabulary "labels", UNKNOWN_LABEL for a label
      that no training row has.
    """
    return {
        "image_id": inputs["image_id"],
        "phrases": inputs["phrases"],
        "text_emb": tft.scale_to_z_score(inputs["text_emb"], elementwise=True),
        "pixel_emb": tft.scale_to_z_score(inputs["pixel_emb"], elementwise=True),
        "label_ids": tft.compute_and_apply_vocabulary(
            inputs["labels"], default_value=UNKNOWN_LABEL, vocab_filename="labels"
        ),
    }
