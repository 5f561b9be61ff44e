"""The pointer of a work folder: which snapshot is in use, which were, and which are held."""

import dataclasses
import json
from collections.abc import Callable, Mapping

from schemas.base import atomic, storage
from schemas.base.errors import RivalCommitError
from schemas.runs.snapshots import POINTER, Snapshot, read


@dataclasses.dataclass(frozen=True)
class Pointer:
    """What `current.json` says.

    Attributes:
      date: the snapshot in use; "" when none was ever promoted.
      history: the snapshots that were in use before, the last one last.
      collected: how often `gc` has run, so that a promotion that began before it is refused.
      holds: date → why no snapshot of that date may be put in use.
      despite: why the one in use was promoted although the gate or a hold refused it; "" if none
        did.
      since: when it was put in use, as 2026-01-31T03:12:00Z; "" if it was not said then.
    """

    date: str = ""
    history: tuple[str, ...] = ()
    collected: int = 0
    holds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    despite: str = ""
    since: str = ""

    def knows(self, date: str) -> bool:
        """Whether the snapshot of a date is in use, or one that a roll-back comes to."""
        return date in (self.date, *self.history)


def read_pointer(work: str) -> Pointer:
    """What is in use."""
    try:
        fields = json.loads(storage.read_bytes(storage.join(work, POINTER)))
    except FileNotFoundError:
        return Pointer()
    known = {field.name for field in dataclasses.fields(Pointer)}
    fields = {name: value for name, value in fields.items() if name in known}
    return Pointer(**fields | {"history": tuple(fields.get("history", ()))})


def current(work: str) -> Snapshot | None:
    """The snapshot in use, or None when none was ever promoted."""
    date = read_pointer(work).date
    return read(work, date) if date else None


def change_pointer(work: str, change: Callable[[Pointer], Pointer]) -> Pointer:
    """Replaces the pointer by what `change` makes of it; of two writers exactly one wins.

    Raises:
      RivalCommitError: a rival was faster, and put another snapshot in use.
    """
    path = storage.join(work, POINTER)
    seen = atomic.version(path)
    old = read_pointer(work)
    new = change(old)
    data = json.dumps(dataclasses.asdict(new), indent=1).encode()
    if new == old or atomic.replace(path, data, seen):
        return new
    rival = read_pointer(work)
    if rival.date == new.date:
        return rival
    raise RivalCommitError(
        path,
        f"no other change while {new.date} was put in use",
        f"A rival put {rival.date} in use; look, and run the command again if it is still wanted.",
    )
