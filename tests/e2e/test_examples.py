"""The programs of examples/ run as their own docstrings say, and agree with the pipelines."""

import re

import pytest

from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder

EXAMPLES = work_folder.ROOT / "examples"


def run(name, *words):
    path = EXAMPLES / f"{name}.py"
    assert f"python examples/{name}.py " in path.read_text()
    return work_folder.run([work_folder.sys.executable, path, *words])


def test_every_example_is_run_here():
    text = (work_folder.ROOT / "tests/e2e/test_examples.py").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.stem}"' in text


def test_images_are_classified_as_by_the_job(tiny_run, tmp_path):
    mined = Dataset(tiny_run.dataset("mine_pairs"))
    predicted = Dataset(tiny_run.dataset("classify_images"))
    rows = {r["image_id"]: r for r in predicted.table("predictions").to_pylist()}
    paths = []
    for row in mined.table("images").slice(0, 3).to_pylist():
        (tmp_path / row["image_id"]).write_bytes(row["image"])
        paths.append(tmp_path / row["image_id"])
    (tmp_path / "none.jpg").write_text("no image")
    model = tiny_run.dataset("export_model")
    printed = run("classify_images", model, *paths, tmp_path / "none.jpg")
    assert f"{tmp_path}/none.jpg: not_an_image" in printed
    for path in paths:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{path}: "))
        expected = rows[path.name]
        assert f": {expected['labels'][0]} " in line
        shown = int(re.search(r" (\d+)%", line)[1])
        assert shown == pytest.approx(100 * expected["probabilities"][0], abs=0.51)
        assert line.endswith(f"({', '.join(expected['phrases'])})")


def test_features_are_read_by_their_manifest(tiny_run):
    features = Dataset(tiny_run.dataset("embed_images"))
    printed = run("read_features", features.root)
    splits = features.table("features")["split"].to_pylist()
    for split in set(splits):
        assert f"{split}: text embeddings ({splits.count(split)}, 24); " in printed
