"""What a reprocess loads while it mines is what its stages then use."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.frame.beside import Beside
from beam_jobs.models import embed_images
from beam_jobs.models.preload import preload
from beam_jobs.runs import chosen, overrides, reprocess
from beam_jobs.runs.stages import Stage
from model_code.images import embedder as image_embedder
from schemas.base.errors import Exit
from schemas.runs import command_line
from tests.support.datasets import work_folder

REPOSITORY = Path(__file__).parents[2]
LOADED = image_embedder._load_network


@pytest.fixture
def commands(tiny_run, tmp_path):
    """The command lines of embed_phrases and embed_images on the tiny run."""
    LOADED.cache_clear()
    return [
        work_folder.command_into(name, tiny_run.config, str(tmp_path / name))[3:]
        for name in ("embed_phrases", "embed_images")
    ]


def test_networks_are_loaded_once(commands):
    preload(*commands, ["model_code.models.fusion.export"])
    before = LOADED.cache_info()
    assert (before.misses, before.hits) == (2, 0)
    assert embed_images.run(commands[1]) == 0
    after = LOADED.cache_info()
    assert (after.misses, after.hits) == (2, 2)


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=FlinkRunner", "--flink_master=localhost:8081"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ],
)
def test_nothing_is_loaded_for_workers_elsewhere(commands, flags):
    preload(*([*argv, *flags] for argv in commands), [])
    assert LOADED.cache_info().misses == 0


def test_nothing_is_loaded_where_stages_want_other_devices(commands):
    """The first that uses TensorFlow decides for the process: that must be the first stage."""
    phrases, images = commands
    preload(phrases, [*images, "--device=cpu"], [])
    assert LOADED.cache_info().misses == 0


@pytest.mark.slow
def test_a_day_loads_networks_while_it_mines(tiny_run, tmp_path, monkeypatch):
    work = str(tmp_path / "work")
    shutil.copytree(tiny_run.config.workdir, work)
    again = {"mine_pairs": {"num_shards": "4", "max_dead_fraction": "0.2"}}
    inputs = overrides.sample_inputs(tiny_run.dataset("make_samples"))
    argv = [f"--{name}={path}" for name, path in inputs.items()]
    argv += [f"--workdir={work}", "--date=2026-01-01"]
    argv += [f"--set={work_folder.config(work, again).set}"]
    config = command_line.parse(chosen.Config, "reprocess", "", argv)
    LOADED.cache_clear()
    with contextlib.closing(Beside("beam_jobs.mining.mine_pairs")) as miner:
        done = [(row, LOADED.cache_info().misses) for row in reprocess.reprocess(config, miner)]
    mined, loaded = done[0]
    assert (mined.stage, mined.skipped, loaded) == ("mine_pairs", False, 2)
    assert mined.images
    assert done[-1][1] == 2, "no stage loads them again"


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Runs lines of Python as a stage, with something to do meanwhile."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{work_folder.ROOT}")

    def run(line: str, meanwhile):
        (tmp_path / "a_stage.py").write_text(f"import os\ndef run(argv): {line}")
        stage = Stage(name="mine_pairs", module="a_stage", does="", output="")
        with contextlib.closing(Beside("a_stage")) as process:
            return reprocess.run_stage(stage, ["--a=1"], "", process, meanwhile)

    return run


def test_a_stage_that_fails_beside_is_a_stage_that_failed(beside):
    meanwhile = []
    with pytest.raises(reprocess.StageError) as failed:
        beside("return 2 if argv == ['--a=1'] else 0", lambda: meanwhile.append("done"))
    assert (failed.value.stage, failed.value.status) == ("mine_pairs", 2)
    assert meanwhile == ["done"]


def test_a_process_that_is_killed_is_named(beside, capsys):
    with pytest.raises(reprocess.StageError) as failed:
        beside("os.kill(os.getpid(), 9)", lambda: None)
    assert failed.value.status == Exit.UNAVAILABLE
    assert "mine_pairs: its process was ended: SIGKILL" in capsys.readouterr().err


A_RUN = """
import contextlib, os
from beam_jobs.runs import reprocess
from beam_jobs.frame.beside import Beside
from beam_jobs.runs.stages import Stage

def meanwhile():
    with contextlib.suppress(Exception, SystemExit):
        {meanwhile}

stage = Stage(name="mine_pairs", module="a_stage", does="", output="")
reprocess.run_stage(stage, [], "", Beside("a_stage"), meanwhile)
"""
A_STAGE = """
import os, time

def run(argv):
    {stage}
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("stage", "meanwhile"),
    [("pass", "os.kill(os.getpid(), 15)"), ("os.kill(os.getppid(), 15)", "pass")],
    ids=["while it loads", "while it waits"],
)
def test_a_run_that_is_told_to_end_takes_the_stage_beside_it_along(tmp_path, stage, meanwhile):
    (tmp_path / "a_run.py").write_text(A_RUN.format(meanwhile=meanwhile))
    (tmp_path / "a_stage.py").write_text(A_STAGE.format(stage=stage))
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    command = [sys.executable, "-m", "a_run"]
    # Its output ends when both processes have ended.
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=30)
    assert run.returncode == -signal.SIGTERM, run.stderr


def test_a_process_that_is_never_told_anything_ends_with_its_starter(tmp_path):
    (tmp_path / "a_stage.py").write_text("def run(argv): raise AssertionError")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    lines = "import os; from beam_jobs.frame.beside import Beside; Beside('a_stage'); os._exit(7)"
    command = [sys.executable, "-c", lines]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=30)
    assert (run.returncode, run.stderr) == (7, b"")
