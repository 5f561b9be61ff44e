"""The programs of examples/ run as their own docstrings say, and agree with the pipelines."""

import csv
import json
import re
import subprocess
import sys

import pytest

from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder

EXAMPLES = work_folder.ROOT / "examples"


def run(name, *words):
    path = EXAMPLES / f"{name}.py"
    assert f"python examples/{name}.py " in path.read_text()
    return work_folder.run([sys.executable, path, *words])


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
        assert f"{split}: {splits.count(split)} images; " in printed


def test_phrases_are_found_near_each_other(tiny_run):
    root = tiny_run.dataset("embed_phrases")
    first, *_ = Dataset(root).table("phrases", ["query"])["query"].to_pylist()
    printed = run("search_phrases", root, first, "what nobody types")
    assert printed.startswith(f"{Dataset(root).manifest.tables['phrases'].rows:,} phrases")
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{first}: "))
    assert 4 <= line.count(" (") <= 5
    assert "'what nobody types' of" in printed


def test_a_folder_of_photos_is_tagged(tiny_run, tmp_path):
    mined = Dataset(tiny_run.dataset("mine_pairs"))
    (tmp_path / "photos").mkdir()
    for row in mined.table("images").slice(0, 2).to_pylist():
        (tmp_path / "photos" / f"{row['image_id']}.jpg").write_bytes(row["image"])
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    run("tag_photos", tiny_run.dataset("export_model"), tmp_path / "photos", tmp_path / "tags.csv")
    with open(tmp_path / "tags.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 3
    assert rows["notes.txt"]["error"].startswith("not_an_image")
    for name in rows.keys() - {"notes.txt"}:
        assert rows[name]["label"]
        assert not rows[name]["error"]
        assert float(rows[name]["probability"]) > 0


def test_the_notebook_runs_from_its_first_cell_to_its_last(tiny_run):
    notebook = json.loads((EXAMPLES / "first_look.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    environment = work_folder.environment() | {"PHRASELENS_WORK": tiny_run.config.workdir}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "not_an_image" in done.stdout
