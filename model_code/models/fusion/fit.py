"""Trains the fusion classifier and its ablations from examples, and asks them of a split."""

import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from model_code.metrics import classification as metrics
from model_code.models.fusion.data import Batch, ExampleReader, targets_of, truth
from model_code.models.fusion.family import INPUTS
from model_code.models.fusion.losses import loss
from model_code.models.fusion.network import Settings, build
from model_code.runtime import training


def predictor(model: keras.Model, reader: ExampleReader) -> Callable[[str], np.ndarray]:
    """A function from a split to its probabilities, [rows, labels] float32; compiled once.

    Args:
      model: from a dict of vectors, of which the reader has at least those.
      reader: the examples.
    """
    signature = {
        name: tf.TensorSpec([None, *reader.vectors[name]], tf.float32) for name in model.input
    }
    # TensorFlow counts how often a line of code was traced, and warns: each model has its own once.
    forward = functools.partial(model, training=False)
    call = tf.function(forward, input_signature=[signature], autograph=False)

    def predict(split: str) -> np.ndarray:
        found = [
            call({name: batch[name] for name in signature}).numpy()
            for batch in reader.batches(split)
        ]
        return np.concatenate(found)

    return predict


def train(
    label: str,
    name: str,
    folder: str,
    reader: ExampleReader,
    settings: Settings,
    *,
    seed: int,
    epochs: int,
    patience: int,
    min_steps: int,
    class_weights: np.ndarray,
) -> tuple[keras.Model, training.History]:
    """Trains one classifier to its best epoch on the validation split.

    Args:
      label: names the run in progress lines.
      name: a key of `INPUTS`.
      folder: local folder of its checkpoints, from which a killed run goes on.
      reader: the examples.
      settings: see `Settings`.
      seed: of weights, order and dropout.
      epochs: at most this many.
      patience: epochs without a better one before stopping.
      min_steps: an epoch goes over few examples again until it has this many batches.
      class_weights: [labels] float32.

    Returns:
      The model with its best weights, and the history; its "score" is what picked the epoch.
    """
    training.set_seed(seed)
    seen = {part: reader.vectors[part] for part in INPUTS[name]}
    num_labels = len(reader.labels)
    model = build(seen, num_labels, reader.multi, settings)
    scorer = keras.Model(model.input, model.get_layer("logits").output)
    optimizer = keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    weights = tf.constant(class_weights)
    variables = [variable.value for variable in model.trainable_variables]

    signature = {n: tf.TensorSpec([None, *shape], tf.float32) for n, shape in seen.items()}
    signature["label_ids"] = tf.TensorSpec([None, None], tf.int64)

    @tf.function(input_signature=[signature], autograph=False)
    def step(batch):
        targets = targets_of(batch["label_ids"], num_labels)
        with tf.GradientTape() as tape:
            logits = scorer({part: batch[part] for part in seen}, training=True)
            value = loss(logits, targets, reader.multi, weights)
        optimizer.apply(tape.gradient(value, variables), model.trainable_variables)
        return value

    valid_truth = truth(reader, "validation")
    predict = predictor(model, reader)

    def evaluate() -> dict[str, float]:
        return quick_metrics(predict("validation"), valid_truth, reader.multi)

    rows = reader.rows("train")
    passes = max(1, round(min_steps * reader.batch_size / rows))

    def batches(epoch: int) -> Iterator[tuple[Batch]]:
        for batch in reader.shuffled("train", seed, epoch, passes):
            yield ({part: batch[part] for part in signature},)

    history = training.fit(
        label,
        folder,
        {"model": model, "optimizer": optimizer},
        batches,
        step,
        evaluate=evaluate,
        epochs=epochs,
        steps_per_epoch=-(-rows * passes // reader.batch_size),
        monitor="score",
        patience=patience,
    )
    return model, history


def quick_metrics(probabilities: np.ndarray, truth: np.ndarray, multi: bool) -> dict[str, float]:
    """The metrics that choose epochs and settings; "score" settles ties of the first by nll."""
    nll = metrics.negative_log_likelihood(probabilities, truth, multi)
    if multi:
        main = {"map": metrics.mean_average_precision(probabilities, truth)}
    else:
        main = {"top1": metrics.top_k_accuracy(probabilities, truth, 1)}
    return main | {"nll": nll, "score": next(iter(main.values())) - 1e-6 * nll}
