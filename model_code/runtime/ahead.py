"""Work done ahead in a thread, in order."""

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_AHEAD = 2  # batches that are made while one is used


class Ahead:
    """The same batches in the same order, some of them made ahead in a thread, from now on.

    Args:
      batches: what is iterated over, in that thread.
      count: batches that are made before they are asked for.
    """

    def __init__(self, batches: Iterable, count: int = _AHEAD):
        self._rest, self._end = iter(batches), object()
        self._pool = ThreadPoolExecutor(1)
        self._waiting: collections.deque[Future] = collections.deque()
        for _ in range(count):
            self._submit()

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(next, self._rest, self._end))

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if not self._waiting:
            raise StopIteration
        try:
            batch = self._waiting.popleft().result()
        except BaseException:
            self.close()
            raise
        if batch is self._end:
            self.close()
            raise StopIteration
        self._submit()
        return batch

    def close(self) -> None:
        """Ends the thread; there are no more batches."""
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)
