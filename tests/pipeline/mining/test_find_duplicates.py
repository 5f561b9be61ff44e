"""The benchmark of near duplicates in small, on scenes that are drawn here."""

import dataclasses
import random

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from samples import scenes
from tests.support.oracles import copies
from transforms.images.clean import clean_image


@pytest.fixture(scope="module")
def known():
    seed, side, count = 5, 112, 40
    originals = {}
    for index in range(count):
        scene = scenes.scene_of(seed, index)
        pixels = scenes.draw(scene, side, np.random.default_rng([seed, index]))
        originals[scenes.key_of(index)] = Image.fromarray(pixels)
    return copies.with_copies(originals, seed)


@pytest.fixture(scope="module")
def found(known):
    return copies.find(known, num_shards=3, workers=1)


def test_finds_copies_and_tells_strangers(known, found):
    quality = copies.quality(known, found)
    assert quality.recall["all"] >= 0.95
    assert quality.precision >= 0.99
    assert quality.leaks == 0
    assert all(quality.recall[kind] >= 0.8 for kind in copies.COPIES)


def test_the_largest_image_stands_for_its_cluster(known, found):
    size = {
        row["image_id"]: (-row["width"] * row["height"], row["image_id"])
        for table in known.tables
        for row in table.to_pylist()
    }
    first: dict = {}
    for image, representative in found.items():
        first[representative] = min(first.get(representative, size[image]), size[image])
    assert all(size[representative] == best for representative, best in first.items())


def test_order_bundles_shards_and_repeated_images_change_nothing(known, found):
    rows = pa.concat_tables(known.tables)
    order = list(range(rows.num_rows)) + list(range(0, rows.num_rows, 3))
    random.Random(0).shuffle(order)
    tables = [rows.take(order[start : start + 17]) for start in range(0, len(order), 17)]
    assert copies.find(dataclasses.replace(known, tables=tables), 5, workers=1) == found


def test_images_of_one_colour_are_left_alone():
    files = {
        name: copies.encoded(Image.new("RGB", (side, side), colour), "PNG")
        for name, colour, side in (
            ("small", "white", 40),
            ("large", "white", 80),
            ("other", (250, 250, 250), 40),
        )
    }
    cleans = [(name, clean_image(data, copies.LIMITS)) for name, data in files.items()]
    picture = {clean.image_id: name for name, clean in cleans}
    known = copies.Known(copies.tables_of(cleans), picture, {})
    assert copies.find(known, 2, workers=1) == {image: image for image in picture}
