"""Copies and strangers told apart."""

import itertools
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.inputs.pictures import picture, thumbnails
from tests.support.oracles.copies import COPIES, watermarked
from transforms.duplicates import compare as signatures
from transforms.duplicates.compare import COPY, MARKED, NONE, Limits
from transforms.duplicates.signature import SIDE


def compare(first, second):
    kinds, differences = signatures.compare(thumbnails(first), thumbnails(second), Limits())
    return kinds[0], differences[0]


class TestAlign:
    @pytest.mark.parametrize(
        ("left", "top", "share"), [(0, 0, 0.95), (0.05, 0.02, 0.95), (0.05, 0.05, 0.9)]
    )
    def test_finds_the_window_that_was_cut_out(self, left, top, share):
        whole = picture(1, 400)
        window = whole.crop(tuple(round(400 * v) for v in (left, top, left + share, top + share)))
        a, b = thumbnails(whole)[:, 0], thumbnails(window)[:, 0]
        start = np.array([[1, 0, 1, 0]], np.float32)
        (found,) = signatures.align(a, b, start, (3.0,) * 6 + (1.0,) * 6)
        expected = [share, left + share / 2 - 0.5, share, top + share / 2 - 0.5]
        assert found == pytest.approx(expected, abs=0.25 / SIDE)


class TestCompare:
    @pytest.mark.parametrize("kind", ["reencoded", "resized", "cropped", "cropped_each_side"])
    def test_takes_copies_for_copies(self, kind):
        images = [picture(seed) for seed in range(20)]
        copies = [COPIES[kind](image, random.Random(i)) for i, image in enumerate(images)]
        a, b = thumbnails(*images), thumbnails(*copies)
        for first, second in ((a, b), (b, a)):
            kinds, _ = signatures.compare(first, second, Limits())
            assert (kinds == COPY).mean() >= 0.9

    def test_sees_through_a_mark(self):
        image = picture(3)
        layer = Image.new("RGB", image.size, "white")
        mask = Image.new("L", image.size, 0)
        mask.paste(128, (40, 60, 90, 100))
        marked = Image.composite(layer, image, mask)
        kind, difference = compare(image, marked)
        assert kind == MARKED
        assert difference > compare(image, image)[1]

    def test_does_not_see_through_what_replaces_the_picture(self):
        image, other = picture(4), picture(5)
        replaced = image.copy()
        replaced.paste(other.crop((40, 60, 90, 100)), (40, 60))
        assert compare(image, replaced)[0] == NONE

    def test_tells_a_colour_from_another(self):
        red, green = (Image.new("RGB", (96, 96), "white") for _ in range(2))
        # Equal luma.
        ImageDraw.Draw(red).ellipse((20, 20, 76, 76), (200, 60, 60))
        ImageDraw.Draw(green).ellipse((20, 20, 76, 76), (60, 131, 60))
        assert compare(red, green)[0] == NONE

    def test_tells_strangers(self):
        images = thumbnails(*(picture(seed) for seed in range(20)))
        first, second = np.array(list(itertools.combinations(range(20), 2))).T
        kinds, differences = signatures.compare(images[first], images[second], Limits())
        assert (kinds == NONE).all()
        assert len(differences) == len(first)

    def test_a_pair_does_not_depend_on_the_others(self):
        images = thumbnails(*(picture(seed) for seed in range(6)))
        copies = thumbnails(*(watermarked(picture(s), random.Random(s)) for s in range(6)))
        together = signatures.compare(images, copies, Limits())
        for i in range(6):
            alone = signatures.compare(images[i : i + 1], copies[i : i + 1], Limits())
            assert alone[0][0] == together[0][i]
            assert alone[1][0] == together[1][i]
