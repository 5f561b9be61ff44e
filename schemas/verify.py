"""Checks datasets against their manifests.

Every shard must be there with its size, checksum, rows and schema, no foreign file may lie beside
them, and the counters must add up: rows in = rows out + rows dropped. A folder that holds datasets,
such as a work folder, stands for all of them.

  ./run.sh verify work/quickstart/mined
  ./run.sh verify work/quickstart
  ./run.sh verify work/mine/current/mined work/mine/snapshots/2026-01-31/mined

Exit status: 0 when all is well, 6 when something is wrong, 2 when there is no dataset.
"""

import sys
from collections.abc import Sequence

from schemas import config, manifest, places, snapshots, storage
from schemas.errors import Exit, PhraseLensError, tell


def datasets_at(path: str) -> list[str]:
    """The dataset at `path`, or else those directly below it, sorted.

    Raises:
      PhraseLensError: there is none.
    """
    if storage.exists(storage.join(path, manifest.FILE_NAME)):
        return [path]
    below = [name.split("/") for name in storage.list_files(path)]
    found = [parts[0] for parts in below if len(parts) == 2 and parts[1] == manifest.FILE_NAME]
    if not found:
        raise PhraseLensError(
            path,
            f"a dataset ({manifest.FILE_NAME}) or a folder of datasets",
            "Run the stage that writes it, or check the path.",
        )
    return [storage.join(path, name) for name in found]


def describe(dataset: str, problems: Sequence[str]) -> str:
    """A dataset's tables and what is wrong with them, for people."""
    found = manifest.Dataset(dataset).manifest
    lines = [f"{dataset}: {found.stage}, run {found.run_id}"]
    for name, table in found.tables.items():
        size = sum(shard.bytes for shard in table.shards)
        files = f"{len(table.shards):,} files"
        if table.format != "files":
            files = f"{table.rows:,} rows in {len(table.shards):,} {table.format} files"
        lines.append(f"  {name}: {files}, {size:,} bytes")
    lines += [f"  problem: {problem}" for problem in problems] or ["  ok"]
    if problems:
        run = manifest.run_folder(dataset, found.run_id)
        lines.append(
            f"  to make it again: delete {run} and {storage.join(dataset, manifest.FILE_NAME)}, "
            f"then give the command of {found.stage} again"
        )
    return "\n".join(lines)


def run(argv: Sequence[str] | None = None) -> int:
    parser = config.Parser("./run.sh verify", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a dataset or a folder of them")
    healthy, pointers = True, snapshots.Resolver()
    try:
        for path in parser.read(argv).paths:
            for dataset in datasets_at(pointers.resolve(places.place_of("path", path))):
                problems = manifest.verify(dataset)
                print(describe(dataset, problems), flush=True)
                healthy = healthy and not problems
    except PhraseLensError as error:
        return tell(error)
    return Exit.DONE if healthy else Exit.CORRUPT


if __name__ == "__main__":
    sys.exit(run())
