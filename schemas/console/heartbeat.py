"""What a process is doing, said every so often: no step is silent for long.

Whoever works says what it is with `doing`, or counts with a Progress (progress.py). A thread shows
the newest of them that has something to say: on a terminal in one line that rewrites itself,
elsewhere as a line every ten seconds.
"""

import atexit
import contextlib
import math
import os
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, TextIO, TypeVar

Item = TypeVar("Item")

EVERY = 10.0  # seconds between two lines of a log
_EVERY_ON_TERMINAL = 0.5


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3:07 min, 2:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def rate(done: float, seconds: float) -> str:
    """How fast something goes, with two digits where it has them: 1,234/s, 4.2/s, 12/min, 3.0/h."""
    found, unit = done / max(seconds, 1e-9), "s"
    if 0 < found < 1:
        found, unit = found * 60, "min"
    if 0 < found < 1:
        found, unit = found * 60, "h"
    return f"{found:,.0f}/{unit}" if found >= 9.95 or not found else f"{found:.1f}/{unit}"


def how_far(done: int, total: int | None, unit: str, seconds: float, before: int = 0) -> str:
    """A count, its rate and, where the total is known, the time left.

    Args:
      done: how much is done.
      total: how much there is, or None.
      unit: what is counted, in plural.
      seconds: since the start.
      before: how much of `done` an earlier attempt did.
    """
    text = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    text += f" {unit}, {rate(done - before, seconds)}"
    if total is not None and before < done < total:
        text += f", {duration((total - done) * seconds / (done - before))} left"
    return text


class Activity(Protocol):
    """Something that is being done."""

    def news(self) -> str | None:
        """A line for people; None where an older activity may have more to say."""


class Heartbeat:
    """Shows what goes on.

    Args:
      out: where lines go; None for the standard error of the moment.
      clock: seconds; tests inject their own.
    """

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._out, self.clock = out, clock
        self._lock = threading.RLock()
        self._activities: list[weakref.ref[Activity]] = []
        self._next, self._ended = 0.0, -math.inf
        self._held: Any = None  # standard output, while our line stands where it would write

    def begin(self, activity: Activity) -> None:
        """From now on `activity` is asked for news, for as long as somebody holds it."""
        with self._lock:
            # Many short activities, not far from one another, are a long one.
            if not self._live() and self.clock() > self._ended + EVERY:
                self._next = max(self._next, self.clock() + self._every())
            self._activities.append(weakref.ref(activity))

    def end(self, activity: Activity) -> None:
        with self._lock:
            self._activities = [ref for ref in self._activities if ref() not in (None, activity)]
            if not self._activities:
                self._ended = self.clock()
                self.clear()

    def is_idle(self) -> bool:
        with self._lock:
            return not self._live()

    def tick(self) -> None:
        """Shows the newest activity that has news, if it is time to."""
        with self._lock:
            if self.clock() < self._next:
                return
            activities = self._live()
        # Without the lock: to find out may take a while, and others have lines to print.
        found = ((activity, activity.news()) for activity in reversed(activities))
        activity, line = next(((who, line) for who, line in found if line), (None, None))
        with self._lock:
            if line and any(live is activity for live in self._live()):
                self._show(line)

    def say(self, line: str) -> None:
        """Prints a line that stays, in place of one that is rewritten."""
        with self._lock:
            self.clear()
            self._write(f"{line}\n")
            self._next = self.clock() + self._every()

    def _live(self) -> list[Activity]:
        return [activity for ref in self._activities if (activity := ref()) is not None]

    def _show(self, line: str) -> None:
        if not self._is_terminal():
            self.say(line)
            return
        width = shutil.get_terminal_size().columns - 1  # what wraps cannot be taken back
        self.clear()
        self._write(line[:width])
        self._hold(sys.stdout)
        self._next = self.clock() + self._every()

    def _hold(self, stdout: Any) -> None:
        """What others print takes the place of our line."""

        def write(text: str) -> int:
            self.clear()
            return type(stdout).write(stdout, text)

        with contextlib.suppress(AttributeError):  # closed: None
            stdout.write = write
            self._held = stdout

    def clear(self) -> None:
        """Makes room on a terminal for other lines."""
        with self._lock:
            if self._held is not None:
                del self._held.write
                self._held = None
                self._write("\r\x1b[K")

    def _every(self) -> float:
        return _EVERY_ON_TERMINAL if self._is_terminal() else EVERY

    def _is_terminal(self) -> bool:
        out = self._out or sys.stderr
        try:
            return out is not None and out.isatty()
        except ValueError:  # closed
            return False

    def _write(self, text: str) -> None:
        out = self._out or sys.stderr
        # Work goes on where nobody listens: a closed descriptor, a pipe that its reader left.
        with contextlib.suppress(OSError, ValueError):
            if out is not None:
                out.write(text)
                out.flush()


_heartbeat = Heartbeat()
_thread_lock = threading.Lock()
_thread: threading.Thread | None = None
_stop = threading.Event()
atexit.register(_stop.set)  # a thread that writes while Python ends would crash it


def _start_anew() -> None:
    """A process that was forked has no thread, and perhaps a lock that nobody opens."""
    global _heartbeat, _thread_lock, _thread
    _heartbeat, _thread_lock, _thread = Heartbeat(), threading.Lock(), None


os.register_at_fork(after_in_child=_start_anew)


def begin(activity: Activity, alone: bool = True) -> None:
    """Shows what an activity says, until `end` or until nobody holds it any more.

    Args:
      activity: what is being done.
      alone: whether it is shown where nothing else goes on: workers of a job are asked for
        nothing, as the process that waits for them speaks for all.
    """
    global _thread
    _heartbeat.begin(activity)
    if not alone:
        return
    with _thread_lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_beat, name="heartbeat", daemon=True)
            _thread.start()


def end(activity: Activity) -> None:
    _heartbeat.end(activity)


def say(line: str) -> None:
    """Prints a line to standard error, between those of progress."""
    _heartbeat.say(line)


def _beat() -> None:
    global _thread
    while not _stop.wait(_EVERY_ON_TERMINAL):
        with _thread_lock:
            if _heartbeat.is_idle():
                _thread = None
                return
        _heartbeat.tick()


class _Doing:
    def __init__(self, what: str, more: Callable[[], str | None]):
        self._what, self._more, self._start = what, more, time.monotonic()

    def news(self) -> str:
        line = f"{self._what}: {duration(time.monotonic() - self._start)}"
        more = self._more()
        return f"{line}, {more}" if more else line


@contextlib.contextmanager
def doing(what: str, more: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Says how long something has gone on for.

    Args:
      what: for people.
      more: how far it is, where that is known.
    """
    activity = _Doing(what, more)
    begin(activity)
    try:
        yield
    finally:
        end(activity)


def counted(what: str, items: Collection[Item], unit: str) -> Iterator[Item]:
    """The items, while it is said how many of them are done.

    Args:
      what: is done with them, for people.
      items: each takes its time.
      unit: what they are, in plural.
    """
    done, start = 0, time.monotonic()

    def more() -> str:
        return how_far(done, len(items), unit, time.monotonic() - start)

    with doing(what, more):
        for item in items:
            yield item
            done += 1
