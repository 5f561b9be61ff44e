"""Cloud Storage over HTTP: commits of rivals, uploads that break off, folders that are objects."""

import os
import socket
import time
import urllib.parse

import pytest

from beam_jobs.models import classify_images, similar
from model_code.models.fusion import export as export_model
from schemas.base import storage
from schemas.base.errors import PhraseLensError, RivalCommitError
from schemas.datasets import checks, commit, manifest
from schemas.datasets import dataset as dataset_lib
from schemas.runs.run import Run
from tests.support.datasets.committed import plan, work
from tests.support.inputs.image_files import encode, photo
from tests.support.processes import forked
from transforms.files.matching import match
from transforms.shards.tfrecords import RecordWriter

ROUNDS = 24


def _rival(name, root, emulator, barrier, results):
    """Commits in every round what it has planned before the others have committed."""
    os.environ["STORAGE_EMULATOR_HOST"] = emulator
    for turn in range(ROUNDS):
        # Every third round both do the same work.
        planned = plan(root, size=3 * turn if turn % 3 == 0 else 3 * turn + name)
        done = work(planned)
        barrier.wait()
        try:
            outcome = "won" if commit.commit(root, done, planned.seen) else "same"
        except RivalCommitError:
            outcome = "lost"
        results.put((turn, name, outcome, done.fingerprint))
        barrier.wait()


def test_a_connection_that_asks_nothing_holds_nobody_up(bucket):
    """Arrow, for one, opens some before it has a question."""
    address = urllib.parse.urlsplit(os.environ["STORAGE_EMULATOR_HOST"])
    with socket.create_connection((address.hostname, address.port)):
        time.sleep(0.5)
        start = time.monotonic()
        storage.write_bytes(f"{bucket}/quiet", b"1")
        assert storage.read_bytes(f"{bucket}/quiet") == b"1"
        assert time.monotonic() - start < 60  # Arrow gives a silent server 120 s.


def test_folders_right_below_a_path(bucket, tmp_path):
    for root in (f"{bucket}/below", str(tmp_path)):
        assert storage.list_folders(f"{root}/nothing") == []
        for name in ("b/deep/c", "a/d", "e"):
            storage.write_bytes(f"{root}/{name}", b"1")
        assert storage.list_folders(root) == ["a", "b"]


def test_of_two_processes_that_commit_at_once_one_wins_each_time(bucket, capsys):
    """The emulator keeps generation preconditions (its module says how); 24 races."""
    context = forked.server()
    barrier, results = context.Barrier(2), context.Queue()
    root = f"{bucket}/raced"
    emulator = os.environ["STORAGE_EMULATOR_HOST"]
    args = [(name, root, emulator, barrier, results) for name in (1, 2)]
    processes = [context.Process(target=_rival, args=a) for a in args]
    for process in processes:
        process.start()
    found: dict[int, dict] = {turn: {} for turn in range(ROUNDS)}
    for _ in range(2 * ROUNDS):
        turn, name, outcome, fingerprint = results.get(timeout=300)
        found[turn][name] = (outcome, fingerprint)
    for process in processes:
        process.join()
    outcomes = [sorted(outcome for outcome, _ in rivals.values()) for rivals in found.values()]
    expected = [["same", "won"] if turn % 3 == 0 else ["lost", "won"] for turn in range(ROUNDS)]
    assert outcomes == expected
    winners = {name for rivals in found.values() for name, (o, _) in rivals.items() if o == "won"}
    last = next(f for outcome, f in found[ROUNDS - 1].values() if outcome == "won")
    assert manifest.read(root).fingerprint == last
    assert checks.verify(root) == []
    with capsys.disabled():
        print(f"\n{ROUNDS} races of two commits: one winner each, processes {sorted(winners)} won")


def test_a_plan_that_is_older_than_a_commit_loses(bucket):
    """Whatever a rival commits after the plan was made, even while it is being made."""
    root = f"{bucket}/older"
    first = plan(root, size=1)
    assert commit.commit(root, work(first), first.seen)
    late = plan(root, size=2)
    rival = plan(root, size=3)
    assert commit.commit(root, work(rival), rival.seen)
    with pytest.raises(RivalCommitError):
        commit.commit(root, work(late), late.seen)
    assert manifest.read(root).run_id == rival.run_id


def test_a_commit_between_the_looks_of_a_plan_is_not_overwritten(bucket, monkeypatch):
    """The token is taken before the manifest is read: a rival in between wins."""
    root = f"{bucket}/between"
    read = manifest.read

    def read_late(dataset, *args):
        if dataset == root and not rivals:
            rivals.append(rival := rival_plan)
            assert commit.commit(root, work(rival), rival.seen)
        return read(dataset, *args)

    rivals: list = []
    rival_plan = plan(root, size=1)
    monkeypatch.setattr(manifest, "read", read_late)
    ours = plan(root, size=2)
    with pytest.raises(RivalCommitError):
        commit.commit(root, work(ours), ours.seen)
    assert read(root).run_id == rival_plan.run_id


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.zst", "a.lz4", "a b/ü.txt"])
def test_bytes_stay_as_they_are_whatever_the_name(name, bucket):
    data = bytes(range(256)) * 9
    storage.write_bytes(f"{bucket}/bytes/{name}", data)
    assert storage.read_bytes(f"{bucket}/bytes/{name}") == data


class BrokenOff(Exception):
    """The fault of an attempt that writes half of it."""


def _write(root: str, text: bytes, breaks: bool) -> None:
    with storage.open_output(f"{root}/out/file") as f:
        f.write(text)
        if breaks:
            raise BrokenOff


def _write_records(root: str, text: bytes, breaks: bool) -> None:
    stage = Run("s", root, "a" * 64, {}, "", {}, {}, "", False)
    with RecordWriter(stage, "out/file", 0) as writer:
        writer.add(text)
        if breaks:
            raise BrokenOff


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.mark.parametrize("write", [_write, _write_records])
def test_an_attempt_that_breaks_off_leaves_what_another_wrote(write, root):
    with pytest.raises(BrokenOff):
        write(root, b"half of it", True)
    assert storage.list_files(root) == []
    write(root, b"all of it", False)
    good = storage.read_bytes(f"{root}/out/file")
    assert b"all of it" in good
    for _ in range(2):
        with pytest.raises(BrokenOff):
            write(root, b"half of it" * 100_000, True)
        assert storage.read_bytes(f"{root}/out/file") == good
        assert storage.list_files(root) == ["out/file"]


def test_of_two_attempts_at_a_time_each_is_whole_and_the_last_stays(root):
    path = f"{root}/out/file"
    with storage.open_output(path) as first:
        first.write(b"first " * 1000)
        with storage.open_output(path) as second:
            second.write(b"second")
            assert not storage.exists(path)
        assert storage.read_bytes(path) == b"second"
        first.write(b"end")
    assert storage.read_bytes(path) == b"first " * 1000 + b"end"
    assert storage.list_files(root) == ["out/file"]


def test_a_copy_leaves_out_what_is_being_written(root):
    storage.write_bytes(f"{root}/out/file", b"1")
    with storage.open_output(f"{root}/out/other") as f:
        f.write(b"2")
        f.flush()
        storage.write_bytes(f"{root}/out/killed{storage.PARTIAL}0", b"3")
        if root.startswith(storage.GCS_PREFIX):
            with storage.local_copy(f"{root}/out") as folder:
                assert os.listdir(folder) == ["file"]


def test_the_console_s_folders_are_no_files(bucket):
    """A folder made in the console is an empty object whose name ends with a slash."""
    import google.cloud.storage
    from google.auth.credentials import AnonymousCredentials

    client = google.cloud.storage.Client(project="p", credentials=AnonymousCredentials())
    client.bucket("bucket").blob("album/").upload_from_string(b"")
    storage.write_bytes(f"{bucket}/album/a.png", encode(photo(0), "PNG"))
    assert storage.list_files(f"{bucket}/album") == ["a.png"]
    for pattern in (f"{bucket}/album", f"{bucket}/album/**", f"{bucket}/album/*"):
        assert [file.path for file in match("images", [pattern])] == [f"{bucket}/album/a.png"]


def test_what_is_not_there_is_said(bucket):
    for run, flags in (
        (classify_images.run, [f"--model={bucket}/no", f"--images={bucket}/no/*"]),
        (export_model.run, [f"--{n}={bucket}/no" for n in ("generator", "phrases", "fusion")]),
    ):
        flags = [*flags, f"--output={bucket}/out"]
        if run is export_model.run:
            flags += [f"--{name}={bucket}/no" for name in ("pixel_embedder", "examples")]
        assert run(flags) == 2
    with pytest.raises(PhraseLensError, match="a committed dataset"):
        dataset_lib.Dataset(f"{bucket}/no")
    assert similar.run([f"{bucket}/no.jpg", f"--features={bucket}/no"]) == 2
