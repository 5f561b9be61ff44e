"""Snapshots of a work folder, and the pointer that says which of them is in use.

A snapshot names one run of each dataset: `W/snapshots/D.json` = {"date": D, "datasets": {name:
run_id}}. The pointer `W/current.json` = {"date": D, "history": […]} is one small file that is
replaced in one step, so that model, index and all else change together. Readers resolve it once:
`W/current/NAME` and `W/snapshots/D/NAME` stand for the folder of a run, which stays as it is.
"""

import contextlib
import dataclasses
import datetime
import json
import re
import time
from collections.abc import Callable, Collection, Mapping

from schemas.base import storage
from schemas.base.errors import PhraseLensError, RefusedError, RivalCommitError
from schemas.console import heartbeat
from schemas.datasets import manifest
from schemas.datasets.manifest import Dataset
from schemas.runs import folders as run_folders

FOLDER, POINTER, GATES = "snapshots", "current.json", "gates"


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


_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H%M", "%Y-%m-%dT%H%M%S")


def _time_of(date: str) -> datetime.datetime:
    """The moment that a snapshot's name says, in UTC. Raises PhraseLensError where it is none."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d(T(\d\d){1,3}Z?)?", date):
        form = _FORMS[len(date.rstrip("Z")[len("2026-01-31T") :]) // 2]
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(date.rstrip("Z"), form).replace(tzinfo=datetime.UTC)
    raise PhraseLensError(
        f"--date {date}", "a date such as 2026-01-31 or 2026-01-31T1200", "Correct it."
    )


def check_date(date: str) -> str:
    """Returns `date`. Raises PhraseLensError unless it is a date, with a time or without."""
    _time_of(date)
    return date


def check_is_past(date: str) -> None:
    """Refuses a date that no place on earth has reached: all later snapshots would be older.

    Raises:
      PhraseLensError: says so.
    """
    latest = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=14)
    if _time_of(date) > latest:
        raise PhraseLensError(
            f"--date {date}",
            f"a date that has come, {latest:%Y-%m-%d} or before",
            "Correct it: once it were in use, every date until then would count as an older one.",
        )


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
    storage.remove(_verdict_path(work, date))  # it was of another one
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


def verdict(snapshot: Snapshot) -> str:
    """What the gate said of these runs: pass, refuse, error or undecided; "" where it said nothing.

    A snapshot that was made again under the same date has no verdict yet.
    """
    try:
        found = json.loads(storage.read_bytes(_verdict_path(snapshot.work, snapshot.date)))
    except FileNotFoundError:
        return ""
    return found["verdict"] if found.get("runs", {}) in ({}, dict(snapshot.datasets)) else ""


def _verdict_path(work: str, date: str) -> str:
    return storage.join(work, GATES, f"{date}.json")


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


def moment(seconds: float | None = None) -> str:
    """Seconds since 1970, or else now, as small files have it: 2026-01-31T03:12:00Z."""
    then = time.time() if seconds is None else seconds
    return f"{datetime.datetime.fromtimestamp(then, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


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
                f'Go back first: ./run.sh rollback --workdir {work} --hold "the reason".',
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
            raise PhraseLensError(
                f"snapshot in use of {work}",
                "one that another was in use before",
                "Promote the one you want: ./run.sh promote --date …",
            )
        date = read(work, old.history[-1]).date
        holds = {**old.holds, old.date: reason} if reason else old.holds
        return dataclasses.replace(
            old, date=date, history=old.history[:-1], holds=holds, despite="", since=moment()
        )

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
            "Put another one in use first: ./run.sh promote or ./run.sh rollback.",
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


def remove(work: str, date: str) -> None:
    """Removes the files of a snapshot that nobody needs; see `delete`."""
    storage.remove(_path(work, date))
    storage.remove(_verdict_path(work, date))


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
