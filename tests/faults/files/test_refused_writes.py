"""A disk that refuses a write or a rename: the job says so and commits nothing; then it goes on."""

import contextlib
import errno
import os
import subprocess

import pytest

from beam_jobs.mining import mine_pairs
from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import checks, manifest
from tests.support.datasets import work_folder
from tests.support.processes import forked

KINDS = ("query", "user", "image", "clicks")


@pytest.fixture
def log(tmp_path):
    rows = [f"q{n % 17},u{n % 13},p{n % 11},{1 + n % 3}" for n in range(400)]
    (tmp_path / "log.csv").write_text("\n".join([",".join(KINDS), *rows]))
    return str(tmp_path / "log.csv")


def mine(log, output):
    flags = ["--min_users=1", "--one_person_pairs", "--num_shards=3"]
    return mine_pairs.run([f"--log={log}", f"--output={output}", *flags])


@contextlib.contextmanager
def renames(fails_at: int | None):
    """Counts the renames of local files; one of them, from 0, fails."""
    rename, done = os.replace, []

    def replace(source, target):
        done.append(target)
        if len(done) - 1 == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), source, None, target)
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.os, "replace", replace)
        yield done


def test_rename_that_fails_commits_nothing(log, tmp_path, capsys, figure):
    whole = str(tmp_path / "whole")
    with renames(None) as done:
        assert mine(log, whole) == 0
    expected = work_folder.rows_of(whole)
    for place in (0, len(done) // 2, len(done) - 1):  # the last one: the manifest
        output = str(tmp_path / f"fails at {place}")
        with renames(place):
            assert mine(log, output) == Exit.UNAVAILABLE
        printed = capsys.readouterr().err
        assert "Input/output error" in printed
        assert "same command again" in printed
        assert "Traceback" not in printed
        assert manifest.read(output) is None
        assert mine(log, output) == 0
        assert work_folder.rows_of(output) == expected
        assert checks.verify(output) == []
    rows = sum(map(len, expected.values()))
    figure(f"3 of {len(done)} renames failed, one a run; {rows} rows equal after the next run")


@contextlib.contextmanager
def small_disk(folder, size: str):
    """A disk of its own in memory, at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path, leave: int) -> None:
    """Takes all room of the disk that `path` is on, but for `leave` bytes."""
    found = os.statvfs(path.parent)
    path.write_bytes(b"x" * max(0, found.f_bavail * found.f_frsize - leave))


STAGES = [
    pytest.param(name, marks=() if name == "mine_pairs" else pytest.mark.slow)
    for name in work_folder.STAGES
]


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_commits_nothing(stage, tiny_run, tmp_path, figure):
    disk, log = tmp_path / "disk", str(tmp_path / "log")
    expected = work_folder.rows_of(tiny_run.dataset(stage))
    tried = []
    with small_disk(disk, "256m"):
        output = str(disk / "output")
        command = work_folder.command_into(stage, tiny_run.config, output)
        for room in (0, 1 << 15, 1 << 19):  # the first write, and later ones
            fill(disk / "filler", room)
            process = forked.start(command, log)
            process.join()
            (disk / "filler").unlink()
            if process.exitcode == 0:
                break
            with open(log) as f:
                printed = f.read()
            assert "error: " in printed
            assert "No space left on device" in printed
            assert "Traceback" not in printed, printed
            assert manifest.read(output) is None
            os.remove(log)
            tried.append(f"{room:,}")
        assert tried
        if process.exitcode:
            forked.run(command, log)
        assert work_folder.rows_of(output) == expected
        assert checks.verify(output) == []
    figure(f"refused with {' or '.join(tried)} bytes free; the same rows when there was room")
