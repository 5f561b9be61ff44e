"""The fusion classifier: [text, pixels] → fully connected layers → labels, and its ablations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from model_code.metrics import classification as metrics
from model_code.models.fusion.data import ExampleReader
from model_code.runtime import training

# What each classifier sees: the same network, training and tuning for all three.
PARTS = {
    "pixel": ("pixel_emb",),
    "text": ("text_emb",),
    "fused": ("text_emb", "pixel_emb"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What tuning chooses.

    Attributes:
      hidden: widths of the hidden layers; () is a linear classifier.
      learning_rate: of AdamW.
      dropout: share of inputs and hidden units dropped.
      weight_decay: share of each weight that a step takes away, times the learning rate.
      part_dropout: share of examples whose text, and whose pixels, are dropped as a whole.
      pixel_scale: what pixels, of unit variance as text is, are multiplied by. There are many
        more numbers of them than of text: with few labels they drown it unless they are small.
    """

    hidden: tuple[int, ...]
    learning_rate: float
    dropout: float
    weight_decay: float
    part_dropout: float = 0.0
    pixel_scale: float = 1.0


def build(
    parts: tuple[str, ...],
    widths: Mapping[str, int],
    num_labels: int,
    multi: bool,
    settings: Settings,
) -> keras.Model:
    """The classifier.

    Args:
      parts: names of the vectors that it sees, see `PARTS`.
      widths: width of each vector, by name.
      num_labels: size of the result.
      multi: sigmoid for any number of labels, softmax for one.
      settings: see `Settings`.

    Returns:
      A model from {part: [batch, width] float32} to probabilities [batch, num_labels] float32;
      its layer "logits" holds what they are made of.
    """
    inputs = {part: keras.Input((widths[part],), name=part) for part in parts}
    seen = list(inputs.values())
    if settings.pixel_scale != 1:
        scale = keras.layers.Rescaling(settings.pixel_scale, name="scale_pixel_emb")
        seen = [scale(x) if part == "pixel_emb" else x for part, x in inputs.items()]
    if settings.part_dropout and len(parts) > 1:
        seen = [
            keras.layers.Dropout(settings.part_dropout, noise_shape=(None, 1), name=f"drop_{part}")(
                x
            )
            for part, x in zip(parts, seen, strict=True)
        ]
    x = keras.layers.Concatenate(name="parts")(seen) if len(seen) > 1 else seen[0]
    x = keras.layers.Dropout(settings.dropout, name="drop_input")(x)
    for n, width in enumerate(settings.hidden, start=1):
        x = keras.layers.Dense(width, "relu", name=f"hidden_{n}")(x)
        x = keras.layers.Dropout(settings.dropout, name=f"drop_hidden_{n}")(x)
    logits = keras.layers.Dense(num_labels, name="logits")(x)
    activation = "sigmoid" if multi else "softmax"
    return keras.Model(inputs, keras.layers.Activation(activation, name="probabilities")(logits))


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
    batches = [targets_of(ids, len(reader.labels)) for *_, ids in reader.batches(split)]
    return np.concatenate(batches) > 0


def predictor(
    model: keras.Model, parts: tuple[str, ...], reader: ExampleReader
) -> Callable[[str], np.ndarray]:
    """A function from a split to its probabilities, [rows, labels] float32; compiled once."""
    signature = {part: tf.TensorSpec([None, reader.widths[part]], tf.float32) for part in parts}
    # TensorFlow counts how often a line of code was traced, and warns: each model has its own once.
    forward = functools.partial(model, training=False)
    call = tf.function(forward, input_signature=[signature], autograph=False)

    def predict(split: str) -> np.ndarray:
        found = []
        for text_emb, pixel_emb, _ in reader.batches(split):
            vectors = {"text_emb": text_emb, "pixel_emb": pixel_emb}
            found.append(call({part: vectors[part] for part in parts}).numpy())
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
      name: a key of `PARTS`.
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
    parts, num_labels = PARTS[name], len(reader.labels)
    model = build(parts, reader.widths, num_labels, reader.multi, settings)
    scorer = keras.Model(model.input, model.get_layer("logits").output)
    optimizer = keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    weights = tf.constant(class_weights)
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, reader.widths["text_emb"]], tf.float32),
            tf.TensorSpec([None, reader.widths["pixel_emb"]], tf.float32),
            tf.TensorSpec([None, None], tf.int64),
        ],
        autograph=False,
    )
    def step(text_emb, pixel_emb, label_ids):
        vectors = {"text_emb": text_emb, "pixel_emb": pixel_emb}
        targets = targets_of(label_ids, num_labels)
        with tf.GradientTape() as tape:
            logits = scorer({part: vectors[part] for part in parts}, training=True)
            value = loss(logits, targets, reader.multi, weights)
        optimizer.apply(tape.gradient(value, variables), model.trainable_variables)
        return value

    valid_truth = truth(reader, "validation")
    predict = predictor(model, parts, reader)

    def evaluate() -> dict[str, float]:
        return quick_metrics(predict("validation"), valid_truth, reader.multi)

    rows = reader.rows("train")
    passes = max(1, round(min_steps * reader.batch_size / rows))
    history = training.fit(
        label,
        folder,
        {"model": model, "optimizer": optimizer},
        lambda epoch: reader.shuffled("train", seed, epoch, passes),
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
