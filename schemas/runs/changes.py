"""What is done with snapshots: made, put in use, held, and taken back."""

import dataclasses
import json
from collections.abc import Collection, Mapping

from schemas.base import atomic, storage
from schemas.base.errors import PhraseLensError, RefusedError, RivalCommitError
from schemas.console import program
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs.pointer import Pointer, change_pointer, read_pointer
from schemas.runs.snapshots import (
    Snapshot,
    check_date,
    check_is_past,
    moment,
    path_of,
    read,
    remove,
    verdict,
    verdict_path,
)


def write(
    work: str, date: str, datasets: Mapping[str, str], replace_used: bool = False
) -> Snapshot:
    """Commits a snapshot; of a date that is there already it takes the place.

    Args:
      work: the work folder.
      date: the snapshot's name.
      datasets: name → run id, committed runs all.
      replace_used: replace one that is or was in use, too, because something must be forgotten.

    Raises:
      PhraseLensError: a run is not there, or the snapshot is or was in use and would change.
      RivalCommitError: a rival was faster.
    """
    path, snapshot = path_of(work, date), Snapshot(work, date, dict(sorted(datasets.items())))
    seen = atomic.version(path)
    for name in snapshot.datasets:
        _keep(snapshot.dataset(name))
    if seen and read(work, date) == snapshot:
        return snapshot
    if not replace_used and read_pointer(work).knows(date):
        raise PhraseLensError(
            f"snapshot {date} of {work}",
            "a snapshot that was never promoted: those do not change",
            "Give another --date.",
        )
    fields = {"date": date, "datasets": snapshot.datasets}
    if not atomic.replace(path, json.dumps(fields, indent=1).encode(), seen):
        raise RivalCommitError(path, "no other snapshot of that date meanwhile", "Run it again.")
    storage.remove(verdict_path(work, date))  # it was of another one
    return snapshot


def _keep(dataset: Dataset) -> None:
    """Copies the manifest of a run from before manifests were copied into them."""
    path = storage.join(dataset.run_folder, manifest.FILE_NAME)
    if storage.size(path) is None:
        storage.write_bytes(path, dataset.manifest.to_json().encode())


def promote(work: str, date: str, despite: str = "") -> Pointer:
    """Puts a snapshot in use.

    Args:
      work: the work folder.
      date: the snapshot's name.
      despite: why it is put in use although the gate refuses it or it is held, which ends.

    Raises:
      PhraseLensError: there is no such snapshot, a run of it is gone, or its date is to come.
      RefusedError: the gate has not let it pass, or it is held.
      RivalCommitError: see `change_pointer`.
    """

    def change(old: Pointer) -> Pointer:
        snapshot = read(work, date)
        for name in snapshot.datasets:
            snapshot.dataset(name)
        if old.date == date:
            return old
        check_is_past(date)
        refused = _why_refused(old, snapshot)
        if refused and not despite:
            raise RefusedError(
                f"snapshot {date} of {work}",
                f"one that may be put in use; {refused}",
                'If it is meant all the same, give --despite "the reason".',
            )
        history = (*old.history, old.date) if old.date else ()
        holds = {held: why for held, why in old.holds.items() if held != date}
        return dataclasses.replace(
            old,
            date=date,
            history=history,
            holds=holds,
            despite=despite if refused else "",
            since=moment(),
        )

    return change_pointer(work, change)


def _why_refused(pointer: Pointer, snapshot: Snapshot) -> str:
    if snapshot.date in pointer.holds:
        return f"it is held: {pointer.holds[snapshot.date]}"
    said = verdict(snapshot)
    if said == "refuse":
        return "the gate refused it"
    return "the gate did not come to a verdict" if said in ("error", "undecided") else ""


def hold(work: str, date: str, reason: str) -> Pointer:
    """Keeps every snapshot of a date out of use until `release`.

    Raises:
      PhraseLensError: it is in use, or no reason is given.
      RivalCommitError: see `change_pointer`.
    """
    check_date(date)
    if not reason.strip():
        raise PhraseLensError("--reason", "why nobody may use it", "Whoever lifts it will ask.")

    def change(old: Pointer) -> Pointer:
        if old.date == date:
            raise PhraseLensError(
                f"snapshot {date} of {work}",
                "one that is not in use",
                f"Go back first: {program.command('rollback', workdir=work, hold='the reason')}",
            )
        return dataclasses.replace(old, holds={**old.holds, date: reason})

    return change_pointer(work, change)


def release(work: str, date: str) -> Pointer:
    """Lifts the hold of a date.

    Raises:
      PhraseLensError: it is not held.
      RivalCommitError: see `change_pointer`.
    """

    def change(old: Pointer) -> Pointer:
        if date not in old.holds:
            raise PhraseLensError(
                f"hold of {date} of {work}",
                f"one of {', '.join(old.holds) or 'none'}",
                "Correct it.",
            )
        return dataclasses.replace(old, holds={d: w for d, w in old.holds.items() if d != date})

    return change_pointer(work, change)


def drop(work: str, gone: Collection[str]) -> Pointer:
    """Deletes snapshots of which a part is damaged; in use is then the last one before that is not.

    Raises:
      RivalCommitError: see `change_pointer`.
    """

    def change(old: Pointer) -> Pointer:
        history = tuple(date for date in old.history if date not in gone)
        if old.date not in gone:
            return dataclasses.replace(old, history=history)
        date = history[-1] if history else ""
        return dataclasses.replace(
            old, date=date, history=history[:-1], despite="", since=moment() if date else ""
        )

    pointer = change_pointer(work, change) if gone else read_pointer(work)
    for date in gone:
        remove(work, date)
    return pointer


def rollback(work: str, reason: str = "") -> Pointer:
    """Puts the snapshot in use that was before the one that is.

    Args:
      work: the work folder.
      reason: why the one that is in use shall not come back: its date is held; "" holds it not.

    Raises:
      PhraseLensError: there was none, or it is gone.
      RivalCommitError: see `change_pointer`.
    """

    def change(old: Pointer) -> Pointer:
        if not old.history:
            wanted = program.command("promote", workdir=work, date="DATE")
            raise PhraseLensError(
                f"snapshot in use of {work}",
                "one that another was in use before",
                f"Promote the one you want: {wanted}",
            )
        date = read(work, old.history[-1]).date
        holds = {**old.holds, old.date: reason} if reason else old.holds
        return dataclasses.replace(
            old, date=date, history=old.history[:-1], holds=holds, despite="", since=moment()
        )

    return change_pointer(work, change)
