"""One worker or several processes: the same shards, to the byte."""

import pytest

from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import shards_of
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES, TinyRun
from tests.support.processes import forked

WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
SLOW = {"prepare_pairs", "embed_phrases", "embed_images", "prepare_examples", "classify_images"}
JOBS = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name, step in STAGES.items()
    if step.module.startswith("beam_jobs.")
]


def checksums(root: str) -> dict[str, str]:
    """Path → checksum of every shard, the run's folder and dated files left out."""
    manifest = Dataset(root).manifest
    prefix = f"runs/{manifest.run_id}/"
    sums = {
        shard.path.removeprefix(prefix): shard.sha256
        for shard in shards_of(manifest)
        if not shard.path.endswith(work_folder.DATED)
    }
    return sums | {"content_hash": manifest.content_hash}


def run_with(stage: str, tiny_run: TinyRun, output: str, *flags: str) -> str:
    command = work_folder.command_into(stage, tiny_run.config, output, *flags)
    return forked.run(command, f"{output}.log")


@pytest.mark.parametrize("stage", JOBS)
def test_two_processes_write_the_same_shards(stage, tiny_run, tmp_path):
    run_with(stage, tiny_run, str(tmp_path / "two"), *WORKERS)
    assert checksums(str(tmp_path / "two")) == checksums(tiny_run.dataset(stage))


def test_direct_runner_by_name_writes_the_same_shards(tiny_run, tmp_path):
    printed = run_with("mine_pairs", tiny_run, str(tmp_path / "direct"), "--runner=DirectRunner")
    assert "on DirectRunner" in printed
    assert checksums(str(tmp_path / "direct")) == checksums(tiny_run.dataset("mine_pairs"))
