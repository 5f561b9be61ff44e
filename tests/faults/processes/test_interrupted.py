"""Ctrl-C and SIGTERM end a command in one line, whatever it is doing, and its stages with it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.processes.launched import start

LINES = {
    signal.SIGINT: "stopped: give the same command again; what is done stays done\n",
    signal.SIGTERM: "ended by SIGTERM: give the same command again; what is done stays done\n",
}
SLOW_DRAWING = "make_samples.images=500000,make_samples.workers=2"


def wait_for(process: subprocess.Popen, words: str) -> None:
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"ended without {words!r}: {process.stderr.read()}")


def group_is_gone(process: subprocess.Popen) -> bool:
    """Whether all that a command started ends within seconds after it."""
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def all_stages(folder: Path) -> list[str]:
    return ["--samples", f"--workdir={folder}/work", f"--set={SLOW_DRAWING}"]


@pytest.mark.parametrize("number", LINES, ids=["Ctrl-C", "SIGTERM"])
def test_a_run_of_all_stages_ends_in_one_line_and_ends_its_stage(tmp_path, number):
    process = start("beam_jobs.runs.all_stages", *all_stages(tmp_path))
    wait_for(process, "make_samples: run")
    time.sleep(1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # what a terminal does
    else:
        process.send_signal(number)  # what a scheduler does
    _, errors = process.communicate(timeout=60)
    assert errors == LINES[number]
    assert process.returncode == 128 + number
    assert group_is_gone(process)


@pytest.mark.slow
def test_a_job_ends_in_one_line_while_it_works(tmp_path):
    rows = (f"q{n % 977},p{n % 89},u{n},2026-11-20T10:00:00Z" for n in range(600_000))
    (tmp_path / "log.csv").write_text("query,image,user,timestamp\n" + "\n".join(rows), "utf-8")
    process = start(
        "beam_jobs.mining.mine_log", f"--log={tmp_path}/log.csv", f"--output={tmp_path}/day"
    )
    wait_for(process, "mine_log: run")
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] + "\n" == LINES[signal.SIGINT]
    assert "Traceback" not in errors
    assert process.returncode == 130
    assert not (tmp_path / "day" / "manifest.json").exists()


@pytest.mark.parametrize("seconds", [0.4, 0.8])
def test_a_command_ends_in_one_line_while_it_loads(seconds):
    process = start("beam_jobs.models.embed_images", "--help")
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors == LINES[signal.SIGINT]
    assert process.returncode == 130


def test_a_command_that_ends_by_itself_keeps_its_exit_status():
    process = start("schemas.maintenance.gc", "--workdir=", "--keep=1")
    _, errors = process.communicate(timeout=60)
    assert errors.startswith("error: --workdir '': expected the path of what is written")
    assert process.returncode == 2
