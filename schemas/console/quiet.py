"""Keeps back what libraries write while they load, and shows it where they fail to.

TensorFlow and what it is made of write warnings to file descriptor 2 from C++ before any setting
of theirs is read. So while a library is imported, or starts its device, that descriptor is a file.
What lies in it is shown when loading fails, with --verbose, and when the process dies before it
has loaded. Python's own lines of other threads, such as progress, go their way meanwhile.
"""

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from schemas.console import heartbeat

# Those that write when they are imported, and those that import these.
LIBRARIES = (
    "absl",
    "apache_beam",
    "faiss",
    "grpc",
    "keras",
    "tensorflow",
    "tensorflow_hub",
    "tensorflow_transform",
)
_VERBOSE = "PHRASELENS_VERBOSE"  # in the environment, so that processes that we start know it
_STDERR = 2


def verbose() -> bool:
    """Whether --verbose was given to this process or to one that started it."""
    return os.environ.get(_VERBOSE) == "1"


def be_verbose() -> None:
    """Shows what was kept back, and from now on everything."""
    os.environ[_VERBOSE] = "1"
    _kept.show()


def flags() -> list[str]:
    """--verbose, for a command that this one starts, where it was given."""
    return ["--verbose"] if verbose() else []


class _Verbose(argparse.Action):
    def __call__(self, *_: Any) -> None:
        be_verbose()


def add_flag(parser: Any) -> None:
    """Adds --verbose, which every command takes, to an argparse parser or group."""
    parser.add_argument(
        "--verbose",
        action=_Verbose,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the value of every flag, and what libraries write while they load",
    )


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Held while a library is imported or starts; may be nested, and held by several threads.

    Args:
      what: is loaded, for people who wait for it.
    """
    outermost = _kept.start()
    try:
        with heartbeat.doing(f"loading {what}") if outermost else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        _kept.stop()
        raise
    except BaseException:
        _kept.stop()
        _kept.show()
        raise
    _kept.stop()
    if verbose():
        _kept.show()


class _Kept:
    """What the libraries of this process wrote while they loaded."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._threads: Counter[int] = Counter()  # those that load something now
        self._file: Any = None
        self._shown = 0  # bytes of the file
        self._restore = contextlib.ExitStack()

    def start(self) -> bool:
        """Returns whether this thread loads nothing else at the time."""
        with self._lock:
            if not self._threads:
                # A process without this descriptor, or a machine without room, loads all the same.
                with contextlib.suppress(OSError, ValueError):
                    self._redirect()
            self._threads[threading.get_ident()] += 1
            return self._threads[threading.get_ident()] == 1

    def stop(self) -> None:
        with self._lock:
            self._threads -= Counter([threading.get_ident()])  # drops those at 0
            if not self._threads:
                self._restore.close()

    def show(self) -> None:
        """Writes what nobody has seen yet to standard error."""
        with self._lock:
            if self._file is None:
                return
            size = os.fstat(self._file.fileno()).st_size
            data = os.pread(self._file.fileno(), size - self._shown, self._shown)
            self._shown = size
        text = data.decode(errors="replace").rstrip()
        if text and sys.stderr:
            print(f"written by libraries while they loaded:\n{text}", file=sys.stderr, flush=True)

    def _redirect(self) -> None:
        with contextlib.ExitStack() as undo:
            real = os.dup(_STDERR)
            undo.callback(os.close, real)
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="phraselens-")  # noqa: SIM115
            undo.enter_context(_shown_if_we_die(self._file.fileno(), self._shown, real))
            stream = sys.__stderr__
            python = stream if stream is not None and stream.fileno() == _STDERR else None
            if python:
                python.flush()
            os.dup2(self._file.fileno(), _STDERR)
            undo.callback(os.dup2, real, _STDERR)
            if python:
                undo.enter_context(self._python_of_other_threads_to(python, real))
            self._restore = undo.pop_all()

    @contextlib.contextmanager
    def _python_of_other_threads_to(self, stream: Any, real: int) -> Iterator[None]:
        """Handlers of `logging` hold the stream: it must stay the same object."""
        held = type(stream).write
        with open(os.dup(real), "w", 1, encoding=stream.encoding, errors=stream.errors) as shown:

            def write(text: str) -> int:
                if threading.get_ident() in self._threads:
                    return held(stream, text)
                return shown.write(text)

            stream.write = write
            try:
                yield
            finally:
                del stream.write
                stream.flush()


@contextlib.contextmanager
def _shown_if_we_die(file: int, start: int, real: int) -> Iterator[None]:
    """A process that shows a file from byte `start` on if this one ends within the block.

    Native code that crashes runs nothing of Python's; but its end of a pipe closes.
    """
    ours, theirs = os.pipe()
    script = f"read -r _ || tail -c +{start + 1} /dev/fd/{file}"
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", script], stdin=ours, stdout=real, stderr=real, pass_fds=[file]
        )
    except OSError:
        os.close(theirs)
        yield
        return
    finally:
        os.close(ours)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):  # ended by a Ctrl-C that we caught
            os.write(theirs, b"\n")
        os.close(theirs)
        watcher.wait()


_kept = _Kept()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the libraries where Python does, and has them imported within `loading`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in LIBRARIES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_quietly(module: ModuleType) -> None:
                with loading(name):
                    run(module)

            spec.loader.exec_module = run_quietly  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Makes this process import the libraries within `loading`; each of our packages calls it."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
