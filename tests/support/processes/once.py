"""What tests of several processes read, made by one of them."""

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Made = TypeVar("Made")


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """What `make` returns: called by the first process of a test run that asks, while others wait.

    Args:
      tmp_path_factory: of the test run.
      name: tells it from others.
      make: an empty folder → a value that can be pickled. It fills the folder.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes
    folder = base / name
    folder.mkdir(exist_ok=True)
    made = base / f"{name}.pickle"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            value = make(folder)
            partial = base / f"{name}.partial"
            partial.write_bytes(pickle.dumps(value))
            partial.rename(made)
    return pickle.loads(made.read_bytes())
