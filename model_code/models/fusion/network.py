"""The classifier: fully connected layers over named vectors."""

import dataclasses

import keras

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
