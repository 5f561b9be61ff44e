"""The benchmarks of embed_images, in small: nothing is lost, and the oracle agrees."""

import io

import numpy as np
from PIL import Image

from benchmarks.runs import embed, scale
from schemas.datasets.dataset import Dataset
from schemas.tables.vectors import arrow_to_vectors
from tests.support.datasets import networks


def test_tiny_images_are_images_and_broken_ones_are_not():
    draw = scale.Draw(5)
    for number in range(30):
        with_oracle = Image.open(io.BytesIO(scale.tiny_image(number)))
        assert np.asarray(with_oracle).shape == (16, 16, 3)
        assert len(np.unique(np.asarray(with_oracle).reshape(-1, 3), axis=0)) <= 4
        assert (draw(number) == scale.tiny_image(number)) == bool((number + 1) % 5)


def test_growth_is_that_of_the_second_half():
    seconds = np.arange(100.0)
    resident = np.where(seconds < 50, 1e9 * seconds, 5e10 + 3 * seconds)
    assert np.isclose(scale.Memory(seconds, resident).growth, 3)


def test_every_image_is_embedded_or_counted(tmp_path):
    config = scale.Config(str(tmp_path), 1000, 300, 97, 64)
    shown = scale.work(config)
    assert "| features | 990 |\n| dead letters, drawn broken | 10, 10 |" in shown
    features = Dataset(str(tmp_path / "features")).table("features")
    letters = Dataset(str(tmp_path / "features")).table("dead_letters")
    broken = {f"{number:032x}" for number in range(96, 1000, 97)}
    assert set(letters["key"].to_pylist()) == broken
    generator = Dataset(str(tmp_path / "networks" / "generator"))
    raw = embed.Raw.load(generator.root, True)
    rows = features.take(list(range(0, 990, 45)))
    images = [scale.tiny_image(int(key, 16)) for key in rows["image_id"].to_pylist()]
    ((query_embs, pixel_embs),) = embed.one_graph_loop(raw, images, len(images))
    for name, expected in (("query_emb", query_embs), ("pixel_emb", pixel_embs)):
        np.testing.assert_allclose(arrow_to_vectors(rows[name]), expected, atol=1e-5)


def test_all_raw_loops_compute_the_same(tmp_path):
    roots = networks.write_networks(str(tmp_path), "small_resnet", image_size=32, small_width=4)
    raws = {folded: embed.Raw.load(roots["generator"], folded) for folded in (True, False)}
    images = [embed.photo(seed, (48, 32)) for seed in range(7)]
    found = {
        name: [np.concatenate(parts) for parts in zip(*loop(raws[folded], images, 3), strict=True)]
        for name, (loop, folded) in embed.LOOPS.items()
    }
    assert found["tf.data"][0].shape == (7, networks.WIDTH)
    for name in ("one graph", "not folded"):
        for one, other in zip(found["tf.data"], found[name], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
    # Pillow rounds otherwise when it resizes.
    cosines = (found["threads"][0] * found["tf.data"][0]).sum(1)
    assert cosines.min() > 0.99
