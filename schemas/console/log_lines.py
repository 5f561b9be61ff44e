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
import dataclasses
import datetime
import io
import json
import os
import re
import select
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FORMATS = ("plain", "text", "json")
VARIABLE = "PHRASELENS_LOG_FORMAT"
_FLAG = "--log_format"
_WAIT = 10.0  # seconds for the last lines to be written
_LEVEL = re.compile(r"(debug|info|warning|error|critical)\b:", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last):"


@dataclasses.dataclass(frozen=True)
class _Writer:
    """The process that writes.

    Attributes:
      process: it.
      to_end: tells it that the command ends.
      ended: is closed when all that the command has printed is written.
    """

    process: subprocess.Popen
    to_end: int
    ended: int


_writer: _Writer | None = None


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


def without(argv: Sequence[str]) -> list[str]:
    """Flags without the one that asks for a format."""
    kept, place = [], 0
    while place < len(argv):
        if argv[place] == _FLAG:
            place += 2
            continue
        if not argv[place].startswith(f"{_FLAG}="):
            kept.append(argv[place])
        place += 1
    return kept


def start(how: str, command: str) -> None:
    """Lets another process write what this one, and all that it starts, prints from now on."""
    global _writer
    if how == "plain" or _writer is not None:
        return
    for number in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # it was closed, and no pipe must get its number
    (out, to_out), (err, to_err), (end, to_end), (ended, to_ended) = (os.pipe() for _ in range(4))
    process = subprocess.Popen(
        [sys.executable, "-m", "schemas.console.log_lines", how, command]
        + [str(fd) for fd in (out, err, end, to_ended)],
        stdin=subprocess.DEVNULL,
        pass_fds=(out, err, end, to_ended),
        start_new_session=True,  # Ctrl-C is the command's, whose last lines must be written
    )
    _writer = _Writer(process, to_end, ended)
    atexit.register(finish)
    if sys.stdout:
        sys.stdout.flush()
    os.dup2(to_out, 1)
    os.dup2(to_err, 2)
    for fd in (out, to_out, err, to_err, end, to_ended):
        os.close(fd)
    # A line has the time at which it was printed, not that at which a buffer was full.
    os.environ["PYTHONUNBUFFERED"] = "1"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def finish(wait: float = _WAIT) -> None:
    """Waits until all that was printed is written: who started us may end what we leave.

    What we have started may go on and print more, which is written too.
    """
    if _writer is None:
        return
    for stream in (sys.stdout, sys.stderr) if wait == _WAIT else ():
        with contextlib.suppress(Exception):  # nobody reads any more
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(_writer.to_end, b".")
        select.select([_writer.ended], [], [], wait)


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


def write(how: str, command: str, streams: Mapping[int, int], end: int, to_ended: int) -> None:
    """Writes on what comes, until nobody can write any more.

    Args:
      how: text or json.
      command: that was started.
      streams: file descriptor to read → where its lines go.
      end: tells that the command ends.
      to_ended: is told when all is written that it has printed.
    """
    rest, levels = dict.fromkeys(streams, b""), {fd: Levels() for fd in streams}
    targets: dict[int, int | None] = dict(streams)  # None where nobody reads any more

    def take(fd: int) -> bool:
        """Writes what is there; returns whether more may come."""
        data = os.read(fd, 1 << 16)
        *lines, rest[fd] = (rest[fd] + data).split(b"\n")
        if not data and rest[fd]:
            lines.append(rest[fd])
        now = datetime.datetime.now(datetime.UTC)
        for raw in lines:
            line = raw.decode("utf-8", "backslashreplace").rstrip("\r")
            told = formatted(line, levels[fd].of(line), now, command, how) + "\n"
            target = targets[fd]
            if target is not None and not _write_all(target, told.encode("utf-8", "replace")):
                targets[fd] = None
                if target == 1:
                    return False  # the command learns it, as it would without us
        return bool(data)

    with selectors.DefaultSelector() as selector:
        for fd in (*streams, end):
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map().keys() & set(streams):
            ready = [key.fd for key, _ in selector.select()]
            for fd in ready:
                if fd != end and not take(fd):
                    selector.unregister(fd)
                    os.close(fd)
            if end in ready:
                selector.unregister(end)
                if os.read(end, 1):
                    for stream in set(streams) & selector.get_map().keys():
                        while select.select([stream], [], [], 0)[0] and take(stream):
                            pass
                os.close(to_ended)


def _write_all(fd: int, data: bytes) -> bool:
    """Writes all of it, however little is taken at once; returns False where nobody takes it."""
    try:
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                select.select([], [fd], [])
    except OSError:
        return False
    return True


def main(argv: Sequence[str]) -> None:
    how, command, *rest = argv
    out, err, end, to_ended = map(int, rest)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    write(how, command, {out: 1, err: 2}, end, to_ended)


if __name__ == "__main__":
    main(sys.argv[1:])
