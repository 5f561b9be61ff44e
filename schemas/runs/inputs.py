"""Which run a path means: that of the snapshot in use, of a day, or the last one."""

import re

from schemas.base import storage
from schemas.runs.pointer import current
from schemas.runs.snapshots import FOLDER, Snapshot, read


class Resolver:
    """Finds the runs behind paths; all paths of one resolver see the same snapshot in use."""

    def __init__(self) -> None:
        self._current: dict[str, Snapshot | None] = {}

    def resolve(self, path: str) -> str:
        """`W/current/NAME` or `W/snapshots/D/NAME` → the folder of that run; others as they are.

        Raises:
          PhraseLensError: the snapshot has no such dataset.
        """
        if found := re.fullmatch(r"(.+)/current/([^/]+)/?", path):
            work, name = found.groups()
            if work not in self._current:
                self._current[work] = current(work)
            snapshot = self._current[work]
            return snapshot.path(name) if snapshot else path
        if found := re.fullmatch(rf"(.+)/{FOLDER}/([^/]+)/([^/]+)/?", path):
            work, date, name = found.groups()
            if storage.size(storage.join(work, FOLDER, f"{date}.json")) is not None:
                return read(work, date).path(name)
        return path
