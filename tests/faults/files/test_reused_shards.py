"""What a job takes from an earlier run is compared with its checksums before it is taken."""

import shutil

import pyarrow.parquet as pq
import pytest

from beam_jobs.mining import mine_pairs
from beam_jobs.models import classify_images, embed_images, embed_phrases
from beam_jobs.runs import stages
from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder

MODULES = {m.JOB.name: m for m in (mine_pairs, embed_phrases, embed_images, classify_images)}
CASES = [
    ("mine_pairs", "sources"),
    ("mine_pairs", "images"),
    ("embed_phrases", "image_embs"),
    ("embed_images", "features"),
    ("classify_images", "embeddings"),
]


def test_every_job_that_reuses_is_tested():
    assert {job for job, _ in CASES} == {s.name for s in stages.STAGES if s.reuses}


@pytest.fixture(scope="module")
def damaged(tiny_run, tmp_path_factory):
    """Copies a stage's dataset, and changes a byte of a table that only the manifest knows of.

    Rows can still be read: the footer says who wrote the file, and no page's checksum is over that.
    """

    def copy(stage: str, table: str) -> tuple[str, str]:
        root = str(tmp_path_factory.mktemp("damaged") / stage)
        shutil.copytree(tiny_run.dataset(stage), root)
        dataset = Dataset(root)
        path = dataset.path(dataset.shards(table)[0])
        data = storage.read_bytes(path)
        place = data.rindex(b"parquet-cpp")
        storage.write_bytes(path, data[:place] + b"x" + data[place + 1 :])
        assert pq.read_table(path).num_rows == dataset.shards(table)[0].rows
        return root, path

    return copy


def run(job, tiny_run, output, *more):
    """Runs a job on the inputs of the tiny run, in this process; returns its exit status."""
    command = work_folder.command_into(job, tiny_run.config, output, *more)
    return MODULES[job].run(command[3:])


@pytest.mark.parametrize(("job", "table"), CASES, ids=".".join)
def test_a_changed_shard_is_named_before_anything_is_made(
    tiny_run, damaged, tmp_path, capsys, job, table
):
    earlier, path = damaged(job, table)
    output = str(tmp_path / "output")
    assert run(job, tiny_run, output, f"--reuse={earlier}") == Exit.CORRUPT
    told = capsys.readouterr()
    assert f"{path}: expected the shard that was committed, found other bytes" in told.err
    assert f"./run.sh verify --repair {earlier}" in told.err
    assert "checks what it takes over: " in told.out
    assert manifest.read(output) is None


def test_shards_that_are_not_in_the_sample_are_not_checked(tiny_run, damaged, tmp_path, capsys):
    earlier, _ = damaged("mine_pairs", "sources")
    output = str(tmp_path / "output")
    flags = f"--reuse={earlier}", "--check_reused=0"
    assert run("mine_pairs", tiny_run, output, *flags) == Exit.DONE
    assert "checks what it takes over" not in capsys.readouterr().out
    assert manifest.read(output).counters["reused.rows"] > 0
