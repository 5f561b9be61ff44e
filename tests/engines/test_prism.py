"""Every Beam job on Prism, the runner that Beam's DirectRunner fetches where it can."""

import os
import shutil
import subprocess
from pathlib import Path

import apache_beam as beam
import pytest

from tests.support.processes import engine_jobs

PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


@pytest.fixture(scope="module")
def prism() -> str:
    """Path of the binary, built once and kept beside what else is cached."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "phraselens" / f"prism-{beam.__version__}"
    if not (folder / "prism").exists():
        go = shutil.which("go") or pytest.skip("Prism is built with Go: apt install golang-go")
        subprocess.run(
            [go, "install", f"{PACKAGE}@v{beam.__version__}"],
            env=os.environ | {"GOBIN": str(folder)},
            check=True,
        )
    return str(folder / "prism")


@pytest.mark.slow
@pytest.mark.parametrize("job", engine_jobs.JOBS)
def test_job_writes_the_same_rows_on_prism(job, prism, tiny_run, tmp_path, capsys):
    options = ("--runner=PrismRunner", f"--prism_location={prism}")
    figures = engine_jobs.compare(job, tiny_run, tmp_path, "prism", options)
    with capsys.disabled():
        print(f"\n{figures}")
