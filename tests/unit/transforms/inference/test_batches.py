"""Images through networks: ahead, in full batches, and only the bad ones die."""

import threading

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from model_code.images.embedder import ImageEmbedder
from model_code.runtime.settings import EmbeddingSettings
from schemas.datasets.dataset import Dataset
from tests.support.datasets.mined_dataset import COLOURS, jpeg
from tests.support.datasets.networks import write_networks
from transforms.inference.batches import embed_ahead, full_batches, pixel_bytes

FILES = [jpeg(colour, seed, 24 + seed) for seed in range(7) for colour in COLOURS.values()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    roots = write_networks(
        str(tmp_path_factory.mktemp("networks")), "small_resnet", image_size=16, small_width=4
    )
    return [Dataset(roots[name]).folder("model") for name in ("generator", "pixel_embedder")]


@pytest.fixture
def embedder(folders):
    return ImageEmbedder(*folders, EmbeddingSettings(batch_size=8))


@pytest.fixture(scope="module")
def expected(folders):
    return ImageEmbedder(*folders, EmbeddingSettings(batch_size=8)).embed(FILES)


def batches(files, size):
    sides = [24 + place // 3 for place in range(len(files))]
    table = pa.table({"image": files, "width": sides, "height": sides})
    return full_batches(table.to_batches(5), size)


def run(embedder, files, size=8):
    """Row → its embeddings, and row → its error."""
    good, bad, start = {}, {}, 0
    for batch, embedded in embed_ahead(lambda: embedder, batches(files, size)):
        for places, embs in embedded.good:
            for place, *vectors in zip(places, embs["query_emb"], embs["pixel_emb"], strict=True):
                good[start + int(place)] = vectors
        bad |= {start + place: error for place, error in embedded.bad}
        start += batch.num_rows
    return good, bad


def assert_embedded(good, expected, rows, **tolerance):
    assert sorted(good) == sorted(rows)
    for row, (query_emb, pixel_emb) in good.items():
        np.testing.assert_allclose(query_emb, expected["query_emb"][row], **tolerance)
        np.testing.assert_allclose(pixel_emb, expected["pixel_emb"][row], **tolerance)


@given(st.lists(st.integers(0, 7), max_size=20), st.integers(1, 9))
def test_full_batches_keep_rows_and_order(lengths, size):
    rows = list(range(sum(lengths)))
    parts, start = [], 0
    for length in lengths:
        parts.append(pa.record_batch({"row": pa.array(rows[start : start + length], pa.int64())}))
        start += length
    found = [batch["row"].to_pylist() for batch in full_batches(parts, size)]
    assert [row for batch in found for row in batch] == rows
    assert all(len(batch) == size for batch in found[:-1])


def test_bytes_of_pixels():
    table = pa.table({"width": pa.array([10, 60_000, None], pa.int32()), "height": [2, 60_000, 1]})
    assert pixel_bytes(table) == [60, 3 * 60_000**2, 0]


def test_all_images_are_embedded(embedder, expected):
    good, bad = run(embedder, FILES)
    assert_embedded(good, expected, range(len(FILES)), rtol=0)
    assert not bad


def test_only_broken_images_die(embedder, expected):
    broken = {0: b"", 5: b"<html></html>", 6: FILES[6][:100], 20: b"GIF89a"}
    files = [broken.get(row, data) for row, data in enumerate(FILES)]
    good, bad = run(embedder, files)
    assert sorted(bad) == sorted(broken)
    assert_embedded(good, expected, set(range(len(FILES))) - set(broken), rtol=0)


def run_out_of_memory():
    """What TensorFlow raises after it has waited ten seconds for memory: see test_batches.py."""
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def without_memory(embedder, largest):
    """Makes the networks run out of memory above `largest` rows."""
    networks, tried = embedder._networks, []

    def run(pixels):
        tried.append(len(pixels[0]))
        if len(pixels[0]) > largest:
            run_out_of_memory()
        return networks(pixels)

    embedder._networks = run
    return tried


@pytest.mark.parametrize("room", [5, 2, 1])
def test_out_of_memory_halves_batches_for_good_and_kills_no_image(embedder, expected, room):
    tried = without_memory(embedder, room)
    good, bad = run(embedder, FILES)
    assert not bad
    # Other batches may add up in another order: the last bits of a float32.
    assert_embedded(good, expected, range(len(FILES)), rtol=1e-4, atol=1e-5)
    fits = 1 << (room.bit_length() - 1)
    too_large = [rows for rows in tried if rows > room]
    assert tried[: len(too_large)] == too_large == [8, 4, 2][: len(too_large)]
    assert set(tried[len(too_large) :]) == {fits}


def test_an_image_for_which_there_is_no_room_at_all_dies_alone(embedder, expected):
    decode, rows = embedder._decode, []

    def run_out(images):
        rows.append(len(images))
        if FILES[3] in images.numpy():
            run_out_of_memory()
        return decode(images)

    embedder._decode = run_out
    good, bad = run(embedder, FILES)
    assert [type(error).__name__ for error in bad.values()] == ["ResourceExhaustedError"]
    assert list(bad) == [3]
    assert_embedded(good, expected, set(range(len(FILES))) - {3}, rtol=1e-4, atol=1e-5)
    assert rows[-1] == 1  # It stays careful.


def test_large_photos_are_decoded_a_few_at_a_time(folders, expected):
    limit = 3 * 24 * 24 * 3
    embedder = ImageEmbedder(*folders, EmbeddingSettings(batch_size=8, batch_bytes=limit))
    decode, rows = embedder._decode, []
    embedder._decode = lambda images: rows.append(len(images)) or decode(images)
    good, bad = run(embedder, FILES)
    assert not bad
    # The first three images have 24 pixels a side; of the others only two have room.
    assert rows[0] == 3
    assert max(rows) == 3
    assert rows[-1] <= 2
    assert_embedded(good, expected, range(len(FILES)), rtol=0)  # Decoding alone is in parts.


def test_the_thread_ends_when_nobody_asks_any_more(embedder):
    before = set(threading.enumerate())
    running = embed_ahead(lambda: embedder, batches(FILES, 2))
    next(running)
    started = set(threading.enumerate()) - before
    assert started
    running.close()
    assert not [thread for thread in started if thread.is_alive()]
