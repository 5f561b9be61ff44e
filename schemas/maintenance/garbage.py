"""Snapshots and runs that nobody needs, and deleting them."""

import dataclasses

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import heartbeat, program
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import folders as run_folders
from schemas.runs.pointer import Pointer, change_pointer, read_pointer
from schemas.runs.snapshots import dataset_names, dates, read, remove


@dataclasses.dataclass(frozen=True)
class Garbage:
    """What nobody needs.

    Attributes:
      runs: those that no kept snapshot names, and what died left in spill and scratch.
      dates: the other snapshots.
    """

    runs: list[run_folders.Run]
    dates: list[str]


def kept_dates(work: str, pointer: Pointer, keep: int) -> set[str]:
    """The last snapshots, the one in use, and the one that a roll-back would put in use."""
    found = dates(work)
    return {*found[max(len(found) - keep, 0) :], pointer.date, *pointer.history[-1:]}


def check_deletable(work: str, date: str, pointer: Pointer | None = None) -> None:
    """Refuses to delete a snapshot that somebody needs.

    Raises:
      PhraseLensError: there is none, it is in use, or a roll-back would come to it.
    """
    read(work, date)
    pointer = pointer or read_pointer(work)
    if date in (pointer.date, *pointer.history[-1:]):
        what = "in use" if date == pointer.date else "what a roll-back comes to"
        raise PhraseLensError(
            f"snapshot {date} of {work}",
            f"one that nobody needs; it is {what}",
            f"Put another one in use first: {program.command('promote')} or "
            f"{program.command('rollback')}.",
        )


def delete(work: str, date: str) -> None:
    """Deletes a snapshot; `collect` then deletes the runs that only it names.

    Raises:
      PhraseLensError: see `check_deletable`.
    """

    def change(old: Pointer) -> Pointer:
        check_deletable(work, date, old)
        # A promotion that began before this one fails: what it promotes is gone.
        history = tuple(d for d in old.history if d != date)
        return dataclasses.replace(old, history=history, collected=old.collected + 1)

    change_pointer(work, change)
    remove(work, date)


def find_garbage(work: str, pointer: Pointer, keep: int, started_before: float) -> Garbage:
    """What `collect` deletes.

    Args:
      work: the work folder.
      pointer: what is in use.
      keep: the snapshots to keep: the last ones, beside the one in use and the one before it.
      started_before: a run that was never committed counts as being made unless all of its files
        are older, seconds since 1970, and no process of this machine works on it.
    """
    found, kept = dates(work), kept_dates(work, pointer, keep)
    named = {(n, run) for d in kept if d for n, run in read(work, d).datasets.items()}
    old = []
    for name in dataset_names(work):
        root = storage.join(work, name)
        in_use = {Dataset(root).manifest.run_id, *(run for n, run in named if n == name)}
        folders = [*run_folders.runs(root), *run_folders.leftovers(root)]
        # A run may for a long time write to one of its folders only.
        young = {folder.run_id for folder in folders if folder.changed >= started_before}
        for folder in folders:
            is_kept = folder.folder == manifest.RUNS and folder.run_id in in_use
            being_made = not folder.committed and folder.run_id in young
            if not is_kept and not being_made and run_folders.is_free(folder):
                old.append(folder)
    return Garbage(old, [date for date in found if date not in kept])


def collect(work: str, keep: int, started_before: float) -> Garbage:
    """Deletes snapshots, and the runs that are named by none of those that stay.

    Args:
      work, keep, started_before: see `find_garbage`.

    Raises:
      RivalCommitError: another snapshot was put in use meanwhile; nothing was deleted.
    """

    def change(old: Pointer) -> Pointer:
        # A promotion that began before this one fails: what it promotes may be gone.
        kept = kept_dates(work, old, keep)
        history = tuple(date for date in old.history if date in kept)
        return dataclasses.replace(old, history=history, collected=old.collected + 1)

    pointer = change_pointer(work, change)
    garbage = find_garbage(work, pointer, keep, started_before)
    for date in garbage.dates:
        remove(work, date)
    runs = heartbeat.counted("delete", garbage.runs, "runs")
    gone = [run for run in runs if run_folders.remove_run(run)]
    return dataclasses.replace(garbage, runs=gone)
