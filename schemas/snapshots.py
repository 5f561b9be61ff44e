"""Snapshots of a work folder, and the pointer that says which of them is in use.

A snapshot names one run of each dataset: `W/snapshots/D.json` = {"date": D, "datasets": {name:
run_id}}. The pointer `W/current.json` = {"date": D, "history": […]} is one small file that is
replaced in one step, so that model, index and all else change together. Readers resolve it once:
`W/current/NAME` and `W/snapshots/D/NAME` stand for the folder of a run, which stays as it is.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping

from schemas import heartbeat, manifest, run_folders, storage
from schemas.errors import PhraseLensError, RivalCommitError
from schemas.manifest import Dataset

FOLDER, POINTER = "snapshots", "current.json"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One run of each dataset of a work folder.

    Attributes:
      work: the work folder.
      date: its name; of two, the later one sorts higher.
      datasets: name of the dataset's folder → run id.
    """

    work: str
    date: str
    datasets: Mapping[str, str]

    def path(self, name: str) -> str:
        """The folder of the run, which any flag takes that takes a dataset.

        Raises:
          PhraseLensError: the snapshot has no such dataset.
        """
        if name not in self.datasets:
            raise PhraseLensError(
                f"dataset {name!r} of snapshot {self.date} of {self.work}",
                f"one of {', '.join(sorted(self.datasets))}",
                "Check the name.",
            )
        return manifest.run_folder(storage.join(self.work, name), self.datasets[name])

    def dataset(self, name: str) -> Dataset:
        """Opens a dataset as the snapshot has it. Raises PhraseLensError."""
        return Dataset(self.path(name))


@dataclasses.dataclass(frozen=True)
class Pointer:
    """What `current.json` says.

    Attributes:
      date: the snapshot in use; "" when none was ever promoted.
      history: the snapshots that were in use before, the last one last.
      collected: how often `gc` has run, so that a promotion that began before it is refused.
    """

    date: str = ""
    history: tuple[str, ...] = ()
    collected: int = 0

    def knows(self, date: str) -> bool:
        """Whether the snapshot of a date is in use, or one that a roll-back comes to."""
        return date in (self.date, *self.history)


def check_date(date: str) -> str:
    """Returns `date`. Raises PhraseLensError unless it is a date, with a time or without."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d{2,6}Z?)?", date):
        raise PhraseLensError(f"--date {date}", "a date such as 2026-01-31", "Correct it.")
    return date


def _path(work: str, date: str) -> str:
    return storage.join(work, FOLDER, f"{check_date(date)}.json")


def dates(work: str) -> list[str]:
    """The snapshots there are, oldest first."""
    names = storage.list_files(storage.join(work, FOLDER))
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def dataset_names(work: str) -> list[str]:
    """The folders of a work folder in which a dataset is committed, sorted."""
    names = storage.list_folders(work)
    return [n for n in names if storage.size(storage.join(work, n, manifest.FILE_NAME)) is not None]


def read(work: str, date: str) -> Snapshot:
    """A snapshot.

    Raises:
      PhraseLensError: there is none of that date.
    """
    try:
        fields = json.loads(storage.read_bytes(_path(work, date)))
    except FileNotFoundError:
        raise PhraseLensError(
            f"snapshot {date} of {work}",
            f"one of {', '.join(dates(work)) or 'none'}",
            f"Make it: ./run.sh reprocess --workdir {work} --date {date} …",
        ) from None
    return Snapshot(work, fields["date"], fields["datasets"])


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
    path, snapshot = _path(work, date), Snapshot(work, date, dict(sorted(datasets.items())))
    seen = manifest.version(path)
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
    if not manifest.replace(path, json.dumps(fields, indent=1).encode(), seen):
        raise RivalCommitError(path, "no other snapshot of that date meanwhile", "Run it again.")
    return snapshot


def _keep(dataset: Dataset) -> None:
    """Copies the manifest of a run from before manifests were copied into them."""
    path = storage.join(dataset.run_folder, manifest.FILE_NAME)
    if storage.size(path) is None:
        storage.write_bytes(path, dataset.manifest.to_json().encode())


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
    seen = manifest.version(path)
    old = read_pointer(work)
    new = change(old)
    data = json.dumps(dataclasses.asdict(new), indent=1).encode()
    if new == old or manifest.replace(path, data, seen):
        return new
    rival = read_pointer(work)
    if rival.date == new.date:
        return rival
    raise RivalCommitError(
        path,
        f"no other change while {new.date} was put in use",
        f"A rival put {rival.date} in use; look, and run the command again if it is still wanted.",
    )


def promote(work: str, date: str) -> Pointer:
    """Puts a snapshot in use.

    Raises:
      PhraseLensError: there is no such snapshot, or a run of it is gone.
      RivalCommitError: see `change_pointer`.
    """

    def change(old: Pointer) -> Pointer:
        snapshot = read(work, date)
        for name in snapshot.datasets:
            snapshot.dataset(name)
        if old.date == date:
            return old
        history = (*old.history, old.date) if old.date else ()
        return dataclasses.replace(old, date=date, history=history)

    return change_pointer(work, change)


def rollback(work: str) -> Pointer:
    """Puts the snapshot in use that was before the one that is.

    Raises:
      PhraseLensError: there was none, or it is gone.
      RivalCommitError: see `change_pointer`.
    """

    def change(old: Pointer) -> Pointer:
        if not old.history:
            raise PhraseLensError(
                f"snapshot in use of {work}",
                "one that another was in use before",
                "Promote the one you want: ./run.sh promote --date …",
            )
        date = old.history[-1]
        return dataclasses.replace(old, date=read(work, date).date, history=old.history[:-1])

    return change_pointer(work, change)


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
        storage.remove(_path(work, date))
    runs = heartbeat.counted("delete", garbage.runs, "runs")
    gone = [run for run in runs if run_folders.remove_run(run)]
    return dataclasses.replace(garbage, runs=gone)


def forget(work: str, names: Collection[str], date: str = "") -> None:
    """Deletes every run of datasets but the last one and a snapshot's, and all other snapshots.

    What must be forgotten stays in no old run, nor in what a run that died left. Where a snapshot
    was in use, the new one is; or none, where there is no date.

    Args:
      work: the work folder.
      names: its datasets.
      date: the snapshot that was made without what must be forgotten.
    """
    if read_pointer(work).date:
        change_pointer(work, lambda old: Pointer(date, (), old.collected + 1))
    for old in dates(work):
        if old != date:
            storage.remove(_path(work, old))
    kept = read(work, date).datasets if date else {}
    for name in names:
        run_folders.purge(storage.join(work, name), [kept[name]] if name in kept else [])
