"""Gives each line that a command prints its time and level, for people or as JSON for collectors.

  ./run.sh reprocess … --log_format=text     2026-01-31T03:12:00.123Z INFO mine_pairs: committed …
  ./run.sh reprocess … --log_format=json     {"time": "…", "level": "INFO", "command": "…", …}
  PHRASELENS_LOG_FORMAT=json ./run.sh …      the same for every command

A process of its own reads what the command and all that it starts write to standard output and
error, libraries in C++ too, and writes it on, a line each, until the last of them has ended. Needs
nothing but Python.
"""

import argparse
import atexit
import contextlib
import datetime
import json
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

FORMATS = ("plain", "text", "json")
VARIABLE = "PHRASELENS_LOG_FORMAT"
_FLAG = "--log_format"
_WAIT = 10.0  # seconds for the last lines to be written
_LEVEL = re.compile(r"(debug|info|warning|error|critical)\b:", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last):"
_writer: subprocess.Popen | None = None


class Levels:
    """The levels of the lines of one stream, as they come."""

    def __init__(self) -> None:
        self._in_traceback = False

    def of(self, line: str) -> str:
        """What a line begins with, of DEBUG, INFO, WARNING, ERROR, CRITICAL; INFO where it is none.

        All lines of a traceback are errors, up to the one that names the exception.
        """
        if line == _TRACEBACK:
            self._in_traceback = True
            return "ERROR"
        if self._in_traceback:
            self._in_traceback = line.startswith(" ")
            return "ERROR"
        found = _LEVEL.match(line)
        return found[1].upper() if found else "INFO"


def formatted(line: str, level: str, when: datetime.datetime, command: str, how: str) -> str:
    """A line as it is written.

    Args:
      line: what was printed, without its end.
      level: see `Levels`.
      when: in UTC.
      command: that was started.
      how: text or json.
    """
    time = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if how == "text":
        return f"{time} {level} {line}"
    told = {"time": time, "level": level, "command": command, "message": line}
    return json.dumps(told, ensure_ascii=False)


def asked(argv: Sequence[str]) -> str:
    """The format that flags, or else the environment, ask for.

    Raises:
      ValueError: there is none of that name.
    """
    how = os.environ.get(VARIABLE) or "plain"
    for place, flag in enumerate(argv):
        if flag == _FLAG:
            how = "".join(argv[place + 1 : place + 2])
        elif flag.startswith(f"{_FLAG}="):
            how = flag.partition("=")[2]
    if how not in FORMATS:
        raise ValueError(f"{_FLAG}={how}: expected one of {', '.join(FORMATS)}.")
    return how


def start(how: str, command: str) -> None:
    """Lets another process write what this one, and all that it starts, prints from now on."""
    global _writer
    if how == "plain" or _writer is not None:
        return
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    _writer = subprocess.Popen(
        [sys.executable, "-m", "schemas.log_lines", how, command, str(out), str(err)],
        stdin=subprocess.DEVNULL,
        pass_fds=(out, err),
        start_new_session=True,  # Ctrl-C is the command's, whose last lines must be written
    )
    atexit.register(finish)
    sys.stdout.flush()
    for ours, theirs, number in ((to_out, out, 1), (to_err, err, 2)):
        os.dup2(ours, number)
        os.close(ours)
        os.close(theirs)
    # A line has the time at which it was printed, not that at which a buffer was full.
    os.environ["PYTHONUNBUFFERED"] = "1"
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def finish() -> None:
    """Waits until all that was printed is written: who started us may end what we leave."""
    if _writer is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        _writer.wait(_WAIT)


class _Flag(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: Any, value: Any, *__: Any) -> None:
        start(value, parser.prog)  # already done where run.sh has started the command


def add_flag(parser: Any) -> None:
    """Adds --log_format, which every command takes, to an argparse parser or group."""
    parser.add_argument(
        _FLAG,
        action=_Flag,
        choices=FORMATS,
        default=argparse.SUPPRESS,
        help="give each line its time and level, as text or as JSON",
    )


def write(how: str, command: str, streams: dict[int, int]) -> None:
    """Writes on what comes, until nobody can write any more.

    Args:
      how: text or json.
      command: that was started.
      streams: file descriptor to read → where its lines go.
    """
    rest, levels = dict.fromkeys(streams, b""), {fd: Levels() for fd in streams}
    with selectors.DefaultSelector() as selector:
        for fd in streams:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                *lines, last = (rest[key.fd] + data).split(b"\n")
                if not data:
                    selector.unregister(key.fd)
                    lines, last = [last] if last else [], b""
                rest[key.fd] = last
                now = datetime.datetime.now(datetime.UTC)
                for raw in lines:
                    line = raw.decode("utf-8", "backslashreplace").rstrip("\r")
                    told = formatted(line, levels[key.fd].of(line), now, command, how)
                    os.write(streams[key.fd], told.encode("utf-8", "backslashreplace") + b"\n")


def main(argv: Sequence[str]) -> None:
    how, command, out, err = argv
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Nobody reads any more: what the command writes then ends it, as it would without us.
    with contextlib.suppress(BrokenPipeError):
        write(how, command, {int(out): 1, int(err): 2})


if __name__ == "__main__":
    main(sys.argv[1:])
