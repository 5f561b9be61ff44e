"""Colours are those that a viewer shows, whatever space a file's numbers are in."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.support.inputs import icc_profiles
from tests.support.inputs.icc_profiles import (
    ADOBE,
    ADOBE_RGB,
    D50,
    D65,
    P3,
    PROPHOTO,
    SRGB,
    shown,
)
from tests.support.inputs.image_files import HEIC, encode, photo
from transforms.images.clean import CleanImage, ImageLimits, clean_image
from transforms.images.colours import conversion

SPACES = {
    "Adobe RGB": (ADOBE, 563 / 256, D65),
    "Display P3": (P3, None, D65),
    "ProPhoto RGB": (PROPHOTO, 1.8, D50),
    "sRGB": (SRGB, None, D65),
}
PROFILES = {name: icc_profiles.rgb(*space) for name, space in SPACES.items()}


def clean(data: bytes) -> CleanImage:
    return clean_image(data, ImageLimits())


def colour(data: bytes) -> tuple[int, int, int]:
    """The colour in the middle of a clean image."""
    with Image.open(io.BytesIO(clean(data).data)) as image:
        assert "icc_profile" not in image.info
        return image.convert("RGB").getpixel((image.width // 2, image.height // 2))


def flat(mode: str, value, **options) -> bytes:
    kind = options.pop("kind", "PNG")
    return encode(Image.new(mode, (24, 16), value), kind, **options)


def near(found, expected, levels=3) -> bool:
    return np.abs(np.subtract(found, expected)).max() <= levels


def test_a_green_of_adobe_rgb_is_green():
    assert near(colour(flat("RGB", (117, 199, 75), icc_profile=ADOBE_RGB)), (40, 200, 60))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(SPACES)), st.tuples(*[st.integers(0, 255)] * 3))
def test_colours_are_converted_as_their_space_defines(name, value):
    found = colour(flat("RGB", value, icc_profile=PROFILES[name]))
    # Near black the curve of sRGB is steep: a level of rounding is several levels.
    assert near(found, shown(value, *SPACES[name]), 4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_profiles_of_every_format_are_applied(kind, options):
    data = flat("RGB", (117, 199, 75), kind=kind, icc_profile=ADOBE_RGB, **options)
    assert near(colour(data), (40, 200, 60), 6)


def test_profiles_are_applied_to_every_mode():
    green = Image.new("RGB", (24, 16), (117, 199, 75))
    for image in (green.convert("RGBA"), green.quantize(4), green.convert("RGBX")):
        kind = "TIFF" if image.mode == "RGBX" else "PNG"
        assert near(colour(encode(image, kind, icc_profile=ADOBE_RGB)), (40, 200, 60)), image.mode
    half = colour(flat("RGBA", (117, 199, 75, 128), icc_profile=ADOBE_RGB))
    assert near(half, (147, 227, 157)), "converted first, then composed on white"


def test_grey_profiles():
    expected = shown((128,) * 3, SRGB, 1.0)
    linear = icc_profiles.grey(1.0)
    assert near(colour(flat("L", 128, icc_profile=linear)), expected)
    assert near(colour(flat("LA", (128, 255), icc_profile=linear)), expected)
    assert near(colour(flat("I;16", 128 * 257, icc_profile=linear)), expected)
    proof = icc_profiles.rgb(SRGB, 1.0)
    assert near(colour(flat("L", 128, icc_profile=proof)), expected), "grey with one of colours"


def test_cmyk_profiles():
    """Of one that says that all ink is a light grey, and of ink without any profile."""
    profile = icc_profiles.cmyk(200, 128, 128)
    for kind in ("JPEG", "TIFF"):
        options = {"kind": kind, "icc_profile": profile}
        assert near(colour(flat("CMYK", (0, 255, 255, 0), **options)), (193,) * 3, 20)
        assert near(colour(flat("CMYK", (0, 0, 0, 0), **options)), (255,) * 3)
        assert near(colour(flat("CMYK", (0, 255, 255, 0), kind=kind)), (255, 0, 0))


def test_lab():
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (24, 16), (200, 30, 60)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    lab.info.clear()
    assert near(colour(encode(lab, "TIFF")), (200, 30, 60), 4)


UNUSABLE = {
    "cut": icc_profiles.BROKEN,
    "garbage": b"no profile",
    "empty": b"",
    "of grey": icc_profiles.GREY_10,
    "of ink": icc_profiles.cmyk(200, 128, 128),
    "of zeros": bytes(4096),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_profile_that_cannot_be_used_counts_for_nothing(name):
    for kind in ("PNG", "JPEG"):
        data = flat("RGB", (117, 199, 75), kind=kind, icc_profile=UNUSABLE[name])
        assert near(colour(data), (117, 199, 75), 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_of_a_profile_leaves_an_image(changes):
    profile = bytearray(ADOBE_RGB)
    for place, value in changes:
        profile[place % len(profile)] = value
    assert clean(flat("RGB", (117, 199, 75), icc_profile=bytes(profile))).width == 24


def test_files_in_srgb_keep_their_pixels_bit_by_bit():
    created = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (icc_profiles.SRGB_PROFILE, created, icc_profiles.BROKEN, None):
        for kind in ("JPEG", "PNG"):
            plain = encode(photo(), kind)
            named = encode(photo(), kind, icc_profile=profile)
            assert clean(named) == clean(plain)
            assert clean(named).data == plain
        assert conversion("RGB", profile) is None


def test_the_same_picture_in_two_spaces_is_nearly_the_same():
    """So that near duplicates are found across spaces: signatures are those of sRGB."""
    picture = photo(3, 64, 64)
    adobe = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(ADOBE_RGB))
    )
    adobe.info.clear()
    signatures = [
        np.frombuffer(clean(data).signature, np.uint8).astype(int)
        for data in (
            encode(picture, "PNG"),
            encode(adobe, "PNG", icc_profile=ADOBE_RGB),
            encode(adobe, "PNG"),
        )
    ]
    assert np.abs(signatures[0] - signatures[1]).max() <= 3
    assert np.abs(signatures[0] - signatures[2]).max() > 6


def test_heic_without_a_profile():
    with Image.open(io.BytesIO(clean(HEIC).data)) as image:
        assert near(image.getpixel((4, 8)), (200, 30, 60), 10)
        assert near(image.getpixel((20, 8)), (20, 160, 220), 10)
