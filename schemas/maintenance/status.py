"""Says how a work folder is: what is in use, what is missing, what waits for a person.

Reads small files and manifests alone, so that it takes no time and disturbs nothing.

  ./run.sh status work/mine
  ./run.sh status work/mine --days days --json
"""

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from schemas.base import places, storage
from schemas.base.errors import Exit, PhraseLensError, tell
from schemas.console import program
from schemas.console.heartbeat import duration
from schemas.console.parser import Parser
from schemas.datasets import dataset, manifest
from schemas.maintenance import pending, summaries
from schemas.runs import pointer as pointer_lib
from schemas.runs import snapshots

_SMALL = 0.5  # a day is small below this share of the median of the days


def gaps(dates: Sequence[str]) -> list[str]:
    """The days between the first and the last of some dates that none of them is of."""
    days = sorted({datetime.date.fromisoformat(date[:10]) for date in dates})
    if not days:
        return []
    every = (days[-1] - days[0]).days + 1
    between = (days[0] + datetime.timedelta(days=n) for n in range(every))
    return [str(day) for day in between if day not in set(days)]


def bytes_of(snapshot: snapshots.Snapshot) -> int | None:
    """What the runs that a snapshot names take on the disk; None where one is gone."""
    total = 0
    for name, run in snapshot.datasets.items():
        found = manifest.read(storage.join(snapshot.work, name), run)
        if found is None:
            return None
        total += sum(shard.bytes for shard in manifest.shards_of(found))
    return total


def days_of(folder: str) -> dict[str, Any]:
    """The days that mine_log wrote: the newest, and those that are missing, empty or small."""
    events = {}
    for name in snapshots.dataset_names(folder):
        found = dataset.Dataset(storage.join(folder, name)).manifest
        if found.stage == "mine_log":
            date = str(found.config.get("partition") or name)
            events[date] = found.counters.get("events.out", 0)
    usual = statistics.median(events.values()) if events else 0
    dated = [date for date in events if _is_date(date)]
    return {
        "days": len(events),
        "newest": max(dated, default=""),
        "gaps": gaps(dated),
        "empty": sorted(date for date, rows in events.items() if not rows),
        "small": sorted(date for date, rows in events.items() if 0 < rows < _SMALL * usual),
    }


def _is_date(name: str) -> bool:
    try:
        datetime.date.fromisoformat(name)
    except ValueError:
        return False
    return True


def status(work: str, days: str = "") -> dict[str, Any]:
    """How a work folder is, as JSON has it.

    Args:
      work: the work folder.
      days: the folder of days, or "".

    Raises:
      PhraseLensError: it is no work folder.
    """
    if not snapshots.dataset_names(work):
        raise PhraseLensError(work, "a folder that holds datasets", "Check the path.")
    pointer, waiting = pointer_lib.read_pointer(work), pending.read(work)
    found = {}
    for date in snapshots.dates(work):
        snapshot = snapshots.read(work, date)
        found[date] = {
            "verdict": snapshots.verdict(snapshot),
            "bytes": bytes_of(snapshot),
            "runs": dict(snapshot.datasets),
        }
    return {
        "workdir": work,
        "in_use": pointer.date,
        "since": pointer.since,
        "despite": pointer.despite,
        "before": list(pointer.history),
        "holds": dict(pointer.holds),
        "snapshots": found,
        "missing_dates": gaps(list(found)),
        "deletion": {"date": waiting.date, "since": waiting.since} if waiting else None,
        "last_run": summaries.last(work),
        "days": days_of(days) if days else None,
    }


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"in use: {found['in_use'] or 'nothing'}{_since(found['since'])}"]
    if found["despite"]:
        lines.append(f"  promoted although it was refused: {found['despite']}")
    if found["before"]:
        lines.append(f"  before it: {', '.join(reversed(found['before']))}")
    if found["deletion"]:
        begun = found["deletion"]
        lines.append(
            f"a deletion has not ended: begun {begun['since']} as {begun['date']}; the next "
            f"{program.command('reprocess')} ends it first"
        )
    for date, reason in found["holds"].items():
        lines.append(f"held: {date}: {reason}")
    lines.append(f"snapshots: {len(found['snapshots'])}")
    for date, of_date in found["snapshots"].items():
        size = of_date["bytes"]
        told = "a run of it is gone" if size is None else f"{size:,} bytes"
        said = of_date["verdict"]
        lines.append(f"  {date}: {told}; gate: {said or 'not asked'}")
    if found["missing_dates"]:
        lines.append(f"  no snapshot of {', '.join(found['missing_dates'])}")
    if days := found["days"]:
        lines.append(f"days: {days['days']}, the newest {days['newest'] or 'without a date'}")
        for what in ("gaps", "empty", "small"):
            if days[what]:
                lines.append(f"  {what}: {', '.join(days[what])}")
    if last := found["last_run"]:
        took = duration(last["seconds"])
        lines.append(
            f"last run: {last['date']}, {last['outcome']} (exit status {last['exit']}), "
            f"ended {last['ended']} after {took}"
        )
        if last["error"]:
            lines.append(f"  {last['error']}")
        for row in last["stages"]:
            state = "already done" if row["skipped"] else duration(row["seconds"])
            lines.append(f"  {row['stage']}: {state}, {row['images']:,} images made anew")
    return "\n".join(lines)


def _since(moment: str) -> str:
    return f" since {moment}" if moment else ""


def run(argv: Sequence[str] | None = None) -> int:
    parser = Parser("status", __doc__)
    parser.add_argument("workdir", metavar="WORKDIR", help="the work folder")
    parser.add_argument("--days", default="", help="the folder of days that mine_log wrote")
    parser.add_argument("--json", action=argparse.BooleanOptionalAction, default=False)
    try:
        args = parser.read(argv)
        found = status(
            places.place_of("workdir", args.workdir),
            places.place_of("days", args.days) if args.days else "",
        )
    except Exception as error:
        return tell(error)
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else text(found))
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(run())
