"""Decoding, resizing and preprocessing against Pillow and keras.applications."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from model_code.images import ops as image_ops
from model_code.images.source import ArraySource, ImageSource
from schemas.base.errors import PhraseLensError
from tests.support.datasets.mined_dataset import write_colours, write_mined
from tests.support.inputs.image_files import encode, photo


def picture(height, width, mode="RGB"):
    """Smooth enough that two resamplers agree, varied enough that a wrong one would not."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + 1), np.cos(y / 7), np.sin((x + y) / 11)]
    pixels = np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 100), (20, 16), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_resizes_as_pillow_does(height, width, mode):
    image = picture(height, width, mode)
    found = image_ops.decode_and_resize(tf.constant([encoded(image)]), 24).numpy()
    expected = np.asarray(image.convert("RGB").resize((24, 24), Image.Resampling.BILINEAR))
    assert (found.shape, found.dtype) == ((1, 24, 24, 3), np.uint8)
    assert np.abs(found[0].astype(int) - expected).max() <= 2


def test_jpeg_of_the_same_size_is_what_pillow_decodes():
    data = encoded(picture(32, 32), "JPEG")
    found = image_ops.decode_and_resize(tf.constant([data]), 32).numpy()[0]
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_two_sizes_of_one_decode_equal_two_decodes():
    images = tf.constant([encoded(picture(50, 40)), encoded(picture(30, 60), "JPEG")])
    both = image_ops.decode_and_resize_to(images, (16, 24))
    for size, found in zip((16, 24), both, strict=True):
        np.testing.assert_array_equal(found, image_ops.decode_and_resize(images, size))


def test_a_bad_image_raises():
    for bad in (b"", b"<html>", encoded(picture(30, 30))[:60]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            image_ops.decode_and_resize(tf.constant([encoded(picture(30, 30)), bad]), 16)


@pytest.mark.parametrize("name", ["tf", "torch", "caffe"])
def test_preprocessings_are_those_of_keras(name):
    pixels = np.asarray(picture(8, 8))[None]
    expected = keras.applications.imagenet_utils.preprocess_input(
        pixels.astype(np.float32), data_format="channels_last", mode=name
    )
    np.testing.assert_allclose(image_ops.preprocess(name, pixels), expected, atol=1e-4)


def test_unit_preprocessing():
    np.testing.assert_allclose(
        image_ops.preprocess("unit", np.array([[[[0, 51, 255]]]])), [[[[0, 0.2, 1]]]]
    )


def test_augmentation_depends_on_the_seed_and_differs_by_image():
    pixels = np.stack([np.asarray(picture(16, 16))] * 32)
    first, same, other = (image_ops.augment(pixels, [0, n]).numpy() for n in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert len(np.unique(first.reshape(32, -1), axis=0)) == 32
    assert first.min() >= 0
    assert first.max() <= 255
    # About half are mirrored: the ramp falls instead of rising.
    ramp = np.linspace(60, 160, 16).astype(np.uint8)
    ramp = np.broadcast_to(ramp[:, None], (400, 16, 16, 3))
    slopes = image_ops.augment(ramp, [0, 3]).numpy()
    falling = (slopes[:, 8, 0, 0] > slopes[:, 8, -1, 0]).mean()
    assert 0.4 < falling < 0.6


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    return write_colours(str(tmp_path_factory.mktemp("mined")), per_colour=10)


def test_cached_and_streamed_images_are_the_same(mined):
    keep = np.arange(30) % 3 != 1
    cached = ImageSource(mined, keep, 16, 1 << 30, "decode")
    streamed = ImageSource(mined, keep, 16, 0, "decode")
    files = np.array(mined.table("images")["image"].to_pylist(), object)[keep]
    expected = image_ops.decode_and_resize(tf.constant(files.tolist()), 16).numpy()
    for source in (cached, streamed):
        assert source.rows == 20
        np.testing.assert_array_equal(np.concatenate(list(source.in_order(7))), expected)
    for epoch in (1, 2):
        pairs = zip(cached.shuffled(6, 0, epoch), streamed.shuffled(6, 0, epoch), strict=True)
        seen = []
        for (rows, images), (streamed_rows, streamed_images) in pairs:
            np.testing.assert_array_equal(rows, streamed_rows)
            np.testing.assert_array_equal(images, streamed_images)
            np.testing.assert_array_equal(images, expected[rows])
            seen += rows.tolist()
        assert len(seen) == len(set(seen)) == 18


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, cache_bytes):
    """One that an older version kept: a PNG with a wrong checksum."""
    bad = bytearray(encode(photo(), "PNG"))
    bad[bad.index(b"IEND") - 5] ^= 1
    rows = [
        {"image_id": f"{i:032x}", "keys": [str(i)], "image": encode(photo(i), "PNG")}
        for i in range(9)
    ]
    rows[4]["image"] = bytes(bad)
    mined = write_mined(str(tmp_path), rows, [], [], [])
    with pytest.raises(PhraseLensError, match=rf"image {4:032x} of "):
        list(ImageSource(mined, np.ones(9, bool), 8, cache_bytes, "decode").in_order(4))
    ids = mined.table("images")["image_id"].to_pylist()
    keep = np.array([image_id != f"{4:032x}" for image_id in ids])
    others = ImageSource(mined, keep, 8, cache_bytes, "decode").in_order(4)
    assert sum(map(len, others)) == 8


def test_array_source_serves_like_an_image_source():
    array = np.arange(20).reshape(10, 2)
    source = ArraySource(array)
    batches = list(source.shuffled(4, 0, 1))
    assert len(batches) == 2
    for rows, values in batches:
        np.testing.assert_array_equal(values, array[rows])
    np.testing.assert_array_equal(np.concatenate(list(source.in_order(3))), array)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP"])
def test_only_jpeg_and_png_are_decoded(kind):
    """A served model is given what people send; a GIF of 10,000 frames would be decoded whole."""
    files = [encoded(picture(20, 16), name) for name in ("JPEG", "PNG", kind)]
    assert image_ops.decode_and_resize(tf.constant(files[:2]), 8).shape == (2, 8, 8, 3)
    for bad in (files[2], b"", b"\xff"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            image_ops.decode_and_resize(tf.constant([bad]), 8)
