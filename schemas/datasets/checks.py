"""Whether what lies in a dataset is what its manifest says."""

from collections.abc import Iterable

import pyarrow as pa

from schemas.base import storage
from schemas.base.errors import (
    PhraseLensError,
    known,
    tell,
)
from schemas.console import heartbeat
from schemas.datasets.commit import cut_shards
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import FILE_NAME, RUNS, Shard, Table, shards_of
from schemas.datasets.records import Record
from schemas.datasets.shard_files import open_parquet
from schemas.datasets.shards import count_tfrecords, schema_fingerprint


def verify(dataset: str) -> list[str]:
    """Checks a dataset against its manifest; returns a line for each thing wrong with it.

    Every shard must exist with its size, checksum and rows, its schema must be the
    table's, no other file may lie in the run's folder, and the counters must add up.
    """
    opened = Dataset(dataset)
    manifest, problems = opened.manifest, []
    shards = [(n, table, shard) for n, table in manifest.tables.items() for shard in table.shards]
    for name, table, shard in heartbeat.counted(f"verify {dataset}", shards, "files"):
        problem = _verify_shard(opened, table, shard)
        if problem:
            problems.append(f"{name}: {shard.path}: {problem}")
    problems += [
        f"{path}: foreign file, the manifest does not name it" for path in foreign_files(opened)
    ]
    problems += unbalanced(manifest.counters)
    return problems


def check_inputs(folders: Iterable[str], contents: bool = False) -> None:
    """Refuses datasets of which a shard is gone or cut: a TFRecord may read well up to the cut.

    Args:
      folders: of the datasets, or of runs.
      contents: compare checksums too; for when something has failed, since it reads all of them.

    Raises:
      CorruptError: names the shard.
    """
    for folder in folders:
        opened = Dataset(folder)
        cut = [shard for shard, _ in cut_shards(opened.root, opened.manifest)]
        for shard in shards_of(opened.manifest) if contents else cut:
            opened.check(shard)


def tell_of_inputs(error: Exception, folders: Iterable[str]) -> int:
    """Prints what a command failed of; returns its exit status. A bug is raised again.

    What a library says of a damaged file does not name it: where nobody knows better, the inputs
    are compared with their checksums.
    """
    if known(error) is None:
        try:
            with heartbeat.doing("compares the inputs with their checksums"):
                check_inputs(folders, contents=True)
        except PhraseLensError as damage:
            return tell(damage)
        except OSError:
            pass  # the error itself says more
    return tell(error)


def foreign_files(dataset: Dataset) -> list[str]:
    """Files in a run's folder that its manifest does not name, relative to the dataset."""
    named = {shard.path for shard in shards_of(dataset.manifest)}
    found = []
    for file in storage.list_files(dataset.run_folder):
        path = f"{RUNS}/{dataset.manifest.run_id}/{file}"
        ours = file == FILE_NAME or file.endswith(Record.SUFFIX) or storage.PARTIAL in file
        if path not in named and not ours:
            found.append(path)
    return found


def _verify_shard(dataset: Dataset, table: Table, shard: Shard) -> str | None:
    path = dataset.path(shard)
    found = storage.size(path)
    if found is None:
        return "missing"
    if found != shard.bytes:
        return f"has {found} bytes, the manifest says {shard.bytes}"
    if storage.sha256(path) != shard.sha256:
        return "checksum differs: its bytes were changed"
    try:
        if table.format == "parquet":
            with open_parquet(path) as file:
                rows = file.metadata.num_rows
                if schema_fingerprint(file.schema_arrow) != table.schema:
                    return "its schema is not the table's"
        elif table.format == "tfrecord":
            rows = count_tfrecords(path)
        else:
            return None
    except (pa.ArrowInvalid, ValueError) as error:
        return str(error)
    return None if rows == shard.rows else f"has {rows} rows, the manifest says {shard.rows}"


def unbalanced(counters: dict[str, int]) -> list[str]:
    """A line for each kind of row where in ≠ out + dropped."""
    problems = []
    for key in sorted(counters):
        kind, _, what = key.partition(".")
        if what == "in":
            dropped = sum(v for k, v in counters.items() if k.startswith(f"{kind}.dropped_"))
            out = counters.get(f"{kind}.out", 0)
            if counters[key] != out + dropped:
                problems.append(
                    f"{kind}: {counters[key]} in, but {out} out + {dropped} dropped: rows were lost"
                )
    return problems
