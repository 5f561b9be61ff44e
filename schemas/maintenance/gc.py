"""Deletes old runs: those that no kept snapshot names.

Kept are the last snapshots, the one in use and the one before it, the last run of every dataset,
and runs that are being made. Everything else that earlier runs left is deleted, and counted; so is
what attempts at a run that died left in the folders spill and scratch of a dataset, once none of
that run is being made.

  ./run.sh gc --workdir work/mine --keep 7 --dry_run
  ./run.sh gc --workdir work/mine --keep 7
  ./run.sh gc --workdir work/mine --keep 7 --delete 2026-01-31      this snapshot, too
"""

import dataclasses
import sys
import time
from collections.abc import Sequence

from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets import manifest
from schemas.maintenance import garbage as garbage_lib
from schemas.runs import command_line, snapshots
from schemas.runs import pointer as pointer_lib


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Work folder of all stages.", role="output")
    keep: int = flag("Snapshots to keep, the last ones.", role="runtime", minimum=0)
    in_progress_hours: float = flag(
        "A run that was never committed is left alone while a file of it is younger than this, "
        "or a process of this machine works on it.",
        default=24.0,
        role="runtime",
        minimum=0,
    )
    delete: tuple[str, ...] = flag(
        "Snapshots to delete beside the old ones; neither the one in use nor the one before it.",
        default=(),
        role="runtime",
        essential=True,
    )
    dry_run: bool = flag(
        "Say what would be deleted, and delete nothing.", default=False, essential=True
    )


def _collect(config: Config) -> None:
    if not snapshots.dataset_names(config.workdir):
        raise PhraseLensError(
            f"--workdir {config.workdir}", "a folder that holds datasets", "Check the path."
        )
    for date in config.delete:
        garbage_lib.check_deletable(config.workdir, date)
    for date in config.delete:
        if not config.dry_run:
            garbage_lib.delete(config.workdir, date)
        print(f"snapshot {date}")
    args = config.keep, time.time() - 3600 * config.in_progress_hours
    if config.dry_run:
        pointer = pointer_lib.read_pointer(config.workdir)
        garbage = garbage_lib.find_garbage(config.workdir, pointer, *args)
    else:
        garbage = garbage_lib.collect(config.workdir, *args)
    runs = [run for run in garbage.runs if run.folder == manifest.RUNS]
    left = [run for run in garbage.runs if run.folder != manifest.RUNS]
    for run in runs:
        state = "" if run.committed else ", never committed"
        print(f"{run.dataset} run {run.run_id}: {run.bytes:,} bytes{state}")
    for run in left:
        print(f"{run.dataset} {run.folder} {run.name}: {run.bytes:,} bytes")
    for date in garbage.dates:
        print(f"snapshot {date}")
    size = sum(run.bytes for run in garbage.runs)
    done = "--dry_run: would free" if config.dry_run else "freed"
    print(
        f"{done} {size:,} bytes: {len(runs)} runs, {len(garbage.dates)} snapshots, "
        f"{len(left)} leftovers of dead runs"
    )


def run(argv: Sequence[str] | None = None) -> int:
    return command_line.main(Config, "gc", __doc__, argv, _collect)


if __name__ == "__main__":
    sys.exit(run())
