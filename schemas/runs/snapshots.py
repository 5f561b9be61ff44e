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
from collections.abc import Mapping

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset

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


def path_of(work: str, date: str) -> str:
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
        fields = json.loads(storage.read_bytes(path_of(work, date)))
    except FileNotFoundError:
        raise PhraseLensError(
            f"snapshot {date} of {work}",
            f"one of {', '.join(dates(work)) or 'none'}",
            f"Make it of your data: {program.command('reprocess', workdir=work, date=date)}",
        ) from None
    return Snapshot(work, fields["date"], fields["datasets"])


def verdict(snapshot: Snapshot) -> str:
    """What the gate said of these runs: pass, refuse, error or undecided; "" where it said nothing.

    A snapshot that was made again under the same date has no verdict yet.
    """
    try:
        found = json.loads(storage.read_bytes(verdict_path(snapshot.work, snapshot.date)))
    except FileNotFoundError:
        return ""
    return found["verdict"] if found.get("runs", {}) in ({}, dict(snapshot.datasets)) else ""


def verdict_path(work: str, date: str) -> str:
    return storage.join(work, GATES, f"{date}.json")


def moment(seconds: float | None = None) -> str:
    """Seconds since 1970, or else now, as small files have it: 2026-01-31T03:12:00Z."""
    then = time.time() if seconds is None else seconds
    return f"{datetime.datetime.fromtimestamp(then, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def remove(work: str, date: str) -> None:
    """Removes the files of a snapshot that nobody needs; see `delete`."""
    storage.remove(path_of(work, date))
    storage.remove(verdict_path(work, date))
