"""A re-run with fewer or more shards: the same rows, and nothing of the old ones is seen."""

import shutil

from schemas.base import storage
from schemas.datasets import checks, manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import folders as run_folders
from tests.support.datasets import work_folder
from tests.support.processes import forked


def rows_of(root):
    """Table → its rows, sorted, without the id of their run, which the number of shards is in."""
    dataset = Dataset(root)
    found = {}
    for name in dataset.manifest.tables:
        rows = [row for batch in dataset.batches(name) for row in batch.to_pylist()]
        found[name] = sorted(repr(row | {"run_id": None}) for row in rows)
    return found


def test_four_shards_then_two_then_eight(tiny_run, tmp_path, figure):
    output, log = str(tmp_path / "dataset"), str(tmp_path / "log")
    shutil.copytree(tiny_run.dataset("mine_pairs"), output)
    rows, files = [], []
    for wanted, shards in ((3, 4), (2, 2), (7, 8)):
        if wanted != 3:  # the tiny run's own
            flag = f"--num_shards={wanted}"
            forked.run(work_folder.command_into("mine_pairs", tiny_run.config, output, flag), log)
        rows.append(rows_of(output))
        found = Dataset(output)
        assert found.manifest.num_shards == shards
        assert checks.verify(output) == []
        names = [shard.path for shard in manifest.shards_of(found.manifest)]
        # Of the examination there is one row a position, and one shard.
        sharded = [name for name in names if "/examination/" not in name]
        assert all(f"-of-{shards:05d}." in name for name in sharded)
        files.append(len(names))
        # What a reader sees is what the manifest counts: no row of an older run beside it.
        for name, table in found.manifest.tables.items():
            assert sum(b.num_rows for b in found.batches(name)) == table.rows
    assert rows[0] == rows[1] == rows[2]
    left = len([f for f in storage.list_files(f"{output}/runs") if f.endswith(".parquet")])
    assert left == sum(files)  # the old ones are there, and nobody sees them
    assert len(run_folders.purge(output)) == 2
    assert rows_of(output) == rows[0]
    total = sum(map(len, rows[0].values()))
    figure(f"{total:,} rows equal in {' → '.join(map(str, files))} files")
