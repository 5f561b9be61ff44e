"""What a reprocess loads while it mines is what its stages then use."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import embed_images, pipeline, reprocess, reprocess_steps
from beam_jobs.pipeline import Step
from beam_jobs.preload import preload
from model_code import image_embedder
from schemas import config as config_lib
from schemas.errors import Exit
from tests import work_folder

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
    preload(*commands, ["model_code.export_model"])
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
    inputs = pipeline.sample_inputs(tiny_run.dataset("make_samples"))
    argv = [f"--{name}={path}" for name, path in inputs.items()]
    argv += [f"--workdir={work}", "--date=2026-01-01"]
    argv += [f"--set={work_folder.config(work, again).set}"]
    config = config_lib.parse(reprocess_steps.Config, "reprocess", "", argv)
    monkeypatch.setattr(reprocess, "_AT_ONCE", 0)
    LOADED.cache_clear()
    done = [(row, LOADED.cache_info().misses) for row in reprocess.reprocess(config)]
    mined, loaded = done[0]
    assert (mined.stage, mined.skipped, loaded) == ("mine_pairs", False, 2)
    assert mined.images
    assert done[-1][1] == 2, "no stage loads them again"


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Runs lines of Python as a stage, with something to do meanwhile."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{work_folder.ROOT}")
    monkeypatch.setattr(reprocess, "_AT_ONCE", 1)

    def run(lines: str, meanwhile):
        (tmp_path / "a_stage.py").write_text(lines)
        return reprocess.run_step(Step("mine_pairs", "a_stage", "", "", {}), [], "", meanwhile)

    return run


def test_a_stage_that_fails_beside_is_a_stage_that_failed(beside):
    meanwhile = []
    with pytest.raises(reprocess.StageError) as failed:
        beside("raise SystemExit(2)", lambda: meanwhile.append("done"))
    assert (failed.value.stage, failed.value.status) == ("mine_pairs", 2)
    assert not meanwhile, "it had ended at once"


def test_a_process_that_is_killed_is_named(beside, capsys):
    with pytest.raises(reprocess.StageError) as failed:
        beside("import os, time; time.sleep(2); os.kill(os.getpid(), 9)", lambda: None)
    assert failed.value.status == Exit.UNAVAILABLE
    assert "mine_pairs: its process was ended: SIGKILL" in capsys.readouterr().err


A_RUN = """
import contextlib, os
from beam_jobs import reprocess
from beam_jobs.pipeline import Step

def meanwhile():
    with contextlib.suppress(Exception, SystemExit):
        {meanwhile}

reprocess._AT_ONCE = 1
reprocess.run_step(Step("mine_pairs", "a_stage", "", "", {{}}), [], "", meanwhile)
"""
A_STAGE = """
import os, time
time.sleep(2)
{stage}
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("stage", "meanwhile"),
    [("", "os.kill(os.getpid(), 15)"), ("os.kill(os.getppid(), 15)", "pass")],
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
