import time
from pathlib import Path

import pytest
from hypothesis import settings

from tests import work_folder
from tests.cloud import bucket, credentials, dataflow  # noqa: F401

# A busy machine is slow, not wrong.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> work_folder.TinyRun:
    """A work folder in which the driver has run every stage; tests leave it as it is."""
    config = work_folder.config(str(Path(tmp_path_factory.mktemp("run"), "work")))
    start = time.monotonic()
    done = work_folder.drive(config)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return work_folder.TinyRun(config, done.stdout, done.stderr, time.monotonic() - start)
