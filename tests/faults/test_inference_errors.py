"""A network that fails: for want of memory, for a while, or on one image for ever."""

import numpy as np
import pytest
import tensorflow as tf

from beam_jobs import embed_images
from schemas import manifest
from tests import work_folder
from transforms import features

BATCH = 64


@pytest.fixture
def embed(tiny_run, tmp_path, monkeypatch):
    """Runs embed_images with an embedder whose calls `trouble(images)` may spoil."""
    load = features.load

    def run(trouble) -> str:
        class Troubled:
            def __init__(self, embedder):
                self._embedder = embedder

            def embed(self, images):
                trouble(images)
                return self._embedder.embed(images)

        def load_troubled(kind, *folders):
            found = load(kind, *folders)
            return Troubled(found) if kind == "image_embedder" else found

        monkeypatch.setattr(features, "load", load_troubled)
        output = str(tmp_path / "features")
        flag = f"--batch_size={BATCH}"
        command = work_folder.command_into("embed_images", tiny_run.config, output, flag)
        assert embed_images.run(command[3:]) == 0
        assert manifest.verify(output) == []
        return output

    return run


@pytest.fixture
def expected(tiny_run):
    return work_folder.rows_of(tiny_run.dataset("embed_images"))


def test_out_of_memory_halves_the_batch(embed, expected, figure):
    refused, done = [], []

    def trouble(images):
        if len(images) >= BATCH:
            refused.append(len(images))
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        done.append(len(images))

    assert work_folder.rows_of(embed(trouble)) == expected
    assert refused
    assert sum(done) == len(expected["features"])
    figure(
        f"{len(refused)} batches of {BATCH} images did not fit; {sum(done)} rows equal in batches "
        f"of at most {max(done)}, none dead"
    )


def test_error_that_passes_after_three_times(embed, expected, figure):
    calls = []

    def trouble(images):
        calls.append(len(images))
        if len(calls) <= 3:
            raise tf.errors.UnavailableError(None, None, "the device is busy")

    assert work_folder.rows_of(embed(trouble)) == expected
    figure(f"3 calls failed, {len(calls) - 3} went well: all rows equal, none dead")


def test_image_that_always_fails_dies_alone(embed, tiny_run, expected, figure):
    table = manifest.Dataset(tiny_run.dataset("mine_pairs")).table("images")
    bad, image_id = (table[name][7].as_py() for name in ("image", "image_id"))
    calls = []

    def trouble(images):
        calls.append(len(images))
        if bad in images:
            raise tf.errors.InvalidArgumentError(None, None, "no such picture")

    found = manifest.Dataset(embed(trouble))
    (dead,) = found.table("dead_letters").to_pylist()
    assert (dead["key"], dead["reason"]) == (image_id, "inference_failed")
    assert "no such picture" in dead["detail"]
    rows = found.table("features")["image_id"].to_pylist()
    assert len(rows) == len(expected["features"]) - 1
    assert image_id not in rows
    alone = int(np.log2(BATCH))
    figure(f"1 dead letter, {len(rows)} good rows; found in {alone} halvings of a batch")
