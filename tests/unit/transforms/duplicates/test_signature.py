"""What a signature says of an image."""

import numpy as np
import pytest
from PIL import Image

from tests.support.inputs.pictures import picture, thumbnails
from transforms.duplicates import signature
from transforms.duplicates.signature import SIGNATURE_BYTES


class TestSignature:
    def test_is_bounded_and_equal_for_equal_pixels(self):
        for size in ((1, 1), (3, 500), (160, 160)):
            image = picture(0).resize(size)
            assert len(signature.signature(image)) == SIGNATURE_BYTES
            assert signature.signature(image) == signature.signature(image.copy())

    def test_holds_luma_and_chroma(self):
        (luma, cb, cr), *_ = thumbnails(Image.new("RGB", (50, 40), (200, 30, 60)))
        # JPEG's YCbCr (JFIF 1.02).
        assert luma == pytest.approx(0.299 * 200 + 0.587 * 30 + 0.114 * 60, abs=1)
        assert cb == pytest.approx(128 - 0.1687 * 200 - 0.3313 * 30 + 0.5 * 60, abs=1)
        assert cr == pytest.approx(128 + 0.5 * 200 - 0.4187 * 30 - 0.0813 * 60, abs=1)

    def test_knows_images_without_detail(self):
        noise = np.random.default_rng(0).integers(120, 124, (64, 64, 3)).astype(np.uint8)
        flat = [Image.new("RGB", (40, 30), colour) for colour in ("white", "red", "black")]
        assert signature.is_flat(thumbnails(*flat, Image.fromarray(noise))).all()
        assert not signature.is_flat(thumbnails(picture(0))).any()
