"""A deletion that has begun and not ended: the next command ends it before it does anything else.

`W/forgetting.json` holds the command, from before its first stage until nothing is left of what
must be forgotten.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence

from schemas.base import storage
from schemas.base.errors import RefusedError
from schemas.console import log_lines, program
from schemas.datasets import manifest
from schemas.maintenance import forgetting
from schemas.runs import folders as run_folders
from schemas.runs import snapshots

FILE_NAME = "forgetting.json"


@dataclasses.dataclass(frozen=True)
class Pending:
    """What was begun.

    Attributes:
      date: the snapshot that is made without what must be forgotten.
      argv: the flags of `reprocess`.
      folder: where the command was given, which its paths may be relative to.
      since: when, as 2026-01-31T03:12:00Z.
    """

    date: str
    argv: tuple[str, ...]
    folder: str
    since: str

    @contextlib.contextmanager
    def where_it_was_given(self):
        """In the folder of the command, where it is still there."""
        with contextlib.chdir(self.folder if os.path.isdir(self.folder) else os.getcwd()):
            yield


def begin(work: str, date: str, argv: Sequence[str]) -> None:
    """Notes a deletion; one that was begun before it takes the place of."""
    noted = Pending(date, tuple(log_lines.without(argv)), os.getcwd(), snapshots.moment())
    data = json.dumps(dataclasses.asdict(noted), indent=1).encode()
    storage.write_bytes(storage.join(work, FILE_NAME), data)


def read(work: str) -> Pending | None:
    """The deletion that has not ended, or None."""
    try:
        fields = json.loads(storage.read_bytes(storage.join(work, FILE_NAME)))
    except FileNotFoundError:
        return None
    return Pending(**fields | {"argv": tuple(fields["argv"])})


def end(work: str) -> None:
    """Forgets a deletion that has ended."""
    storage.remove(storage.join(work, FILE_NAME))


def check(work: str) -> None:
    """Refuses to put anything in use while a deletion has not ended.

    Raises:
      RefusedError: says which command ends it.
    """
    if found := read(work):
        raise RefusedError(
            f"{work}, from which something is being deleted since {found.since}",
            "a deletion that has ended",
            f"End it: {program.command('reprocess', *found.argv)}",
        )


def left(work: str, names: Sequence[str], date: str) -> str:
    """Where what must be forgotten may still lie, for people.

    Args:
      work: the work folder.
      names: its datasets.
      date: the snapshot that was to be made without it.
    """
    kept: dict[str, str] = {}
    if date in snapshots.dates(work):
        kept = dict(snapshots.read(work, date).datasets)
    found = []
    for name in names:
        root = storage.join(work, name)
        runs = run_folders.runs(root) if manifest.read(root) else []
        if old := sum(run.run_id != kept.get(name) for run in runs):
            found.append(f"{name} ({old})")
    others = [old for old in snapshots.dates(work) if old != date]
    parts = [f"runs of {', '.join(found)}"] if found else []
    parts += [f"snapshots {', '.join(others)}"] if others else []
    parts += forgetting.others(work, names)
    return "; ".join(parts) or "nothing"
