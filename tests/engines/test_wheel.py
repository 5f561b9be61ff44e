"""The wheel holds all that a stage needs, and names the same work as the checkout."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

from beam_jobs.runs import stages
from schemas.base import code_fingerprint
from tests.support.datasets import work_folder
from tests.support.processes import wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return wheel.build(tmp_path_factory.mktemp("wheel"))


def test_it_holds_every_module_template_and_preset(built):
    expected = {
        str(path.relative_to(work_folder.ROOT))
        for package in (*code_fingerprint.PACKAGES, "phraselens", "configs")
        for path in (work_folder.ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(built) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_it_names_the_same_work_as_the_checkout(built, tmp_path):
    """Launcher, workers and checkout agree, or nothing would ever be found done."""
    modules = [step.module for step in stages.STAGES]
    script = (
        f"from schemas.base.code_fingerprint import *; print([of_code([m]) for m in {modules}])"
    )
    environment = work_folder.environment() | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    with zipfile.ZipFile(built) as opened:
        opened.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str([code_fingerprint.of_code([m]) for m in modules]), done.stderr


def test_presets_and_the_command_line_work_where_nothing_but_the_wheel_is(built, tmp_path):
    with zipfile.ZipFile(built) as opened:
        opened.extractall(tmp_path)
    environment = work_folder.environment() | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "phraselens", *words]
        return subprocess.check_output(command, env=environment, cwd=tmp_path, text=True)

    assert "--backbone=small_resnet" in run("quickstart", "--dry_run")
    completion = run("completion", "bash")
    assert '"train fusion")' in completion
    assert '"template")' not in completion, "it works on the files of a clone"
    project = tomllib.loads((work_folder.ROOT / "pyproject.toml").read_text())["project"]
    assert run("--version") == f"phraselens {project['version']}\n"
    (folder,) = tmp_path.glob("phraselens-*.dist-info")
    metadata = (folder / "METADATA").read_text()
    assert f"\nVersion: {project['version']}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert (folder / "licenses" / "LICENSE").read_bytes() == (
        work_folder.ROOT / "LICENSE"
    ).read_bytes()
    for extra in project["optional-dependencies"]:
        assert f"\nProvides-Extra: {extra}\n" in metadata


@pytest.mark.slow
def test_every_stage_runs_where_nothing_but_the_wheel_is(built, tmp_path):
    installed, work = tmp_path / "installed", tmp_path / "work"
    with zipfile.ZipFile(built) as opened:
        opened.extractall(installed)
    config = work_folder.config(str(work))
    command = [sys.executable, "-m", "beam_jobs.runs.all_stages", "--samples"]
    command += [f"--workdir={work}", f"--set={config.set}"]
    done = subprocess.run(
        command,
        env=work_folder.environment() | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for step in stages.STAGES:
        assert (work / step.output / "manifest.json").exists(), step.name
