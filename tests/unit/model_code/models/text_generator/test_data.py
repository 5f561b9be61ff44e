"""Reading training pairs: whole epochs, the same from memory and shards, in parts, after a stop."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_code.images.source import ArraySource
from model_code.models.text_generator import data as pair_reader
from model_code.models.text_generator import examples as pair_examples
from model_code.models.text_generator.data import FeatureSource, PairSource, open_pairs
from schemas.base.errors import PhraseLensError
from tests.support.datasets.mined_dataset import prepare, write_colours

SIZE = 4
BIG = 1 << 30


class Shards:
    """TFRecord files whose example i has pixels of value i and the queries i, i + 1, … ."""

    def __init__(self, folder, counts, encoding="raw"):
        self.counts, self.encoding = counts, encoding
        self.paths = [f"{folder}/{n}.tfrecord" for n in range(len(counts))]
        number = itertools.count()
        for path, count in zip(self.paths, counts, strict=True):
            with tf.io.TFRecordWriter(path) as file:
                for _ in range(count):
                    file.write(self.record(next(number)))

    def record(self, number):
        pixels = np.full((SIZE, SIZE, 3), number, np.uint8)
        image = pixels.tobytes() if self.encoding == "raw" else tf.io.encode_png(pixels).numpy()
        queries = np.arange(number, number + number % 4)
        weights = np.arange(1, len(queries) + 1, dtype=np.float32)
        return pair_examples.example(
            f"{number}", image, queries, weights / max(weights.sum(), 1), [f"text {number}"]
        )

    def source(self, cache_bytes):
        return PairSource(
            self.paths,
            self.counts,
            size=SIZE,
            encoding=self.encoding,
            cache_bytes=cache_bytes,
            label="read",
        )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return Shards(tmp_path_factory.mktemp("shards"), [9, 30, 1, 17])


def same(a, b):
    arrays = [[array for batch in batches for array in batch] for batches in (a, b)]
    return len(a) == len(b) and all(map(np.array_equal, *arrays))


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.sampled_from([0, BIG]),
)
def test_an_epoch_visits_every_example_once(tmp_path_factory, counts, batch, seed, epoch, cache):
    shards = Shards(tmp_path_factory.mktemp("shards"), counts)
    rows = sum(counts)
    batches = list(shards.source(cache).shuffled(batch, seed, epoch, 9))
    assert len(batches) == rows // batch
    seen = np.concatenate([np.zeros(0), *(inputs[:, 0, 0, 0] for inputs, *_ in batches)])
    assert len(set(seen)) == len(seen) == rows // batch * batch
    assert set(seen) <= set(range(rows))


def test_every_image_comes_with_its_own_pairs(shards):
    for source in (shards.source(0), shards.source(BIG)):
        for inputs, rows, ids, weights in source.shuffled(8, 0, 1, 9):
            numbers = inputs[:, 0, 0, 0].astype(int)
            assert (inputs == numbers[:, None, None, None]).all()
            assert rows.tolist() == [r for r, n in enumerate(numbers) for _ in range(n % 4)]
            assert ids.tolist() == [n + k for n in numbers for k in range(n % 4)]
            sums = np.bincount(rows, weights, minlength=8)
            np.testing.assert_allclose(sums, numbers % 4 > 0, rtol=1e-6)


@pytest.mark.parametrize("window", [5, BIG])
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_memory_and_shards_give_the_same_batches(tmp_path, monkeypatch, window, encoding):
    monkeypatch.setattr(pair_reader, "_WINDOW_BYTES", window * SIZE * SIZE * 3)
    shards = Shards(tmp_path, [12, 25, 3], encoding)
    for epoch in (1, 2):
        memory, disk = (list(shards.source(cache).shuffled(7, 3, epoch, 2)) for cache in (BIG, 0))
        assert same(memory, disk)
    for cache in (BIG, 0):
        source = shards.source(cache)
        images = np.concatenate(list(source.in_order(7)))
        assert images[:, 0, 0, 0].tolist() == list(range(40))
        clicked = source.clicked()
        assert clicked.counts.tolist() == [n % 4 for n in range(40)]
        assert source.texts == [[f"text {n}"] for n in range(40)]


def test_epochs_differ_and_come_again_after_a_stop(shards):
    first, second = (list(shards.source(0).shuffled(8, 0, epoch, 2)) for epoch in (1, 2))
    assert not same(first, second)
    for cache in (0, BIG):
        source = shards.source(cache)
        stopped = source.shuffled(8, 0, 1, 2)
        next(stopped)
        assert same(list(source.shuffled(8, 0, 2, 2)), second)
        assert same(list(source.shuffled(8, 0, 1, 2)), first)
    assert not same(first, list(shards.source(0).shuffled(8, 1, 1, 2)))


@pytest.mark.parametrize("cache", [0, BIG])
def test_parts_make_up_the_whole(shards, cache):
    whole = list(shards.source(cache).shuffled(12, 0, 1, 2))
    parts = [list(shards.source(cache).shuffled(12, 0, 1, 2, (i, 3))) for i in range(3)]
    for together, *apart in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([p[0] for p in apart]), together[0])
        for part in apart:
            assert len(part[0]) == 4
            assert same([part[1:]], [together[1:]])
    with pytest.raises(PhraseLensError, match="a multiple of its 5 parts"):
        next(shards.source(cache).shuffled(12, 0, 1, 2, (0, 5)))


def test_features_are_computed_once_and_keep_their_pairs(shards, tmp_path):
    calls = []

    def encode(pixels):
        calls.append(len(pixels))
        return pixels[:, 0, 0, :2].astype(np.float32)

    for _ in range(2):  # A run that resumes finds them.
        source = FeatureSource(shards.source(0), encode, 2, str(tmp_path), "features")
    assert sum(calls) == 57
    assert isinstance(source._features, ArraySource)
    np.testing.assert_array_equal(np.concatenate(list(source.in_order(9)))[:, 1], np.arange(57))
    for inputs, rows, ids, _ in source.shuffled(8, 0, 1, 9):
        numbers = inputs[:, 0].astype(int)
        assert rows.tolist() == [r for r, n in enumerate(numbers) for _ in range(n % 4)]
        assert ids.tolist() == [n + k for n in numbers for k in range(n % 4)]
    whole, half = (next(source.shuffled(8, 0, 1, 9, part)) for part in ((0, 1), (1, 2)))
    np.testing.assert_array_equal(whole[0][4:], half[0])


def test_another_dataset_is_refused(tmp_path):
    with pytest.raises(PhraseLensError, match="committed dataset"), open_pairs(str(tmp_path), 0):
        pass
    write_colours(str(tmp_path / "mined"), per_colour=4)
    with (
        pytest.raises(PhraseLensError, match="written by mine_pairs"),
        open_pairs(str(tmp_path / "mined"), 0),
    ):
        pass


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_compressed_images_are_read_back(tmp_path, encoding):
    write_colours(str(tmp_path / "mined"), per_colour=8)
    found = {}
    for name in ("raw", encoding):
        flags = ["--image_size=16", f"--image_encoding={name}"]
        root = prepare(str(tmp_path / "mined"), str(tmp_path / name), *flags)
        with open_pairs(root, 0) as pairs:
            assert (pairs.image_size, pairs.backbone) == (16, "small_resnet")
            assert pairs.vocabulary.num_rows == 9
            assert pairs.training_pairs == 2 * pairs.train.rows
            found[name] = np.concatenate(list(pairs.train.in_order(5)))
    distance = np.abs(found[encoding].astype(int) - found["raw"]).mean()
    assert distance == 0 if encoding == "png" else 0 < distance < 4
