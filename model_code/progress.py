"""Progress for people: one line that rewrites itself on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3:07 min, 2:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


class Progress:
    """Counts rows of one piece of work and says how fast they go and how long they will take.

    Args:
      label: what is being done.
      total: rows in all, or None when nobody knows.
      unit: what a row is, in plural.
      out: where the lines go.
      clock: seconds; tests inject their own.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._out = out or sys.stderr
        self._clock = clock
        self._start = clock()
        self._every = 0.5 if self._out.isatty() else 5.0
        self._next = self._start + self._every
        self._shown = False

    def add(self, rows: int, note: str = "") -> None:
        """Counts rows, and says so if it is time to."""
        self.done += rows
        if self._clock() >= self._next:
            self._next = self._clock() + self._every
            self._write(note)

    def line(self, note: str = "") -> str:
        seconds = max(self._clock() - self._start, 1e-9)
        rate = self.done / seconds
        text = f"{self.label}: {self.done:,}"
        if self.total is not None:
            text += f" of {self.total:,}"
        text += f" {self.unit}, {rate:,.0f}/s"
        if self.total is not None and 0 < self.done < self.total:
            text += f", {duration((self.total - self.done) / rate)} left"
        return f"{text}, {note}" if note else text

    def close(self, note: str = "") -> None:
        """Says the last state and ends the line."""
        self._write(note)
        if self._out.isatty():
            print(file=self._out)

    def _write(self, note: str) -> None:
        if self._out.isatty():
            print(f"\r\x1b[K{self.line(note)}", end="", file=self._out, flush=True)
        else:
            print(self.line(note), file=self._out, flush=True)
