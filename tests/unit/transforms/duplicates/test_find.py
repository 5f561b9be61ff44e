import itertools
import random
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from schemas.base import fingerprint
from tests.support.oracles.copies import COPIES, watermarked
from transforms.duplicates import bands
from transforms.duplicates import compare as signatures
from transforms.duplicates import find as duplicates
from transforms.duplicates.compare import (
    COPY,
    MARKED,
    NONE,
    SIDE,
    SIGNATURE_BYTES,
    Limits,
)


def picture(seed, side=160):
    """A drawing of some shapes on a gradient."""
    rng = random.Random(seed)

    def colour():
        return tuple(rng.randrange(256) for _ in range(3))

    corners = np.array([[colour(), colour()], [colour(), colour()]], np.uint8)
    image = Image.fromarray(corners).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, size = rng.random(), rng.random(), rng.uniform(0.1, 0.35)
        draw = rng.choice((pen.ellipse, pen.rectangle))
        draw([side * v for v in (x - size / 2, y - size / 2, x + size / 2, y + size / 2)], colour())
    return image


def thumbnails(*images):
    packed = [np.frombuffer(signatures.signature(image), np.uint8) for image in images]
    return signatures.pixels_of(np.stack(packed))


def compare(first, second):
    kinds, differences = signatures.compare(thumbnails(first), thumbnails(second), Limits())
    return kinds[0], differences[0]


class TestSignature:
    def test_is_bounded_and_equal_for_equal_pixels(self):
        for size in ((1, 1), (3, 500), (160, 160)):
            image = picture(0).resize(size)
            assert len(signatures.signature(image)) == SIGNATURE_BYTES
            assert signatures.signature(image) == signatures.signature(image.copy())

    def test_holds_luma_and_chroma(self):
        (luma, cb, cr), *_ = thumbnails(Image.new("RGB", (50, 40), (200, 30, 60)))
        # JPEG's YCbCr (JFIF 1.02).
        assert luma == pytest.approx(0.299 * 200 + 0.587 * 30 + 0.114 * 60, abs=1)
        assert cb == pytest.approx(128 - 0.1687 * 200 - 0.3313 * 30 + 0.5 * 60, abs=1)
        assert cr == pytest.approx(128 + 0.5 * 200 - 0.4187 * 30 - 0.0813 * 60, abs=1)

    def test_knows_images_without_detail(self):
        noise = np.random.default_rng(0).integers(120, 124, (64, 64, 3)).astype(np.uint8)
        flat = [Image.new("RGB", (40, 30), colour) for colour in ("white", "red", "black")]
        assert signatures.is_flat(thumbnails(*flat, Image.fromarray(noise))).all()
        assert not signatures.is_flat(thumbnails(picture(0))).any()


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


def key_table(rows):
    return pa.Table.from_pylist(
        [dict(zip(("key", "band", "whole", "image"), row, strict=True)) for row in rows],
        duplicates._KEYS,
    )


def expected_pairs(rows, cap):
    """The pairs of `pairs_of`, one row after the other."""
    whole = defaultdict(list)
    for key, _, is_whole, image in sorted(rows, key=lambda row: row[3]):
        if is_whole:
            whole[key].append(image)
    return {
        (min(image, other), max(image, other), band)
        for key, band, _, image in rows
        for other in whole[key][:cap]
        if image != other
    }


KEY_ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.booleans(), st.integers(-(2**40), 2**40)),
    max_size=60,
).map(lambda rows: [(10 * key + band, band, whole, image) for key, band, whole, image in rows])


class TestPairs:
    @given(KEY_ROWS, st.sampled_from([1, 3, 64]), st.sampled_from([1, 7, 1 << 22]))
    @settings(max_examples=60, deadline=None)
    def test_are_those_that_share_a_key(self, rows, cap, at_once):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duplicates, "MAX_BUCKET", cap)
            patch.setattr(duplicates, "_PAIRS_AT_ONCE", at_once)
            rows = list(set(rows))
            tables = list(duplicates.pairs_of(key_table(rows)))
        found = {tuple(row.values()) for table in tables for row in table.to_pylist()}
        assert found == expected_pairs(rows, cap)

    def test_of_a_crowded_key_are_bounded_and_hold_together(self):
        rows = [(7, 0, True, image) for image in range(1000)]
        (table,) = duplicates.pairs_of(key_table(rows))
        assert table.num_rows <= 1000 * duplicates.MAX_BUCKET
        firsts = range(duplicates.MAX_BUCKET)
        assert {row["b"] for row in table.to_pylist() if row["a"] in firsts} >= set(range(64, 1000))

    def test_need_enough_bands(self):
        ids = ["a", "b", "c"]
        images = duplicates.unique_images(image_table([(i, 10, 10) for i in ids]))
        a, b, c = (fingerprint.hash64(i) for i in ids)
        rows = [(a, b, 0), (a, b, 0), (a, c, 0), (a, c, 1)]
        pairs = pa.table([list(column) for column in zip(*rows, strict=True)], duplicates._PAIRS)
        (found,) = duplicates.candidates(pairs, images)
        assert [(row["image_id"], row["b"]) for row in found.to_pylist()] == [("a", c)]


def image_table(rows):
    return pa.Table.from_pylist(
        [
            {"image_id": i, "width": w, "height": h, "signature": bytes(SIGNATURE_BYTES)}
            for i, w, h in rows
        ],
        duplicates.IMAGES,
    )


def test_an_image_that_arrives_twice_is_one():
    table = duplicates.unique_images(image_table([("a", 4, 5), ("b", 1, 1), ("a", 4, 5)]))
    assert dict(zip(table["image_id"].to_pylist(), table["size"].to_pylist(), strict=True)) == {
        "a": 20,
        "b": 1,
    }


def link_table(edges, sizes):
    rows = [(a, b, sizes[a], sizes[b], kind, difference) for a, b, kind, difference in edges]
    columns = list(zip(*rows, strict=True)) or [()] * len(duplicates.LINKS)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, duplicates.LINKS, strict=True)]
    return pa.table(arrays, duplicates.LINKS)


def clusters(edges, sizes):
    table = duplicates.clusters_of(link_table(edges, sizes))
    return dict(
        zip(table["image_id"].to_pylist(), table["representative"].to_pylist(), strict=True)
    )


IDS = "abcdefghij"
EDGES = st.lists(
    st.tuples(
        st.sampled_from(IDS),
        st.sampled_from(IDS),
        st.sampled_from([COPY, MARKED]),
        st.floats(0, 8, width=32),
    ).filter(lambda edge: edge[0] < edge[1]),
    max_size=25,
    unique_by=lambda edge: edge[:2],
)
SIZES = st.tuples(*[st.integers(1, 3)] * len(IDS)).map(lambda v: dict(zip(IDS, v, strict=True)))


class TestClusters:
    @given(EDGES, SIZES, st.randoms(use_true_random=False))
    @settings(max_examples=150, deadline=None)
    def test_rules_that_hold_for_every_graph(self, edges, sizes, rng):
        found = clusters(edges, sizes)
        shuffled = [(b, a, *rest) if rng.random() < 0.5 else (a, b, *rest) for a, b, *rest in edges]
        rng.shuffle(shuffled)
        assert clusters(shuffled, sizes) == found
        near = defaultdict(set)
        for a, b, _, _ in edges:
            near[a].add(b)
            near[b].add(a)
        for image, first in found.items():
            assert first not in found  # stands for itself
            assert (-sizes[first], first) < (-sizes[image], image)
            reached = {first}
            for _ in range(4):
                reached |= {other for seen in reached for other in near[seen]}
            assert image in reached

    @given(st.lists(st.integers(0, 3), min_size=len(IDS), max_size=len(IDS)), SIZES)
    @settings(deadline=None)
    def test_cliques_come_out_whole(self, groups, sizes):
        group = dict(zip(IDS, groups, strict=True))
        edges = [
            (a, b, COPY, 0.1) for a, b in itertools.combinations(IDS, 2) if group[a] == group[b]
        ]
        found = {image: image for image in IDS} | clusters(edges, sizes)
        for a, b in itertools.combinations(IDS, 2):
            assert (found[a] == found[b]) == (group[a] == group[b])

    def test_a_chain_is_cut(self):
        chain = [f"{i:02d}" for i in range(20)]
        edges = [(a, b, COPY, 0.1) for a, b in itertools.pairwise(chain)]
        found = clusters(edges, dict.fromkeys(chain, 1))
        for image, first in found.items():
            assert abs(int(image) - int(first)) <= 2

    def test_a_marked_copy_joins_the_picture_that_it_fits_best(self):
        edges = [("a", "b", COPY, 0.1), ("c", "d", COPY, 0.1)]
        edges += [("a", "m", MARKED, 2.0), ("c", "m", MARKED, 1.0)]
        assert clusters(edges, {"a": 9, "b": 8, "c": 7, "d": 6, "m": 5}) == {
            "b": "a",
            "d": "c",
            "m": "c",
        }

    def test_a_mark_does_not_join_two_pictures(self):
        edges = [("a", "b", COPY, 0.1), ("c", "d", COPY, 0.1), ("a", "c", MARKED, 1.0)]
        assert clusters(edges, {"a": 9, "b": 8, "c": 7, "d": 6}) == {"b": "a", "d": "c"}

    def test_marked_copies_of_one_original_are_one_cluster(self):
        edges = [("o", mark, MARKED, 1.0) for mark in "xyz"]
        assert clusters(edges, {"o": 1, "x": 5, "y": 4, "z": 3}) == {"o": "x", "y": "x", "z": "x"}
