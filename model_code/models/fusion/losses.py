"""What the classifiers are trained to make small."""

import numpy as np
import tensorflow as tf

from model_code.models.fusion.data import ExampleReader, truth


def loss(logits: tf.Tensor, targets: tf.Tensor, multi: bool, class_weights: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of softmax (one label) or, meaned over labels, of sigmoid (many).

    Args:
      logits: [batch, labels].
      targets: [batch, labels] of 0 and 1; a row of one label that has none teaches nothing.
      multi: which of the two.
      class_weights: [labels], how much a true label of each counts.

    Returns:
      The mean over the batch, a scalar.
    """
    if multi:
        positive = -tf.math.log_sigmoid(logits) * targets * class_weights
        negative = -tf.math.log_sigmoid(-logits) * (1 - targets)
        return tf.reduce_mean(positive + negative)
    return tf.reduce_mean(
        -tf.reduce_sum(tf.nn.log_softmax(logits) * targets * class_weights, axis=1)
    )


def class_weights(reader: ExampleReader, balanced: bool) -> np.ndarray:
    """How much each label counts: 1, or inverse to its training examples with mean 1 over them.

    Returns:
      [labels] float32.
    """
    if not balanced:
        return np.ones(len(reader.labels), np.float32)
    counts = truth(reader, "train").sum(axis=0)
    weights = counts.sum() / np.maximum(counts, 1) / (counts > 0).sum()
    return np.where(counts > 0, weights, 0).astype(np.float32)
