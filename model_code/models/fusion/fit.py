"""The fusion classifier: named vectors → fully connected layers → labels, and its ablations."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from model_code.metrics import classification as metrics
from model_code.models.fusion.data import Batch, ExampleReader
from model_code.models.fusion.inputs import INPUTS
from model_code.runtime import training
from schemas.tables.vectors import Vectors


@dataclasses.dataclass(frozen=True)
class Settings:
    """What tuning chooses.

    Attributes:
      hidden: widths of the hidden layers; () is a linear classifier.
      learning_rate: of AdamW.
      dropout: share of inputs and hidden units dropped.
      weight_decay: share of each weight that a step takes away, times the learning rate.
      vector_dropout: share of examples whose text, and whose pixels, are dropped as a whole.
      pixel_scale: what pixels, of unit variance as text is, are multiplied by. There are many
        more numbers of them than of text: with few labels they drown it unless they are small.
    """

    hidden: tuple[int, ...]
    learning_rate: float
    dropout: float
    weight_decay: float
    vector_dropout: float = 0.0
    pixel_scale: float = 1.0


def build(vectors: Vectors, num_labels: int, multi: bool, settings: Settings) -> keras.Model:
    """The classifier.

    Args:
      vectors: what it sees: the shape of each vector, by name, in the order in which they are put
        together.
      num_labels: size of the result.
      multi: sigmoid for any number of labels, softmax for one.
      settings: see `Settings`.

    Returns:
      A model from {name: [batch, *shape] float32} to probabilities [batch, num_labels] float32;
      its layer "logits" holds what they are made of.
    """
    inputs = {name: keras.Input(shape, name=name) for name, shape in vectors.items()}
    parts = [_part(name, x, settings, len(inputs) > 1) for name, x in inputs.items()]
    x = keras.layers.Concatenate(name="parts")(parts) if len(parts) > 1 else parts[0]
    x = keras.layers.Dropout(settings.dropout, name="drop_input")(x)
    for n, width in enumerate(settings.hidden, start=1):
        x = keras.layers.Dense(width, "relu", name=f"hidden_{n}")(x)
        x = keras.layers.Dropout(settings.dropout, name=f"drop_hidden_{n}")(x)
    logits = keras.layers.Dense(num_labels, name="logits")(x)
    activation = "sigmoid" if multi else "softmax"
    return keras.Model(inputs, keras.layers.Activation(activation, name="probabilities")(logits))


def _part(name: str, x: keras.KerasTensor, settings: Settings, is_one_of_many: bool):
    """What the first layer sees of one vector: [batch, *shape] → [batch, product of the shape]."""
    if len(x.shape) > 2:
        x = keras.layers.Flatten(name=f"flat_{name}")(x)
    if name == "pixel_emb" and settings.pixel_scale != 1:
        x = keras.layers.Rescaling(settings.pixel_scale, name=f"scale_{name}")(x)
    if settings.vector_dropout and is_one_of_many:
        whole = {"noise_shape": (None, 1), "name": f"drop_{name}"}
        x = keras.layers.Dropout(settings.vector_dropout, **whole)(x)
    return x


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


def targets_of(label_ids: tf.Tensor, num_labels: int) -> tf.Tensor:
    """[batch, any] int64 filled with −1 → [batch, num_labels] float32 of 0 and 1."""
    return tf.reduce_sum(tf.one_hot(label_ids, num_labels), axis=1)


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


def truth(reader: ExampleReader, split: str) -> np.ndarray:
    """The true labels of a split: [rows, labels] bool."""
    batches = [
        targets_of(batch["label_ids"], len(reader.labels)) for batch in reader.batches(split)
    ]
    return np.concatenate(batches) > 0


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
        evaluate,
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
