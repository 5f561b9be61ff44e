"""kill -9 at any moment: nothing unfinished is visible, and the next run ends in the same rows.

Each job is run undisturbed, then killed at random moments of that time: killed, run again on what
that left, killed again, until a run comes to its end before it is killed; then from an empty folder
again. A manifest is what makes rows exist, so what a killed run leaves must name none.
"""

import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from schemas.base import storage
from schemas.datasets import checks, commit
from schemas.runs import folders as run_folders
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES, TinyRun
from tests.support.processes import engine_jobs, forked

QUICK = ("mine_pairs", "embed_images", "train_fusion")
MOMENTS = 20


def moments(job: str, count: int) -> list[float]:
    """Shares of a job's time: one at random in each of `count` equal parts of it, shuffled."""
    rng = random.Random(job)
    return rng.sample([(part + rng.random()) / count for part in range(count)], count)


def left_behind(output: str) -> frozenset[str]:
    """The files below a folder, without the random part of the names of unfinished ones."""
    partial = re.escape(storage.PARTIAL) + ".*"
    files = (os.path.join(at, name) for at, _, names in os.walk(output) for name in names)
    return frozenset(re.sub(partial, storage.PARTIAL, file) for file in files)


def kill_and_resume(job: str, of: TinyRun, folder: Path, shares: list[float]) -> str:
    """Compares killed and resumed runs of a job with an undisturbed one.

    Args:
      job: a stage, or one of engine_jobs.JOBS.
      of: whose datasets it reads.
      folder: an empty folder for its outputs.
      shares: moments to kill at, as shares of the undisturbed run's time.

    Returns:
      The figures, for people.
    """

    undisturbed, output, log = folder / "undisturbed", folder / "killed", str(folder / "log")
    engine_jobs.prepare(job, of, folder / "prepared")

    def command(at: Path) -> list[str]:
        if not at.exists() and job == "forget":  # which rewrites what is there
            shutil.copytree(folder / "prepared", at)
            shutil.copy(folder / "prepared.csv", f"{at}.csv")
        return engine_jobs.command(job, of, at)

    forked.warm_up()
    first = command(undisturbed)
    start = time.monotonic()
    forked.run(first, log)
    seconds = time.monotonic() - start
    expected = work_folder.rows_of(engine_jobs.dataset(job, undisturbed))

    def check() -> None:
        root = engine_jobs.dataset(job, output)
        assert work_folder.rows_of(root) == expected
        assert checks.verify(root) == []
        assert job != "forget" or len(run_folders.runs(root)) == 1
        shutil.rmtree(output)

    lefts, chains = set(), 1
    for share in shares:
        moment = share * seconds
        while True:
            fresh, started = not output.exists(), command(output)
            start = time.monotonic()
            process = forked.start(started, log)
            process.join(moment)
            ended = time.monotonic()
            if forked.kill(process):
                break
            # It was done before the kill, and so were those that this one went on from.
            assert process.exitcode == 0, Path(log).read_text()
            check()
            chains += 1
            if fresh:  # the machine has more time for it than at first
                seconds = min(seconds, ended - start)
                moment = share * seconds
        lefts.add(left_behind(str(output)))
    forked.run(command(output), log)
    check()
    rows = sum(len(values) for values in expected.values())
    return (
        f"killed {len(shares)} times, which left {len(lefts)} different states; "
        f"{chains} resumed runs ended in the same {rows:,} rows"
    )


@pytest.mark.slow
@pytest.mark.parametrize("job", dict.fromkeys([*STAGES, *engine_jobs.JOBS]))
def test_stage_killed_at_any_moment_ends_in_the_same_rows(job, tiny_run, tmp_path, figure):
    figure(kill_and_resume(job, tiny_run, tmp_path, moments(job, MOMENTS)))


@pytest.mark.parametrize("job", QUICK)
def test_stage_killed_twice_ends_in_the_same_rows(job, tiny_run, tmp_path, figure):
    figure(kill_and_resume(job, tiny_run, tmp_path, moments(job, 2)))


def test_old_dataset_stays_until_the_new_one_is_whole(tiny_run, tmp_path):
    """A reader sees the whole old dataset or the whole new one, and never some of each."""
    log = str(tmp_path / "log")

    def command(output: str, min_pair_clicks: int) -> list[str]:
        flag = f"--min_pair_clicks={min_pair_clicks}"
        return work_folder.command_into("mine_pairs", tiny_run.config, output, flag)

    first = str(tmp_path / "first")
    forked.warm_up()
    start = time.monotonic()
    forked.run(command(first, 1), log)
    seconds = time.monotonic() - start
    old, token = work_folder.rows_of(first), commit.token(first)
    for share in (0.7, 0.5, 0.35, 0.2):  # until the kill comes before the end
        output = shutil.copytree(first, str(tmp_path / f"killed at {share}"))
        process = forked.start(command(output, 2), log)
        process.join(share * seconds)
        forked.kill(process)
        if commit.token(output) == token:
            break
    assert commit.token(output) == token
    assert checks.verify(output) == []
    assert work_folder.rows_of(output) == old
    forked.run(command(output, 2), log)
    assert commit.token(output) != token
    assert checks.verify(output) == []
    assert work_folder.rows_of(output)["pairs"] != old["pairs"]
