"""A bottleneck between a backbone and the classes that it is trained to tell apart."""

import keras


def build(
    backbone: keras.Model, pixel_width: int, num_classes: int
) -> tuple[keras.Model, keras.Model]:
    """The pixel embedder, and the classifier that ends in it while it is trained.

    Args:
      backbone: preprocessed images → features.
      pixel_width: dimensions of the bottleneck.
      num_classes: of the classifier.

    Returns:
      Preprocessed images → [batch, pixel_width] float32, at least 0; and → [batch, num_classes]
      float32 logits. The second shares the layers of the first.
    """
    bottleneck = keras.layers.Dense(pixel_width, activation="relu", name="bottleneck")
    embedder = keras.Model(backbone.inputs, bottleneck(backbone.output))
    classifier = keras.Model(embedder.inputs, keras.layers.Dense(num_classes)(embedder.output))
    return embedder, classifier
