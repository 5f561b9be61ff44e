"""A network of our own for CPUs."""

import keras


def small_resnet(image_size: int, width: int = 16) -> keras.Model:
    """A residual network of 4 stages for CPUs: `width` channels, then 2, 4 and 8 times as many.

    Source: He et al., Identity Mappings in Deep Residual Networks, arXiv 1603.05027,
    with one block a stage; pooled by the maximum, so that a small object counts as much as
    its background.
    """
    layers = keras.layers

    def conv(x, channels: int, kernel: int, stride: int):
        return layers.Conv2D(
            channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(x)

    def normalise(x):
        # A short memory: the quickstart trains for a few hundred steps only.
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((image_size, image_size, 3))
    x = conv(inputs, width, 3, 2)
    for stage in range(4):
        channels, stride = width << stage, 1 if stage == 0 else 2
        y = normalise(x)
        shortcut = x if stage == 0 else conv(y, channels, 1, stride)
        x = layers.Add()([shortcut, conv(normalise(conv(y, channels, 3, stride)), channels, 3, 1)])
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(normalise(x)), name="small_resnet")
