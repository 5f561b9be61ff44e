"""Each lock installs itself and nothing else, whatever has been released since it was written."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.datasets import work_folder
from tests.support.processes import package_index
from tests.support.processes.cloud import serve

ROOT = work_folder.ROOT
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))

# What Python 3.11.0 was released with.
OLDEST_PIP = "22.3"
OLDEST_PIP_HASH = "sha256:1daab4b8d3b97d1d763caeb01a4640a2250a0ea899e257b1e44b9eded91e15ab"

# As python3.11 of a machine that brings this pip: environments that it makes hold it.
OLD_PYTHON = """#!/bin/sh
set -e
[ "$1 $2" = "-m venv" ] || exec "{python}" "$@"
"{python}" -m venv --without-pip "$3"
cd "$3"/lib/python3.11/site-packages
"{python}" -m zipfile -e "{pip}" .
"""


@pytest.fixture(scope="module")
def index() -> package_index.Index:
    return package_index.Index({name: (ROOT / name).read_text() for name in LOCKS})


@pytest.fixture(scope="module")
def oldest_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pip")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"pip=={OLDEST_PIP} --hash={OLDEST_PIP_HASH}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(wanted)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"pip {OLDEST_PIP} is fetched once, by its hash: {done.stderr}"
    return next(folder.glob("pip-*.whl"))


@pytest.fixture
def machine(tmp_path, index, oldest_pip):
    """A function that runs run.sh of a fresh clone, on a machine with the oldest pip."""
    programs = tmp_path / "bin"
    programs.mkdir()
    python = programs / "python3.11"
    here = Path(sys.executable).resolve()  # the one that this environment was made with
    python.write_text(OLD_PYTHON.format(python=here, pip=oldest_pip))
    python.chmod(0o755)
    root = tmp_path / "clone"
    root.mkdir()
    package_index.write_root(index, root, ROOT)
    kept = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    with serve(package_index.handler(index)) as server:
        settings = {
            "PIP_INDEX_URL": f"http://localhost:{server.server_port}/",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_CACHE_DIR": "1",
            "PATH": f"{programs}:/usr/bin:/bin",
            "STORAGE_EMULATOR_HOST": "http://localhost:1",  # doctor asks nobody for credentials
        }

        def run(*arguments: str) -> subprocess.CompletedProcess:
            return subprocess.run(
                [str(root / "run.sh"), *arguments],
                env=kept | settings,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )

        yield run


def _is_ours(name: str) -> bool:
    return name.startswith(("PIP_", "PHRASELENS_", "PYTHON", "VIRTUAL_ENV"))


def packages(python: Path) -> Mapping[str, str]:
    """What is installed beside pip: an answer of importlib, not of what installed it."""
    listing = (
        "import importlib.metadata as m\n"
        "for d in m.distributions(): print(d.metadata['Name'], d.version)"
    )
    lines = subprocess.check_output([str(python), "-Ic", listing], text=True).splitlines()
    found = dict(line.split() for line in lines)
    return {re.sub(r"[-_.]+", "-", n).lower(): v for n, v in found.items() if n != "pip"}


def named(*locks: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for lock in locks:
        entries = package_index.entries((ROOT / lock).read_text())
        found |= {name: version for name, (version, _) in entries.items()}
    return found


def test_a_fresh_clone_installs_the_lock_beside_newer_releases(machine, tmp_path):
    done = machine("setup")
    assert done.returncode == 0, done.stdout + done.stderr
    environment = tmp_path / "clone" / ".venv"
    found = packages(environment / "bin" / "python")
    assert found == named("requirements-build.lock", "requirements.lock")
    assert (environment / "requirements.lock").exists()
    again = machine("setup")
    assert "Installing" not in again.stdout


@pytest.mark.slow
def test_every_lock_installs_itself(machine, tmp_path):
    done = machine("lock", "--check", str(tmp_path / "envs"))
    assert done.returncode == 0, done.stdout + done.stderr
    cpu = ("requirements-build.lock", "requirements.lock")
    for lock in LOCKS:
        kind = lock.removeprefix("requirements").removesuffix(".lock")
        if kind == "-build":
            continue
        before = cpu if kind in ("-bench", "-fuzz") else cpu[:1]
        found = packages(tmp_path / "envs" / f"env{kind}" / "bin" / "python")
        assert found == named(*before, lock), lock
        assert f"{lock}: installed in" in done.stdout


def test_a_package_with_another_hash_is_not_installed(machine, tmp_path):
    lock = tmp_path / "clone" / "requirements-build.lock"
    text = lock.read_text()
    last = text.rindex("sha256:") + len("sha256:")
    lock.write_text(text[:last] + "0" * 64 + "\n")
    done = machine("setup")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "clone" / ".venv" / "requirements.lock").exists()
