"""Stages in processes that start at once: forks of a server that has loaded the libraries.

A stage loads TensorFlow and Beam for seconds before it works. A test that kills stages wants them
dead in the middle of their work, and many of them; one that runs all jobs wants no such wait.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess

PRELOADED = [
    "tensorflow",
    "keras",
    "faiss",
    "tensorflow_transform.beam",
    "apache_beam.runners.portability.fn_api_runner.fn_runner",
    "beam_jobs.runs.all_stages",
    "beam_jobs.mining.mine_pairs",
]


@functools.cache
def server():
    """Where processes come from; each of its forks has the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(module: str, argv: list[str], out: str, err: str, environment: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        with open(path, "a") as f:
            os.dup2(f.fileno(), number)
    sys.exit(importlib.import_module(module).run(argv))


def warm_up() -> None:
    """Waits for the server to be there, so that what is timed next is the stage alone."""
    process = server().Process()
    process.start()
    process.join()


def start(command: Sequence[str], log: str, err: str = "", **environment: str) -> ForkServerProcess:
    """Starts `python -m MODULE FLAGS…`, whose output goes to the end of the file `log`.

    What it writes to standard error goes to the end of the file `err` where one is named;
    variables that are named are in its environment beside the server's.
    """
    assert command[1] == "-m"
    args = (command[2], list(command[3:]), log, err or log, environment)
    process = server().Process(target=_run, args=args)
    process.start()
    return process


def run(command: Sequence[str], log: str, status: int = 0) -> str:
    """Runs a command that must end with a status; returns what it printed."""
    process = start(command, log)
    process.join()
    with open(log) as f:
        printed = f.read()
    assert process.exitcode == status, f"{process.exitcode}: {' '.join(command)}\n{printed}"
    return printed


def kill(process: ForkServerProcess) -> bool:
    """`kill -9` to a stage and all that it started; False if it had ended before."""
    if process.exitcode is None and process.pid:
        with contextlib.suppress(ProcessLookupError):  # it has no group yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL
