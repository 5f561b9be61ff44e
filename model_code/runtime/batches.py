"""How much goes through a network at once: so many rows and bytes, fewer after memory ran out."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf

Result = TypeVar("Result")


class BatchLimit:
    """The most rows and bytes of a batch: half as many each time memory runs out, for good.

    One limit serves all threads of a process, which share its memory.

    Args:
      rows: of a batch, at most.
      bytes_: of a batch, at most; a larger row is a batch by itself. None for any number.
    """

    def __init__(self, rows: int, bytes_: int | None = None):
        self.rows, self.bytes = rows, bytes_
        self._lock = threading.Lock()

    def end_of_batch(self, sizes: Sequence[int], start: int) -> int:
        """The end of the batch that starts at a row: at least one row further.

        Args:
          sizes: bytes of each row.
        """
        end, used = start + 1, sizes[start]
        while end < min(len(sizes), start + self.rows):
            used += sizes[end]
            if self.bytes is not None and used > self.bytes:
                break
            end += 1
        return end

    def halve(self, rows: int, bytes_: int | None) -> None:
        """Allows half of a batch that did not fit, unless another thread said so before.

        Args:
          rows: that were computed at once.
          bytes_: of these; None where it is not they that were too many.
        """
        with self._lock:
            before = self.rows, self.bytes
            self.rows = max(1, min(self.rows, rows // 2))
            if self.bytes is not None and bytes_ is not None:
                self.bytes = max(1, min(self.bytes, bytes_ // 2))
            if before != (self.rows, self.bytes):
                logging.getLogger(__name__).warning(
                    "out of memory with %d rows: %d at once from now on", rows, self.rows
                )


def run_in_batches(
    run: Callable[[int, int, int], Result],
    sizes: Sequence[int],
    limit: BatchLimit,
    filled: bool = False,
) -> list[Result]:
    """Runs rows in batches within a limit, and in smaller ones where memory runs out.

    Args:
      run: does the rows from a start to an end, and so many of them at once: no fewer than these.
      sizes: bytes of each row.
      limit: of a batch; lowered where memory runs out.
      filled: batches have the limit's rows, however few there are: one shape for one graph.

    Returns:
      What `run` returned, in order.

    Raises:
      Exception: what `run` raised, unless memory ran out with more than one row at once.
    """
    results: list[Result] = []
    start = 0
    while start < len(sizes):
        rows = limit.rows
        end = limit.end_of_batch(sizes, start)
        at_once = max(rows, end - start) if filled else end - start
        try:
            results.append(run(start, end, at_once))
        except Exception as error:
            if not out_of_memory(error) or at_once == 1:
                raise
            # The last of the rows are few: what did not fit is what they were filled up to.
            few = end == len(sizes) and at_once > end - start
            limit.halve(at_once, None if few else sum(sizes[start:end]))
        else:
            start = end
    return results


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of its device, ran out."""
    return isinstance(error, MemoryError | tf.errors.ResourceExhaustedError) or (
        isinstance(error, tf.errors.OpError) and "out of memory" in str(error).lower()
    )
