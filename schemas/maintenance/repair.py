"""Takes a damaged run out of use, so that what needs it is made again instead of failing.

In an order that leaves nothing in use that is gone, whenever this is killed: the snapshot in use,
the other snapshots that name the run, the dataset's last run, and then the run itself.
"""

import dataclasses
import os
from collections.abc import Sequence

from schemas.base import storage
from schemas.base.errors import BusyError
from schemas.console import program
from schemas.datasets import checks, manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import changes, snapshots
from schemas.runs import folders as run_folders
from schemas.runs import pointer as pointer_lib

# What was given is gone: only the stage's own input can bring it back, never an older run.
_OF_A_DAY = "mine_log"


@dataclasses.dataclass(frozen=True)
class Repaired:
    """What became of a damaged run.

    Attributes:
      run: its folder.
      stage: that makes it; "" where even its manifest is gone.
      dates: the snapshots that named it, which are deleted.
      was_used: the one of them that was in use; "" for none.
      in_use: the snapshot that is in use now; "" for none.
      last: the run that is the last one of the dataset now; "" for none.
    """

    run: str
    stage: str
    dates: tuple[str, ...] = ()
    was_used: str = ""
    in_use: str = ""
    last: str = ""


def repair(root: str, run_id: str) -> Repaired:
    """Takes a run of a dataset out of use, and deletes it.

    Args:
      root: the dataset.
      run_id: the run.

    Raises:
      BusyError: a process of this machine works on it.
      RivalCommitError: another snapshot was put in use meanwhile.
    """
    work, name = os.path.split(root.rstrip("/"))
    made = manifest.read(root, run_id)
    dates = [
        date
        for date in snapshots.dates(work)
        if snapshots.read(work, date).datasets.get(name) == run_id
    ]
    was_used = pointer_lib.read_pointer(work).date
    pointer = changes.drop(work, dates)
    last = _without(root, run_id, made.stage if made else "")
    run = run_folders.Run(root, run_id, True, 0, 0.0)
    if not run_folders.remove_run(run):
        raise BusyError(run.path, "a run that no process works on", "Wait for it, or stop it.")
    return Repaired(
        run.path,
        made.stage if made else "",
        tuple(dates),
        was_used if was_used in dates else "",
        pointer.date,
        last,
    )


def _without(root: str, run_id: str, stage: str) -> str:
    """Makes the newest whole run but one the last of a dataset; returns its id, "" for none."""
    path = storage.join(root, manifest.FILE_NAME)
    last = manifest.read(root)
    if last is None or last.run_id != run_id:
        return last.run_id if last else ""
    others = [] if stage == _OF_A_DAY else run_folders.runs(root)
    for run in sorted(others, key=lambda run: -run.changed):
        if run.committed and run.run_id != run_id and not checks.verify(run.path):
            found = Dataset(run.path).manifest
            storage.write_bytes(path, found.to_json().encode())
            return run.run_id
    storage.remove(path)
    return ""


def remedy(repaired: Sequence[Repaired], work: str) -> list[str]:
    """What to do now, a line each."""
    lines = []
    for date in sorted({date for found in repaired for date in found.dates}):
        again = program.command("reprocess", workdir=work, date=date)
        lines.append(f"make snapshot {date} again: {again} with the flags that it had")
    for stage in sorted({found.stage for found in repaired if found.stage.startswith("train_")}):
        name = stage.removeprefix("train_")
        lines.append(
            f"train it again: {program.command(f'train {name}')} with the flags that it had, or "
            f"{program.command('reprocess')} with --retrain {name}"
        )
    for found in repaired:
        if not found.dates and found.stage and not found.stage.startswith("train_"):
            lines.append(f"give the command of {found.stage} again that wrote {found.run}")
    return lines
