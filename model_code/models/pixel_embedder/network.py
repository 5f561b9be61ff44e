"""The pixel embedder where it is trained: a bottleneck on a backbone, which learns the labels."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from model_code.images import ops as image_ops
from model_code.images.source import ImageSource
from model_code.models.pixel_embedder.data import Targets
from model_code.models.pixel_embedder.losses import loss as loss_of

_BATCH = 256  # images that go through the network at once in the evaluation


def build(backbone: keras.Model, width: int, classes: int) -> tuple[keras.Model, keras.Model]:
    """The embedder, preprocessed [B, S, S, 3] float32 → [B, width]; and with [B, classes] logits.

    Args:
      backbone: preprocessed images → features.
      width: of the bottleneck.
      classes: of the labels.
    """
    bottleneck = keras.layers.Dense(width, activation="relu", name="bottleneck")
    embedder = keras.Model(backbone.inputs, bottleneck(backbone.output))
    logits = keras.layers.Dense(classes)(embedder.output)
    return embedder, keras.Model(embedder.inputs, logits)


def training_step(
    classifier: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    task: str,
    preprocessing: str,
    *,
    augment: bool,
) -> Callable[..., tf.Tensor]:
    """(pixels [B, S, S, 3] uint8, targets [B, classes] float32, seed [2] int32) → the loss."""

    @tf.function(autograph=False)  # it branches on no tensor
    def step(pixels, targets, seed):
        pixels = image_ops.augment(pixels, seed) if augment else pixels
        inputs = image_ops.preprocess(preprocessing, pixels)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_of(classifier(inputs, training=True), targets, task))
        variables = [variable.value for variable in classifier.trainable_variables]
        optimizer.apply(tape.gradient(loss, variables), classifier.trainable_variables)
        return loss

    return step


def evaluate(
    predict: Callable, images: ImageSource, targets: Targets, task: str
) -> dict[str, float]:
    """The loss on held-out images, and the share whose best class is one of theirs.

    Args:
      predict: pixels → logits.
      images: may be none.
      targets: of as many images.
      task: see `losses.loss`.
    """
    if not images.rows:
        return {}
    start, loss, best = 0, 0.0, 0
    for pixels in images.in_order(_BATCH):
        logits = np.asarray(predict(pixels))
        wanted = targets.of(np.arange(start, start + len(logits)))
        best += int((np.take_along_axis(wanted, logits.argmax(1)[:, None], 1) > 0).sum())
        loss += len(logits) * float(tf.reduce_mean(loss_of(logits, wanted, task)))
        start += len(logits)
    return {"validation_loss": loss / start, "validation_top1": best / start}
