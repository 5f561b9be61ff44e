"""Cloud Storage that fails at times: what is retried, what is not, and that no row is lost."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from beam_jobs.mining import mine_pairs
from schemas.base import atomic, storage
from schemas.base.errors import Exit, PhraseLensError
from schemas.datasets import checks, manifest, shards
from tests.support.datasets import work_folder
from tests.support.inputs.image_files import encode, photo
from tests.support.processes import cloud
from tests.support.processes.cloud import bucket  # noqa: F401

WRITES = r"^PUT /upload|uploadType=multipart"  # Arrow's, and the manifest's


@contextlib.contextmanager
def faulty(log, *flags: str):
    """Puts a proxy that fails before the emulator; yields the faults of its requests so far."""
    upstream = os.environ["STORAGE_EMULATOR_HOST"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tests.support.processes.faulty_storage",
        f"--port={port}",
        f"--log={log}",
    ]
    command += [f"--upstream={upstream.rpartition(':')[2]}", *flags]
    server = subprocess.Popen(command, env=work_folder.environment())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            break
        time.sleep(0.1)

    def requests() -> list[str]:
        return log.read_text().splitlines()

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
            yield requests
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def inputs(bucket):  # noqa: F811
    rows = [f"q{n % 5},p{n % 8},{n}" for n in range(60)]
    storage.write_bytes(f"{bucket}/log.csv", "\n".join(["query,image,clicks", *rows]).encode())
    for n in range(8):
        storage.write_bytes(f"{bucket}/photos/p{n}.png", encode(photo(n), "PNG"))
    return bucket


def mine(bucket: str, output: str) -> int:  # noqa: F811
    flags = [f"--log={bucket}/log.csv", f"--images={bucket}/photos", f"--output={output}"]
    return mine_pairs.run([*flags, "--num_shards=3"])


def rows_of(root: str):
    assert checks.verify(root) == []
    with storage.local_copy(root) as folder:
        return work_folder.rows_of(folder)


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """The rows of an undisturbed run, and its requests."""
    root = f"{inputs}/undisturbed"
    with faulty(tmp_path_factory.mktemp("log") / "log") as requests:
        assert mine(inputs, root) == 0
        return rows_of(root), requests()


def faults(requests: list[str]) -> Counter:
    return Counter(line.split()[0] for line in requests)


@pytest.mark.slow
def test_unavailable_at_times(inputs, expected, tmp_path, figure):
    root = f"{inputs}/unavailable"
    with faulty(tmp_path / "log", "--share=0.05") as requests:
        assert mine(inputs, root) == 0
        assert rows_of(root) == expected[0]
        found = faults(requests())
    assert found["503"] >= 5
    figure(f"{found['503']} of {found.total()} answers were 503: all rows equal")


def test_transient_error_three_times(inputs, expected, tmp_path, figure):
    root = f"{inputs}/three"
    with faulty(tmp_path / "log", f"--match={WRITES}", "--times=3") as requests:
        assert mine(inputs, root) == 0
        assert rows_of(root) == expected[0]
        first, *others = [line for line in requests() if "PUT" in line]
    assert first.startswith("503")
    assert faults(requests())["503"] == 3
    assert sum(line.split()[2] == first.split()[2] for line in others) >= 1
    figure("an upload was refused 3 times by 503 and tried until it went well: all rows equal")


@pytest.mark.parametrize(
    "place",
    ["first", pytest.param("middle", marks=pytest.mark.slow), "last"],
)
def test_permanent_error_of_an_upload(place, inputs, expected, tmp_path, capsys, figure):
    root = f"{inputs}/{place}"
    writes = sum("PUT /upload" in line or "multipart" in line for line in expected[1])
    after = {"first": 0, "middle": writes // 2, "last": writes - 1}[place]
    flags = (f"--match={WRITES}", f"--after={after}", "--times=1000", "--status=403")
    with faulty(tmp_path / "log", *flags) as requests:
        assert mine(inputs, root) in (Exit.BAD_INPUT, Exit.UNAVAILABLE)
        found = faults(requests())
    printed = capsys.readouterr().err
    assert "error: " in printed
    assert "same command again" in printed
    assert "Traceback" not in printed
    assert manifest.read(root) is None
    assert mine(inputs, root) == 0
    assert rows_of(root) == expected[0]
    figure(
        f"upload {after + 1} of {writes} refused by 403: tried {found['403']} time(s), nothing "
        "committed; all rows equal after the next run"
    )


def write_parquet(root: str, rows: list[int]) -> None:
    shards.write_parquet(root, "runs/r/rows/part-0.parquet", 0, pa.table({"a": rows}))


def write_folder(root: str, rows: list[int]) -> None:
    with tempfile.TemporaryDirectory() as local:
        for name in ("one", "two"):
            Path(local, name).write_text(str(rows))
        storage.upload_dir(local, f"{root}/runs/r/model")


@pytest.mark.parametrize("request_", ["upload", "copy"])
@pytest.mark.parametrize("write", [write_parquet, write_folder])
def test_refused_attempt_leaves_what_another_wrote(write, request_, inputs, tmp_path):
    """What stood there before the attempt was refused stands there after it."""
    root = f"{inputs}/{tmp_path.name}"
    write(root, [1])
    before = {name: storage.read_bytes(f"{root}/{name}") for name in storage.list_files(root)}
    pattern = {"upload": "^PUT /upload", "copy": "rewriteTo"}[request_]
    with faulty(tmp_path / "log", f"--match={pattern}", "--status=403") as requests:
        with pytest.raises(PhraseLensError, match="that can be written"):
            write(root, [2])
        assert faults(requests())["403"] == 1
    after = {name: storage.read_bytes(f"{root}/{name}") for name in storage.list_files(root)}
    assert after == before


@pytest.mark.parametrize("pattern", ["^PUT /upload", "rewriteTo", "^DELETE"])
def test_answer_to_a_step_of_a_write_is_lost(pattern, inputs, tmp_path):
    """Each step is done and answered by 503: it is done again, to the same end."""
    root = f"{inputs}/{tmp_path.name}"
    with faulty(tmp_path / "log", f"--match={pattern}", "--done") as requests:
        storage.write_bytes(f"{root}/file", b"whole")
        assert faults(requests())["503"] == 1
    assert storage.read_bytes(f"{root}/file") == b"whole"
    assert storage.list_files(root) == ["file"]


def test_leftover_that_may_not_be_deleted_is_in_nobody_s_way(inputs, tmp_path):
    root = f"{inputs}/{tmp_path.name}"
    with faulty(tmp_path / "log", "--match=^DELETE", "--status=403"):
        storage.write_bytes(f"{root}/file", b"whole")
    assert storage.read_bytes(f"{root}/file") == b"whole"
    assert len(storage.list_files(root)) == 2
    with storage.local_copy(root) as folder:
        assert os.listdir(folder) == ["file"]


def test_answer_to_a_commit_is_lost(inputs, tmp_path, figure):
    """The upload was done and answered by 503; the next try finds a rival: itself."""
    path = f"{inputs}/lost/manifest.json"
    with faulty(tmp_path / "log", f"--match={WRITES}", "--done") as requests:
        assert atomic.replace(path, b"first", "")
        assert faults(requests())["503"] == 1
    assert storage.read_bytes(path) == b"first"
    assert not atomic.replace(path, b"second", "")
    assert storage.read_bytes(path) == b"first"
    figure("a commit was done, its answer lost: no rival is reported; a real one still is")


@pytest.mark.slow
def test_read_that_hangs(inputs, expected, tmp_path, figure):
    """Arrow gives a transfer up after 120 s without a byte, and asks again."""
    root, start = f"{inputs}/hangs", time.monotonic()
    flags = ("--match=GET.*generation=.*alt=media", "--after=5", "--status=hang")
    with faulty(tmp_path / "log", *flags) as requests:
        assert mine(inputs, root) == 0
        assert rows_of(root) == expected[0]
        assert faults(requests())["hang"] == 1
    seconds = time.monotonic() - start
    figure(f"one read got no answer: all rows equal, {seconds:.0f} s with the wait")


def test_a_folder_of_many_objects_goes_in_batches(bucket):  # noqa: F811
    for n in range(230):
        storage.google_blob(f"{bucket}/spill/of/{n:03d}").upload_from_string(b"x")
    storage.google_blob(f"{bucket}/spill-of-another").upload_from_string(b"x")
    before = Counter(cloud.requests())
    storage.remove_tree(f"{bucket}/spill")
    asked = Counter(cloud.requests()) - before
    assert asked == {"deletes": 230, "batches": 3, "lists": 2, "others": 1}  # its own question
    assert [path for path, *_ in storage.list_objects(f"{bucket}/spill")] == [
        f"{bucket}/spill-of-another"
    ]
    storage.remove_tree(f"{bucket}/spill")  # nothing is there


def test_what_a_batch_leaves_is_deleted_by_itself(bucket, monkeypatch):  # noqa: F811
    for n in range(3):
        storage.google_blob(f"{bucket}/left/{n}").upload_from_string(b"x")
    monkeypatch.setattr(storage.google_client(), "batch", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr("google.cloud.storage.Blob.delete", lambda *_: None)
    storage.remove_tree(f"{bucket}/left")
    assert not list(storage.list_objects(f"{bucket}/left"))


def test_of_a_range_no_other_byte_is_sent(bucket):  # noqa: F811
    data = bytes(range(256)) * 40
    storage.google_blob(f"{bucket}/range").upload_from_string(data)
    before = Counter(cloud.requests())
    assert storage.read_range(f"{bucket}/range", 300, 500) == data[300:800]
    asked = Counter(cloud.requests()) - before
    assert asked == {"reads": 1, "bytes_read": 500, "others": 1}
    assert storage.read_range(f"{bucket}/range", len(data) - 5, 50) == data[-5:]
    assert storage.read_range(f"{bucket}/range", 5, 0) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_range(f"{bucket}/nothing", 0, 1)
