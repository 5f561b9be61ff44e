"""The tf.Examples of training pairs: an image at training resolution and its clicked queries."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from model_code.images import ops as image_ops

_JPEG_QUALITY = 95
_IMAGE = {"image": tf.io.FixedLenFeature([], tf.string)}
_PAIRS = {
    "queries": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    "weights": tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64),
}
_TEXTS = {"texts": tf.io.RaggedFeature(tf.string)}


class PairEncoder:
    """Makes of an image's file what an example holds of it.

    Args:
      size: side of the squares that images are resized to, in pixels.
      encoding: "raw" (size · size · 3 bytes RGB), "png" (the same pixels) or "jpeg" (nearly).
    """

    def __init__(self, size: int, encoding: str):
        compress = _COMPRESS[encoding]

        def encode(files: tf.Tensor) -> tf.Tensor:
            pixels = image_ops.decode_and_resize(files, size)
            if compress is None:
                return pixels
            return tf.map_fn(compress, pixels, fn_output_signature=tf.string)

        self._encode = tf.function(
            encode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
        )

    def encode(self, files: Sequence[bytes]) -> list[bytes]:
        """JPEG or PNG files → images for `example`.

        Raises:
          tf.errors.InvalidArgumentError: one of the files cannot be decoded.
        """
        if not files:
            return []
        encoded = self._encode(tf.constant(files)).numpy()
        return [image if isinstance(image, bytes) else image.tobytes() for image in encoded]


_COMPRESS = {
    "raw": None,
    "png": tf.io.encode_png,
    "jpeg": lambda pixels: tf.io.encode_jpeg(
        pixels, "rgb", quality=_JPEG_QUALITY, chroma_downsampling=False
    ),
}


def example(
    image_id: str,
    image: bytes,
    queries: np.ndarray,
    weights: np.ndarray,
    texts: Sequence[str] | None = None,
) -> bytes:
    """One serialised tf.Example, the same bytes for the same values.

    Args:
      image_id: of the image.
      image: from `PairEncoder.encode`.
      queries: [n] int64 ranks of its clicked head queries, rising.
      weights: [n] float32 click shares that sum to 1.
      texts: all its clicked queries; None leaves them out.
    """
    feature = {
        "image_id": _bytes([image_id.encode()]),
        "image": _bytes([image]),
        "queries": tf.train.Feature(int64_list=tf.train.Int64List(value=queries)),
        "weights": tf.train.Feature(float_list=tf.train.FloatList(value=weights)),
    }
    if texts is not None:
        feature["texts"] = _bytes([text.encode() for text in texts])
    found = tf.train.Example(features=tf.train.Features(feature=feature))
    # Features are a map, which protobuf would write in an order of the moment.
    return found.SerializeToString(deterministic=True)


def _bytes(values: list[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def parse_images(records: tf.Tensor, size: int, encoding: str) -> tf.Tensor:
    """[B] serialised examples → [B, size, size, 3] uint8."""
    images = tf.io.parse_example(records, _IMAGE)["image"]
    if encoding == "raw":
        return tf.reshape(tf.io.decode_raw(images, tf.uint8), [-1, size, size, 3])
    return tf.map_fn(
        lambda data: tf.ensure_shape(
            tf.io.decode_image(data, channels=3, expand_animations=False), [size, size, 3]
        ),
        images,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
    )


def parse_pairs(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """[B] serialised examples → offsets, queries and weights of `ClickedQueries`."""
    parsed = tf.io.parse_example(records, _PAIRS)
    return parsed["queries"].row_splits, parsed["queries"].values, parsed["weights"].values


def parse_texts(records: tf.Tensor) -> list[list[str]]:
    """[B] serialised examples → the texts of each."""
    found = tf.io.parse_example(records, _TEXTS)["texts"].to_list()
    return [[text.decode() for text in row] for row in found]
