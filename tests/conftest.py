import os
import time
from pathlib import Path

import pytest
from hypothesis import settings

from tests import work_folder
from tests.cloud import bucket, credentials, dataflow  # noqa: F401
from tests.once import once

# A busy machine is slow, not wrong.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run in as many processes as there are cores: threads of one would wait for the other.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups when it is asked the same
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shares the tests out among processes: those of a file that share a fixture stay together.

    One process makes the tiny run first, while others run what does not need it.
    """
    readers = [item for item in items if "tiny_run" in getattr(item, "fixturenames", ())]
    first = readers[0].path if readers else None

    def place(item: pytest.Item) -> int:
        return 0 if item.path == first else 2 if item in readers else 1

    items.sort(key=place)
    for item in items:
        if item.path == first or _has_shared_fixture(item):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


def _has_shared_fixture(item: pytest.Item) -> bool:
    found = getattr(item, "_fixtureinfo", None)
    definitions = found.name2fixturedefs.values() if found else ()
    return any(d[-1].scope in ("class", "module", "package") for d in definitions if d)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: what is compressed holds the time, another in each process."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> work_folder.TinyRun:
    """A work folder in which the driver has run every stage; tests leave it as it is."""

    def make(folder: Path) -> work_folder.TinyRun:
        config = work_folder.config(str(folder / "work"))
        start = time.monotonic()
        done = work_folder.drive(config)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return work_folder.TinyRun(config, done.stdout, done.stderr, time.monotonic() - start)

    return once(tmp_path_factory, "tiny_run", make)
