"""Starts a command, and ends it in one line where it is interrupted.

  python -m schemas.console.launch MODULE FLAGS…

run.sh starts every command so, and a command the stages that run in processes of their own: those
say nothing, as whoever started them does. Needs nothing but Python.
"""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from schemas.console import log_lines, program

_PART = "--part"
# What was started has so many seconds to let go of threads, locks and processes of its own.
_GRACE = 3.0


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to end."""


class _Stop:
    """What happens on SIGINT, which is Ctrl-C, and on SIGTERM.

    Args:
      silent: whether another process tells people.
    """

    def __init__(self, silent: bool):
        self._silent = silent
        self.number = 0

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.number == number:
            self.end()  # asked twice
        if not self.number:
            self.number = number
            threading.Thread(target=self._end_later, daemon=True).start()
            raise Stopped

    def _end_later(self) -> None:
        time.sleep(_GRACE)
        self.end()

    def end(self) -> None:
        """Ends the process at once, whatever it does."""
        try:
            self.tell()
            log_lines.finish(wait=1.0)
        finally:
            os._exit(128 + self.number)

    def tell(self) -> None:
        """Says in a line, and once, that the process ends."""
        if not self._silent:
            how = "stopped" if self.number == signal.SIGINT else "ended by SIGTERM"
            line = f"{how}: give the same command again; what is done stays done\n"
            # The terminal shows ^C on the line that the command has begun.
            os.write(2, (("\n" if os.isatty(2) else "") + line).encode())
            self._silent = True


@contextlib.contextmanager
def interrupts_are_ours() -> Iterator[None]:
    """Processes that are started here do not heed Ctrl-C: this one ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def part(command: Sequence[str]) -> list[str]:
    """The command `python -m MODULE FLAGS…` as part of another one, which tells of its end."""
    python, option, *rest = command
    return [python, option, "schemas.console.launch", _PART, *rest]


def call(command: Sequence[str]) -> int:
    """Runs a command as part of this one; returns its exit status. Where this one ends, it ends."""
    with subprocess.Popen(part(command)) as process:
        try:
            return process.wait()
        except BaseException:
            end(process)
            raise


def end(process: subprocess.Popen) -> None:
    """Asks a process to end, ends it where it does not, and waits: it may hold locks."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    process.kill()
    process.wait()


def main(argv: Sequence[str]) -> None:
    is_part = argv[:1] == [_PART]
    module, *flags = argv[is_part:]
    if not is_part:
        try:
            log_lines.start(log_lines.asked(flags), module)
        except ValueError as error:
            sys.exit(_refused(error))
    stop = _Stop(is_part)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BaseException as error:
        if not stop.number and not isinstance(error, KeyboardInterrupt):
            raise
        stop.number = stop.number or signal.SIGINT
        sys.stdout.flush()
        stop.tell()
        # What threads and libraries say while they end is of no use to anybody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise SystemExit(128 + stop.number) from None


def _refused(error: ValueError) -> int:
    print(f"error: {error} See {program.command('--help')}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main(sys.argv[1:])
