"""Cloud Storage over HTTP: commits of rivals, uploads that break off, folders that are objects."""

import multiprocessing
import os
import socket
import time
import urllib.parse

import pytest

from beam_jobs import classify_images
from model_code import export_model, similar
from schemas import manifest, storage
from schemas.errors import PhraseLensError, RivalCommitError
from tests.image_files import encode, photo
from tests.unit.test_manifest import plan, work
from transforms.files import match

ROUNDS = 24


def _rival(name, root, barrier, results):
    """Commits in every round what it has planned before the others have committed."""
    for turn in range(ROUNDS):
        # Every third round both do the same work.
        planned = plan(root, size=3 * turn if turn % 3 == 0 else 3 * turn + name)
        done = work(planned)
        barrier.wait()
        try:
            outcome = "won" if manifest.commit(root, done, planned.seen) else "same"
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
    """The emulator keeps generation preconditions (tests/emulator.py); 24 races, one dataset."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    root = f"{bucket}/raced"
    args = [(name, root, barrier, results) for name in (1, 2)]
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
    assert manifest.verify(root) == []
    with capsys.disabled():
        print(f"\n{ROUNDS} races of two commits: one winner each, processes {sorted(winners)} won")


def test_a_plan_that_is_older_than_a_commit_loses(bucket):
    """Whatever a rival commits after the plan was made, even while it is being made."""
    root = f"{bucket}/older"
    first = plan(root, size=1)
    assert manifest.commit(root, work(first), first.seen)
    late = plan(root, size=2)
    rival = plan(root, size=3)
    assert manifest.commit(root, work(rival), rival.seen)
    with pytest.raises(RivalCommitError):
        manifest.commit(root, work(late), late.seen)
    assert manifest.read(root).run_id == rival.run_id


def test_a_commit_between_the_looks_of_a_plan_is_not_overwritten(bucket, monkeypatch):
    """The token is taken before the manifest is read: a rival in between wins."""
    root = f"{bucket}/between"
    read = manifest.read

    def read_late(dataset, *args):
        if dataset == root and not rivals:
            rivals.append(rival := rival_plan)
            assert manifest.commit(root, work(rival), rival.seen)
        return read(dataset, *args)

    rivals: list = []
    rival_plan = plan(root, size=1)
    monkeypatch.setattr(manifest, "read", read_late)
    ours = plan(root, size=2)
    with pytest.raises(RivalCommitError):
        manifest.commit(root, work(ours), ours.seen)
    assert read(root).run_id == rival_plan.run_id


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.zst", "a.lz4", "a b/ü.txt"])
def test_bytes_stay_as_they_are_whatever_the_name(name, bucket):
    data = bytes(range(256)) * 9
    storage.write_bytes(f"{bucket}/bytes/{name}", data)
    assert storage.read_bytes(f"{bucket}/bytes/{name}") == data


def test_an_upload_that_breaks_off_leaves_no_object(bucket):
    path = f"{bucket}/broken"

    def write() -> None:
        with storage.open_output(path) as f:
            f.write(b"half of it")
            raise KeyError("the rest")

    with pytest.raises(KeyError):
        write()
    assert storage.size(path) is None


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
        manifest.Dataset(f"{bucket}/no")
    assert similar.run([f"{bucket}/no.jpg", f"--features={bucket}/no"]) == 2
