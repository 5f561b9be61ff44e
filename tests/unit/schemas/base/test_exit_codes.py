"""docs/operate/exit_codes.md: each of its codes, by a command that ends with it."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.runs import reprocess
from deploy.airflow import phraselens_commands
from model_code.gate import command as gate
from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.maintenance import promote, verify
from schemas.runs import changes, snapshots
from schemas.runs import folders as run_folders
from tests.support.datasets import gate_work, work_folder
from tests.support.datasets.gate_work import Day

PAGE = work_folder.ROOT / "docs" / "operate" / "exit_codes.md"
FIRST, SECOND = "2026-01-01", "2026-01-02"


@pytest.fixture
def work(tmp_path):
    """A work folder with one snapshot in use."""
    work = str(tmp_path / "work")
    gate_work.write(work, FIRST, Day(images=90))
    changes.promote(work, FIRST)
    return work


def damage(work):
    dataset = snapshots.read(work, FIRST).dataset("features")
    os.truncate(dataset.path(dataset.shards("features")[0]), 99)
    return dataset


def done(work):
    return gate.run([f"--workdir={work}", f"--date={FIRST}"])


def bug(work):
    stage = Path(work, "a_stage.py")
    stage.write_text("raise KeyError('nobody thought of it')")
    command = [sys.executable, "-m", "schemas.console.launch", "a_stage"]
    env = os.environ | {"PYTHONPATH": f"{work}:{work_folder.ROOT}"}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "Traceback" in run.stderr
    return run.returncode


def bad_input(work):
    return gate.run([f"--workdir={work}", f"--date={FIRST}", "--max_label_drift=much"])


def refused(work):
    gate_work.write(work, SECOND, Day(images=90, seed=1, new_queries=1.0))
    return gate.run([f"--workdir={work}", f"--date={SECOND}"])


def promoted_all_the_same(work):
    refused(work)
    return promote.run(["promote", f"--workdir={work}", f"--date={SECOND}"])


def busy(work):
    dataset = damage(work)
    path = run_folders.lock_path(dataset.root, dataset.manifest.run_id)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return verify.run(["--repair", dataset.root])


def unavailable(work):
    gate_work.write(work, SECOND, Day(images=90, seed=1))
    os.makedirs(f"{work}/gates/{SECOND}.json")  # where the verdict has to go
    return gate.run([f"--workdir={work}", f"--date={SECOND}"])


def corrupt(work):
    damage(work)
    return verify.run([work])


def corrupt_while_it_is_read(work):
    gate_work.write(work, SECOND, Day(images=90, seed=1))
    damage(work)
    return gate.run([f"--workdir={work}", f"--date={SECOND}"])


def nothing(work):
    flags = ["--log=log.csv", "--images=images", "--labels=labels.csv", "--detailed_exit_code"]
    return reprocess.run([f"--workdir={work}", f"--date={FIRST}", *flags])


WAYS = [
    (Exit.DONE, done),
    (Exit.BUG, bug),
    (Exit.BAD_INPUT, bad_input),
    (Exit.REFUSED, refused),
    (Exit.REFUSED, promoted_all_the_same),
    (Exit.BUSY, busy),
    (Exit.UNAVAILABLE, unavailable),
    (Exit.CORRUPT, corrupt),
    (Exit.CORRUPT, corrupt_while_it_is_read),
    (Exit.NOTHING, nothing),
]


@pytest.mark.parametrize(("status", "way"), WAYS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_command_ends_with_each(work, status, way, capsys):
    assert way(work) == status
    told = capsys.readouterr().err
    assert "Traceback" not in told
    fails = (Exit.BAD_INPUT, Exit.BUSY, Exit.UNAVAILABLE)
    # The gate prints what it refuses, and verify what is damaged.
    is_error = status in fails or way in (promoted_all_the_same, corrupt_while_it_is_read)
    assert len(re.findall("^error: .*: expected ", told, re.MULTILINE)) == is_error


def test_the_page_has_each_of_them():
    codes = re.findall(r"^\| (\d+)", PAGE.read_text(), re.MULTILINE)
    assert [int(code) for code in codes if int(code) < 100] == sorted(Exit)
    assert {status for status, _ in WAYS} == set(Exit)


def test_the_schedule_tries_again_what_the_page_says():
    rows = re.findall(r"^\| (\d+) \|.*\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    retried = {int(code) for code, do in rows if do.strip().startswith("retry")}
    assert retried == {Exit.BUSY, Exit.UNAVAILABLE}
    assert set(phraselens_commands.LASTING) == set(Exit) - retried - {Exit.DONE, Exit.NOTHING}


def test_a_damaged_run_says_which_file(work, capsys):
    dataset = damage(work)
    assert corrupt_while_it_is_read(work) == Exit.CORRUPT
    assert dataset.path(dataset.shards("features")[0]) in capsys.readouterr().err
    assert manifest.read(dataset.root)
