"""An image file of the tiny run is found again, with the phrases that it was given there."""

import json

from beam_jobs.models import similar
from schemas.datasets.dataset import Dataset

FLAGS = {
    "features": "embed_images",
    "generator": "train_text_generator",
    "phrases": "embed_phrases",
    "mined": "mine_pairs",
}


def test_an_image_file_finds_itself_first(tiny_run, tmp_path, capsys):
    rows = Dataset(tiny_run.dataset("mine_pairs")).table("images", ["image_id", "keys", "image"])
    (row,) = rows.slice(5, 1).to_pylist()
    (tmp_path / "some.image").write_bytes(row["image"])
    features = Dataset(tiny_run.dataset("embed_images")).table("features").to_pylist()
    (expected,) = (f for f in features if f["image_id"] == row["image_id"])
    flags = [f"--{name}={tiny_run.dataset(stage)}" for name, stage in FLAGS.items()]
    by_id = [row["image_id"], flags[0]]
    found = []
    for argv in ([f"{tmp_path}/some.image", *flags], by_id):
        capsys.readouterr()
        assert similar.run([*argv, "--json"]) == 0
        found += json.loads(capsys.readouterr().out)
    for image in found:
        assert image["phrases"] == expected["phrases"]
        assert len(image["similar"]) == 10
        first = image["similar"][0]
        assert first["cosine"] > 0.99999
        assert row["image_id"] in [i["image_id"] for i in image["similar"] if i["cosine"] > 0.99999]
    assert found[0]["similar"][0]["keys"]
    by_file, by_number = ([i["image_id"] for i in image["similar"]] for image in found)
    assert len(set(by_file) & set(by_number)) >= 9
