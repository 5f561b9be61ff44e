"""kill -9 at any moment: nothing unfinished is visible, and the next run ends in the same rows.

Each stage is run undisturbed, then killed at random moments of that time and run again to its
end. A manifest is what makes rows exist, so what a killed run leaves must name none.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from schemas import manifest
from tests import work_folder
from tests.work_folder import STEPS, TinyRun

QUICK = ("mine_pairs", "embed_images", "train_fusion")
MOMENTS = 3


def kill_after(seconds: float, command: list[str]) -> bool:
    """Kills a command, and all that it started, after some seconds; False if it ended before."""
    process = subprocess.Popen(
        command,
        env=work_folder.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def moments(stage: str, count: int) -> list[float]:
    """Shares of a stage's time: one at random in each of `count` equal parts of it."""
    rng = random.Random(stage)
    return [(part + rng.random()) / count for part in range(count)]


def kill_and_resume(stage: str, of: TinyRun, folder: Path, shares: list[float]) -> str:
    """Compares killed and resumed runs of a stage with an undisturbed one.

    Args:
      stage: the stage.
      of: whose datasets it reads.
      folder: an empty folder for its outputs.
      shares: moments to kill at, as shares of the undisturbed run's time.

    Returns:
      The figures, for people.
    """

    def command(name: str) -> list[str]:
        return work_folder.command_into(stage, of.config, str(folder / name))

    start = time.monotonic()
    work_folder.run(command("undisturbed"))
    seconds = time.monotonic() - start
    expected = work_folder.rows_of(str(folder / "undisturbed"))
    killed = []
    for number, share in enumerate(shares):
        for attempt in range(10):
            output = str(folder / f"killed{number}-{attempt}")
            moment = share * seconds
            was_killed = kill_after(moment, command(output))
            if manifest.read(output) is None:
                assert was_killed, f"{stage} failed by itself"
                break
            # It was done before the kill: the machine has more time for it than at first.
            assert work_folder.rows_of(output) == expected
            seconds *= 0.85
        else:
            pytest.fail(f"{stage} was never killed before it was done")
        killed.append(f"{share:.0%}")
        work_folder.run(command(output))
        assert work_folder.rows_of(output) == expected, f"killed after {moment:.1f} s"
        assert manifest.verify(output) == []
    rows = sum(len(values) for values in expected.values())
    return f"{stage}: {rows:,} rows equal, killed after {', '.join(killed)} of its time"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STEPS)
def test_stage_killed_at_any_moment_ends_in_the_same_rows(stage, tiny_run, tmp_path, capsys):
    figures = kill_and_resume(stage, tiny_run, tmp_path, moments(stage, MOMENTS))
    with capsys.disabled():
        print(f"\n{figures}")


@pytest.mark.parametrize("stage", QUICK)
def test_stage_killed_once_ends_in_the_same_rows(stage, tiny_run, tmp_path):
    # Late enough that work is under way: starting Python and its libraries takes the first half.
    kill_and_resume(stage, tiny_run, tmp_path, [random.Random(stage).uniform(0.5, 0.9)])


def test_old_dataset_stays_until_the_new_one_is_whole(tiny_run, tmp_path):
    """A reader sees the whole old dataset or the whole new one, and never some of each."""

    def command(output: str, min_pair_clicks: int) -> list[str]:
        flag = f"--min_pair_clicks={min_pair_clicks}"
        return work_folder.command_into("mine_pairs", tiny_run.config, output, flag)

    first = str(tmp_path / "first")
    start = time.monotonic()
    work_folder.run(command(first, 1))
    seconds = time.monotonic() - start
    old, token = work_folder.rows_of(first), manifest.token(first)
    for share in (0.7, 0.5, 0.35, 0.2):  # until the kill comes before the end
        output = shutil.copytree(first, str(tmp_path / f"killed at {share}"))
        kill_after(share * seconds, command(output, 2))
        if manifest.token(output) == token:
            break
    assert manifest.token(output) == token
    assert manifest.verify(output) == []
    assert work_folder.rows_of(output) == old
    work_folder.run(command(output, 2))
    assert manifest.token(output) != token
    assert manifest.verify(output) == []
    assert work_folder.rows_of(output)["pairs"] != old["pairs"]
