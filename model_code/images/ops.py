"""From image bytes to what a network reads: the same graph in training, embedding and serving."""

from collections.abc import Sequence

import tensorflow as tf

_MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]
_IMAGENET_STD = (0.229, 0.224, 0.225)


def decode_and_resize(images: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes JPEG or PNG images and resizes them to squares; the aspect ratio is not kept.

    Args:
      images: [B] string, the files' bytes.
      size: height and width in pixels.

    Returns:
      [B, size, size, 3] uint8 RGB, bilinear with antialiasing. Rounded, so that what a cache
      holds and what a served model computes are the same numbers.

    Raises:
      tf.errors.InvalidArgumentError: one of the images cannot be decoded.
    """
    return decode_and_resize_to(images, (size,))[0]


def decode_and_resize_to(images: tf.Tensor, sizes: Sequence[int]) -> tuple[tf.Tensor, ...]:
    """Like `decode_and_resize`, to several sizes after one decode."""

    def one(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.control_dependencies([_assert_format(data)]):
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
        resized = [tf.image.resize(pixels, (s, s), "bilinear", antialias=True) for s in sizes]
        return tuple(tf.cast(tf.clip_by_value(tf.round(r), 0, 255), tf.uint8) for r in resized)

    signature = tuple(tf.TensorSpec((size, size, 3), tf.uint8) for size in sizes)
    with tf.device("/CPU:0"):  # A copy to a GPU and back for each image costs more than it saves.
        return tf.map_fn(one, images, fn_output_signature=signature)


def _assert_format(data: tf.Tensor) -> tf.Operation:
    """JPEG and PNG alone: of a GIF, TensorFlow decodes all frames to give the first."""
    starts = [tf.strings.substr(data, 0, len(magic)) == magic for magic in _MAGICS]
    return tf.debugging.Assert(tf.reduce_any(starts), ["expected a JPEG or PNG file"])


def preprocess(name: str, pixels: tf.Tensor) -> tf.Tensor:
    """Scales pixels as the weights of a network expect them.

    Args:
      name: "tf" (−1 to 1), "unit" (0 to 1), "torch" (ImageNet mean and deviation) or "caffe"
        (BGR less the ImageNet mean), as `keras.applications.imagenet_utils` defines them.
      pixels: [B, H, W, 3] RGB, 0 to 255, uint8 or float32.

    Returns:
      [B, H, W, 3] float32.

    Raises:
      KeyError: there is no such preprocessing.
    """
    return PREPROCESSINGS[name](tf.cast(pixels, tf.float32))


PREPROCESSINGS = {
    "tf": lambda x: x / 127.5 - 1,
    "unit": lambda x: x / 255,
    "torch": lambda x: (x / 255 - _IMAGENET_MEAN) / _IMAGENET_STD,
    "caffe": lambda x: x[..., ::-1] - (103.939, 116.779, 123.68),
}


def augment(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flips, crops and tints each image at random, by the seed alone.

    Args:
      pixels: [B, S, S, 3] uint8 RGB.
      seed: [2] integer.

    Returns:
      [B, S, S, 3] float32, 0 to 255: mirrored for half of the images, a crop of 80 to 100 %
      of each side, brightness and each colour within 20 %.
    """
    batch, size = tf.shape(pixels)[0], pixels.shape[1]
    # One independent stream of random numbers for each of the operations.
    flips, sides, places, tints = tf.unstack(
        tf.random.experimental.stateless_split(tf.cast(seed, tf.int32), 4)
    )
    side = tf.random.stateless_uniform([batch, 1], sides, 0.8, 1.0)
    corner = tf.random.stateless_uniform([batch, 2], places) * (1 - side)
    boxes = tf.concat([corner, corner + side], 1)
    mirrored = tf.random.stateless_uniform([batch, 1], flips) < 0.5
    boxes = tf.where(mirrored, tf.gather(boxes, [0, 3, 2, 1], axis=1), boxes)
    cropped = tf.image.crop_and_resize(pixels, boxes, tf.range(batch), (size, size))
    tint = tf.random.stateless_uniform([batch, 1, 1, 3], tints, 0.8, 1.2)
    return tf.clip_by_value(cropped * tint, 0, 255)
