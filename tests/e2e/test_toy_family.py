"""A fifth family is a folder and a row: whatever there is follows from them."""

import json
import os
import shutil

import pytest

from model_code.models import family
from schemas.datasets.dataset import Dataset
from schemas.runs import changes, snapshots
from tests.support.datasets.work_folder import ROOT
from tests.support.families import toy_family
from tests.support.families.toy_family import phraselens

DATES = ("2026-01-01", "2026-01-02")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return toy_family.add(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def work(tree, tiny_run, tmp_path_factory):
    """A work folder of the tiny run in which the family was trained too, and its first snapshot."""
    folder = str(tmp_path_factory.mktemp("work") / "work")
    shutil.copytree(tiny_run.config.workdir, folder, copy_function=os.link)
    snapshot(tree, folder, DATES[0])
    changes.promote(folder, DATES[0])
    return folder


def snapshot(tree, work, date, *flags):
    """Trains the family, and makes a snapshot of the last runs of all datasets."""
    output = f"{work}/toy"
    flags = [f"--features={work}/features", f"--output={output}", *flags]
    assert "train_toy: run" in phraselens(tree, "train", "toy", *flags)
    runs = {
        name: Dataset(f"{work}/{name}").manifest.run_id for name in snapshots.dataset_names(work)
    }
    changes.write(work, date, runs)


def test_it_is_four_files():
    """And an empty one that makes the folder a package."""
    touched = [*toy_family.SOURCES, toy_family.TABLE]
    assert len(touched) <= 4
    assert [name for name in touched if (ROOT / name).exists()] == [toy_family.TABLE]


def test_the_command_line_knows_it(tree):
    assert "train toy             learns which dimensions" in phraselens(tree, "--help")
    assert "--power" in phraselens(tree, "train", "toy", "--help-all")
    assert '"train toy") switches=' in phraselens(tree, "completion", "bash")


def test_a_whole_run_trains_it_before_the_report(tree, tmp_path):
    flags = ["--log=l", "--images=i", "--labels=b", f"--workdir={tmp_path}", "--dry_run"]
    lines = phraselens(tree, "all", *flags, "--set=train_toy.power=0.5").splitlines()
    (n,) = [n for n, line in enumerate(lines) if "model_code.models.toy.train" in line]
    assert f"--features={tmp_path}/features" in lines[n]
    assert "--power=0.5" in lines[n]
    assert "model_code.report.pages" in lines[n + 1]
    assert "predictions,toy" in lines[n + 1]
    refused = phraselens(tree, "all", *flags, "--set=train_toy.powr=1", status=2)
    assert "train_toy: --powr" in refused


def test_it_is_trained_on_real_features(work):
    found = family.read(Dataset(f"{work}/toy"))
    assert found.family.reads == {"text_emb": (None,)}
    assert found.cases > 20
    assert 0 < found.figures["toy"]["recall_at_1"] <= 1
    assert (
        found.figures["toy"].keys() == found.figures["plain"].keys() == found.family.metrics.keys()
    )


def test_a_reprocess_keeps_it_and_trains_it_again_on_demand(tree, work, tiny_run):
    samples = f"{tiny_run.dataset('make_samples')}/runs/*"
    flags = [f"--workdir={work}", f"--date={DATES[1]}", f"--log={samples}/click_log/*.parquet"]
    flags += [f"--images={samples}/images/*.parquet", f"--labels={samples}/labels/*.parquet"]
    refused = phraselens(tree, "reprocess", *flags, "--dry_run", "--retrain=tou", status=2)
    assert "fusion, toy" in refused
    flags += [f"--set={tiny_run.config.set}"]
    assert "train_toy" not in phraselens(tree, "reprocess", *flags, "--dry_run")
    planned = phraselens(tree, "reprocess", *flags, "--dry_run", "--retrain=toy")
    (line,) = [line for line in planned.splitlines() if line.startswith("train_toy")]
    assert "--retrain" in line
    assert "train_fusion" not in planned


def test_the_report_has_a_section_of_it(tree, work, tmp_path):
    phraselens(tree, "report", f"--work={work}", f"--output={tmp_path}/report")
    page = (next(tmp_path.glob("report/runs/*/report")) / "report.html").read_text()
    assert "<h3>Toy retrieval: " in page
    assert "<th>mean rank ↓</th>" in page
    assert '<tr class="main"><td>weighted</td>' in page


def test_the_gate_refuses_a_worse_one(tree, work):
    snapshot(tree, work, DATES[1], "--farthest")
    before = family.read(snapshots.read(work, DATES[0]).dataset("toy")).figures["toy"]
    after = family.read(snapshots.read(work, DATES[1]).dataset("toy")).figures["toy"]
    flags = [f"--workdir={work}", f"--date={DATES[1]}", "--sure=0"]
    phraselens(tree, "gate", *flags, status=3)
    with open(f"{work}/gates/{DATES[1]}.json") as file:
        checks = {check["name"]: check for check in json.load(file)["checks"]}
    recall, rank = checks["toy.recall_at_1_drop"], checks["toy.rank_drop"]
    assert recall["figure"] == pytest.approx(before["recall_at_1"] - after["recall_at_1"])
    # Of a rank, less is better.
    assert rank["figure"] == pytest.approx(after["rank"] - before["rank"])
    assert rank["verdict"] == "refuse"
    assert checks["families.gone"]["verdict"] == "pass"


def test_jobs_are_still_sent_with_this_code(tree, work, tmp_path):
    words = [f"--mined={work}/mined", f"--text_embedder={work}/text_embedder"]
    words += [
        f"--generator={work}/text_generator",
        f"--output={tmp_path}/phrases",
        "--project=a-project",
    ]
    words += ["--region=r", "--temp_location=gs://bucket/tmp", "--dry_run"]
    printed = phraselens(tree, "submit", "embed_phrases", *words)
    assert "installs: workflow.tar.gz" in printed
    assert "nothing was sent" in printed
