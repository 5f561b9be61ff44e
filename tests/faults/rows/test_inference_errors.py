"""A network that fails: for want of memory, for a while, or on one image for ever."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf

from beam_jobs.models import embed_images
from model_code.images.embedder import ImageEmbedder
from schemas.datasets import checks
from schemas.datasets.dataset import Dataset
from schemas.tables.vectors import arrow_to_vectors
from tests.support.datasets import work_folder

BATCH = 64


def spoil(embedder, name: str, trouble: Callable[..., None]) -> None:
    """Lets `trouble` see the arguments of each call of a method, and raise instead of it."""
    method = getattr(embedder, name)

    def spoilt(*args):
        trouble(*args)
        return method(*args)

    setattr(embedder, name, spoilt)


@pytest.fixture
def embed(tiny_run, tmp_path, monkeypatch):
    """Runs embed_images; networks(rows at once) and decode(images) may raise."""
    made = ImageEmbedder.__init__

    def run(
        networks: Callable[[int], None] = lambda rows: None,
        decode: Callable[[Sequence[bytes]], None] = lambda images: None,
    ) -> Dataset:
        def make_spoilt(embedder, *args, **settings):
            made(embedder, *args, **settings)
            spoil(embedder, "_networks", lambda pixels: networks(len(pixels[0])))
            spoil(embedder, "decode", lambda images, *_: decode(images))

        monkeypatch.setattr(ImageEmbedder, "__init__", make_spoilt)
        output = str(tmp_path / "features")
        flag = f"--batch_size={BATCH}"
        command = work_folder.command_into("embed_images", tiny_run.config, output, flag)
        assert embed_images.run(command[3:]) == 0
        assert checks.verify(output) == []
        return Dataset(output)

    return run


@pytest.fixture
def undisturbed(tiny_run):
    """The features that batches of another size made."""
    return Dataset(tiny_run.dataset("embed_images")).table("features").sort_by("image_id")


def off(found, expected) -> float:
    """The greatest difference of any element of any embedding of two tables of the same images."""
    assert found["image_id"].to_pylist() == expected["image_id"].to_pylist()
    return max(
        np.abs(arrow_to_vectors(found[name]) - arrow_to_vectors(expected[name])).max().item()
        for name in ("query_emb", "text_emb", "pixel_emb")
    )


def test_out_of_memory_halves_the_batch(embed, undisturbed, figure):
    refused, done = [], []

    def networks(rows):
        if rows >= BATCH:
            refused.append(rows)
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        done.append(rows)

    found = embed(networks).table("features").sort_by("image_id")
    difference = off(found, undisturbed)
    assert difference < 1e-5
    assert refused == [BATCH]  # the rest of the run keeps to what fits
    assert max(done) == BATCH // 2
    figure(
        f"{BATCH} images did not fit once, then {max(done)} at once: {found.num_rows} rows, none "
        f"dead, no number more than {difference:.0e} off"
    )


def test_error_that_passes_after_three_times(embed, undisturbed, figure):
    calls = []

    def networks(rows):
        calls.append(rows)
        if len(calls) <= 3:
            raise tf.errors.UnavailableError(None, None, "the device is busy")

    found = embed(networks).table("features").sort_by("image_id")
    assert off(found, undisturbed) < 1e-5
    assert len(calls) > 3
    figure(f"3 calls failed, {len(calls) - 3} went well: {found.num_rows} rows, none dead")


def test_image_that_always_fails_dies_alone(embed, tiny_run, undisturbed, figure):
    table = Dataset(tiny_run.dataset("mine_pairs")).table("images")
    bad, image_id = (table[name][7].as_py() for name in ("image", "image_id"))
    calls = []

    def decode(images):
        calls.append(bad in images)
        if bad in images:
            raise tf.errors.InvalidArgumentError(None, None, "no such picture")

    found = embed(decode=decode)
    (dead,) = found.table("dead_letters").to_pylist()
    assert (dead["key"], dead["reason"]) == (image_id, "inference_failed")
    assert "no such picture" in dead["detail"]
    rows = found.table("features")["image_id"].to_pylist()
    assert sorted([*rows, image_id]) == undisturbed["image_id"].to_pylist()
    figure(f"1 dead letter, found in {sum(calls)} tries; {len(rows)} good rows")
