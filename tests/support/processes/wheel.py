"""The wheel of this project: what workers elsewhere get (--setup_file), and the image installs."""

import shutil
import sys
import zipfile
from pathlib import Path

from schemas.base.code_fingerprint import PACKAGES
from tests.support.datasets import work_folder

SOURCES = (
    "setup.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "phraselens",
    "configs",
    *sorted(PACKAGES),
)


def build(folder: Path) -> Path:
    """Builds the wheel in an empty folder, from a copy of the sources; returns its path."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = work_folder.ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    work_folder.run([*command, f"--wheel-dir={folder}", str(source)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path) -> Path:
    """A folder with what the wheel holds, and nothing else."""
    installed = folder / "installed"
    with zipfile.ZipFile(build(folder)) as wheel:
        wheel.extractall(installed)
    return installed
