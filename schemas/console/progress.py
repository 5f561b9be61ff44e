"""How far counted work is, how fast it goes, and how long it will take."""

import threading
import time
import weakref
from collections.abc import Callable

from schemas.console import heartbeat
from schemas.console.heartbeat import duration, how_far

__all__ = ["Progress", "duration", "shared"]


class Progress:
    """Counts rows of one piece of work; threads may share it.

    Args:
      label: what is being done.
      total: rows in all, or None when nobody knows.
      unit: what a row is, in plural.
      done: rows that an earlier attempt did.
      clock: seconds; tests inject their own.
      alone: see heartbeat.begin.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        done: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        alone: bool = True,
    ):
        self.label, self.total, self.unit = label, total, unit
        self.done = self._before = done
        self._lock = threading.Lock()
        self._clock = clock
        self._start = self._counted = clock()
        heartbeat.begin(self, alone)

    def add(self, rows: int) -> None:
        """Counts rows."""
        with self._lock:
            self.done += rows
            self._counted = self._clock()

    def line(self, note: str = "") -> str:
        seconds = self._counted - self._start
        text = how_far(self.done, self.total, self.unit, seconds, self._before)
        return f"{self.label}: {text}, {note}" if note else f"{self.label}: {text}"

    def news(self) -> str | None:
        return self.line()

    def close(self, note: str = "") -> None:
        """Says the last state."""
        heartbeat.end(self)
        heartbeat.say(self.line(note))


_RECENT = 3.0  # seconds


class _Shared(Progress):
    """Of all threads of a worker, each of which closes it."""

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(label, total, unit, clock=clock, alone=False)
        self._told = False

    def news(self) -> str | None:
        """None where nothing was counted of late: another step of the job is at work."""
        if not self.done or self._clock() - self._counted > _RECENT:
            return None
        self._told = True
        return self.line()

    def close(self, note: str = "") -> None:
        with _lock:
            is_first = _open.get(self.label) is self
            _open.pop(self.label, None)
        heartbeat.end(self)
        if is_first and self._told:  # what nobody saw needs no end
            heartbeat.say(self.line(note))


_open: "weakref.WeakValueDictionary[str, _Shared]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def shared(label: str, total: int | None, unit: str) -> Progress:
    """The progress that all threads of a worker count under a label, until one closes it."""
    with _lock:
        found = _open.get(label)
        if found is None:
            found = _open[label] = _Shared(label, total, unit)
        return found
