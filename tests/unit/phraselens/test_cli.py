"""`phraselens` as it is started: by its name or as a module, in any folder and locale."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from phraselens import cli
from schemas.base.errors import Exit

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def phraselens(tmp_path_factory):
    """A function that runs the script that pip makes of the entry point."""
    script = tmp_path_factory.mktemp("bin") / "phraselens"
    script.write_text("import sys\nfrom phraselens.cli import main\nsys.exit(main())\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PHRASELENS"))}

    def run(*words, cwd, **environment):
        return subprocess.run(
            [sys.executable, script, *words],
            env=kept | {"PYTHONPATH": str(ROOT)} | environment,
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
        )

    return run


def test_a_command_is_run_and_ends_with_its_own_exit_status(tmp_path, phraselens):
    done = phraselens("verify", "nothing here", cwd=tmp_path)
    assert done.returncode == Exit.BAD_INPUT
    assert done.stderr.startswith("error: nothing here: expected")


def test_files_of_the_folder_where_it_is_typed_are_no_modules(tmp_path, phraselens):
    (tmp_path / "schemas.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong module')")
    done = phraselens("promote", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_is_utf_8_whatever_the_locale_says(tmp_path, phraselens):
    done = phraselens("verify", "Büch er→日本", cwd=tmp_path, LC_ALL="C")
    assert "Büch er→日本: expected" in done.stderr


def test_the_version_is_that_of_the_project(tmp_path, phraselens):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = phraselens("--version", cwd=tmp_path)
    assert done.stdout == f"phraselens {project['version']}\n"


def test_the_entry_point_is_the_command_line():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"phraselens": f"{cli.__name__}:{cli.main.__name__}"}


def test_a_command_on_files_of_the_repository_says_so_where_they_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(cli.PhraseLensError, match="template: expected the files of the repository"):
        cli.start(["template", "all"])
