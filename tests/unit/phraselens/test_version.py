"""There is one version, in pyproject.toml, wherever the program lies."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def version_in(folder):
    """What the module says that lies in a folder, as a process elsewhere hears it."""
    done = subprocess.run(
        [sys.executable, "-c", "from phraselens import version; print(version.version())"],
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def installed(tmp_path):
    """A folder in which version 7.8 is installed."""
    for package in ("phraselens", "schemas"):
        shutil.copytree(ROOT / package, tmp_path / package)
    metadata = tmp_path / "phraselens-7.8.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: phraselens\nVersion: 7.8\n")
    return tmp_path


def test_a_clone_has_the_version_of_its_project():
    assert version_in(ROOT) == PROJECT["version"]


def test_what_is_installed_has_the_version_of_its_metadata(installed):
    assert version_in(installed) == "7.8"


@pytest.mark.parametrize("content", ['[project]\nname = "other"\nversion = "1"\n', "[tool.ruff]\n"])
def test_another_project_s_file_says_nothing(installed, content):
    (installed / "pyproject.toml").write_text(content)
    assert version_in(installed) == "7.8"


def test_the_list_of_changes_has_the_version():
    headings = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert any(line.split()[:2] == ["##", PROJECT["version"]] for line in headings)
