"""What the classifier over the bottleneck is trained to make small."""

import tensorflow as tf


def loss(logits: tf.Tensor, targets: tf.Tensor, task: str) -> tf.Tensor:
    """Cross-entropy of each image.

    Args:
      logits: [batch, classes] float32.
      targets: [batch, classes] float32; of task "single" each row adds up to 1.
      task: "single" (softmax) or "multi" (sigmoid, added up over classes); see `task_of`.

    Returns:
      [batch] float32.
    """
    if task == "single":
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), 1)
