"""What a killed process leaves behind is never taken for data."""

import dataclasses
import os
import signal
import subprocess
import sys

import pyarrow as pa

from schemas.base import storage
from schemas.console.flags import flag
from schemas.datasets import checks, commit, dataset, manifest, shards
from schemas.runs import run as run_lib
from tests.support.datasets import work_folder

WRITE_HALF = """
import sys, time
from schemas.base import storage
with storage.open_output(sys.argv[1]) as f:
    f.write(b"half of it")
    f.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")


def kill_while_writing(path: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_HALF, path],
        env=work_folder.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)


def test_file_that_was_being_written_has_not_its_name_and_is_not_foreign(tmp_path):
    planned = run_lib.plan("made_up", _Config(str(tmp_path)), (), {})
    table = pa.table({"id": [1, 2, 3]})
    path = planned.shard_path("rows", 0, 1, "parquet")
    kill_while_writing(planned.absolute(path))
    assert storage.size(planned.absolute(path)) is None
    (left,) = storage.list_files(planned.absolute(planned.folder("rows")))

    shard = shards.write_parquet(planned.output, path, 0, table)
    schema = shards.schema_fingerprint(table.schema)
    tables = {"rows": manifest.Table("parquet", schema, (shard,))}
    assert commit.commit(planned.output, planned.manifest(tables, {}), planned.seen)
    assert checks.verify(planned.output) == []
    assert dataset.Dataset(planned.output).table("rows").equals(table)
    assert os.path.exists(planned.absolute(f"{planned.folder('rows')}/{left}"))


def test_files_of_a_killed_run_are_not_committed_by_the_next(tmp_path):
    planned = run_lib.plan("made_up", _Config(str(tmp_path)), (), {})
    killed = planned.empty_folder("model")
    storage.write_bytes(f"{killed}/saved_model/variables/temporary", b"half")

    again = planned.empty_folder("model")
    storage.write_bytes(f"{again}/config.json", b"{}")
    assert planned.commit_files("model", again, {})
    (shard,) = dataset.Dataset(planned.output).shards("model")
    assert shard.path.endswith("/config.json")
    assert checks.verify(planned.output) == []
