"""The quickstart from bucket to bucket: every row as on a local disk."""

import json
import sys

import pytest

from beam_jobs.dataflow import submit
from beam_jobs.runs import overrides
from schemas.base import storage
from schemas.datasets import checks, dataset
from tests.support.datasets import work_folder

# The report holds the paths of its datasets.
COMPARED = [name for name in work_folder.STAGES if name != "report"]


def rows_of(root: str) -> dict[str, list[str]]:
    """As work_folder.rows_of, without what names the run, which is known by where its input lies:
    dead letters, and the content hash of datasets that have some."""
    rows = work_folder.rows_of(root)
    rows.pop("dead_letters", None)
    if not dataset.Dataset(root).manifest.model_fingerprint:
        rows.pop("content_hash")
    return rows


def upload(tiny_run, bucket: str, *stages: str) -> None:
    for stage in stages:
        name = work_folder.STAGES[stage].output
        storage.upload_dir(tiny_run.dataset(stage), f"{bucket}/mine/{name}")


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        ("prepare_examples", ["embed_images"]),  # tf.Transform, which writes by itself
        ("classify_images", ["make_samples", "export_model"]),  # a SavedModel, image tables
    ],
)
def test_a_stage_writes_the_same_rows(stage, inputs, bucket, tiny_run):
    upload(tiny_run, bucket, *inputs)
    flags = overrides.flags_of(work_folder.STAGES[stage], work_folder.config(f"{bucket}/mine"))
    argv = [f"--{name}={value}" for name, value in flags.items()]
    assert submit.job_module(stage).run(argv) == 0
    assert checks.verify(flags["output"]) == []
    assert rows_of(flags["output"]) == rows_of(tiny_run.dataset(stage))


@pytest.mark.slow
def test_the_quickstart_runs_on_a_bucket(bucket, tiny_run):
    """All stages, each in a process of its own, and every command that reads what they wrote."""
    config = work_folder.config(f"{bucket}/all")
    done = work_folder.drive(config)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for stage in COMPARED:
        there = rows_of(f"{bucket}/all/{work_folder.STAGES[stage].output}")
        assert there == rows_of(tiny_run.dataset(stage)), stage

    assert "already done" in work_folder.drive(config).stdout
    root = f"{bucket}/all"
    python = [sys.executable, "-m"]
    assert "problem" not in work_folder.run([*python, "schemas.maintenance.verify", root])
    ids = dataset.Dataset(f"{root}/mined").table("images", ["image_id"])["image_id"].to_pylist()
    flags = [f"--features={root}/features", f"--mined={root}/mined", "--count=3", "--json"]
    found = json.loads(work_folder.run([*python, "beam_jobs.models.similar", ids[0], *flags]))
    assert len(found[0]["similar"]) == 3
    flags = [f"--phrases={root}/phrases", f"--output={root}/figures.json", "--kinds=flat"]
    flags.append(f"--features={root}/features")
    work_folder.run([*python, "model_code.phrases.evaluate_index", *flags])
    assert len(json.loads(storage.read_bytes(f"{root}/figures.json"))) >= 1
