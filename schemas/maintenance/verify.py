"""Checks datasets against their manifests, and mends a work folder in which one is damaged.

Every shard must be there with its size, checksum, rows and schema, no foreign file may lie beside
them, and the counters must add up: rows in = rows out + rows dropped. A work folder stands for the
last run of each of its datasets and for the snapshot in use; a folder of days for all of them.

  ./run.sh verify work/mine                          all that is in use, and the last runs
  ./run.sh verify work/mine/current                  the snapshot in use
  ./run.sh verify work/mine/snapshots/2026-01-31     another one
  ./run.sh verify work/mine/mined days/2026-01-31 work/mine/current/features
  ./run.sh verify work/mine --repair                 take what is damaged out of use

--repair deletes the runs that are damaged and the snapshots that name them; in use is then the
snapshot before. It says which, and what makes them again.

Exit status: 0 when all is well or was mended, 6 when something is damaged, 2 when there is no
dataset.
"""

import os
import re
import sys
from collections.abc import Sequence

from schemas.base import places, storage
from schemas.base.errors import Exit, PhraseLensError, tell
from schemas.console import program
from schemas.console.parser import Parser
from schemas.datasets import checks, manifest
from schemas.datasets.dataset import Dataset
from schemas.maintenance.repair import Repaired, remedy, repair
from schemas.runs import inputs, pointer, snapshots


def runs_at(path: str) -> list[tuple[str, str]]:
    """What a path stands for: (dataset, run id), each once.

    Raises:
      PhraseLensError: there is none.
    """
    if found := re.fullmatch(r"(.+)/current/?", path):
        snapshot = pointer.current(found[1])
        if snapshot is None:
            raise PhraseLensError(
                path,
                "a snapshot in use",
                f"Put one in use: {program.command('promote')}; or name a dataset.",
            )
        return _runs_of(snapshot)
    if found := re.fullmatch(rf"(.+)/{snapshots.FOLDER}/([^/]+)/?", path):
        return _runs_of(snapshots.read(*found.groups()))
    path = inputs.Resolver().resolve(path)
    if last := manifest.read(path):
        return [(manifest.root_of(path, last), last.run_id)]
    below = [name.split("/") for name in storage.list_files(path)]
    names = [parts[0] for parts in below if len(parts) == 2 and parts[1] == manifest.FILE_NAME]
    roots = [storage.join(path, name) for name in names]
    runs = [(root, Dataset(root).manifest.run_id) for root in roots]
    snapshot = pointer.current(path)
    runs += _runs_of(snapshot) if snapshot else []
    if not runs:
        raise PhraseLensError(
            path,
            f"a dataset ({manifest.FILE_NAME}) or a folder of datasets",
            "Run the stage that writes it, or check the path.",
        )
    return list(dict.fromkeys(runs))


def _runs_of(snapshot: snapshots.Snapshot) -> list[tuple[str, str]]:
    return [(storage.join(snapshot.work, name), run) for name, run in snapshot.datasets.items()]


def problems_of(root: str, run_id: str) -> list[str]:
    """A line for each thing wrong with a run; also where it is gone."""
    run = manifest.run_folder(root, run_id)
    return checks.verify(run) if manifest.read(run) else ["the run is gone"]


def describe(root: str, run_id: str, problems: Sequence[str]) -> str:
    """A run's tables and what is wrong with them, for people."""
    found = manifest.read(root, run_id)
    lines = [f"{root}: {found.stage if found else '?'}, run {run_id}"]
    for name, table in found.tables.items() if found else ():
        size = sum(shard.bytes for shard in table.shards)
        files = f"{len(table.shards):,} files"
        if table.format != "files":
            files = f"{table.rows:,} rows in {len(table.shards):,} {table.format} files"
        lines.append(f"  {name}: {files}, {size:,} bytes")
    lines += [f"  problem: {problem}" for problem in problems] or ["  ok"]
    return "\n".join(lines)


def mend(root: str, run_id: str) -> Repaired | None:
    """Deletes foreign files of a run, or else takes it out of use; prints which.

    Returns:
      What became of the run; None where it stays.
    """
    run = manifest.run_folder(root, run_id)
    if manifest.read(run):
        opened = Dataset(run)
        for path in checks.foreign_files(opened):
            storage.remove(storage.join(opened.root, path))
            print(f"deleted {storage.join(opened.root, path)}")
        if not checks.verify(run):
            return None
    done = repair(root, run_id)
    print(f"deleted run {done.run}")
    for date in done.dates:
        state = " (it was in use)" if date == done.was_used else ""
        print(f"deleted snapshot {date}{state}: it named that run")
    if done.was_used:
        print(f"in use: {done.in_use or 'none'}")
    return done


def run(argv: Sequence[str] | None = None) -> int:
    parser = Parser("verify", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a dataset or a folder of them")
    parser.add_argument("--repair", action="store_true", help="take what is damaged out of use")
    damaged = []
    try:
        args = parser.read(argv)
        runs = [run for path in args.paths for run in runs_at(places.place_of("path", path))]
        for root, run_id in dict.fromkeys(runs):
            problems = problems_of(root, run_id)
            print(describe(root, run_id, problems), flush=True)
            if problems:
                damaged.append((root, run_id))
        if not args.repair:
            if damaged:
                mend_it = program.command("verify --repair", args.paths[0])
                print(f"{len(damaged)} damaged; to mend: {mend_it}")
            return Exit.CORRUPT if damaged else Exit.DONE
        repaired = [done for of in damaged if (done := mend(*of))]
    except Exception as error:
        return tell(error)
    for work in sorted({os.path.dirname(root) for root, _ in damaged}):
        mine = [done for done in repaired if done.run.startswith(f"{work}/")]
        for line in remedy(mine, work):
            print(f"next: {line}")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(run())
