"""Keys that copies share."""

import itertools
import random

import numpy as np
from PIL import Image

from tests.support.inputs.pictures import picture, thumbnails
from tests.support.oracles.copies import COPIES
from transforms.duplicates import bands
from transforms.duplicates import find as duplicates


class TestBandKeys:
    def test_copies_share_bands(self):
        for kind, copy in COPIES.items():
            shared = []
            for seed in range(15):
                image = picture(seed)
                packed = thumbnails(image, copy(image, random.Random(seed)))
                keys, useful = bands.band_keys(packed)
                equal = (keys[0] == keys[1][:1]) & useful[0] & useful[1][:1]
                back = (keys[1] == keys[0][:1]) & useful[1] & useful[0][:1]
                shared.append((equal | back).any(0).sum() >= duplicates.MIN_BANDS)
            assert np.mean(shared) >= 0.9, kind

    def test_each_band_has_keys_of_its_own(self):
        keys, useful = bands.band_keys(thumbnails(*(picture(seed) for seed in range(30))))
        assert keys.shape == useful.shape == (30, 16, bands.NUM_BANDS)
        of_band = [set(keys[:, :, band].ravel().tolist()) for band in range(bands.NUM_BANDS)]
        assert all(not a & b for a, b in itertools.combinations(of_band, 2))

    def test_an_image_of_one_colour_has_no_keys(self):
        _, useful = bands.band_keys(thumbnails(Image.new("RGB", (40, 30), "white")))
        assert not useful.any()
