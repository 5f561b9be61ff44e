import gc
import os
import time
from pathlib import Path

import pytest
from hypothesis import settings

from schemas.console import program
from tests.support.datasets import work_folder
from tests.support.datasets.fake_stages import fake_stages, fake_work  # noqa: F401
from tests.support.processes.cloud import bucket, credentials, dataflow  # noqa: F401
from tests.support.processes.once import once

# A busy machine is slow, not wrong.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

# What is printed names one program, whatever has started the tests.
os.environ[program.VARIABLE] = "./run.sh"

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run in as many processes as there are cores: threads of one would wait for the other.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_collection_finish() -> None:
    """Keeps the cyclic garbage collector from all that was imported, which stays to the end.

    A test process has millions of such objects: to go through them again and again took longer
    than many tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files, of which each process begins with its half, and takes from the other then.

    One that makes the tiny run comes first, and those that read it last, so that no process waits
    while another makes it.
    """
    readers = {item.path for item in items if "tiny_run" in getattr(item, "fixturenames", ())}
    first = next((item.path for item in items if item.path in readers), None)
    items.sort(key=lambda item: 0 if item.path == first else 2 if item.path in readers else 1)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: what is compressed holds the time, another in each process."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> work_folder.TinyRun:
    """A work folder in which the driver has run every stage; tests leave it as it is."""

    def make(folder: Path) -> work_folder.TinyRun:
        config = work_folder.config(str(folder / "work"))
        start = time.monotonic()
        done = work_folder.drive_forks(config, folder)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return work_folder.TinyRun(config, done.stdout, done.stderr, time.monotonic() - start)

    return once(tmp_path_factory, "tiny_run", make)
